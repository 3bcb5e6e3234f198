"""Traces in tests of policies: files of events from which behavior is learned."""

import json

import pytest

from policyengine.behavior.lockstep.detection import LockstepError
from policyengine.behavior.plain_events import PlainEventError, read_plain_events
from policyengine.check import check
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import collect, learned_traces, run

LINE = {"at": "2026-01-05T09:00:00Z", "agent": "report-0", "issuer": "idp", "endpoint": "GET /data/7"}
START = 1_767_603_600_000  # of LINE, in milliseconds
POLICY = """language 1
package traced
issuer idp { url "https://idp.example"  scopes none }
agent "report-*" {
  issued by idp
  acts alone
  may GET /data/{id}, POST /report
}
profile "reporting" for agent "report-*" { ready 5 runs, 3d }
guard "trusted" on POST /report { deny unless behavior.ready and behavior.error_rate < 0.2 }
"""
LOOPS = [{"every": "10s", "times": 5}, {"every": "1h", "times": 8}, {"every": "1d", "times": 10}]


@pytest.fixture
def written(tmp_path):
    def write(*lines, name="trace.jsonl"):
        text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# ── The file ──────────────────────────────────────────────────────────────────────────────────


def test_loops_repeat_an_event_the_innermost_first(written):
    found = read_plain_events(written({**LINE, "repeat": [{"every": "1s", "times": 2}, {"every": "1h", "times": 2}]}))
    assert [event.at - START for event in found] == [0, 1_000, 3_600_000, 3_601_000]


def test_events_of_several_lines_are_in_the_order_of_their_times(written):
    later, earlier = {**LINE, "at": START + 5}, {**LINE, "at": START - 5}
    assert [event.at for event in read_plain_events(written(later, "", earlier))] == [START - 5, START + 5]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x", "JSON is malformed"),
        ({"at": START}, "missing required field"),
        ({**LINE, "at": "2026-01-05T09:00:00"}, "needs a time zone"),
        ({**LINE, "at": -1}, "`at` is out of range"),
        ({**LINE, "at": 2**60}, "`at` is out of range"),
        ({**LINE, "status": "bad"}, "Expected `int`"),
        ({**LINE, "repeat": [{"every": "soon", "times": 2}]}, "a loop is written as"),
        ({**LINE, "repeat": [{"every": "1s", "times": 0}]}, "a loop is written as"),
        ({**LINE, "repeat": [{"every": "1s", "times": 10**9}]}, "more than 10,000,000 events"),
        ({**LINE, "repeat": [{"every": "1s", "times": 10**4}] * 3}, "more than 10,000,000 events"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_its_number(written, line, why):
    with pytest.raises(PlainEventError, match=r"trace.jsonl`, line 2: .*" + why.replace("`", "`")):
        read_plain_events(written(LINE, line))


def test_a_missing_file_and_a_pipe_are_one_message(tmp_path):
    with pytest.raises(PlainEventError, match="cannot be read"):
        read_plain_events(tmp_path / "missing.jsonl")


# ── Tests with traces ─────────────────────────────────────────────────────────────────────────


def results(tmp_path, text):
    sources = [Source("traced.policy", POLICY), Source(str(tmp_path / "traced_test.policy"), "package traced\n" + text)]
    found = check([parse(source)[0] for source in sources])
    assert found.kernel is not None, [one.render() for one in found.diagnostics]
    return run(collect(found), found.kernel)


def traced(tmp_path, *shots, time="2026-01-15T09:30:00Z", given=""):
    setup = f'given agent "report-0" from idp\n given trace "trace.jsonl"\n given time {time}\n {given}'
    lines = "\n".join(shots)
    return results(tmp_path, f'test "t" {{ {setup}\n{lines} }}')


def peers(count=4, **more):
    return [{**LINE, "agent": f"report-{number}", "repeat": LOOPS, **more} for number in range(count)]


def test_a_caller_of_a_trace_is_ready(written, tmp_path):
    written(*peers())
    assert traced(tmp_path, "POST /report => allow").ok
    assert traced(tmp_path, 'POST /report { agent.id: "report-9" } => deny by "trusted"').ok


def test_events_after_the_time_of_the_test_are_not_learned(written, tmp_path):
    written(*peers())
    assert traced(tmp_path, 'POST /report => deny by "trusted"', time="2026-01-06T09:30:00Z").ok


def test_failures_and_denials_of_a_trace_count(written, tmp_path):
    failing = {**LINE, "at": "2026-01-15T09:00:00Z", "repeat": [{"every": "10s", "times": 12}]}
    for how in ({"status": 500}, {"outcome": "deny"}):
        written(*peers(), {**failing, **how})
        assert traced(tmp_path, 'POST /report => deny by "trusted"').ok


def test_the_requests_of_a_test_are_learned_from(written, tmp_path):
    written(*peers())
    shots = ["POST /report => allow"] + ["after 1s GET /data/7 => allow responded 500"] * 12
    assert traced(tmp_path, *shots, 'after 1s POST /report => deny by "trusted"').ok


def test_given_facts_come_before_learned_ones(written, tmp_path):
    written(*peers())
    assert traced(tmp_path, 'POST /report => deny by "trusted"', given="given behavior { error_rate: 0.5 }").ok


def test_a_damaged_trace_is_an_error_of_the_test_that_reads_it(written, tmp_path):
    written(LINE, "x")
    found = traced(tmp_path, "POST /report => allow")
    assert not found.ok
    assert "trace.jsonl`, line 2" in str(found.results[0].problem)


def test_groups_of_a_trace_need_numpy(written, tmp_path, monkeypatch):
    def fail():
        raise LockstepError("groups are found with numpy")

    monkeypatch.setattr(learned_traces, "require_numpy", fail)
    written(*peers())
    limit = 'rate "group" per cluster.id on POST /report { 9/1m floor 1/1m }\n'
    monkeypatch.setitem(globals(), "POLICY", POLICY + limit)
    found = traced(tmp_path, "POST /report => allow")
    assert "groups are found with numpy" in str(found.results[0].problem)
