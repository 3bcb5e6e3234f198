"""Reads a log: decisions with their questions and everything on which they depended, and token events."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeAlias

from policyengine.audit.encoder import LINE_START, LOG_VERSION
from policyengine.audit.files import Report, log_files, read_lines
from policyengine.audit.logged_history import LoggedHistory, decode_histories
from policyengine.audit.redaction import RedactedFact
from policyengine.audit.token_events import TokenEvent, TokenEventKind, get_fingerprint
from policyengine.entities.lookup import EntityLookups, LookupEntityStore
from policyengine.entities.store import NO_ANSWER, EntityStore, RowResult
from policyengine.runtime import decode
from policyengine.runtime.decision import Outcome
from policyengine.runtime.entities import read_entity_rows
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError
from policyengine.runtime.values import Invalid, coerce_time
from policyengine.typesystem import EntityRef

DIRECTORY_LINE_START = LINE_START + b'"directory":'
EMPTY_DIRECTORY = EntityStore(loaded=False)
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
    time of the decision; `spent` holds the approvals that an earlier allow had used, and `spends` those that this
    decision used. `directory` has the entity rows that the decision used; None if the log does not contain them.
    `history` is the past by watch: all events that may have counted. `observed` means that the request passed only
    because of observe mode. `trace` is the trace of the answer. `line` counts from the beginning of the log, through
    all its files; `file` is the file with the line.
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

    @property
    def id(self) -> str:
        return str(self.decision["id"])

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.decision["outcome"])

    @property
    def revision(self) -> str:
        return str(self.decision["revision"])

    @property
    def package(self) -> str:
        return str(self.decision["package"])

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the credential; the event in which it was issued has the same fingerprint."""
        return get_fingerprint(self.request)

    @cached_property
    def question(self) -> Request:
        """The request as the decision parsed it."""
        return Request.from_mapping(self.request)


LogEntry: TypeAlias = DecisionRecord | TokenEvent  # a line of an event


class LogRecordError(Exception):
    """The error for a line that is not a valid record; the message says why."""


def read_log(path: Path | str, tell: Report = lambda message: None) -> Iterator[LogEntry]:
    """Yield decisions and token events, in the order of the files (rotated ones included) and their lines. `tell`
    receives a message for each line that is neither.

    Raises OSError when a file cannot be read.
    """
    before = 0
    for file in log_files(Path(path)):
        before += yield from read_entries(file, tell, before)


def read_records(path: Path | str, tell: Report = lambda message: None) -> Iterator[DecisionRecord]:
    """Yield only the decisions, as `read_log` reads them. Raises OSError when a file cannot be read."""
    return (one for one in read_log(path, tell) if isinstance(one, DecisionRecord))


def read_entries(path: Path, tell: Report, before: int = 0) -> Generator[LogEntry, None, int]:
    """Yield the entries of one file, which can be read without the others, and return its number of lines. `before` is
    the number of lines in earlier files."""
    directories, number = dict[str, EntityStore](), 0
    for name, rows in read_directories(path, tell):
        directories.setdefault(name, rows)
    for number, line in read_lines(path, tell):
        if is_directory(line):
            continue
        try:
            found = [parse_entry(number, line, directories)]
        except LogRecordError as problem:
            found = list(salvage_entry(number, line, directories, path, problem, tell))
        yield from (replace(one, line=before + number, file=path) for one in found)
    return number


def read_directories(path: Path, tell: Report) -> Iterator[tuple[str, EntityStore]]:
    for number, line in read_lines(path, lambda _: None):
        if not is_directory(line):
            continue
        try:
            tree = parse_line(line)
            rows = restore_special_values(tree["entities"], tree.get("beyond_json", ()))
            yield (
                str(tree["directory"]),
                EntityStore(read_entity_rows(tuple(decode.clean(row) for row in rows), "entities")),
            )
        except (LogRecordError, RequestError, decode.DecodeError, LookupError, TypeError, ValueError) as error:
            tell(f"{path}:{number}: cannot read the entities on this line: {error}")


def is_directory(line: bytes) -> bool:
    """Return whether a line has entity rows, even if a log shipper reformatted its JSON."""
    if line.startswith(LINE_START):
        return line.startswith(DIRECTORY_LINE_START)
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
        return line.startswith(LINE_START) or bool(parse_line(line))
    except LogRecordError:
        return False


def salvage_entry(
    number: int, line: bytes, directories: Mapping[str, EntityStore], path: Path, problem: LogRecordError, tell: Report
) -> Iterator[LogEntry]:
    """Yield the complete line that a process wrote after a line that was cut off when another process was killed."""
    half, begins, rest = line.rpartition(LINE_START)
    if not line.endswith(b"\n"):
        tell(f"{path}:{number}: skipped the last line: it was cut off")
        return
    if half and not rest.startswith(DIRECTORY_LINE_START.removeprefix(LINE_START)):
        try:
            yield parse_entry(number, begins + rest, directories)
            tell(f"{path}:{number}: skipped the line before this one: it was cut off")
            return
        except LogRecordError:
            pass
    tell(f"{path}:{number}: skipped this line: {problem}")


def parse_entry(number: int, line: bytes, directories: Mapping[str, EntityStore]) -> LogEntry:
    """Parse a decision or token event. Raises LogRecordError."""
    tree = parse_line(line)
    what = next((one for one in TokenEventKind if one in tree), None)
    return parse_decision_record(number, tree, directories) if what is None else parse_token_event(number, tree, what)


def parse_token_event(number: int, tree: Mapping[str, Any], what: TokenEventKind) -> TokenEvent:
    """Parse a token event. Raises LogRecordError."""
    try:
        told = restore_special_values(tree[what], tree.get("beyond_json", ()))
        if not isinstance(told, dict):
            raise LogRecordError(f"its `{what}` is not an object")
        return TokenEvent(number, parse_record_time(tree), what, told, parse_redacted_facts(tree), parse_trace(tree))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise LogRecordError(f"it is not a valid token event ({error})") from None


def parse_record_time(tree: Mapping[str, Any]) -> datetime:
    """Parse the time of a line. Raises LogRecordError, LookupError."""
    found = coerce_time(tree["time"], "time")
    if not isinstance(found, datetime):
        raise LogRecordError("its time is malformed")
    return found


def parse_redacted_facts(tree: Mapping[str, Any]) -> tuple[RedactedFact, ...]:
    return tuple(RedactedFact(one["fact"], one["fingerprint"]) for one in tree.get("redacted", ()))


def parse_trace(tree: Mapping[str, Any]) -> str | None:
    return None if tree.get("trace") is None else str(tree["trace"])


def parse_decision_record(
    number: int, tree: Mapping[str, Any], directories: Mapping[str, EntityStore]
) -> DecisionRecord:
    """Parse a decision. Raises LogRecordError."""
    try:
        digest = tree.get("directory")
        found = DecisionRecord(
            line=number,
            time=parse_record_time(tree),
            call=str(tree["call"]),
            decision=tree["decision"],
            request=restore_special_values(tree["request"], tree.get("beyond_json", ())),
            directory=with_looked_up(
                EMPTY_DIRECTORY if digest is None else directories.get(digest), tree.get("looked_up")
            ),
            spent=frozenset(tree.get("spent", ())),
            spends=tuple(tree.get("spends", ())),
            redacted=parse_redacted_facts(tree),
            history=decode_histories(tree.get("history", ())),
            observed=tree.get("observed") is True,
            trace=parse_trace(tree),
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
    """Return the entity store as it was for a decision that looked up rows: other rows of these types are unknown.
    Raises LookupError, TypeError, ValueError, RequestError."""
    if looked_up is None or directory is None:
        return directory
    rows = restore_special_values(looked_up["entities"], looked_up.get("beyond_json", ()))
    found: dict[EntityRef, RowResult] = {}
    for row in read_entity_rows(tuple(decode.clean(one) for one in rows), "entities"):
        found[row.ref] = row
    found |= {EntityRef(*one): None for one in looked_up["none"]}
    found |= {EntityRef(*one): NO_ANSWER for one in looked_up["unanswered"]}
    return LookupEntityStore(directory, EntityLookups((), types=looked_up["types"]), found)


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse the JSON of a line and check its version. Raises LogRecordError."""
    try:
        tree = decode.json_tree(line)
    except decode.DecodeError as error:
        raise LogRecordError(str(error)) from None
    if not isinstance(tree, dict) or "v" not in tree:
        raise LogRecordError("it is not a line of a decision log")
    if type(tree["v"]) is not int and tree["v"] != LOG_VERSION:
        raise LogRecordError("its version `v` is not a whole number")
    if tree["v"] != LOG_VERSION:
        raise LogRecordError(f"it has version {tree['v']}, but this program supports {LOG_VERSION}")
    return tree


# ── Values that JSON cannot represent ─────────────────────────────────────────────────────────


def restore_special_values(tree: Any, beyond: Any) -> Any:
    """Put the special values back in place. Raises LookupError, TypeError, ValueError."""
    for item in beyond:
        *path, last = item["at"]
        place = tree
        for step in path:
            place = place[step]
        place[last] = decode_special_value(item["is"], item["value"])
    return tree


def decode_special_value(kind: str, written: Any) -> object:
    match kind:
        case "number":
            return Decimal(written)
        case "time":
            return datetime.fromisoformat(written)
        case "duration":
            return timedelta(microseconds=written)
        case "ip":
            return ip_address(written)
        case "cidr":
            return ip_network(written)
        case "entity":
            return EntityRef(*written)
        case "invalid":
            return Invalid(str(written))
        case "no_value":  # an invalid value with its digest
            return Invalid(*map(str, written))
        case _:
            raise ValueError(f"`{kind}` is not a kind of value")
