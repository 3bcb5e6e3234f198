"""Reads a log: decisions with their questions and everything on which they depended, and records of every other
kind."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from policyengine.audit.encoder import LINE_STARTS
from policyengine.audit.event_records import EventRecord, parse_event_record
from policyengine.audit.files import Report, is_packed, log_files, read_lines
from policyengine.audit.line_fields import (
    LogRecordError,
    find_last_start,
    parse_line,
    parse_record_time,
    parse_redacted_facts,
    parse_trace,
    restore_special_values,
)
from policyengine.audit.logged_behavior import LoggedBehavior, parse_behavior
from policyengine.audit.logged_history import LoggedHistory, decode_histories
from policyengine.audit.redaction import RedactedFact
from policyengine.audit.token_events import get_fingerprint
from policyengine.entities.lookup import EntityLookups, LookupEntityStore
from policyengine.entities.store import NO_ANSWER, EntityStore, RowResult
from policyengine.runtime import decode
from policyengine.runtime.decision import Outcome
from policyengine.runtime.entities import read_entity_rows
from policyengine.runtime.halts import Halt
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError
from policyengine.time_formats import parse_time
from policyengine.typesystem import EntityRef

DIRECTORY_MARK = b'"directory":'  # follows the version in a line of entity rows
DIRECTORY_LINE_STARTS = tuple(start + DIRECTORY_MARK for start in LINE_STARTS)
EMPTY_DIRECTORY = EntityStore(loaded=False)
NO_DIRECTORY: tuple[None, None] = (None, None)
OPTIONAL_TEXTS = ("rule", "within", "at")
PARTS: dict[str, tuple[str, ...]] = {  # members of a decision, with the string members that each must contain
    "reasons": ("outcome", "gate", "message"),
    "remedies": ("kind",),
    "obligations": ("kind",),
    "rates": ("rule",),
    "unknown": (),
}


@dataclass(frozen=True)
class DecisionRecord:
    """A logged decision.

    `decision` is the answer, as `/decide` returns it; `request` is the question as sent over the wire. `time` is the
    time of the decision. `spent` contains the approvals that an earlier allow had used, and `spends` the approvals that
    this decision used. `directory` has the entity rows that the decision used; None if the log does not contain them.
    `history` has, by watch, all past events that may have counted. `observed` means that the request passed only
    because of observe mode. `trace` is the trace of the answer. `line` counts from the beginning of the log, across all
    its files; `line_in_file` counts from the beginning of `file`. `entities_line` is the number of the line in `file`
    with the entity rows; None if the decision used none. `client` is the client of the decision API that sent the
    request, `resource` the entity that the endpoint binds, and `endpoint` the most specific pattern of the policies
    that matches the request; each is None if there is none, or if the line was written by a version that does not
    record it. `behavior` contains the learned facts that the decision read; None if its policies read none. `halt` is
    the halt that covered the request, without its scope.
    """

    line: int
    time: datetime
    call: str
    decision: Mapping[str, Any]
    request: Mapping[str, object]
    directory: EntityStore | None = EMPTY_DIRECTORY
    spent: frozenset[str] = frozenset()
    spends: tuple[str, ...] = ()
    redacted: tuple[RedactedFact, ...] = ()
    history: Mapping[str, LoggedHistory] = field(default_factory=dict)
    observed: bool = False
    trace: str | None = None
    file: Path = Path()
    client: str | None = None
    resource: EntityRef | None = None
    line_in_file: int = 0
    entities_line: int | None = None
    endpoint: str | None = None
    behavior: LoggedBehavior | None = None
    halt: Halt | None = None

    @property
    def id(self) -> str:
        return str(self.decision["id"])

    @property
    def outcome(self) -> Outcome:
        return parse_decision_outcome(self.decision["outcome"])

    @property
    def revision(self) -> str:
        return str(self.decision["revision"])

    @property
    def is_listing(self) -> bool:
        """Whether the decision is about an item of a list, which need not mean that the item was requested."""
        return self.call == "list"

    @property
    def package(self) -> str:
        return str(self.decision["package"])

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the credential, or None; the event in which it was issued has the same fingerprint."""
        return get_fingerprint(self.request)

    @cached_property
    def question(self) -> Request:
        """The request as the decision parsed it. Raises RequestError."""
        return Request.from_mapping(self.request)


Directories: TypeAlias = dict[str, tuple[EntityStore, int]]  # entity rows by digest, with the number of their line
LineFilter: TypeAlias = Callable[[bytes], bool]
LogEntry: TypeAlias = DecisionRecord | EventRecord  # a line, except those with entity rows


def read_log(path: Path | str, tell: Report = lambda message: None) -> Iterator[LogEntry]:
    """Yield the records of every kind, in the order of the files (including rotated files) and their lines. `tell`
    receives a message for each line that is not a record. Lines of earlier versions of the format are read, too.

    A packed log yields the same records as the log that was packed. Raises OSError if a file cannot be read, and
    PackedLogError if a packed log is damaged or DuckDB is not installed.
    """
    return search_log(path, lambda line: True, tell)


def search_log(path: Path | str, wanted: LineFilter, tell: Report = lambda message: None) -> Iterator[LogEntry]:
    """Yield, as `read_log` does, the records of the lines that `wanted` accepts. Other lines are not parsed. Raises
    OSError if a file cannot be read."""
    before = 0
    for file in log_files(Path(path)):
        before += yield from read_entries(file, tell, before, wanted)


def read_records(path: Path | str, tell: Report = lambda message: None) -> Iterator[DecisionRecord]:
    """Yield only the decisions, as `read_log` reads them. Raises OSError if a file cannot be read."""
    return (one for one in read_log(path, tell) if isinstance(one, DecisionRecord))


def read_entries(
    path: Path, tell: Report, before: int = 0, wanted: LineFilter = lambda line: True
) -> Generator[LogEntry, None, int]:
    """Yield the entries of the wanted lines of one file, and return its number of lines. Each file can be read alone.
    `before` is the number of lines in earlier files. Raises OSError.
    """
    directories: Directories | None = None
    number = 0
    for number, line in read_lines(path, tell):
        if not wanted(line) or is_directory(line):
            continue
        if directories is None:
            directories = {}
            for name, found_rows in read_directories(path, tell):
                directories.setdefault(name, found_rows)
        try:
            found = [parse_entry(number, line, directories)]
        except LogRecordError as problem:
            found = list(salvage_entry(number, line, directories, path, problem, tell))
        yield from (set_place(one, before, number, path) for one in found)
    return number


def set_place(entry: LogEntry, before: int, number: int, path: Path) -> LogEntry:
    """Return an entry with the place of its line: its number in the file and in the log, and the file."""
    if isinstance(entry, DecisionRecord):
        return replace(entry, line=before + number, file=path, line_in_file=number)
    return replace(entry, line=before + number, file=path)


def read_directories(path: Path, tell: Report) -> Iterator[tuple[str, tuple[EntityStore, int]]]:
    """Yield the entity rows in a file by their digest, with the number of their line. `tell` reports lines that cannot
    be read. Raises OSError.
    """
    for number, line in read_directory_lines(path):
        if not is_directory(line):
            continue
        try:
            tree = parse_line(line)
            rows = restore_special_values(tree["entities"], tree.get("beyond_json", ()))
            store = EntityStore(read_entity_rows(tuple(decode.clean(row) for row in rows), "entities"))
            yield str(tree["directory"]), (store, number)
        except (LogRecordError, RequestError, decode.DecodeError, LookupError, TypeError, ValueError) as error:
            tell(f"{path}:{number}: cannot read the entities on this line: {error}")


def read_directory_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield at least the lines that have entity rows. A packed log yields only these. Raises OSError."""
    if not is_packed(path):
        return read_lines(path, lambda _: None)
    from policyengine.audit.packed_log import read_packed_lines

    return read_packed_lines(path, "directory")


def is_directory(line: bytes) -> bool:
    """Return whether a line has entity rows, even if a log shipper reformatted its JSON."""
    if line.startswith(LINE_STARTS):
        return line.startswith(DIRECTORY_LINE_STARTS)
    if b'"entities"' not in line:
        return False
    try:
        tree = parse_line(line)
    except LogRecordError:
        return False
    return "directory" in tree and "entities" in tree and "decision" not in tree


def is_log_line(line: bytes) -> bool:
    """Return whether a file that begins with this line is a log."""
    try:
        return line.startswith(LINE_STARTS) or bool(parse_line(line))
    except LogRecordError:
        return False


def salvage_entry(
    number: int, line: bytes, directories: Directories, path: Path, problem: LogRecordError, tell: Report
) -> Iterator[LogEntry]:
    """Yield the complete line that a process wrote after a line that was cut off when another process was killed."""
    begins = find_last_start(line)
    if not line.endswith(b"\n"):
        tell(f"{path}:{number}: skipped the last line: it was cut off")
        return
    if begins > 0 and not line.startswith(DIRECTORY_LINE_STARTS, begins):
        try:
            yield parse_entry(number, line[begins:], directories)
            tell(f"{path}:{number}: skipped the line before this one: it was cut off")
            return
        except LogRecordError:
            pass
    tell(f"{path}:{number}: skipped this line: {problem}")


def parse_entry(number: int, line: bytes, directories: Directories) -> LogEntry:
    """Parse a record of any kind. Raises LogRecordError."""
    tree = parse_line(line)
    return parse_event_record(number, tree) or parse_decision_record(number, tree, directories)


def parse_halt(member: Any) -> Halt | None:
    """Return the halt in a log line; None if the line has none. Raises LookupError, TypeError and ValueError."""
    if member is None:
        return None
    until = parse_time(member["until"])
    if until is None:
        raise ValueError("the end of its halt is not a time")
    return Halt(str(member["id"]), str(member["reason"]), 0, int(until.timestamp()), everything=True)


def parse_decision_record(number: int, tree: Mapping[str, Any], directories: Directories) -> DecisionRecord:
    """Parse a decision. Raises LogRecordError."""
    try:
        digest = tree.get("directory")
        directory, entities_line = (EMPTY_DIRECTORY, None) if digest is None else directories.get(digest, NO_DIRECTORY)
        found = DecisionRecord(
            line=number,
            time=parse_record_time(tree),
            call=str(tree["call"]),
            decision=tree["decision"],
            request=restore_special_values(tree["request"], tree.get("beyond_json", ())),
            directory=with_looked_up(directory, tree.get("looked_up")),
            entities_line=entities_line,
            spent=frozenset(tree.get("spent", ())),
            spends=tuple(tree.get("spends", ())),
            redacted=parse_redacted_facts(tree),
            history=decode_histories(tree.get("history", ())),
            observed=tree.get("observed") is True,
            trace=parse_trace(tree),
            client=client if isinstance(client := tree.get("client"), str) else None,
            resource=parse_resource(tree.get("resource")),
            endpoint=endpoint if isinstance(endpoint := tree.get("endpoint"), str) else None,
            behavior=parse_behavior(tree.get("behavior")),
            halt=parse_halt(tree.get("halted")),
        )
        _ = found.outcome, found.id, found.revision, found.package
        check_shape(found)
        return found
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RequestError,
        decode.DecodeError,
    ) as error:
        raise LogRecordError(f"it is not a valid record of a decision ({error})") from None


def parse_decision_outcome(found: Any) -> Outcome:
    """Return the outcome of a decision. Raises ValueError."""
    try:
        return Outcome(found)
    except ValueError:
        raise ValueError(f"its outcome is not one of {', '.join(Outcome)}") from None


def parse_resource(found: Any) -> EntityRef | None:
    """Return the resource of a decision; None for any other value, which a log shipper may have added."""
    match found:
        case {"type": str() as type_, "id": str() as id_}:
            return EntityRef(type_, id_)
        case _:
            return None


def check_shape(record: DecisionRecord) -> None:
    """Check the types of members that are read later. Raises LogRecordError."""
    if not isinstance(record.request, dict):
        raise LogRecordError("its `request` is not an object")
    if not isinstance(record.decision.get("principal"), dict | None):
        raise LogRecordError("its `principal` is not an object")
    for name, needed in PARTS.items():
        several = record.decision.get(name, ())
        if not isinstance(several, list | tuple) or not all(isinstance(one, dict) for one in several):
            raise LogRecordError(f"its `{name}` is not a list of objects")
        texts = [(one.get(word), word) for one in several for word in needed]
        texts += [(one[word], word) for one in several for word in OPTIONAL_TEXTS if one.get(word) is not None]
        texts += [(text, "arguments") for one in several for text in one.get("arguments", ())]
        if wrong := next((word for text, word in texts if not isinstance(text, str)), None):
            raise LogRecordError(f"a `{wrong}` of its `{name}` is not a string")


def with_looked_up(directory: EntityStore | None, looked_up: Any) -> EntityStore | None:
    """Return the entity store of a decision that looked up rows: it contains these rows, and all other rows of their
    types are unknown. Without looked-up rows or without a directory, return the directory unchanged. Raises
    LookupError, TypeError, ValueError, RequestError.
    """
    if looked_up is None or directory is None:
        return directory
    rows = restore_special_values(looked_up["entities"], looked_up.get("beyond_json", ()))
    found: dict[EntityRef, RowResult] = {}
    for row in read_entity_rows(tuple(decode.clean(one) for one in rows), "entities"):
        found[row.ref] = row
    found |= {EntityRef(*one): None for one in looked_up["none"]}
    found |= {EntityRef(*one): NO_ANSWER for one in looked_up["unanswered"]}
    return LookupEntityStore(directory, EntityLookups((), types=looked_up["types"]), found)
