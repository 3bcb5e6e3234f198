"""Reads traffic for an evaluation: decision logs, or plain events of one JSON object a line; and the labels of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import msgspec

from policyengine.audit.files import Report, is_packed, read_lines
from policyengine.audit.reader import is_log_line
from policyengine.behavior.events import ALLOWED, DENIED, HELD, NO_RUN, BehaviorEvent, Caller, Tagger
from policyengine.behavior.log_events import FailureReport, LogEventReader, RunEvent, read_logs
from policyengine.behavior.reader import FAILED_STATUS, CallerClasses
from policyengine.behavior.row import HOUR, MAX_HOUR
from policyengine.clock import epoch_microseconds
from policyengine.time_formats import parse_time

NORMAL: Final = "normal"
DENIALS: Final = frozenset({401, 403})
THROTTLED: Final = 429
MAX_TIME: Final = MAX_HOUR * HOUR  # milliseconds
Traffic: TypeAlias = RunEvent | FailureReport
LineT = TypeVar("LineT")


class TrafficError(Exception):
    """A line of traffic or labels cannot be used; the text says where and why."""


class TrafficLine(msgspec.Struct, frozen=True):
    """A line of plain events. `at` is RFC 3339, or milliseconds since 1970."""

    at: str | int
    agent: str
    endpoint: str
    issuer: str = ""
    run: str = ""
    body: msgspec.Raw = msgspec.Raw()
    status: int | None = None


class RunLabel(msgspec.Struct, frozen=True):
    """A line of labels: the kind of a run, which is `normal` or a kind of abuse."""

    run: str
    label: str
    issuer: str | None = None
    agent: str | None = None


def read_traffic(
    files: Sequence[Path], logs: LogEventReader, classes: CallerClasses | None, tagger: Tagger, tell: Report
) -> Iterator[Traffic]:
    """Yield the events of all files in the order of their times. `classes` are those of the policies. Raises
    TrafficError, OSError."""
    plain = [file for file in files if not is_log(file)]
    logged = read_logs([file for file in files if file not in plain], tell)
    streams = [plain_traffic(file, classes, tagger) for file in plain]
    return merge(filter(None, map(logs.read, logged)), *streams, key=time_of)


def is_log(file: Path) -> bool:
    """Return whether a file is a decision log, or empty. Raises OSError."""
    if not file.exists() or is_packed(file):
        return True
    first = next(read_lines(file, lambda message: None), None)
    return first is None or is_log_line(first[1])


def time_of(found: Traffic) -> int:
    return found.at if isinstance(found, FailureReport) else found.event.at


# ── Plain events ──────────────────────────────────────────────────────────────────────────────


def plain_traffic(file: Path, classes: CallerClasses | None, tagger: Tagger) -> Iterator[Traffic]:
    """Yield the events of a file. Raises TrafficError, OSError."""
    for place, found in decoded_lines(file, TrafficLine):
        at = milliseconds_of(found.at)
        if at is None:
            raise TrafficError(f"{place}: `at` is neither an RFC 3339 time nor milliseconds since 1970")
        caller = Caller(found.issuer, found.agent)
        group = "" if classes is None else classes.find(found.agent, None)[0]
        run = tagger.tag(found.run) if found.run else NO_RUN
        outcome = outcome_of(found.status)
        yield RunEvent(BehaviorEvent(at, caller, group, found.endpoint, run, outcome), found.run)
        if outcome == ALLOWED and found.status is not None and found.status >= FAILED_STATUS:
            yield FailureReport(caller, at)


def outcome_of(status: int | None) -> int:
    """Return the outcome of a request with a status: 401 and 403 are denials, 429 is a limit."""
    if status in DENIALS:
        return DENIED
    return HELD if status == THROTTLED else ALLOWED


def milliseconds_of(at: str | int) -> int | None:
    if isinstance(at, str):
        moment = parse_time(at)
        at = -1 if moment is None else epoch_microseconds(moment) // 1_000
    return at if 0 <= at <= MAX_TIME else None


def decoded_lines(file: Path, type: type[LineT]) -> Iterator[tuple[str, LineT]]:
    """Yield the place and the content of each line. Raises TrafficError, OSError."""
    decoder = msgspec.json.Decoder(type)
    for number, line in read_lines(file, refuse):
        try:
            yield f"{file}:{number}", decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TrafficError(f"{file}:{number}: {lower_first(str(error))}") from None


def refuse(message: str) -> None:
    raise TrafficError(message)


def lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


# ── Labels ────────────────────────────────────────────────────────────────────────────────────


class RunLabels:
    """The labels of runs. A label without a caller is that of the only run of its name."""

    def __init__(self, lines: Iterable[tuple[str, RunLabel]]) -> None:
        """Raises TrafficError."""
        self._labels: dict[tuple[str | None, str | None, str], str] = {}
        self._places: dict[tuple[str | None, str | None, str], str] = {}
        for place, line in lines:
            key = line.issuer, line.agent, line.run
            if (line.issuer is None) is not (line.agent is None):
                raise TrafficError(f"{place}: give both `issuer` and `agent` of the run, or neither")
            if self._labels.setdefault(key, line.label) != line.label:
                raise TrafficError(f"{place}: the run has another label at {self._places[key]}")
            self._places.setdefault(key, place)

    def __len__(self) -> int:
        return len(self._labels)

    def match(self, runs: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
        """Return the labels of runs, each with its issuer, agent and name. Raises TrafficError."""
        found: dict[tuple[str, str, str], str] = {}
        owners: dict[str, tuple[str, str, str]] = {}
        for run in runs:
            label = self._labels.get(run)
            if label is None:
                key = None, None, run[2]
                label = self._labels.get(key)
                if label is not None and owners.setdefault(run[2], run) != run:
                    raise TrafficError(
                        f"{self._places[key]}: several callers have a run of this name: add `issuer` and `agent`"
                    )
            if label is not None:
                found[run] = label
        return found
