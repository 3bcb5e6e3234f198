"""Timing: percentiles are those of the calls, and every question is new."""

import pytest

from bench import measure
from bench.measure import fresh_questions, percentile, time_calls


def test_a_percentile_is_one_of_the_values() -> None:
    ordered = [float(value) for value in range(1, 101)]
    assert (percentile(ordered, 0.5), percentile(ordered, 0.99), percentile([1.0], 0.99)) == (51.0, 100.0, 1.0)


def test_fresh_questions_share_no_string_objects() -> None:
    requests = [("tenant-1",), ("tenant-1",)]
    first, second = fresh_questions(lambda request: request[0], requests)()
    assert first == second == requests[0][0]
    assert len({id(first), id(second), id(requests[0][0])}) == 3


def test_times_are_microseconds_of_single_calls_and_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    monkeypatch.setattr(measure, "perf_counter_ns", lambda: now[0])

    def ask(takes: int) -> None:
        now[0] += takes

    found = time_calls(ask, lambda: [1_000, 2_000, 9_000])
    assert (found.p50, found.p99, found.mean) == (2.0, 9.0, 4.0)


def test_both_sides_of_a_duel_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    found = measure.duel(asked.append, lambda: ["ours"], asked.append, lambda: ["floor"], 0.0)
    assert found.rounds == measure.MIN_ROUNDS
    assert asked[2:8] == ["ours", "ours", "floor", "floor", "ours", "ours"]
