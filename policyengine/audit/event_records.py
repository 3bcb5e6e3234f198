"""Records of a log that are not decisions: outcomes, events of the server itself, and notes of the seal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from policyengine.audit.line_fields import (
    LogRecordError,
    parse_details,
    parse_record_time,
    parse_redacted_facts,
    parse_trace,
)
from policyengine.audit.redaction import RedactedFact
from policyengine.audit.seal.options import SEAL_MEMBER
from policyengine.audit.token_events import TokenEvent, TokenEventKind

OUTCOME_MEMBER = "outcome"  # member of log lines about outcomes of requests
SYSTEM_MEMBER = "system"  # member of log lines about the server itself
OBJECTS = ("output", "usage", "subject")  # members of an outcome that are objects


class SystemEvent(StrEnum):
    """An event of the server itself; the value is the `event` of its line."""

    STARTED = "started"
    STOPPED = "stopped"
    RELOAD = "reload"
    RELOAD_COMPARED = "reload_compared"
    RELOAD_REFUSED = "reload_refused"
    OBSERVE = "observe"
    STORE_FAILURE = "store_failure"
    STORE_RECOVERED = "store_recovered"
    APPROVAL = "approval"
    DIRECTORY_FAILURE = "directory_failure"
    DIRECTORY_RECOVERED = "directory_recovered"
    HALT = "halt"
    HALTS_UNREADABLE = "halts_unreadable"
    HALTS_READABLE = "halts_readable"
    LOG_FAILURE = "log_failure"
    LOG_RECOVERED = "log_recovered"
    CONSOLE_SIGNED_IN = "console_signed_in"
    CONSOLE_SIGNED_OUT = "console_signed_out"
    CONSOLE_REFUSED = "console_refused"
    CONSOLE_ANSWERED = "console_answered"
    CONSOLE_HALTED = "console_halted"
    CONSOLE_LIFTED = "console_lifted"
    TOOL_CHANGED = "tool_changed"


@dataclass(frozen=True)
class OutcomeRecord:
    """The outcome of the request of a decision. `decision` is the id of the decision, `status` the status of the
    response, `latency_ms` the duration in milliseconds, and `size` the size of the response in bytes. `output` has the
    declared fields of `past.output`; `usage` has numbers such as tokens. `subject` repeats facts about the decision, if
    the process that wrote the line knew them. Members that were not reported are None or empty. `trace`, `line` and
    `file` are as in a DecisionRecord."""

    line: int
    time: datetime
    decision: str
    status: int | None = None
    latency_ms: int | Decimal | None = None
    size: int | None = None
    output: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    subject: Mapping[str, Any] = field(default_factory=dict)
    redacted: tuple[RedactedFact, ...] = ()
    trace: str | None = None
    file: Path = Path()

    def to_dict(self) -> dict[str, Any]:
        """Return the members that were reported."""
        named = ("decision", "status", "latency_ms", "size", *OBJECTS)
        return {name: value for name in named if (value := getattr(self, name)) is not None and value != {}}


@dataclass(frozen=True)
class SystemRecord:
    """An event of the server itself. `event` is a SystemEvent, or the name of an event of a later version; `details`
    has the other members, which `docs/log-format.md` lists. `line` and `file` are as in a DecisionRecord."""

    line: int
    time: datetime
    event: str
    details: Mapping[str, Any] = field(default_factory=dict)
    file: Path = Path()

    @property
    def revision(self) -> str | None:
        """The revision of the policies at the time; None if the event does not state it."""
        found = self.details.get("revision")
        return found if isinstance(found, str) else None

    @property
    def worker(self) -> int | None:
        """The number of the worker, from 0; None if there is only one process."""
        found = self.details.get("worker")
        return found if isinstance(found, int) else None


@dataclass(frozen=True)
class SealRecord:
    """A note of the seal (`docs/audit.md`). `event` says what happened, and `details` has the other members."""

    line: int
    time: datetime
    event: str
    details: Mapping[str, Any] = field(default_factory=dict)
    file: Path = Path()


EventRecord = TokenEvent | OutcomeRecord | SystemRecord | SealRecord


def parse_event_record(number: int, tree: Mapping[str, Any]) -> EventRecord | None:
    """Parse a line about a token, an outcome, the server or the seal; return None for every other line. Raises
    LogRecordError.
    """
    member = next((one for one in (*TokenEventKind, OUTCOME_MEMBER, SYSTEM_MEMBER, SEAL_MEMBER) if one in tree), None)
    if member is None or "decision" in tree:
        return None
    try:
        details = parse_details(tree, member)
        match member:
            case TokenEventKind():
                return parse_token_event(number, tree, member, details)
            case "outcome":
                return parse_outcome(number, tree, details)
            case _:
                kind = SystemRecord if member == SYSTEM_MEMBER else SealRecord
                event = details.pop("event")
                if not isinstance(event, str):
                    raise LogRecordError("its `event` is not a string")
                return kind(number, parse_record_time(tree), event, details)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        kinds = {OUTCOME_MEMBER: "outcome", SYSTEM_MEMBER: "system event", SEAL_MEMBER: "note of the seal"}
        raise LogRecordError(f"it is not a valid {kinds.get(member, 'token event')} ({error})") from None


def parse_token_event(
    number: int, tree: Mapping[str, Any], what: TokenEventKind, told: Mapping[str, Any]
) -> TokenEvent:
    """Parse a token event. Raises LogRecordError, LookupError, TypeError."""
    return TokenEvent(number, parse_record_time(tree), what, told, parse_redacted_facts(tree), parse_trace(tree))


def parse_outcome(number: int, tree: Mapping[str, Any], details: Mapping[str, Any]) -> OutcomeRecord:
    """Parse an outcome. Raises LogRecordError, LookupError, TypeError."""
    objects = {name: details.get(name, {}) for name in OBJECTS}
    if wrong := next((name for name, value in objects.items() if not isinstance(value, dict)), None):
        raise LogRecordError(f"its `{wrong}` is not an object")
    for name, types in (("status", int), ("latency_ms", int | Decimal), ("size", int)):
        value = details.get(name)
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            raise LogRecordError(f"its `{name}` is not a number")
    decision = details["decision"]
    if not isinstance(decision, str):
        raise LogRecordError("its `decision` is not the id of a decision")
    numbers = (details.get("status"), details.get("latency_ms"), details.get("size"))
    return OutcomeRecord(
        number, parse_record_time(tree), decision, *numbers, **objects,
        redacted=parse_redacted_facts(tree), trace=parse_trace(tree),
    )  # fmt: skip
