"""Timing: percentiles are those of the calls, and every question is new."""

import sys

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


@pytest.mark.parametrize(("interrupted", "quiet"), [(0, 5), (2, 3), (3, 2)])
def test_interrupted_rounds_are_left_out_where_enough_others_remain(
    monkeypatch: pytest.MonkeyPatch, interrupted: int, quiet: int
) -> None:
    timings = [measure.Timing(9.0, 90.0, 9.0, preempted=True)] * interrupted
    timings += [measure.Timing(1.0, 2.0, 1.0)] * (5 - interrupted)
    rounds = iter([one for timing in timings for one in (timing, measure.Timing(1.0, 2.0, 1.0))])
    monkeypatch.setattr(measure, "time_calls", lambda *_: next(rounds))
    monkeypatch.setattr(measure, "MAX_ROUNDS", 5)
    found = measure.duel(list.append, list, list.append, list, 60.0)
    assert (found.rounds, found.quiet) == (5, quiet)
    assert found.ours.p99 == (90.0 if quiet < measure.MIN_ROUNDS else 2.0)


def test_member_names_are_interned() -> None:
    name = "".join(["mem", "ber"])
    found = measure.intern_keys({name: [{name: 1}]})
    assert found == {"member": [{"member": 1}]}
    assert next(iter(found)) is next(iter(found["member"][0])) is sys.intern("member")
