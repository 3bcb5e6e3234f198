"""The log throttle: a few lines of each kind in a time, and how many more there were."""

from __future__ import annotations

from policyengine.log_throttle import LOG_INTERVAL_SECONDS, LogThrottle


def test_one_line_in_an_interval_stands_for_all_events_since_the_last() -> None:
    now = [0.0]
    throttle = LogThrottle.every(clock=lambda: now[0])
    assert [throttle.admit(), throttle.admit(), throttle.admit(events=5)] == [1, None, None]
    now[0] += LOG_INTERVAL_SECONDS
    assert [throttle.admit(events=2), throttle.admit()] == [8, None]


def test_kinds_are_apart_and_one_that_is_over_begins_anew() -> None:
    throttle = LogThrottle.every(clock=lambda: 0.0)
    assert [throttle.admit("a"), throttle.admit("b"), throttle.admit("a")] == [1, 1, None]
    throttle.reset("a")
    assert [throttle.admit("a"), throttle.admit("b")] == [1, None]


def test_several_lines_may_be_admitted_in_a_window() -> None:
    now = [0.0]
    throttle = LogThrottle(most=2, window=60, clock=lambda: now[0])
    assert [throttle.admit() for _ in range(4)] == [1, 1, None, None]
    now[0] = 60
    assert [throttle.admit() for _ in range(3)] == [3, 1, None]
