"""`behavior report --payloads`: odd values in the payloads of a log, without the values."""

import json
from datetime import timedelta
from random import Random

import pytest

from policyengine.analysis.behavior_report import BehaviorReporter
from policyengine.analysis.behavior_report.payloads import LEAST_HELD, field_words
from policyengine.analysis.behavior_report.text import text_parts
from tests.analysis.working_agents import START, WorkingAgents, seconds

DAYS, REPORTS = 3, 150  # a day
NAMES = "Ada Ben Chloe Dana Eve Finn Gus Hana".split()
ATTACKS = [
    ({"title": "' OR '1'='1' --"}, "body.title"),
    ({"title": "../../../../etc/passwd"}, "body.title"),
    ({"lines": ({"sku": "<script>alert(1)</script>", "n": 1}, {"sku": "A-2", "n": 2})}, "body.lines[].sku"),
    ({"lines": ({"sku": "A-1", "n": 10**9}, {"sku": "A-2", "n": 2})}, "body.lines[].n"),
    ({"rows": "3"}, "body.rows"),
    ({"is admin": True}, "body['is admin']"),
]


def body(random):
    return {
        "title": f"{random.choice(NAMES)} {random.choice(NAMES)}",
        "rows": random.randint(1, 9),
        "lines": tuple({"sku": f"A-{random.randint(1, 9)}", "n": random.randint(1, 9)} for _ in range(2)),
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of three days with usual reports, and one with attacks by one agent."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    agents, random = WorkingAgents(path), Random(5)
    for day in range(DAYS):
        for number in range(REPORTS * 4):
            at = START + timedelta(days=day, seconds=20 * number)
            agents.ask(number % 4, at, "/report", "POST", body=body(random))
    for number, (odd, _) in enumerate(ATTACKS):
        agents.ask(2, START + timedelta(days=DAYS) + seconds(number), "/report", "POST", body={**body(random), **odd})
    agents.close()
    return path


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return WorkingAgents(tmp_path_factory.mktemp("engine") / "log.jsonl").engine


@pytest.fixture(scope="module")
def found(log, engine):
    return BehaviorReporter(engine, [log], payloads=True).report()


def test_odd_values_are_found_with_their_fields(found):
    fields = {field: one for (_, field), one in found.payloads.fields}
    assert fields.keys() >= {field for _, field in ATTACKS}
    assert fields["body.title"].payloads >= 2
    assert fields["body.title"].caller.agent == "report-2"


def test_usual_payloads_are_rarely_odd(found):
    judged = found.payloads.judged
    assert judged == (DAYS - 1) * REPORTS * 4 + len(ATTACKS)
    assert len(ATTACKS) <= found.payloads.odd <= len(ATTACKS) + 0.015 * judged


def test_the_report_contains_no_value(found):
    words = json.dumps(found.to_dict()) + str(list(text_parts(found)))
    assert "body.title" in words
    for value in ("passwd", "script", "OR '1'", "Chloe"):
        assert value not in words


def test_the_oddest_decision_is_named(log, found):
    payloads = found.to_dict()["payloads"]
    ids = [json.loads(line)["decision"]["id"] for line in log.read_bytes().splitlines()[-len(ATTACKS) :]]
    assert payloads["fields"][0]["decision"] in ids
    assert payloads["declared"] == 0.01


def test_payloads_are_judged_only_if_asked_for(log, engine):
    plain = BehaviorReporter(engine, [log]).report()
    assert plain.payloads is None
    assert "payloads" not in plain.to_dict()


def test_a_short_log_judges_nothing(tmp_path, engine):
    agents, random = WorkingAgents(tmp_path / "short.jsonl"), Random(1)
    for number in range(LEAST_HELD - 1):
        agents.ask(number % 4, START + seconds(number), "/report", "POST", body=body(random))
    agents.ask(0, START + timedelta(days=1), "/report", "POST", body={"title": "<script>"})
    agents.close()
    short = BehaviorReporter(engine, [tmp_path / "short.jsonl"], payloads=True).report()
    assert (short.payloads.judged, short.payloads.odd) == (0, 0)
    assert "odd payloads: none was judged" in str(list(text_parts(short)))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("body\0'amount'", "body.amount"),
        ("args\0'a'\2\0'b c'", "args.a[]['b c']"),
        ("request.query\0'page'\2\2", "request.query.page[][]"),
        ("", ""),
    ],
)
def test_fields_are_named_as_policies_write_them(path, words):
    assert field_words(path) == words
