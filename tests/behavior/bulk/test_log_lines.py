"""Lines: those of the policies in use are decoded in part, with the same result as if they are parsed completely."""

import json
from datetime import timedelta

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import parse_entry
from policyengine.behavior.bulk.log_lines import LearnedDecision, LineDecoder, LoggedOutcome, read_learned
from policyengine.behavior.log_events import EventGap
from tests.behavior.bulk.logs import START, decision, make_lines, outcome, write_lines
from tests.behavior.reporting_agents import POLICY, FakeClock, question, work

ORDERED = """
language 1
package acme.orders
issuer idp { url "https://idp.example"   scopes none }
agent "report-*" { issued by idp   acts alone   may GET /data/**, POST /report }
profile "reporting" for agent "report-*" {
  expect GET /data/** repeated -> POST /report
  run by task.id within 5m
  version by attestation.model_hash
}
guard "order" on /** { warn when not behavior.sequence or behavior.novelty > 0.9 }
"""


def decode(line, decoder=None):
    return (decoder or LineDecoder(None)).decode(line.encode())


def parse(line, decoder=None):
    return (decoder or LineDecoder(None)).read(parse_entry(1, line.encode(), {}))


@pytest.fixture(scope="module", params=[POLICY, ORDERED])
def logged(request, tmp_path_factory):
    """The lines of an engine, and a decoder with its policies."""
    path, clock = tmp_path_factory.mktemp("lines") / "log.jsonl", FakeClock()
    log = DecisionLog(path, seal=None)
    engine = Engine.from_text(request.param, clock=clock, log=log)
    work(engine, clock, range(5))
    for body in ({"n": 1}, {"n": []}, None):
        asked = question(0) | {"task": {"id": "t"}, "attestation": {"model_hash": "sha256:1"}}
        asked |= {"request": {"method": "POST", "path": "/report"}, **({} if body is None else {"body": body})}
        engine.decide(asked)
    log.close()
    reader = engine.decider.behavior
    return path.read_text().splitlines(), reader, engine.revision


def test_lines_give_the_same_as_if_they_are_parsed(logged):
    lines, reader, revision = logged
    for decoder in (LineDecoder(None), LineDecoder(reader, revision)):
        short = [decode(line, decoder) for line in lines]
        assert [found for found in short if found is not None] == [
            parse(line, decoder) for line, found in zip(lines, short, strict=True) if found is not None
        ]
        assert sum(found is not None for found in short) > 500


@pytest.mark.parametrize("payload", [{"body": {"n": 1}}, {"args": {"n": 1}}, {"query": "a=1"}, {"path": "/report?a=1"}])
def test_a_payload_without_a_tag_is_read_from_the_request(logged, payload):
    lines, reader, revision = logged
    line = json.loads(lines[0])
    place = line["request"]["request"] if payload.keys() & {"query", "path"} else line["request"]
    place |= payload
    assert (decode(json.dumps(line), LineDecoder(reader, revision)) is None) == reader.reads_payloads
    assert decode(json.dumps(line), LineDecoder(None)) is not None


def test_lines_of_other_policies_are_parsed(logged):
    lines, reader, _ = logged
    decoder = LineDecoder(reader, "sha256:other")
    assert {decode(line, decoder) for line in lines} == {None}
    assert all(parse(line, decoder).event is not None for line in lines)


@pytest.mark.parametrize("line", [line for _, line in make_lines(1, days=2)])
def test_generated_lines_give_the_same_as_if_they_are_parsed(line):
    assert decode(line) == parse(line) is not None


LINE = json.loads(decision(START, "agent-1", 1, "GET /a"))


def changed(path, value):
    line = json.loads(json.dumps(LINE))
    *outer, last = path.split(".")
    place = line
    for name in outer:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(line)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("v", 3), ("v", "2"), ("time", "2027-01-04 08:00:00Z"), ("time", "2027-01-04T08:00:00.00000+Z"),
        ("time", "2027-02-30T08:00:00.000000Z"), ("time", None), ("call", "answer"), ("call", None), ("request", None),
        ("request", []), ("behavior", {"unreadable": True}), ("behavior.event", -1), ("behavior.event", None),
        ("behavior.run", 2**32), ("behavior.shape", -1), ("behavior.letter", "x"), ("behavior.class", None),
        ("decision.outcome", "maybe"), ("decision.id", 7), ("decision.principal", "x"), ("beyond_json", []),
        ("decision", None),
    ],
)  # fmt: skip
def test_other_lines_are_parsed_completely(path, value):
    assert decode(changed(path, value)) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("decision.gate", "identity"),
        ("decision.gate", "malformed_path"),
        ("decision.gate", "failure"),
        ("behavior.event", 0),
    ],
)
def test_decisions_about_unknown_callers_are_counted(path, value):
    line = changed(path, value)
    assert decode(line) == parse(line) == LearnedDecision(decode(line).time, "id-1", None, EventGap.UNIDENTIFIED)


def test_a_decision_without_a_class_needs_policies():
    line = changed("behavior", None)
    assert decode(line) is None
    assert parse(line).gap is EventGap.UNKNOWN


@pytest.mark.parametrize(("status", "failed"), [(399, False), (400, True), (None, False)])
def test_outcomes_fail_from_400_on(status, failed):
    line = outcome(START + timedelta(microseconds=1), "id-7", status)
    assert decode(line) == parse(line) == LoggedOutcome(decode(line).time, "id-7", failed)


def test_several_logs_are_read_in_the_order_of_times(tmp_path):
    lines = make_lines(2, days=2)
    logs = [write_lines(tmp_path / f"{part}.jsonl", lines[part::3]) for part in range(3)]
    times = [line.time for line in read_learned(logs, LineDecoder(None), print)]
    assert times == sorted(times)
    assert len(times) == len(lines)
