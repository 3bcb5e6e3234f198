"""Reads the lines of logs from which behavior is learned: decisions, and the outcomes of their requests.

A line that an engine with the same policies wrote contains everything that is learned from it, so only the members with
this content are decoded. All other lines are parsed completely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from policyengine.audit.event_records import OutcomeRecord
from policyengine.audit.files import Report, log_files, read_lines
from policyengine.audit.line_fields import READABLE_VERSIONS, LogRecordError
from policyengine.audit.logged_behavior import MAX_TAG
from policyengine.audit.reader import (
    DIRECTORY_LINE_STARTS,
    DecisionRecord,
    LogEntry,
    is_directory,
    parse_entry,
    salvage_entry,
)
from policyengine.behavior.events import MAX_TIME, BehaviorEvent, Caller, name_caller
from policyengine.behavior.log_events import DecisionReader, EventGap, RunEvent
from policyengine.behavior.reader import FAILED_STATUS, OUTCOMES, UNIDENTIFIED, BehaviorReader
from policyengine.clock import epoch_microseconds

DECIDE: Final = "decide"
TIME_LENGTH: Final = 27  # characters of 2026-06-01T09:00:00.000000Z
MAX_MINUTES: Final = 4_096  # cached times
MINUTE: Final = 60_000_000  # microseconds
MAX_CALLERS: Final = 65_536  # cached callers
OUTCOME_CODES: Final[dict[str, int]] = {str(outcome): code for outcome, code in OUTCOMES.items()}
UNIDENTIFIED_GATES: Final = frozenset(map(str, UNIDENTIFIED))


class LearnedDecision(NamedTuple):
    """A decision at a `time` in microseconds since 1970. `event` is None if nothing is learned from the decision; then
    `gap` is the reason, if reports count it."""

    time: int
    id: str
    event: BehaviorEvent | None
    gap: EventGap | None = None


class LoggedOutcome(NamedTuple):
    """The outcome of the request of a decision at a `time` in microseconds since 1970."""

    time: int
    decision: str
    failed: bool


Tag: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_TAG)]
LearnedLine: TypeAlias = LearnedDecision | LoggedOutcome


class BehaviorMember(Struct):
    """The part of the member `behavior` of a line from which behavior is learned."""

    group: str = msgspec.field(name="class")
    event: Annotated[int, msgspec.Meta(ge=0)]
    model: str
    read: int
    instance: str = ""
    version: str = ""
    run: Tag = 0
    shape: Tag = 0
    letter: Tag = 0
    clamped: bool = False
    released: bool = False


class PrincipalMember(Struct):
    """The agent of a decision."""

    agent: str | None = None
    issuer: str | None = None


NO_PRINCIPAL: Final = PrincipalMember()


class DecisionMember(Struct):
    """The part of the member `decision` of a line from which behavior is learned."""

    outcome: str
    id: str
    revision: str
    package: str
    gate: str | None = None
    principal: PrincipalMember | None = None


class OutcomeMember(Struct):
    """The member `outcome` of a line."""

    decision: str
    status: int | None = None
    latency_ms: int | float | None = None
    size: int | None = None
    output: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    subject: dict[str, Any] = {}


class HttpMember(Struct):
    """The part of a logged request that says whether it has a query."""

    path: str = ""
    query: Raw | UnsetType = UNSET


class QuestionMember(Struct):
    """The part of the member `request` of a line that says whether the request has a payload."""

    body: Raw | UnsetType = UNSET
    args: Raw | UnsetType = UNSET
    request: HttpMember | None = None

    @property
    def has_payload(self) -> bool:
        http = self.request
        has_query = http is not None and (http.query is not UNSET or "?" in http.path)
        return has_query or self.body is not UNSET or self.args is not UNSET


class LearnedMembers(Struct):
    """The members of a line from which behavior is learned."""

    v: int
    time: str
    call: str = ""
    endpoint: str | None = None
    behavior: BehaviorMember | None = None
    decision: DecisionMember | None = None
    outcome: OutcomeMember | None = None
    request: QuestionMember | None = None
    beyond_json: Raw | UnsetType = UNSET


class LineDecoder:
    """Decodes lines. With policies (`reader`), lines of other policies are parsed completely; `revision` is the
    revision of the policies."""

    def __init__(self, reader: BehaviorReader | None, revision: str = "") -> None:
        self._reader, self._revision = reader, revision
        self._decode = msgspec.json.Decoder(LearnedMembers).decode
        self._decisions = DecisionReader(reader)
        self._minutes: dict[str, int] = {}
        self._callers: dict[tuple[str | None, str | None, str, str], Caller] = {}

    def decode(self, line: bytes) -> LearnedLine | None:
        """Decode only the learned members of a line; None if the line must be parsed completely."""
        try:
            members = self._decode(line)
            time = self._time(members.time)
        except (msgspec.MsgspecError, ValueError):
            return None
        if members.v not in READABLE_VERSIONS or members.beyond_json is not UNSET:
            return None
        decision = members.decision
        if decision is None:
            outcome = members.outcome
            if outcome is None:
                return None
            return LoggedOutcome(time, outcome.decision, outcome.status is not None and outcome.status >= FAILED_STATUS)
        if members.call != DECIDE or members.request is None:
            return None
        if decision.gate in UNIDENTIFIED_GATES or (members.behavior is not None and not members.behavior.event):
            return LearnedDecision(time, decision.id, None, EventGap.UNIDENTIFIED)
        event = self._event(members, decision, time)
        return None if event is None else LearnedDecision(time, decision.id, event)

    def _event(self, members: LearnedMembers, decision: DecisionMember, time: int) -> BehaviorEvent | None:
        """Return the event that a line contains; None if the line must be parsed completely."""
        logged, outcome = members.behavior, OUTCOME_CODES.get(decision.outcome)
        if logged is None or outcome is None:
            return None
        if self._reader is not None and not self._is_complete(members, logged, decision, self._reader):
            return None
        principal = decision.principal or NO_PRINCIPAL
        names = principal.issuer, principal.agent, logged.instance, logged.version
        caller = self._callers.get(names)
        if caller is None:
            if len(self._callers) >= MAX_CALLERS:
                self._callers.clear()
            caller = name_caller(principal.issuer or "", principal.agent or "", logged.instance, logged.version)
            self._callers[names] = caller
        return BehaviorEvent(
            min(max(time // 1_000, 0), MAX_TIME), caller, logged.group, members.endpoint or "", logged.run, outcome,
            logged.clamped, logged.released, logged.shape, logged.letter,
        )  # fmt: skip

    def _is_complete(
        self, members: LearnedMembers, logged: BehaviorMember, decision: DecisionMember, reader: BehaviorReader
    ) -> bool:
        """Return whether a line contains everything that the policies would determine from its request. A line of an
        earlier version of this program may lack the tags that later versions learn."""
        if decision.revision != self._revision:
            return False
        if reader.reads_payloads and not logged.shape and members.request is not None and members.request.has_payload:
            return False
        return bool(logged.letter) or not reader.classes.profile_of(logged.group).steps

    def _time(self, text: str) -> int:
        """Return the microseconds since 1970 of a time in the format of logs. Raises ValueError."""
        if len(text) != TIME_LENGTH or text[10] != "T" or text[16] != ":" or text[19] != "." or text[26] != "Z":
            raise ValueError("the time has another format")
        minute, rest = text[:16], text[17:19] + text[20:26]
        found = self._minutes.get(minute)
        if found is None:
            if len(self._minutes) >= MAX_MINUTES:
                self._minutes.clear()
            moment = datetime.fromisoformat(minute).replace(tzinfo=UTC)
            found = self._minutes[minute] = epoch_microseconds(moment)
        if not rest.isdecimal() or (passed := int(rest)) >= MINUTE:
            raise ValueError("the time has another format")
        return found + passed

    def read(self, entry: LogEntry) -> LearnedLine | None:
        """Read a line that was parsed completely; None if nothing is learned from it."""
        time = epoch_microseconds(entry.time)
        if isinstance(entry, OutcomeRecord):
            return LoggedOutcome(time, entry.decision, entry.status is not None and entry.status >= FAILED_STATUS)
        if not isinstance(entry, DecisionRecord) or entry.call != DECIDE:
            return None
        found = self._decisions.read(entry)
        if isinstance(found, RunEvent):
            return LearnedDecision(time, entry.id, found.event)
        return LearnedDecision(time, entry.id, None, found)


def decode_lines(
    lines: Iterable[tuple[int, bytes]], path: Path, decoder: LineDecoder, tell: Report
) -> Iterator[LearnedLine]:
    """Yield what is learned from numbered lines of a file. `tell` receives a message for each line that is not a
    record."""
    decode = decoder.decode
    for number, line in lines:
        found = decode(line)
        if found is not None:
            yield found
        elif not (line.startswith(DIRECTORY_LINE_STARTS) or is_directory(line)):
            yield from parse_lines(number, line, path, decoder, tell)


def parse_lines(number: int, line: bytes, path: Path, decoder: LineDecoder, tell: Report) -> Iterator[LearnedLine]:
    """Yield what is learned from a line that is parsed completely. The rows of entities are not needed."""
    try:
        entries = [parse_entry(number, line, {})]
    except LogRecordError as problem:
        entries = list(salvage_entry(number, line, {}, path, problem, tell))
    yield from (found for entry in entries if (found := decoder.read(entry)) is not None)


def read_learned(logs: Iterable[Path], decoder: LineDecoder, tell: Report) -> Iterator[LearnedLine]:
    """Yield what is learned from several logs, in the order of their times. Raises OSError."""
    streams = [read_log_lines(log, decoder, tell) for log in logs]
    return streams[0] if len(streams) == 1 else merge(*streams, key=itemgetter(0))


def read_log_lines(log: Path, decoder: LineDecoder, tell: Report) -> Iterator[LearnedLine]:
    """Yield what is learned from a log with its rotated files. Raises OSError."""
    for file in log_files(log):
        yield from decode_lines(read_lines(file, tell), file, decoder, tell)
