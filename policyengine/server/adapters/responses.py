"""Responses to gateways: a decision as a status, headers and a problem that their clients can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from policyengine.engine.question import Question
from policyengine.executor import run_in_thread, run_in_turn, submit_long
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.gateway_headers import OWN_HEADERS
from policyengine.http.rate_limit_headers import rate_limit_headers
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.challenges import challenge_headers
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason, Remedy
from policyengine.runtime.observe import needs_challenge
from policyengine.runtime.request import RequestError
from policyengine.runtime.value_size import is_large
from policyengine.server.decide_requests import run_off_loop
from policyengine.server.problems import STATUS_TITLES, ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface

HeaderPairs = tuple[tuple[str, str], ...]

WOULD_BE_HEADER = "x-would-be"  # for the operator; gateways do not send it to clients
PROBLEM_MEDIA_TYPE = "application/problem+json"
SAFE_CHARACTERS = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
MAX_PROBLEM_BYTES = 2_048  # maximum bytes in a header of a gateway
MAX_DETAIL_LENGTH = 512
OUTCOME_TITLES = {Outcome.CONFIRM: "Approval Needed", Outcome.THROTTLE: "Too Many Requests"}


class HttpVerdict(NamedTuple):
    """An HTTP response: `problem` is its JSON body, empty if the request may pass."""

    status: int
    headers: HeaderPairs
    problem: bytes = b""


async def decide_for_gateway(engine: EngineInterface, question: Mapping[str, object]) -> HttpVerdict:
    """Decide and spend. The answer to an invalid question, or to one that is refused because too many wait, is a
    problem."""
    try:
        asked = Question.of(question)
        if is_large(question):
            aside = run_in_thread if engine.forecast.awaits_issuer(asked) else run_in_turn
            return await aside(decide_blocking, engine, asked)
        return await run_off_loop(engine, lambda: decide_blocking(engine, asked), question=asked)
    except RequestError as error:
        return problem_to_verdict(ProblemError.of(error))
    except WorkRefusedError as error:
        return problem_to_verdict(ProblemError.of_refused(error))


def decide_blocking(engine: EngineInterface, question: Question) -> HttpVerdict:
    """Decide and spend, in a thread that may wait for a store."""
    try:
        decision = engine.decide(question.request)
    except RequestError as error:
        return problem_to_verdict(ProblemError.of(error))
    return to_verdict(decision, engine.identity)


def decide_in_turn(engine: EngineInterface, question: Mapping[str, object]) -> HttpVerdict:
    """Decide and spend, in a thread of the caller; long work waits for its turn."""
    try:
        asked = Question.of(question)
        if engine.forecast.takes_long(asked):
            return submit_long(decide_blocking, engine, asked).result()
        return decide_blocking(engine, asked)
    except RequestError as error:
        return problem_to_verdict(ProblemError.of(error))
    except WorkRefusedError as error:
        return problem_to_verdict(ProblemError.of_refused(error))


def to_verdict(decision: Decision, identity: CredentialAuthenticator | None = None) -> HttpVerdict:
    observed = () if decision.would_be is None else ((WOULD_BE_HEADER, decision.would_be.value),)
    named = (
        ("x-decision-id", decision.id),
        ("x-decision", decision.outcome.value),
        *observed,
        *rate_limit_headers(decision),
    )
    if decision.allowed:
        return HttpVerdict(200, (*named, *identity_headers(decision)))
    status = http_status(decision)
    challenges = challenge_headers(decision, identity) if status == 401 else ()
    return HttpVerdict(status, (*named, *challenges), encode_problem(problem_document(decision, status)))


def problem_to_verdict(problem: ProblemError) -> HttpVerdict:
    return HttpVerdict(problem.status, tuple(problem.headers.items()), encode_problem(problem.to_dict()))


def http_status(decision: Decision) -> int:
    """Return 401 if other credentials may help, 403 if not, 429 to retry later, 503 if this server failed."""
    match decision.outcome, decision.gate:
        case Outcome.THROTTLE, _:
            return 429
        case _, Gate.FAILURE:
            return 503
        case _ if needs_challenge(decision):
            return 401
        case _:
            return 403


def identity_headers(decision: Decision) -> HeaderPairs:
    """Return both headers, even if they are empty, so that no value from the client takes their place."""
    principal = decision.principal
    return tuple(zip(OWN_HEADERS, map(escape_header, (principal.agent, principal.user)), strict=True))


def escape_header(name: str | None) -> str:
    """Return the name in visible ASCII, percent-encoded otherwise, so that different names stay different."""
    return quote(name or "", safe=SAFE_CHARACTERS)


# ── Problems ──────────────────────────────────────────────────────────────────────────────────


def problem_document(decision: Decision, status: int) -> dict[str, object]:
    """Return RFC 9457 problem details with only what the client may know, which excludes the location of rules."""
    first = decision.reasons[0].message if decision.reasons else "not allowed"
    return {
        "type": "about:blank",
        "title": OUTCOME_TITLES.get(decision.outcome) or STATUS_TITLES.get(status, "Forbidden"),
        "status": status,
        "detail": first[:MAX_DETAIL_LENGTH],
        "outcome": decision.outcome.value,
        "decision": decision.id,
        "remedies": [remedy_document(one) for one in decision.remedies],
        "reasons": [reason_document(one) for one in decision.reasons],
    }


def reason_document(reason: Reason) -> dict[str, object]:
    rule = {} if reason.rule is None else {"rule": reason.rule}
    return {"gate": reason.gate.value, **rule, "message": reason.message[:MAX_DETAIL_LENGTH]}


def remedy_document(remedy: Remedy) -> dict[str, object]:
    named = {name: getattr(remedy, name) for name in remedy.__struct_fields__}
    return {name: value for name, value in named.items() if value is not None}


def encode_problem(problem: dict[str, object]) -> bytes:
    """Encode a problem on one line of ASCII, without its least important members if it is too long for a header."""
    for without in ((), ("reasons",), ("reasons", "remedies"), ("reasons", "remedies", "detail")):
        kept = {name: value for name, value in problem.items() if name not in without}
        text = json.dumps(kept, separators=(",", ":")).encode("ascii")
        if len(text) <= MAX_PROBLEM_BYTES:
            break
    return text
