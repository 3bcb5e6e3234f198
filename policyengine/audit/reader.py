"""Lines of a log to records: what was asked, in which world, and what was said to it; and what became of tokens."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeAlias

from policyengine.audit.encoder import BEGINNING, VERSION
from policyengine.audit.files import Tell, files_of, lines_of
from policyengine.audit.history_fields import Past, read
from policyengine.audit.redaction import Redacted
from policyengine.audit.tokens import TokenEvent, What, fingerprint_in
from policyengine.entities.lookup import Looking, Lookups
from policyengine.entities.store import NO_ANSWER, Directory, Found
from policyengine.runtime import decode
from policyengine.runtime.decision import Outcome
from policyengine.runtime.entities import entity_rows
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError
from policyengine.runtime.values import Invalid, coerce_time
from policyengine.typesystem import EntityRef

OF_A_DIRECTORY = BEGINNING + b'"directory":'
EMPTY = Directory(loaded=False)
OPTIONAL_TEXTS = ("rule", "within", "at")
PARTS: dict[str, tuple[str, ...]] = {  # of a decision, with the texts that each has
    "reasons": ("outcome", "gate", "message"),
    "remedies": ("kind",),
    "obligations": ("kind",),
    "rates": ("rule",),
    "unknown": (),
}


@dataclass(frozen=True)
class Record:
    """One decision. `decision` is what was answered, as `/decide` gives it; `request` the question in its wire shape.

    `time` is the clock it was decided by; `spent` the approvals that an earlier allow had used, `spends` those that
    this one used. `directory` are the rows it was decided by; None where the log does not hold them. `history` is what
    happened before, by watch: all that may have counted. `observed`: it was let through all the same, as somebody
    observed. `trace` is what the answer said of its trace. `line` is counted from the beginning of the log, through all
    its files; `file` is the one it stands in.
    """

    line: int
    time: datetime
    call: str
    decision: Mapping[str, Any]
    request: Mapping[str, object]
    directory: Directory | None = EMPTY
    spent: frozenset[str] = frozenset()
    spends: tuple[str, ...] = ()
    redacted: tuple[Redacted, ...] = ()
    history: Mapping[str, Past] = field(default_factory=dict)
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
        """Of the credential that it was decided by: the token that was issued has the same one."""
        return fingerprint_in(self.request)

    @cached_property
    def question(self) -> Request:
        """The request as the decision read it."""
        return Request.from_mapping(self.request)


Entry: TypeAlias = Record | TokenEvent  # what a line tells that happened


class NoRecord(Exception):
    """A line tells of nothing that happened: why."""


def read_log(path: Path | str, tell: Tell = lambda message: None) -> Iterator[Entry]:
    """All that a log tells, decisions and what became of tokens, in the order of its files (those that were set aside,
    too) and their lines. `tell` hears about lines that hold neither.

    Raises OSError when a file cannot be read.
    """
    before = 0
    for file in files_of(Path(path)):
        before += yield from entries_in(file, tell, before)


def read_records(path: Path | str, tell: Tell = lambda message: None) -> Iterator[Record]:
    """The decisions alone, as `read_log` reads them. Raises OSError when a file cannot be read."""
    return (one for one in read_log(path, tell) if isinstance(one, Record))


def entries_in(path: Path, tell: Tell, before: int = 0) -> Generator[Entry, None, int]:
    """Those of one file, which can be read alone; how many lines it has. So many lines were in files before it."""
    directories, number = dict(directories_in(path, tell)), 0
    for number, line in lines_of(path, tell):
        if is_directory(line):
            continue
        try:
            found = [entry_of(number, line, directories)]
        except NoRecord as problem:
            found = list(salvaged(number, line, directories, path, problem, tell))
        yield from (replace(one, line=before + number, file=path) for one in found)
    return number


def directories_in(path: Path, tell: Tell) -> Iterator[tuple[str, Directory]]:
    for number, line in lines_of(path, lambda _: None):
        if not is_directory(line):
            continue
        try:
            tree = tree_of(line)
            rows = restored(tree["entities"], tree.get("beyond_json", ()))
            yield str(tree["directory"]), Directory(entity_rows(tuple(decode.clean(row) for row in rows), "entities"))
        except (NoRecord, RequestError, decode.WireError, LookupError, TypeError, ValueError) as error:
            tell(f"{path}:{number}: the directory on this line cannot be read: {error}")


def is_directory(line: bytes) -> bool:
    """Whether a line holds rows that decisions were made by, also where a shipper wrote its JSON anew."""
    if line.startswith(BEGINNING):
        return line.startswith(OF_A_DIRECTORY)
    if b'"entities"' not in line:
        return False
    try:
        tree = tree_of(line)
    except NoRecord:
        return False
    return "directory" in tree and "entities" in tree and "decision" not in tree


def is_log_line(line: bytes) -> bool:
    """Whether a file that begins with this line is a log."""
    try:
        return line.startswith(BEGINNING) or bool(tree_of(line))
    except NoRecord:
        return False


def salvaged(
    number: int, line: bytes, directories: Mapping[str, Directory], path: Path, problem: NoRecord, tell: Tell
) -> Iterator[Entry]:
    """Behind half a line, which a process left that was killed, another process may have written a whole one."""
    half, begins, rest = line.rpartition(BEGINNING)
    if not line.endswith(b"\n"):
        tell(f"{path}:{number}: the last line was cut off: it is left out")
        return
    if half and not rest.startswith(OF_A_DIRECTORY.removeprefix(BEGINNING)):
        try:
            yield entry_of(number, begins + rest, directories)
            tell(f"{path}:{number}: a line was cut off before this one: it is left out")
            return
        except NoRecord:
            pass
    tell(f"{path}:{number}: this line is left out: {problem}")


def entry_of(number: int, line: bytes, directories: Mapping[str, Directory]) -> Entry:
    """Raises NoRecord."""
    tree = tree_of(line)
    what = next((one for one in What if one in tree), None)
    return record_of(number, tree, directories) if what is None else event_of(number, tree, what)


def event_of(number: int, tree: Mapping[str, Any], what: What) -> TokenEvent:
    """Raises NoRecord."""
    try:
        told = restored(tree[what], tree.get("beyond_json", ()))
        if not isinstance(told, dict):
            raise NoRecord(f"its `{what}` is no object")
        return TokenEvent(number, time_of(tree), what, told, redacted_in(tree), trace_of(tree))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise NoRecord(f"it does not say what became of a token ({error})") from None


def time_of(tree: Mapping[str, Any]) -> datetime:
    """Raises NoRecord, LookupError."""
    found = coerce_time(tree["time"], "time")
    if not isinstance(found, datetime):
        raise NoRecord("its time is none")
    return found


def redacted_in(tree: Mapping[str, Any]) -> tuple[Redacted, ...]:
    return tuple(Redacted(one["fact"], one["fingerprint"]) for one in tree.get("redacted", ()))


def trace_of(tree: Mapping[str, Any]) -> str | None:
    return None if tree.get("trace") is None else str(tree["trace"])


def record_of(number: int, tree: Mapping[str, Any], directories: Mapping[str, Directory]) -> Record:
    """Raises NoRecord."""
    try:
        digest = tree.get("directory")
        found = Record(
            line=number,
            time=time_of(tree),
            call=str(tree["call"]),
            decision=tree["decision"],
            request=restored(tree["request"], tree.get("beyond_json", ())),
            directory=with_looked_up(EMPTY if digest is None else directories.get(digest), tree.get("looked_up")),
            spent=frozenset(tree.get("spent", ())),
            spends=tuple(tree.get("spends", ())),
            redacted=redacted_in(tree),
            history=read(tree.get("history", ())),
            observed=tree.get("observed") is True,
            trace=trace_of(tree),
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
        decode.WireError,
    ) as error:
        raise NoRecord(f"it is no record of a decision ({error})") from None


def check_shape(record: Record) -> None:
    """Raises NoRecord where a member that is looked into later is of another type."""
    if not isinstance(record.request, dict):
        raise NoRecord("its `request` is no object")
    if not isinstance(record.decision.get("principal"), dict | None):
        raise NoRecord("its `principal` is no object")
    for name, needed in PARTS.items():
        several = record.decision.get(name, ())
        if not isinstance(several, list | tuple) or not all(isinstance(one, dict) for one in several):
            raise NoRecord(f"its `{name}` is no list of objects")
        texts = [(one.get(word), word) for one in several for word in needed]
        texts += [(one[word], word) for one in several for word in OPTIONAL_TEXTS if one.get(word) is not None]
        texts += [(text, "arguments") for one in several for text in one.get("arguments", ())]
        if wrong := next((word for text, word in texts if not isinstance(text, str)), None):
            raise NoRecord(f"a `{wrong}` of its `{name}` is no text")


def with_looked_up(directory: Directory | None, looked_up: Any) -> Directory | None:
    """The directory as a decision saw it that looked up rows: of others of these types it knew nothing. Raises
    LookupError, TypeError, ValueError, RequestError."""
    if looked_up is None or directory is None:
        return directory
    rows = restored(looked_up["entities"], looked_up.get("beyond_json", ()))
    found: dict[EntityRef, Found] = {}
    for row in entity_rows(tuple(decode.clean(one) for one in rows), "entities"):
        found[row.ref] = row
    found |= {EntityRef(*one): None for one in looked_up["none"]}
    found |= {EntityRef(*one): NO_ANSWER for one in looked_up["unanswered"]}
    return Looking(directory, Lookups((), types=looked_up["types"]), found)


def tree_of(line: bytes) -> dict[str, Any]:
    """Raises NoRecord."""
    try:
        tree = decode.json_tree(line)
    except decode.WireError as error:
        raise NoRecord(str(error)) from None
    if not isinstance(tree, dict) or "v" not in tree:
        raise NoRecord("it is no line of a decision log")
    if type(tree["v"]) is not int and tree["v"] != VERSION:
        raise NoRecord("its version `v` is no whole number")
    if tree["v"] != VERSION:
        raise NoRecord(f"it is of version {tree['v']}, and this program knows {VERSION}")
    return tree


# ── What JSON cannot hold ─────────────────────────────────────────────────────────────────────


def restored(tree: Any, beyond: Any) -> Any:
    """The tree with every value where it was. Raises LookupError, TypeError, ValueError."""
    for one in beyond:
        *path, last = one["at"]
        place = tree
        for step in path:
            place = place[step]
        place[last] = value_of(one["is"], one["value"])
    return tree


def value_of(kind: str, written: Any) -> object:
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
        case "no_value":  # one thing stood there, and this is its digest
            return Invalid(*map(str, written))
        case _:
            raise ValueError(f"`{kind}` is no kind of value")
