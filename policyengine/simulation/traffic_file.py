"""A file of requests to events in the order of their time, read as they are played."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from policyengine.audit.reader import is_log_line, read_records
from policyengine.runtime import decode
from policyengine.runtime.fast_decode import decode_json_fast
from policyengine.runtime.literals import parse_time
from policyengine.runtime.request import Request, RequestError, read_request
from policyengine.runtime.values import Invalid
from policyengine.simulation.microseconds import to_microseconds

Question: TypeAlias = dict[str, Any] | Request

SECOND_US = 1_000_000
MAX_OFFSET_SECONDS = 10 * 366 * 86_400  # seconds after the start; what is later counts from somewhere else
CALENDAR_END_SECONDS = 8_000 * 366 * 86_400  # where calendars end


class TrafficEvent(NamedTuple):
    """A request, when it comes (microseconds since 1970), and the line it stands on (0: on none)."""

    at: int
    question: Question
    line: int = 0


class TrafficError(Exception):
    """A line cannot be played: which one, which member of it, why, and what to do."""

    def __init__(self, line: int, message: str, hint: str | None = None, member: str = "") -> None:
        super().__init__(message)
        self.line, self.message, self.hint, self.member = line, message, hint, member


@dataclass(slots=True)
class TrafficTrace:
    """Requests on lines, each with `at`: a time with its zone, or seconds after `start` (microseconds since 1970).

    A decision log is a trace, too: what was decided and spent then is asked again. Its processes write a little out of
    order, so there a time that runs back counts as that of the line before. `far` lets seconds be any number.
    """

    start: int
    far: bool = False
    left_out: int = 0  # lines of a log that spent nothing then, or hold no decision

    def read(self, lines: Iterable[bytes], path: Path | None = None) -> Iterator[TrafficEvent]:
        """Raises TrafficError. A log is read from its `path`, as its directories stand there."""
        numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        first = next(numbered, None)
        if first is None:
            return
        if path is not None and is_log_line(first[1]):
            yield from self._of_a_log(path)
        else:
            yield from self._in_order(chain([first], numbered))

    def _in_order(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[TrafficEvent]:
        before = None
        for number, line in lines:
            event = self._event(number, line)
            if before is not None and event.at < before:
                raise TrafficError(number, "it comes before the line above", "sort the trace by `at`", "at")
            before = event.at
            yield event

    def _event(self, number: int, line: bytes) -> TrafficEvent:
        question, plain = parse_line(number, line)
        if "at" not in question:
            raise TrafficError(number, "when does it come?", 'write `"at": "2027-01-01T09:00:00Z"`, or seconds', "at")
        at = self._moment(number, question.pop("at"))
        return TrafficEvent(at, question if plain else parse_request(question, number), number)

    def _moment(self, number: int, at: object) -> int:
        if isinstance(at, str) and (moment := parse_time(at)) is not None:
            return to_microseconds(moment)
        if isinstance(at, str | bool) or not isinstance(at, int | float | Decimal):
            hint = "write a time with its zone, `2027-01-01T09:00:00Z`, or seconds after the start as a number"
            raise TrafficError(number, f"{format_time_value(at)} is no time", hint, "at")
        if at < 0:
            raise TrafficError(number, f"{at} seconds are before the start", "`--start` says when that is", "at")
        if at > (CALENDAR_END_SECONDS if self.far else MAX_OFFSET_SECONDS):
            epoch = None if self.far else "seconds since 1970 want `--start 1970-01-01T00:00:00Z`"
            raise TrafficError(number, f"{at} seconds are far after the start", epoch, "at")
        return self.start + int(at * SECOND_US)

    def _of_a_log(self, path: Path) -> Iterator[TrafficEvent]:
        before = 0
        for record in read_records(path, self._leave_out):
            if record.call != "decide" or is_dry_run(record.request):
                self.left_out += 1
                continue
            before = max(before, to_microseconds(record.time))
            yield TrafficEvent(before, as_spending(record.request), record.line)

    def _leave_out(self, message: str) -> None:
        self.left_out += 1


def parse_line(number: int, line: bytes) -> tuple[dict[str, Any], bool]:
    """What the line holds; whether it is plain, so that it may be decided as it is. Raises TrafficError."""
    if (quick := decode_json_fast(line)) is not None:
        return quick, True
    try:
        tree = decode.from_json(line.strip())
    except decode.DecodeError as error:
        raise TrafficError(number, str(error).replace(" at line 1, column", " at column")) from None
    if not isinstance(tree, dict):
        raise TrafficError(
            number, "a request is an object", "each line is one request, as `policyengine decide` reads it"
        )
    return tree, False


def parse_request(question: Mapping[str, object], line: int) -> Request:
    try:
        return read_request(question)
    except RequestError as error:
        raise TrafficError(line, error.message, error.hint, error.member) from None


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
    """The question as one that is decided now and spends: that is what is played."""
    options = question.get("options")
    if not isinstance(options, Mapping) or options.keys().isdisjoint(("consume", "at")):
        return dict(question)
    kept = {name: value for name, value in options.items() if name not in ("consume", "at")}
    return {**question, "options": kept}


def parse_moment(text: str) -> datetime | None:
    """A time with its zone, or a day, which begins in UTC."""
    return parse_time(text) or parse_time(f"{text}T00:00:00Z")
