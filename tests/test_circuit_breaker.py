"""The circuit breaker: open after failures in a row, one caller tries after each pause, the first success closes it."""

from __future__ import annotations

import pytest

from policyengine.circuit_breaker import FAILURES_BEFORE_OPEN, PAUSE_SECONDS, CircuitBreaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock, **options: float) -> CircuitBreaker:
    breaker = CircuitBreaker(clock, **options)  # type: ignore[arg-type]
    while not breaker.fail():
        assert breaker.admit()
    return breaker


def test_the_breaker_opens_after_consecutive_failures(clock: Clock) -> None:
    breaker = CircuitBreaker(clock)
    assert [breaker.fail() for _ in range(FAILURES_BEFORE_OPEN + 1)] == [False, False, True, False]
    assert not breaker.admit()


def test_a_success_resets_the_count_of_failures(clock: Clock) -> None:
    breaker = CircuitBreaker(clock, threshold=2)
    assert [breaker.fail(), breaker.succeed(), breaker.fail(), breaker.is_open] == [False, False, False, False]


def test_an_open_breaker_admits_one_caller_after_each_pause(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += PAUSE_SECONDS
    assert [breaker.admit() for _ in range(3)] == [True, False, False]
    breaker.fail()
    assert not breaker.admit()
    clock.now += PAUSE_SECONDS
    assert breaker.admit()
    assert breaker.succeed()
    assert [breaker.admit() for _ in range(3)] == [True, True, True]
    assert not breaker.succeed()


def test_failures_of_concurrent_calls_count_once(clock: Clock) -> None:
    breaker = CircuitBreaker(clock)
    clock.now = 1.0
    assert [breaker.fail(began=0.5) for _ in range(9)] == [False] * 9
    assert breaker.fails == 1
    breaker.fail(began=1.0)
    assert breaker.fails == 2


def test_a_certain_failure_opens_the_breaker_immediately(clock: Clock) -> None:
    assert CircuitBreaker(clock).fail(certain=True)


def test_threshold_and_pause_of_the_breaker_are_configurable(clock: Clock) -> None:
    breaker = opened(clock, threshold=1, pause=5.0)
    clock.now += 4.9
    assert not breaker.admit()
    clock.now += 0.2
    assert breaker.admit()
