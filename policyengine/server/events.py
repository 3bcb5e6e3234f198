"""Reports of outcomes: parse a report about a decision's request, and pass it to the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from policyengine.audit.outcomes import MAX_NUMBER, MAX_USAGE_MEMBERS, USAGE_NAME, read_number
from policyengine.engine.outcomes import OutcomeNotRecordedError
from policyengine.runtime.history import OutcomeReport
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import (
    check_members,
    get_flag,
    get_id,
    get_object,
    quote_input,
    wrong_type_error,
)
from policyengine.server.content_negotiation import BodyFormat, decode_body
from policyengine.server.problems import ProblemCode, ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface
from policyengine.stores.base import StoreError

MEMBERS = ("decision", "status", "latency_ms", "size", "output", "usage", "refund")
UNRECORDED = "the outcome took effect, but could not be written to the decision log"


@dataclass(frozen=True, slots=True)
class OutcomeEvent:
    decision: str
    report: OutcomeReport
    refund: bool


def parse_event(body: bytes, form: BodyFormat) -> OutcomeEvent:
    """Parse a report. Raises RequestError."""
    return event_from_tree(decode_body(body, form))


def event_from_tree(raw: object) -> OutcomeEvent:
    """Build a report from a decoded tree. Raises RequestError."""
    given = get_object(raw, "")
    if given is None:
        raise RequestError("", "a report must be an object", 'send `{"decision": "…", "status": 200}`')
    check_members(given, MEMBERS, "")
    output = get_object(given.get("output"), "output") or {}
    report = OutcomeReport(parse_status(given), output, parse_latency(given), parse_size(given), parse_usage(given))
    refund = get_flag(given.get("refund"), "refund", default=False)
    return OutcomeEvent(get_id(given.get("decision"), "decision"), report, refund)


def parse_status(given: Mapping[str, object]) -> int | None:
    """Return the HTTP status in a report, from 100 to 599, or None if the report has none. Raises RequestError."""
    status = given.get("status")
    if status is None:
        return None
    if not isinstance(status, int) or isinstance(status, bool):
        raise wrong_type_error(status, "status", "a whole number")
    if not 100 <= status <= 599:
        raise RequestError("status", f"`{status}` is not a status", "a status must be from 100 to 599")
    return status


def parse_latency(given: Mapping[str, object]) -> Decimal | float | None:
    """Return the milliseconds that the request took, or None if the report does not state them. Raises RequestError."""
    latency = given.get("latency_ms")
    if latency is None:
        return None
    if not isinstance(latency, int | Decimal) or isinstance(latency, bool):
        raise wrong_type_error(latency, "latency_ms", "a number")
    if latency < 0:
        raise RequestError("latency_ms", "`latency_ms` is below zero")
    return latency


def parse_size(given: Mapping[str, object]) -> int | None:
    """Return the size of the response in bytes, or None if the report does not state it. Raises RequestError."""
    size = given.get("size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool):
        raise wrong_type_error(size, "size", "a whole number")
    if not 0 <= size <= MAX_NUMBER:
        raise RequestError("size", f"`{size}` is not a size", f"a size must be from 0 to {MAX_NUMBER:,} bytes")
    return size


def parse_usage(given: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the numbers that the request used up, by name, or None if the report has none. Raises RequestError."""
    usage = get_object(given.get("usage"), "usage")
    if usage is None:
        return None
    if len(usage) > MAX_USAGE_MEMBERS:
        hint = f"report at most {MAX_USAGE_MEMBERS}"
        raise RequestError("usage", f"`usage` has {len(usage):,} members", hint)
    for name, value in usage.items():
        if not USAGE_NAME.fullmatch(name):
            hint = "a name has lower-case letters, digits and `_`, such as `input_tokens`"
            raise RequestError("usage", f"`{quote_input(name)}` is not a valid usage name", hint)
        if read_number(value) is None:
            raise RequestError(f"usage.{name}", f"`usage.{name}` is not a number from 0 to {MAX_NUMBER:,}")
    return usage


def record_outcome(engine: EngineInterface, event: OutcomeEvent) -> dict[str, object]:
    """Report an outcome to the engine. Raises ProblemError if nothing waits for it, it cannot be recorded, or the store
    does not answer."""
    try:
        told = engine.report_outcome(event.decision, event.report, refund=event.refund)
    except StoreError:
        raise ProblemError(
            503, "the store does not answer", hint="report it again: the answer says whether it was already recorded"
        ) from None
    except OutcomeNotRecordedError:
        raise ProblemError(
            503, "the outcome could not be recorded, and nothing was changed", code=ProblemCode.OUTCOME_NOT_RECORDED,
            hint="report it again; the operator's log says why",
        ) from None  # fmt: skip
    if told == "again":
        hint = "this report changes nothing; if an earlier attempt got no answer, treat the outcome as recorded"
        text = "the outcome of this decision is already reported"
        raise ProblemError(409, text, code=ProblemCode.OUTCOME_REPORTED, member="decision", hint=hint)
    if told is None:
        hint = (
            "only an allow can be reported, once, and only by the caller that requested it (the client of the token "
            "file, or the user of the socket), while the decision is among the recent decisions of a server "
            "with a log, or a rule reads its outcome"
        )
        raise ProblemError(404, "nothing waits for the outcome of this decision", member="decision", hint=hint)
    answer: dict[str, object] = {"decision": event.decision, "reported": True}
    return answer | ({"recorded": False, "warning": UNRECORDED} if told == "unrecorded" else {})
