"""The bench of the ways in: right outcomes at each, a server that is constant when told so, and what is left out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from time import process_time

import pytest

pytest.importorskip("grpc")
pytest.importorskip("mcp")

from bench.machine import cores, pinned
from bench.report import Section
from bench.serving import adapters
from bench.serving.adapters import CONSTANT, DECIDED, WrongAnswerError
from bench.serving.door_load import is_complete, parse_answer
from bench.serving.door_requests import ALLOW, UNKNOWN, WAYS_IN, Port, WayIn
from bench.serving.servers import process_seconds

CELLS = [(way.title, asked.title) for way in WAYS_IN for asked in way.questions]
DECIDE = WAYS_IN[0]


def summary_of(costs: list[float]) -> dict[str, object]:
    return adapters.summary([{"decisions": 1_000_000, "rate": 1_000.0, "cpu_s": cost} for cost in costs])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[adapters.Servers]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "CONNECTIONS", 2)
        yield adapters.start_servers(tmp_path_factory.mktemp("adapters"), stack)


@pytest.fixture(scope="module")
def measured(servers: adapters.Servers) -> Section:
    """Every way in by a few questions."""
    return adapters.measure_all(servers, rounds=1, seconds=0, say=lambda words: None)


@pytest.mark.parametrize(("way", "asked"), CELLS)
def test_each_way_in_gives_right_decided_and_constant_answers(measured: Section, way: str, asked: str) -> None:
    """What is not as it must be is left out, and says why."""
    (row,) = [one for one in measured.data if (one["way"], one["question"]) == (way, asked)]
    assert "skipped" not in row, row["skipped"]
    assert row["decided"]["rate"] > 0
    assert row["constant"]["rate"] > 0


def test_the_table_has_a_row_for_each_question_of_each_way_in(measured: Section) -> None:
    assert [row[:2] for row in measured.rows] == CELLS


@pytest.mark.parametrize("way", [way for way in WAYS_IN if way.port is not Port.MCP], ids=lambda way: way.title)
def test_constant_mode_repeats_the_previous_decision(servers: adapters.Servers, way: WayIn) -> None:
    with adapters.open_trial(servers, way) as trial:
        trial.switch(CONSTANT, UNKNOWN)
        assert trial.outcomes(ALLOW) == ["deny"] * way.size
        trial.switch(DECIDED, UNKNOWN)
        assert trial.outcomes(ALLOW) == ["allow"] * way.size


def test_constant_mode_repeats_one_decision_id(servers: adapters.Servers) -> None:
    with adapters.open_trial(servers, DECIDE) as trial:
        bodies = {}
        for mode in (CONSTANT, DECIDED):
            trial.switch(mode, ALLOW)
            bodies[mode] = [trial.client.ask(trial.lanes(ALLOW)[0][place]).body for place in range(3)]
    assert len(set(bodies[CONSTANT])) == 1
    assert len(set(bodies[DECIDED])) == 3


def test_a_server_that_does_not_switch_to_constant_mode_is_not_timed(
    servers: adapters.Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(adapters.SIGNALS, CONSTANT, signal.SIGUSR2)
    with adapters.open_trial(servers, DECIDE) as trial:
        with pytest.raises(WrongAnswerError, match="answers `fact unknown` with deny, not allow"):
            trial.switch(CONSTANT, ALLOW)
        row = adapters.measure_question(trial, ALLOW, 1, 0, lambda words: None)
    assert row["skipped"].startswith("/decide answers `fact unknown`")


def test_a_way_in_with_a_wrong_outcome_is_not_timed(servers: adapters.Servers) -> None:
    wrong = replace(ALLOW, outcome="confirm")
    with adapters.open_trial(servers, DECIDE) as trial:
        row = adapters.measure_question(trial, wrong, 1, 0, lambda words: None)
    assert row["skipped"] == "/decide answers `allow` with allow, not confirm"


def test_wrong_answers_under_load_are_counted(servers: adapters.Servers) -> None:
    with adapters.open_trial(servers, DECIDE) as trial:
        trial.switch(DECIDED, ALLOW)
        right = trial.client.load(trial.lanes(ALLOW), DECIDE.right_answer("allow"), 0)
        wrong = trial.client.load(trial.lanes(ALLOW), DECIDE.right_answer("deny"), 0)
    assert (right.failed, wrong.failed) == (0, wrong.answers)
    assert wrong.answers == adapters.CONNECTIONS


def test_a_batch_is_right_when_all_its_decisions_are() -> None:
    batch = WAYS_IN[2]
    one = batch.mark("allow")
    assert batch.right_answer("allow")(one * batch.size)
    assert not batch.right_answer("allow")(one * (batch.size - 1) + batch.mark("deny"))


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-le", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx: y\r\n\r\nabc", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_is_complete_by_its_length_or_its_last_chunk(data: bytes, whole: bool) -> None:
    assert is_complete(data) is whole


def test_a_chunked_answer_is_parsed_as_one_body() -> None:
    answer = parse_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"abcde")


def test_the_added_time_is_the_median_of_the_differences_per_round() -> None:
    decided, constant = summary_of([60.0, 130.0, 61.0]), summary_of([50.0, 100.0, 50.0])
    row = adapters.compare(decided, constant)
    assert (row["added_us"], row["ratio"]) == (11.0, 1.22)


def test_a_ratio_to_zero_is_none() -> None:
    assert adapters.compare(summary_of([10.0]), summary_of([0.0]))["ratio"] is None


def test_a_summary_has_medians_of_the_rounds() -> None:
    runs = [{"decisions": 100, "rate": rate, "cpu_s": cpu} for rate, cpu in ((10.0, 0.01), (30.0, 0.02), (20.0, 0.06))]
    assert adapters.summary(runs) == {"rate": 20, "cpu_us": 200.0, "cpu_us_rounds": [100.0, 200.0, 600.0]}


def test_the_target_is_missed_by_the_way_in_that_pays_most() -> None:
    cheap = {"way": "a", "question": "allow", **adapters.compare(summary_of([60.0]), summary_of([50.0]))}
    dear = {"way": "b", "question": "allow", **adapters.compare(summary_of([650.0]), summary_of([50.0]))}
    assert adapters.section([cheap]).targets[0].holds is True
    assert adapters.section([cheap, dear]).targets[0].holds is False


def test_the_notes_below_the_table_state_why_a_row_is_left_out() -> None:
    section = adapters.section([{"way": "a", "question": "allow", "skipped": "a answers wrongly"}])
    assert section.rows[0][:3] == ("a", "allow", "left out")
    assert "Left out: a answers wrongly" in section.notes


def test_process_seconds_matches_the_cpu_time_of_the_process() -> None:
    assert process_seconds(os.getpid()) == pytest.approx(process_time(), abs=0.5)


def test_pinning_ends_with_its_context() -> None:
    before = cores()
    with pinned(before[0]):
        assert cores() == before[:1]
    assert cores() == before
