"""Responses to gateways: a decision as a status, headers, and a problem that the gateway's clients can read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from msgspec import to_builtins
from starlette.responses import Response

from policyengine.engine.decider import WouldBlockError
from policyengine.engine.question import Question
from policyengine.executor import run_in_thread, run_in_turn, submit_long
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.approval_links import approval_links, approval_member
from policyengine.http.gateway_headers import OWN_HEADERS
from policyengine.http.rate_limit_headers import rate_limit_headers
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.challenges import challenge_headers
from policyengine.runtime.decision import Answer, Decision, Gate, Outcome, Reason, Remedy
from policyengine.runtime.observe import needs_challenge
from policyengine.runtime.request import RequestError
from policyengine.runtime.value_size import is_large
from policyengine.server.decide_requests import run_off_loop
from policyengine.server.problems import STATUS_TITLES, ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface

HeaderPairs = tuple[tuple[str, str], ...]

WOULD_BE_HEADER = "x-would-be"  # for operators; gateways do not send it to clients
PROBLEM_MEDIA_TYPE = "application/problem+json"
SUBJECT_HEADER, USER_HEADER = OWN_HEADERS
SAFE_CHARACTERS = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
PLAIN_NAME = re.compile(r"[!-$&-~]*").fullmatch  # a name that needs no escapes
USUAL_ID = re.compile(r"[0-9A-Z]{26}").fullmatch
# Keys of `Answer.written`.
OUTCOME_KEY = "outcome headers"
PROBLEM_KEYS = {status: f"problem {status}" for status in (401, 403, 429, 503)}
MAX_PROBLEM_BYTES = 2_048  # maximum bytes of a header that gateways accept
MAX_DETAIL_LENGTH = 512
TICKET_ESSENTIALS = ("id", "state", "status", "expires", "poll")
OUTCOME_TITLES = {Outcome.CONFIRM: "Approval Needed", Outcome.THROTTLE: "Too Many Requests"}


class HttpVerdict(NamedTuple):
    """An HTTP response: `problem` is its JSON body, empty if the request may pass."""

    status: int
    headers: HeaderPairs
    problem: bytes = b""


async def decide_for_gateway(engine: EngineInterface, question: Mapping[str, object]) -> HttpVerdict:
    """Decide and spend. An invalid question, or a question that is refused because too many other questions wait, is
    answered with a problem.
    """
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
    """Decide and spend, and wait for a store if necessary: the caller must not be an event loop."""
    try:
        decision = engine.decide(question.request)
    except RequestError as error:
        return problem_to_verdict(ProblemError.of(error))
    return to_verdict(decision, engine.identity)


def decide_in_turn(engine: EngineInterface, question: Mapping[str, object]) -> HttpVerdict:
    """Decide and spend in the caller's thread; long work waits for its turn."""
    try:
        if engine.identity is None and not engine.forecast.awaits_issuer(question):
            return decide_at_once(engine, question)
        asked = Question.of(question)
        if engine.forecast.takes_long(asked):
            return submit_long(decide_blocking, engine, asked).result()
        return decide_blocking(engine, asked)
    except RequestError as error:
        return problem_to_verdict(ProblemError.of(error))
    except WorkRefusedError as error:
        return problem_to_verdict(ProblemError.of_refused(error))


def decide_at_once(engine: EngineInterface, question: Mapping[str, object]) -> HttpVerdict:
    """Decide and spend as `decide_in_turn` does, with an engine that verifies no credentials. Raises RequestError and
    WorkRefusedError."""
    try:
        return to_verdict(engine.decide(question, without_waiting=True))
    except WouldBlockError:
        return submit_long(decide_blocking, engine, Question.of(question)).result()


def to_verdict(decision: Decision, identity: CredentialAuthenticator | None = None) -> HttpVerdict:
    answer, id = decision.answer, decision.id
    limits = rate_limit_headers(decision) if decision.standings else ()
    named = (("x-decision-id", id), *outcome_headers(answer), *limits)
    if answer.outcome is Outcome.ALLOW:
        return HttpVerdict(200, (*named, *identity_headers(decision)))
    status = http_status(decision)
    challenges = challenge_headers(decision, identity) if status == 401 else ()
    links = approval_links(answer.remedies) if answer.outcome is Outcome.CONFIRM else ()
    return HttpVerdict(status, (*named, *challenges, *links), problem_of(answer, status, id))


def problem_to_verdict(problem: ProblemError) -> HttpVerdict:
    return HttpVerdict(problem.status, tuple(problem.headers.items()), encode_problem(problem.to_dict()))


def to_nginx_verdict(verdict: HttpVerdict) -> HttpVerdict:
    """Return the verdict for nginx. Because nginx turns statuses except 2xx, 401 and 403 into 500 and drops bodies,
    status and body are also sent as headers for its `error_page`.
    """
    if verdict.status == 200:
        return verdict
    more = (("x-status", str(verdict.status)), ("x-problem", verdict.problem.decode()))
    return HttpVerdict(401 if verdict.status == 401 else 403, (*verdict.headers, *more), verdict.problem)


def build_response(verdict: HttpVerdict) -> Response:
    media_type = PROBLEM_MEDIA_TYPE if verdict.problem else None
    return Response(verdict.problem, verdict.status, headers=dict(verdict.headers), media_type=media_type)


def outcome_headers(answer: Answer) -> HeaderPairs:
    """Return the outcome as a header and, in observe mode, also the outcome that the policies would enforce."""
    known: HeaderPairs | None = answer.written.get(OUTCOME_KEY)
    if known is None:
        observed = () if answer.would_be is None else ((WOULD_BE_HEADER, answer.would_be.value),)
        known = answer.written[OUTCOME_KEY] = (("x-decision", answer.outcome.value), *observed)
    return known


def http_status(decision: Decision) -> int:
    """Return 401 if other credentials may help, 403 if not, 429 if a later retry may help, and 503 if this server
    failed.
    """
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
    """Return both identity headers, even if they are empty, so that no value from the client takes their place."""
    agent, user = decision.agent_and_user
    return (SUBJECT_HEADER, escape_header(agent)), (USER_HEADER, escape_header(user))


def escape_header(name: str | None) -> str:
    """Return the name in visible ASCII; other characters are percent-encoded, so that different names stay
    different."""
    if not name or PLAIN_NAME(name):
        return name or ""
    return quote(name, safe=SAFE_CHARACTERS)


# ── Problems ──────────────────────────────────────────────────────────────────────────────────


def problem_of(answer: Answer, status: int, id: str) -> bytes:
    """Return the encoded problem of a decision. An answer is encoded once; later decisions with the same answer differ
    only in the id, if it has the usual form.
    """
    if not USUAL_ID(id):
        return encode_problem(problem_document(answer, status, id))
    key = PROBLEM_KEYS[status]
    known: tuple[bytes, bytes] | None = answer.written.get(key)
    if known is None:
        before, _, after = encode_problem(problem_document(answer, status, id)).partition(
            b'"decision":"%b"' % id.encode()
        )
        known = answer.written[key] = before + b'"decision":"', b'"' + after
    return b"%b%b%b" % (known[0], id.encode(), known[1])


def problem_document(answer: Answer, status: int, id: str) -> dict[str, object]:
    """Return RFC 9457 problem details for the client, without the locations of rules."""
    first = answer.reasons[0].message if answer.reasons else "not allowed"
    return {
        "type": "about:blank",
        "title": OUTCOME_TITLES.get(answer.outcome) or STATUS_TITLES.get(status, "Forbidden"),
        "status": status,
        "detail": first[:MAX_DETAIL_LENGTH],
        "outcome": answer.outcome.value,
        "decision": id,
        **approval_member(answer.remedies),
        "remedies": [remedy_document(one) for one in answer.remedies],
        "reasons": [reason_document(one) for one in answer.reasons],
    }


def reason_document(reason: Reason) -> dict[str, object]:
    rule = {} if reason.rule is None else {"rule": reason.rule}
    return {"gate": reason.gate.value, **rule, "message": reason.message[:MAX_DETAIL_LENGTH]}


def remedy_document(remedy: Remedy) -> dict[str, object]:
    found: dict[str, object] = to_builtins(remedy)
    return found


def encode_problem(problem: dict[str, object]) -> bytes:
    """Encode a problem on one line of ASCII. If it is too long for a header, its least important members
    are left out.
    """
    for without in ((), ("reasons",), ("reasons", "remedies"), ("reasons", "remedies", "detail")):
        kept = {name: value for name, value in problem.items() if name not in without}
        text = json.dumps(kept, separators=(",", ":")).encode("ascii")
        if len(text) <= MAX_PROBLEM_BYTES:
            return text
    if isinstance(ticket := kept.get("approval"), dict):  # the reason of a denial may be long
        kept["approval"] = {name: ticket[name] for name in TICKET_ESSENTIALS if name in ticket}
        text = json.dumps(kept, separators=(",", ":")).encode("ascii")
    return text
