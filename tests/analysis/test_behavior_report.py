"""The report on learned behavior: which recorded requests the learned conditions of policies would have hit."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest

from policyengine import Engine
from policyengine.analysis.behavior_report import BehaviorReport, BehaviorReporter
from policyengine.analysis.behavior_report.report import ConditionReport
from policyengine.audit import read_records
from policyengine.audit.query.pack import pack_log
from policyengine.behavior.conditions import learned_conditions
from policyengine.clock import epoch_microseconds
from tests.analysis.working_agents import DAYS, LEARNING, LIMITS, START, STATIC, WorkingAgents, seconds

REQUESTS = DAYS * 4 * 8 * 5


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`static.jsonl` was written by policies without learned facts, `learning.jsonl` by those with them."""
    folder = tmp_path_factory.mktemp("logs")
    for name, text in (("static", STATIC), ("learning", LEARNING.replace("4/1m for 10m", "6000/1m for 10m"))):
        agents = WorkingAgents(folder / f"{name}.jsonl", text)
        morning = agents.work()
        for number in range(100):
            agents.ask(3, morning + seconds(number / 2))
        agents.ask(2, morning + seconds(70), "/secrets/1")
        agents.ask(1, morning + seconds(80), "/report", "POST", body={"rows": 11})
        agents.ask(1, morning + seconds(81), "/report", "POST", body={"rows": 9})
        agents.ask(3, morning + seconds(1_000))
        agents.close()
    return folder


@cache
def reported(*logs: Path, text: str | None = LEARNING, **options: int) -> BehaviorReport:
    """Return the report, which is made once for each log: no test changes a log after its report."""
    return BehaviorReporter(None if text is None else Engine.from_text(text), logs, **options).report()


def condition(report: BehaviorReport, words: str) -> ConditionReport:
    [found] = [one for one in report.conditions if one.condition.words.startswith(words)]
    return found


def test_every_condition_that_reads_a_learned_fact_is_reported_with_its_place() -> None:
    found = learned_conditions(Engine.from_text(LEARNING).kernel)
    assert [(one.kind, one.rule, one.at) for one in found] == [
        ("raise", 'rate "reporting"', "policy.policy:9"),
        ("clamp", 'rate "reporting"', "policy.policy:10"),
        ("confirm", 'guard "secrets"', "policy.policy:13"),
        ("deny", 'guard "secrets"', "policy.policy:14"),
        ("deny", 'guard "rows"', "policy.policy:16"),
    ]
    assert [one.reads_only_learned for one in found] == [True, True, True, True, False]


def test_conditions_count_the_requests_that_they_would_have_hit(logs: Path) -> None:
    found = reported(logs / "static.jsonl")
    assert (found.decisions, found.callers, found.left_out) == (REQUESTS + 104, 5, 0)
    clamp = condition(found, "clamp")
    assert (clamp.callers, len(clamp.tally.days), clamp.tally.caller_days) == (1, 1, 1)
    assert 50 < clamp.tally.requests == clamp.tally.allowed < 100
    assert [(caller.agent, count) for caller, count in clamp.most] == [("report-3", clamp.tally.requests)]
    assert condition(found, "confirm").tally.requests == 1
    assert condition(found, "confirm").tally.examples[0].endpoint == "GET /secrets/{id}"
    assert condition(found, "deny when behavior.error_rate").tally.requests == 0


def test_a_condition_that_also_reads_the_request_is_evaluated_with_it(logs: Path) -> None:
    rows = condition(reported(logs / "static.jsonl"), "deny when behavior.trust")
    assert (rows.tally.requests, rows.tally.unknown) == (1, 0)
    assert rows.tally.examples[0].endpoint == "POST /report"


def test_a_redacted_fact_makes_a_condition_unknown(tmp_path: Path) -> None:
    agents = WorkingAgents(tmp_path / "log.jsonl", redact=["body.rows"])
    agents.ask(1, START, "/report", "POST", body={"rows": 11})
    agents.close()
    rows = condition(reported(tmp_path / "log.jsonl"), "deny when behavior.trust")
    assert (rows.tally.requests, rows.tally.unknown) == (0, 1)


def test_a_log_gives_the_same_whether_or_not_its_policies_read_learned_facts(logs: Path) -> None:
    static, learning = (reported(logs / f"{name}.jsonl") for name in ("static", "learning"))
    assert condition(learning, "clamp").tally.requests == condition(static, "clamp").tally.requests
    assert condition(learning, "raise").tally.requests == condition(static, "raise").tally.requests
    assert [one.trust for one in learning.classes] == [one.trust for one in static.classes]


def test_the_facts_are_those_that_the_engine_read(logs: Path) -> None:
    live = [one.behavior.facts for one in read_records(logs / "learning.jsonl") if one.behavior is not None]
    found = reported(logs / "learning.jsonl")
    assert condition(found, "clamp").tally.requests == sum(
        facts["burst"] is True
        for facts in live[:-1]  # the last ones are not at `/data/**`, except the very last
    ) + (live[-1]["burst"] is True)
    assert sum(tally.bursts for _, tally in found.days) == sum(facts["burst"] is True for facts in live)


def test_without_policies_the_classes_are_those_of_the_log(logs: Path) -> None:
    named = reported(logs / "learning.jsonl", text=None)
    assert named.conditions == ()
    assert [(one.issuer, one.name, one.ready) for one in named.classes] == [("acme", 'agent "report-*"', 5)]
    unknown = reported(logs / "static.jsonl", text=None)
    assert (unknown.classes, unknown.decisions, unknown.unknown) == ((), 0, REQUESTS + 104)


def test_lines_that_are_slightly_out_of_order_are_sorted(logs: Path, tmp_path: Path) -> None:
    lines = (logs / "static.jsonl").read_bytes().splitlines(keepends=True)
    chance = random.Random(1)
    shuffled = [line for _, line in sorted(enumerate(lines), key=lambda one: one[0] + chance.randrange(300))]
    (tmp_path / "log.jsonl").write_bytes(b"".join(shuffled))
    again, straight = reported(tmp_path / "log.jsonl"), reported(logs / "static.jsonl")
    assert again.late == 0
    assert {**again.to_dict(), "logs": []} == {**straight.to_dict(), "logs": []}


def test_a_packed_log_gives_the_same(logs: Path, tmp_path: Path) -> None:
    pack_log([logs / "static.jsonl"], tmp_path / "log.parquet")
    packed = reported(tmp_path / "log.parquet")
    assert {**packed.to_dict(), "logs": []} == {**reported(logs / "static.jsonl").to_dict(), "logs": []}


def test_several_logs_are_read_as_one(logs: Path, tmp_path: Path) -> None:
    lines = (logs / "static.jsonl").read_bytes().splitlines(keepends=True)
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_bytes(b"".join(lines[number::2]))
    both = reported(tmp_path / "0.jsonl", tmp_path / "1.jsonl")
    assert {**both.to_dict(), "logs": []} == {**reported(logs / "static.jsonl").to_dict(), "logs": []}


def test_a_line_far_out_of_order_counts_at_the_time_of_the_line_before(logs: Path, tmp_path: Path) -> None:
    lines = (logs / "static.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_bytes(b"".join([*lines[1:], lines[0]]))
    found = reported(tmp_path / "log.jsonl")
    assert (found.late, found.decisions) == (1, REQUESTS + 104)


def test_earlier_decisions_are_only_learned_from(logs: Path) -> None:
    morning = epoch_microseconds(START) + DAYS * 86_400_000_000
    found = reported(logs / "static.jsonl", since=morning)
    assert (found.decisions, found.learned_only) == (104, REQUESTS)
    assert (
        condition(found, "clamp").tally.requests == condition(reported(logs / "static.jsonl"), "clamp").tally.requests
    )


def test_only_the_latest_callers_are_kept_in_memory(tmp_path: Path) -> None:
    agents = WorkingAgents(tmp_path / "log.jsonl")
    for number in range(50):
        agents.ask(number, START + seconds(number))
    agents.close()
    reporter = BehaviorReporter(Engine.from_text(LEARNING), [tmp_path / "log.jsonl"], most_callers=10)
    found = reporter.report()
    assert (found.callers, len(reporter.callers), len(reporter.state.rows)) == (50, 10, 10)


def test_nothing_is_learned_from_decisions_that_are_not_for_good(tmp_path: Path) -> None:
    agents = WorkingAgents(tmp_path / "log.jsonl")
    agents.ask(1, START)
    agents.ask(1, START, options={"consume": False})
    agents.engine.evaluate({"agent": {"id": "report-1", "issuer": "acme"}, "request": {"method": "GET", "path": "/x"}})
    agents.engine.decide({"request": {"method": "GET", "path": "/x"}})
    agents.close()
    found = reported(tmp_path / "log.jsonl")
    assert (found.decisions, found.left_out) == (1, 3)


def test_reported_failures_count(tmp_path: Path) -> None:
    text = STATIC + 'guard "failing" on /data/** { warn when behavior.error_rate > 0.4 message "failing" }'
    agents = WorkingAgents(tmp_path / "log.jsonl")
    morning = agents.work()
    for number in range(40):
        agents.fail(agents.ask(3, morning + seconds(60 * number)))
    agents.close()
    found = reported(tmp_path / "log.jsonl", text=text)
    [warn] = found.conditions
    assert 0 < warn.tally.requests < 40
    assert [caller.agent for caller, _ in warn.most] == ["report-3"]


def test_requests_within_the_time_of_a_clamp_are_counted(tmp_path: Path) -> None:
    agents = WorkingAgents(tmp_path / "log.jsonl")
    agents.work(1)
    agents.close()
    text = STATIC + LIMITS.replace(
        "clamp 4/1m for 10m when behavior.burst", "clamp 4/1m for 2h when not behavior.ready"
    )
    assert condition(reported(tmp_path / "log.jsonl", text=text), "clamp").tally.requests == 4 * 8 * 5


def test_unknown_conditions_of_a_log_without_its_entities_are_counted(logs: Path, tmp_path: Path) -> None:
    line = (logs / "static.jsonl").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "log.jsonl").write_bytes(line.replace(b'"call":', b'"directory":"sha256:none","call":', 1))
    text = STATIC + 'guard "g" on /data/** { deny when behavior.trust < 0.9 and agent.id == "report-0" }'
    found = reported(tmp_path / "log.jsonl", text=text)
    assert [(one.tally.requests, one.tally.unknown) for one in found.conditions] == [(0, 1)]


def test_requests_of_a_planned_change_are_no_burst_and_no_new_endpoint(logs: Path, tmp_path: Path) -> None:
    text = (logs / "learning.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(text.replace('"behavior":{', '"behavior":{"released":true,'))
    found = reported(tmp_path / "log.jsonl")
    assert found.decisions == REQUESTS + 104
    assert condition(found, "clamp").tally.requests == 0
    assert condition(reported(logs / "learning.jsonl"), "clamp").tally.requests > 0


def test_requests_that_would_have_left_the_declared_order_are_counted(tmp_path: Path) -> None:
    """The log was written by policies without an order; what follows a request that leaves the order does, too."""
    order = 'profile "order" for agent "report-*" { expect GET /data/** repeated -> POST /report   run within 5m }\n'
    guard = 'guard "order" { deny when not behavior.sequence }\n'
    agents = WorkingAgents(tmp_path / "log.jsonl", STATIC)
    for number, (path, method) in enumerate([("/data/a", "GET"), ("/report", "POST"), ("/data/b", "GET")]):
        agents.ask(1, START + seconds(number), path, method, body={"rows": 1})
    agents.ask(1, START + seconds(400), "/report", "POST", body={"rows": 1})
    agents.close()
    text = STATIC.replace(STATIC[STATIC.index("profile") :].split("}")[0] + "}", "") if "profile" in STATIC else STATIC
    (found,) = reported(tmp_path / "log.jsonl", text=text + order + guard).conditions
    assert (found.tally.requests, found.tally.allowed) == (2, 2)
    assert [one.endpoint for one in found.tally.examples] == ["GET /data/**"]
