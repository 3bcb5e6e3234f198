"""How a request came out: a report in bytes to what the engine is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from policyengine.runtime import decode
from policyengine.runtime.history import Report
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import flag_at, id_at, object_at, only, wrong_kind
from policyengine.server.content_negotiation import Form
from policyengine.server.problems import Problem
from policyengine.server.telemetry.metered_engine import Decides
from policyengine.stores.base import StoreError

MEMBERS = ("decision", "status", "latency_ms", "output", "refund")


@dataclass(frozen=True, slots=True)
class Event:
    decision: str
    report: Report
    refund: bool


def event_of(body: bytes, form: Form) -> Event:
    """Raises RequestError."""
    try:
        return event_in(decode.from_json(body) if form is Form.JSON else decode.from_msgpack(body))
    except decode.WireError as error:
        raise RequestError("", str(error)) from None


def event_in(raw: object) -> Event:
    """A report from a clean tree. Raises RequestError."""
    given = object_at(raw, "")
    if given is None:
        raise RequestError("", "a report is an object", 'send `{"decision": "…", "status": 200}`')
    only(given, MEMBERS, "")
    latency_of(given)
    report = Report(status_of(given), object_at(given.get("output"), "output") or {})
    refund = flag_at(given.get("refund"), "refund", default=False)
    return Event(id_at(given.get("decision"), "decision"), report, refund)


def status_of(given: Mapping[str, object]) -> int | None:
    """As in HTTP: three digits."""
    status = given.get("status")
    if status is None:
        return None
    if not isinstance(status, int) or isinstance(status, bool):
        raise wrong_kind(status, "status", "a number")
    if not 100 <= status <= 599:
        raise RequestError("status", f"`{status}` is no status", "a status is 100 to 599")
    return status


def latency_of(given: Mapping[str, object]) -> None:
    """Checked, as it will count once behaviour is learned; nothing asks for it yet."""
    latency = given.get("latency_ms")
    if latency is None:
        return
    if not isinstance(latency, int | Decimal) or isinstance(latency, bool):
        raise wrong_kind(latency, "latency_ms", "a number")
    if latency < 0:
        raise RequestError("latency_ms", "`latency_ms` is below zero")


def reported(engine: Decides, event: Event) -> dict[str, object]:
    """Raises Problem where nothing waits for it, or nobody can tell."""
    try:
        told = engine.reported(event.decision, event.report, refund=event.refund)
    except StoreError:
        raise Problem(503, "the store does not answer", hint="report it again: once it counts, that is told") from None
    if told == "again":
        hint = "this report changes nothing; who sent it again as no answer came takes it for done"
        text = "the outcome of this decision was reported before"
        raise Problem(409, text, code="outcome_reported", member="decision", hint=hint)
    if told is None:
        hint = (
            "only an allow that rates, budgets or history wait for is reported, once, while it counts, and by the "
            "caller that asked for the decision: the client of the token file, or the user behind the socket"
        )
        raise Problem(404, "nothing waits for the outcome of this decision", member="decision", hint=hint)
    return {"decision": event.decision, "reported": True}
