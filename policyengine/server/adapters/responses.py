"""What gateways are told: a decision as a status, headers and a problem that their clients can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from policyengine.executor import begin, in_thread, in_turn
from policyengine.fair_queue import WorkRefused
from policyengine.http.gateway_headers import SET_BY_US
from policyengine.http.rate_limit_headers import rate_headers
from policyengine.identity.authenticator import Identity
from policyengine.identity.challenges import challenges_of
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason, Remedy
from policyengine.runtime.extent import is_large
from policyengine.runtime.observe import challenged
from policyengine.runtime.request import Request, RequestError
from policyengine.server.decide_requests import apart
from policyengine.server.problems import TITLES, Problem
from policyengine.server.telemetry.metered_engine import Decides

Lines = tuple[tuple[str, str], ...]

WOULD_BE = "x-would-be"  # for the operator: no client of a gateway is told
PROBLEM = "application/problem+json"
VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
LONGEST_PROBLEM = 2_048  # bytes: what a gateway has room for in a header
LONGEST_DETAIL = 512
TITLE = {Outcome.CONFIRM: "Approval Needed", Outcome.THROTTLE: "Too Many Requests"}


class Told(NamedTuple):
    """An answer of HTTP: `problem` is its body in JSON, empty where the request may pass."""

    status: int
    headers: Lines
    problem: bytes = b""


async def told_of(engine: Decides, question: Mapping[str, object]) -> Told:
    """Decides and spends; whatever is no question is refused, and so is what has no turn."""
    try:
        if is_large(question):
            aside = in_thread if engine.awaits_issuer(question) else in_turn
            return await aside(told_now, engine, question)
        request = Request.from_mapping(question)
        return await apart(engine, lambda: told_about(engine, request), question=question)
    except RequestError as error:
        return told_problem(Problem.of(error))
    except WorkRefused as error:
        return told_problem(Problem.of_refused(error))


def told_now(engine: Decides, question: Mapping[str, object]) -> Told:
    """The same, for who may wait for a store."""
    try:
        return told_about(engine, Request.from_mapping(question))
    except RequestError as error:
        return told_problem(Problem.of(error))


def told_in_turn(engine: Decides, question: Mapping[str, object]) -> Told:
    """The same, for who stands in a thread of their own: what takes long waits for its turn."""
    try:
        return begin(told_now, engine, question).result() if engine.takes_long(question) else told_now(engine, question)
    except WorkRefused as error:
        return told_problem(Problem.of_refused(error))


def told_about(engine: Decides, request: Request) -> Told:
    try:
        decision = engine.decide(request)
    except RequestError as error:
        return told_problem(Problem.of(error))
    return told(decision, engine.identity)


def told(decision: Decision, identity: Identity | None = None) -> Told:
    observed = () if decision.would_be is None else ((WOULD_BE, decision.would_be.value),)
    named = (("x-decision-id", decision.id), ("x-decision", decision.outcome.value), *observed, *rate_headers(decision))
    if decision.allowed:
        return Told(200, (*named, *who(decision)))
    status = status_of(decision)
    challenges = challenges_of(decision, identity) if status == 401 else ()
    return Told(status, (*named, *challenges), written(problem_of(decision, status)))


def told_problem(problem: Problem) -> Told:
    return Told(problem.status, tuple(problem.headers.items()), written(problem.to_dict()))


def status_of(decision: Decision) -> int:
    """401 where somebody who says who it is may get further, 403 where not, 429 for later, 503 where we failed."""
    match decision.outcome, decision.gate:
        case Outcome.THROTTLE, _:
            return 429
        case _, Gate.FAILURE:
            return 503
        case _ if challenged(decision):
            return 401
        case _:
            return 403


def who(decision: Decision) -> Lines:
    """Always both, so that nothing that the client sent stands in their place."""
    principal = decision.principal
    return tuple(zip(SET_BY_US, map(plain, (principal.agent, principal.user)), strict=True))


def plain(name: str | None) -> str:
    """In visible ASCII, anything else as it is written in addresses: no two names look alike."""
    return quote(name or "", safe=VISIBLE)


# ── Problems ──────────────────────────────────────────────────────────────────────────────────


def problem_of(decision: Decision, status: int) -> dict[str, object]:
    """RFC 9457, with what the client may know: not where in which policy a rule stands."""
    first = decision.reasons[0].message if decision.reasons else "not allowed"
    return {
        "type": "about:blank",
        "title": TITLE.get(decision.outcome) or TITLES.get(status, "Forbidden"),
        "status": status,
        "detail": first[:LONGEST_DETAIL],
        "outcome": decision.outcome.value,
        "decision": decision.id,
        "remedies": [remedy_of(one) for one in decision.remedies],
        "reasons": [reason_of(one) for one in decision.reasons],
    }


def reason_of(reason: Reason) -> dict[str, object]:
    rule = {} if reason.rule is None else {"rule": reason.rule}
    return {"gate": reason.gate.value, **rule, "message": reason.message[:LONGEST_DETAIL]}


def remedy_of(remedy: Remedy) -> dict[str, object]:
    named = {name: getattr(remedy, name) for name in remedy.__struct_fields__}
    return {name: value for name, value in named.items() if value is not None}


def written(problem: dict[str, object]) -> bytes:
    """On one line of ASCII; what is least needed goes first where it is too long for a header."""
    for without in ((), ("reasons",), ("reasons", "remedies"), ("reasons", "remedies", "detail")):
        kept = {name: value for name, value in problem.items() if name not in without}
        text = json.dumps(kept, separators=(",", ":")).encode("ascii")
        if len(text) <= LONGEST_PROBLEM:
            break
    return text
