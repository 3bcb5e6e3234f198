"""The log throttle: a few lines of each kind in a time, and how many more there were."""

from __future__ import annotations

from policyengine.log_throttle import LOG_INTERVAL_SECONDS, LogThrottle


def test_the_throttle_admits_one_line_per_interval_with_the_number_of_events() -> None:
    now = [0.0]
    throttle = LogThrottle.every(clock=lambda: now[0])
    assert [throttle.admit(), throttle.admit(), throttle.admit(events=5)] == [1, None, None]
    now[0] += LOG_INTERVAL_SECONDS
    assert [throttle.admit(events=2), throttle.admit()] == [8, None]


def test_kinds_are_throttled_separately_and_can_be_reset() -> None:
    throttle = LogThrottle.every(clock=lambda: 0.0)
    assert [throttle.admit("a"), throttle.admit("b"), throttle.admit("a")] == [1, 1, None]
    throttle.reset("a")
    assert [throttle.admit("a"), throttle.admit("b")] == [1, None]


def test_the_throttle_admits_several_lines_per_window() -> None:
    now = [0.0]
    throttle = LogThrottle(most=2, window=60, clock=lambda: now[0])
    assert [throttle.admit() for _ in range(4)] == [1, 1, None, None]
    now[0] = 60
    assert [throttle.admit() for _ in range(3)] == [3, 1, None]
