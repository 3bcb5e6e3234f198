"""Reads the traffic for an evaluation, from decision logs or files with one plain event per line, and the labels of its
runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from policyengine.audit.files import Report, is_packed, read_lines
from policyengine.audit.reader import is_log_line
from policyengine.behavior.log_events import FailureReport, LogEventReader, RunEvent, read_logs
from policyengine.behavior.plain_event_reader import PlainEventReader
from policyengine.behavior.plain_events import PlainEventError, read_plain_events

NORMAL: Final = "normal"
Traffic: TypeAlias = RunEvent | FailureReport


class TrafficError(Exception):
    """The error for a line of traffic or labels that cannot be used; the text says where and why."""


class RunLabel(msgspec.Struct, frozen=True):
    """A line of labels: a run and its kind, which is `normal` or a kind of abuse."""

    run: str
    label: str
    issuer: str | None = None
    agent: str | None = None


def read_traffic(
    files: Sequence[Path], logs: LogEventReader, events: PlainEventReader, tell: Report
) -> Iterator[Traffic]:
    """Yield the events and failure reports of all files, in the order of their times. Raises TrafficError, OSError."""
    plain = [file for file in files if not is_log(file)]
    logged = read_logs([file for file in files if file not in plain], tell)
    streams = [plain_traffic(file, events) for file in plain]
    return merge(filter(None, map(logs.read, logged)), *streams, key=time_of)


def is_log(file: Path) -> bool:
    """Return whether a file is a decision log, or empty. Raises OSError."""
    if not file.exists() or is_packed(file):
        return True
    first = next(read_lines(file, lambda message: None), None)
    return first is None or is_log_line(first[1])


def time_of(found: Traffic) -> int:
    return found.at if isinstance(found, FailureReport) else found.event.at


def plain_traffic(file: Path, events: PlainEventReader) -> Iterator[Traffic]:
    """Yield the events of a file. Raises TrafficError."""
    try:
        plain = read_plain_events(file)
    except PlainEventError as error:
        raise TrafficError(str(error)) from None
    for item in plain:
        event = events.read(item)
        yield RunEvent(event, item.run)
        if events.failed(item):
            yield FailureReport(event.caller, event.at)


# ── Labels ────────────────────────────────────────────────────────────────────────────────────


def read_labels(file: Path) -> Iterator[tuple[str, RunLabel]]:
    """Yield each label with its place (file and line). Raises TrafficError, OSError."""
    decoder = msgspec.json.Decoder(RunLabel)
    for number, line in read_lines(file, refuse):
        try:
            yield f"`{file}`, line {number}", decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TrafficError(f"`{file}`, line {number}: {error}") from None


def refuse(message: str) -> None:
    raise TrafficError(message)


class RunLabels:
    """The labels of runs. A label without a caller applies to the only run with its name."""

    def __init__(self, lines: Iterable[tuple[str, RunLabel]]) -> None:
        """Collect the labels. Raises TrafficError."""
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
        """Return the label of each labelled run; a run is an issuer, an agent and a name. Raises TrafficError."""
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
