"""Lines of a trace that stand for many requests, in the order of time with all others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policyengine.simulation import TrafficLineError, TrafficTrace
from policyengine.simulation.traffic_file import TrafficEvent
from tests.simulation.playing import MAIL, SEARCH, SECOND, START


def line(at: float, *loops: tuple[str, object], **more: Any) -> bytes:
    repeat = {"repeat": [{"every": every, "times": times} for every, times in loops]} if loops else {}
    return json.dumps({"at": at, **SEARCH, **repeat, **more}).encode() + b"\n"


def events(*lines: bytes) -> list[TrafficEvent]:
    return list(TrafficTrace(START).read(lines))


def seconds(found: list[TrafficEvent]) -> list[float]:
    return [(one.at - START) / SECOND for one in found]


def test_loops_repeat_a_request_the_innermost_first() -> None:
    found = events(line(5, ("1s", 3), ("1m", 2)))
    assert seconds(found) == [5, 6, 7, 65, 66, 67]
    assert all(one.question == SEARCH and one.line == 1 for one in found)


def test_repeated_requests_are_in_order_with_later_lines() -> None:
    found = events(line(0, ("10s", 4)), line(10), line(15, ("10s", 2), **MAIL), line(40))
    assert [(at, one.line) for at, one in zip(seconds(found), found, strict=True)] == [
        (0, 1), (10, 1), (10, 2), (15, 3), (20, 1), (25, 3), (30, 1), (40, 4),
    ]  # fmt: skip


def test_repeated_requests_are_read_lazily() -> None:
    trace = TrafficTrace(START).read([line(0, ("1ms", 10**12))])
    assert [next(trace).at for _ in range(3)] == [START, START + 1_000, START + 2_000]


def test_one_loop_needs_no_list() -> None:
    assert seconds(events(line(0, repeat={"every": "2s", "times": 2}))) == [0, 2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (line(0, repeat="often"), "a loop is malformed"),
        (line(0, repeat=[{"every": "1s"}]), "a loop is malformed"),
        (line(0, repeat=[{"every": "1s", "times": 2, "until": 3}]), "a loop is malformed"),
        (line(0, ("0s", 2)), "a loop is malformed"),
        (line(0, ("soon", 2)), "a loop is malformed"),
        (line(0, ("1s", 0)), "a loop is malformed"),
        (line(0, ("1s", True)), "a loop is malformed"),
        (line(0, ("1s", 10), ("5s", 2)), "a repetition after `5s` would begin before the inner loops end"),
        (line(0, ("365d", 10**6)), "the last request is after the end of the calendar"),
    ],
)
def test_a_malformed_loop_is_reported_with_its_line(bad: bytes, message: str) -> None:
    with pytest.raises(TrafficLineError) as raised:
        events(line(0), bad)
    assert (raised.value.line, raised.value.member, raised.value.message) == (2, "repeat", message)
