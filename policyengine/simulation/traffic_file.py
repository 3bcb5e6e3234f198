"""Reads a trace file as events in the order of time, while the simulation runs."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from policyengine.audit.files import is_packed
from policyengine.audit.reader import is_log_line, read_records
from policyengine.clock import MICROSECOND, MICROSECONDS_PER_SECOND, epoch_microseconds
from policyengine.runtime import decode
from policyengine.runtime.fast_decode import decode_json_fast
from policyengine.runtime.request import Request, RequestError, read_request
from policyengine.runtime.values import Invalid
from policyengine.time_formats import parse_duration, parse_time

Question: TypeAlias = dict[str, Any] | Request

MAX_OFFSET_SECONDS = 10 * 366 * 86_400  # seconds after the start; larger values are probably relative to another start
MAX_REPEATED_LINES = 100_000  # maximum lines that repeat at the same time
CALENDAR_END_SECONDS = 8_000 * 366 * 86_400  # seconds since 1970 at the end of the calendar


class TrafficEvent(NamedTuple):
    """A request, its time (microseconds since 1970) and its line (0: none)."""

    at: int
    question: Question
    line: int = 0


class RepeatLoop(NamedTuple):
    """One loop of a repeated request: the number of repetitions, and the time between them in microseconds."""

    times: int
    every: int

    @property
    def span(self) -> int:
        return (self.times - 1) * self.every


class TrafficLineError(Exception):
    """The error for a line that cannot be simulated: its number, the member, the problem, and a hint."""

    def __init__(self, line: int, message: str, hint: str | None = None, member: str = "") -> None:
        super().__init__(message)
        self.line, self.message, self.hint, self.member = line, message, hint, member


@dataclass(slots=True)
class TrafficTrace:
    """Requests, one on each line, with `at`: a time with its zone, or seconds after `start` (microseconds since 1970).
    With `repeat`, a line stands for many requests: `[{"every": "10s", "times": 6}, {"every": "1d", "times": 20}]`, the
    innermost loop first.

    A decision log is also a trace: the requests that were decided and charged are decided again. Processes write a log
    slightly out of order, so a line with an earlier time than the previous line counts with the time of the previous
    line. `far` allows any number of seconds.
    """

    start: int
    far: bool = False
    left_out: int = 0  # lines of a log without a charged decision
    has_entities: bool = False  # whether decisions of the log used entities of their server

    def read(self, lines: Iterable[bytes], path: Path | None = None) -> Iterator[TrafficEvent]:
        """Yield the events. A log is read from its `path`, because it consists of several files.

        Raises TrafficLineError, and OSError for a log.
        """
        if path is not None and path.is_file() and is_packed(path):
            yield from self._of_a_log(path)
            return
        numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        first = next(numbered, None)
        if first is None:
            return
        if path is not None and is_log_line(first[1]):
            yield from self._of_a_log(path)
        else:
            yield from self._in_order(chain([first], numbered))

    def _in_order(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[TrafficEvent]:
        """Yield the events of all lines in the order of time, including the repeated requests of earlier lines. Raises
        TrafficLineError.
        """
        before: int | None = None
        repeated: list[tuple[int, int, TrafficEvent, Iterator[int]]] = []
        for number, line in lines:
            event, loops = self._event(number, line)
            if before is not None and event.at < before:
                raise TrafficLineError(
                    number, "the time is earlier than that of the line above", "sort the trace by `at`", "at"
                )
            before = event.at
            yield from repeated_until(repeated, event.at)
            if not loops:
                yield event
                continue
            if len(repeated) >= MAX_REPEATED_LINES:
                hint = "write several traces, or fewer lines with more loops"
                raise TrafficLineError(number, f"more than {MAX_REPEATED_LINES:,} lines repeat at once", hint, "repeat")
            times = repeated_times(event.at, loops)
            heapq.heappush(repeated, (next(times), number, event, times))
        yield from repeated_until(repeated, None)

    def _event(self, number: int, line: bytes) -> tuple[TrafficEvent, tuple[RepeatLoop, ...]]:
        question, plain = parse_line(number, line)
        if "at" not in question:
            raise TrafficLineError(
                number, "the request has no `at`", 'write `"at": "2027-01-01T09:00:00Z"`, or seconds', "at"
            )
        at = self._moment(number, question.pop("at"))
        loops = parse_repeat(number, question.pop("repeat")) if "repeat" in question else ()
        if at + sum(one.span for one in loops) > CALENDAR_END_SECONDS * MICROSECONDS_PER_SECOND:
            raise TrafficLineError(number, "the last request is after the end of the calendar", None, "repeat")
        event = TrafficEvent(at, question if plain else parse_request(question, number), number)
        return event, loops

    def _moment(self, number: int, at: object) -> int:
        if isinstance(at, str) and (moment := parse_time(at)) is not None:
            return epoch_microseconds(moment)
        if isinstance(at, str | bool) or not isinstance(at, int | float | Decimal):
            hint = "write a time with its zone, `2027-01-01T09:00:00Z`, or seconds after the start as a number"
            raise TrafficLineError(number, f"{format_time_value(at)} is not a time", hint, "at")
        if at < 0:
            raise TrafficLineError(number, f"{at} seconds are before the start", "set the start with `--start`", "at")
        if at > (CALENDAR_END_SECONDS if self.far else MAX_OFFSET_SECONDS):
            epoch = None if self.far else "for seconds since 1970, use `--start 1970-01-01T00:00:00Z`"
            raise TrafficLineError(number, f"{at} seconds are too far after the start", epoch, "at")
        return self.start + int(at * MICROSECONDS_PER_SECOND)

    def _of_a_log(self, path: Path) -> Iterator[TrafficEvent]:
        before = 0
        for record in read_records(path, self._leave_out):
            if record.call != "decide" or is_dry_run(record.request):
                self.left_out += 1
                continue
            before = max(before, epoch_microseconds(record.time))
            self.has_entities = self.has_entities or record.entities_line is not None
            yield TrafficEvent(before, as_spending(record.request), record.line)

    def _leave_out(self, message: str) -> None:
        self.left_out += 1


# ── Repeated requests ─────────────────────────────────────────────────────────────────────────


def parse_repeat(number: int, given: object) -> tuple[RepeatLoop, ...]:
    """Return the loops of a line, the innermost first. Raises TrafficLineError."""
    items = given if isinstance(given, list | tuple) else [given]
    loops: list[RepeatLoop] = []
    for item in items:
        known: Mapping[object, object] = item if isinstance(item, Mapping) else {}
        every, times = known.get("every"), known.get("times")
        between = parse_duration(every) if isinstance(every, str) else None
        if not between or not isinstance(times, int) or isinstance(times, bool) or times < 1 or len(known) != 2:
            raise TrafficLineError(number, "a loop is malformed", 'write `{"every": "10s", "times": 6}`', "repeat")
        loop = RepeatLoop(times, between // MICROSECOND)
        if loop.every < sum(inner.span for inner in loops):
            hint = "make `every` at least as long as all loops before this loop take together"
            raise TrafficLineError(
                number, f"a repetition after `{every}` would begin before the inner loops end", hint, "repeat"
            )
        loops.append(loop)
    return tuple(loops)


def repeated_times(at: int, loops: tuple[RepeatLoop, ...]) -> Iterator[int]:
    """Yield the times of a repeated request, in microseconds and in order."""
    if not loops:
        yield at
        return
    *inner, last = loops
    for turn in range(last.times):
        yield from repeated_times(at + turn * last.every, tuple(inner))


def repeated_until(
    repeated: list[tuple[int, int, TrafficEvent, Iterator[int]]], until: int | None
) -> Iterator[TrafficEvent]:
    """Yield the repeated requests up to a time, or all of them. `repeated` is a heap by their next times."""
    while repeated and (until is None or repeated[0][0] <= until):
        at, number, event, times = repeated[0]
        yield event._replace(at=at)
        following = next(times, None)
        if following is None:
            heapq.heappop(repeated)
        else:
            heapq.heapreplace(repeated, (following, number, event, times))


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────


def parse_line(number: int, line: bytes) -> tuple[dict[str, Any], bool]:
    """Return the object of the line, and whether it needs no cleaning. Raises TrafficLineError."""
    if (quick := decode_json_fast(line)) is not None:
        return quick, True
    try:
        tree = decode.from_json(line.strip())
    except decode.DecodeError as error:
        raise TrafficLineError(number, str(error).replace(" at line 1, column", " at column")) from None
    if not isinstance(tree, dict):
        raise TrafficLineError(
            number,
            "a request must be an object",
            "write one request on each line, in the format of `policyengine decide`",
        )
    return tree, False


def parse_request(question: Mapping[str, object], line: int) -> Request:
    try:
        return read_request(question)
    except RequestError as error:
        raise TrafficLineError(line, error.message, error.hint, error.member) from None


def format_time_value(at: object) -> str:
    match at:
        case str():
            return f"`{at[:60]}`"
        case Invalid(why):
            return why
        case _:
            return "that"


def is_dry_run(question: Mapping[str, object]) -> bool:
    options = question.get("options")
    return isinstance(options, Mapping) and options.get("consume") is False


def as_spending(question: Mapping[str, object]) -> dict[str, Any]:
    """Return the question without options that prevent charging or set the time, because the simulation charges at its
    own time."""
    options = question.get("options")
    if not isinstance(options, Mapping) or options.keys().isdisjoint(("consume", "at")):
        return dict(question)
    kept = {name: value for name, value in options.items() if name not in ("consume", "at")}
    return {**question, "options": kept}


def parse_moment(text: str) -> datetime | None:
    """Parse a time with its zone, or a date, which begins in UTC; None if invalid."""
    return parse_time(text) or parse_time(f"{text}T00:00:00Z")
