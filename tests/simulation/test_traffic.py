"""Traces: requests on lines, in the order of their time, read as they are played."""

import json

import pytest

from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.runtime.request import Request
from policyengine.simulation import TrafficLineError, TrafficTrace
from tests.simulation.playing import POLICY, SEARCH, SECOND, START, engine


def line(at, **more):
    return json.dumps({"at": at, **SEARCH, **more}).encode() + b"\n"


def events(*lines, **how):
    return list(TrafficTrace(START, **how).read(lines))


def test_a_time_is_text_with_a_zone_or_seconds_after_the_start():
    found = events(line("2027-01-01T00:00:01+00:00"), line(1.5), line(2))
    assert [one.at - START for one in found] == [SECOND, 1_500_000, 2 * SECOND]
    assert found[0].question == SEARCH


def test_trace_lines_are_read_lazily():
    def endless():
        yield line(0)
        raise AssertionError("nobody asked for more")

    assert next(TrafficTrace(START).read(endless())).at == START


def test_empty_trace_lines_are_skipped():
    assert [one.line for one in events(b"\n", line(0), b"  \n", line(1))] == [2, 4]


def test_a_trace_without_lines_has_no_events():
    assert events() == []


def test_a_trace_line_with_duplicate_keys_is_parsed_as_a_request():
    [found] = events(b'{"at": 0, "request": {"method": "GET", "path": "/a"}, "body": {"a": 1, "a": 2}}')
    assert isinstance(found.question, Request)


@pytest.mark.parametrize(
    ("bad", "member", "message"),
    [
        (line("yesterday"), "at", "`yesterday` is not a time"),
        (line("2027-01-01T00:00:00"), "at", "`2027-01-01T00:00:00` is not a time"),
        (line(True), "at", "that is not a time"),
        (line(-1), "at", "-1 seconds are before the start"),
        (line(1_798_761_600), "at", "1798761600 seconds are too far after the start"),
        (line(0), "at", "the time is earlier than that of the line above"),
        (json.dumps(SEARCH).encode(), "at", "the request has no `at`"),
        (b"{", "", "not valid JSON at column 2: the text ends too early"),
        (b"[]", "", "a request must be an object"),
        (b'{"at": 3, "usr": {"a": 1, "a": 2}}', "usr", "unknown member `usr`"),
    ],
)
def test_the_error_names_the_number_of_a_bad_line(bad, member, message):
    with pytest.raises(TrafficLineError) as told:
        events(line(2), bad)
    assert (told.value.line, told.value.member, told.value.message) == (2, member, message)


def test_large_times_are_read_as_seconds_since_1970():
    assert [one.at for one in TrafficTrace(0, far=True).read([line(1_798_761_600)])] == [START]


def test_a_decision_log_is_played_without_evaluations(tmp_path):
    path, (_, clock) = tmp_path / "decisions.jsonl", engine()
    logged = Engine.from_text(POLICY, clock=clock, log=DecisionLog(path))
    logged.decide(dict(SEARCH))
    clock.at += SECOND
    logged.evaluate(dict(SEARCH))
    logged.decide({**SEARCH, "options": {"consume": False}})
    logged.decide(dict(SEARCH))
    trace = TrafficTrace(0)
    with path.open("rb") as lines:
        found = list(trace.read(lines, path))
    assert [one.at - START for one in found] == [0, SECOND]
    assert found[0].question["agent"] == SEARCH["agent"]
    assert trace.left_out == 2
