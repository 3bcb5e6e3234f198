"""Reads plain events of callers, one JSON object per line, for tests and for evaluations of learned behavior.

| member | meaning |
|---|---|
| `at` | the time, as RFC 3339 or in milliseconds since 1970 |
| `agent`, `issuer`, `instance` | the caller; the issuer and the instance may be missing |
| `run` | the key of the run; without it, pauses separate runs |
| `endpoint` | a pattern of the policies, or a request that one matches: `GET /data/7`, `TOOL github/search` |
| `body` | the body, whose structure is learned if it is an object |
| `status` | the status of the response; 400 or more is a failure |
| `outcome` | `deny` or `throttle` if the request did not pass |
| `repeat` | loops, the innermost first: `[{"every": "10s", "times": 6}, {"every": "1d", "times": 20}]` |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from policyengine.behavior.events import MAX_TIME
from policyengine.bounded_files import read_bounded
from policyengine.clock import epoch_nanoseconds
from policyengine.runtime.decode import DecodeError, from_json
from policyengine.time_formats import parse_duration

MAX_FILE_BYTES: Final = 2**30
MAX_EVENTS: Final = 10_000_000
LEAST_TIME: Final = 946_684_800_000  # the year 2000, in milliseconds; a smaller number is probably in seconds
OUTCOMES: Final = ("", "allow", "deny", "throttle", "confirm")
MAX_STATUS: Final = 599
MILLISECOND: Final = timedelta(milliseconds=1)


class PlainEventError(Exception):
    """The error for a file of plain events that cannot be read; the text says where and why."""


class PlainEvent(NamedTuple):
    """A request of a caller at a time in milliseconds. A missing text is empty; a missing `status` is 0."""

    at: int
    agent: str
    issuer: str
    instance: str
    run: str
    endpoint: str
    status: int
    outcome: str
    body: Mapping[str, object] | None = None


class EventLoop(msgspec.Struct, forbid_unknown_fields=True):
    """One loop of a repeated event."""

    every: str
    times: int


class EventLine(msgspec.Struct, forbid_unknown_fields=True):
    """One line of the file."""

    at: datetime | int
    agent: str
    endpoint: str
    issuer: str = ""
    instance: str = ""
    run: str = ""
    status: int = 0
    outcome: str = ""
    repeat: list[EventLoop] = []
    body: msgspec.Raw = msgspec.Raw()


DECODER: Final = msgspec.json.Decoder(EventLine)


def read_plain_events(path: Path) -> list[PlainEvent]:
    """Return all events of a file in the order of their times. Raises PlainEventError."""
    try:
        raw = read_bounded(path, MAX_FILE_BYTES)
    except OSError as error:
        raise PlainEventError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None
    found: list[PlainEvent] = []
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            try:
                found.extend(line_events(line, MAX_EVENTS - len(found)))
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise PlainEventError(f"`{path}`, line {number}: {error}") from None
    found.sort(key=lambda event: event.at)
    return found


def line_events(line: bytes, room: int) -> Iterator[PlainEvent]:
    """Yield the events of a line. Raises ValueError, also for more than `room` events, and msgspec.DecodeError."""
    read = DECODER.decode(line)
    if read.outcome not in OUTCOMES:
        raise ValueError(f"`outcome` must be one of {', '.join(filter(None, OUTCOMES))}")
    if not 0 <= read.status <= MAX_STATUS:
        raise ValueError("`status` is not an HTTP status")
    begin = read.at if isinstance(read.at, int) else moment_of(read.at)
    steps, count = [], 1
    for loop in read.repeat:
        every = parse_duration(loop.every)
        if every is None or loop.times < 1:
            raise ValueError('a loop is written as `{"every": "10s", "times": 6}`')
        count *= loop.times
        if count > room:
            raise ValueError(f"there are more than {MAX_EVENTS:,} events")
        steps.append([number * (every // MILLISECOND) for number in range(loop.times)])
    body = None if not bytes(read.body) else body_of(bytes(read.body))
    for offsets in product(*reversed(steps)):
        at = begin + sum(offsets)
        if not LEAST_TIME <= at <= MAX_TIME:
            raise ValueError("`at` is out of range: write RFC 3339, or milliseconds since 1970")
        yield PlainEvent(
            at, read.agent, read.issuer, read.instance, read.run, read.endpoint, read.status, read.outcome, body
        )  # fmt: skip


def body_of(raw: bytes) -> Mapping[str, object] | None:
    """Return the members of a body; None if it is not an object. Raises ValueError."""
    try:
        body = from_json(raw)
    except DecodeError as error:
        raise ValueError(f"`body` is {error}") from None
    return body if isinstance(body, dict) else None


def moment_of(time: datetime) -> int:
    """Return a time in milliseconds. Raises ValueError."""
    if time.tzinfo is None:
        raise ValueError("`at` needs a time zone, such as `2026-01-05T09:00:00Z`")
    return epoch_nanoseconds(time) // 1_000_000
