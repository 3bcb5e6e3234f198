"""What conditions on learned facts would have hit in observe mode: counts, log lines and a real server."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from policyengine import Engine
from policyengine.analysis.behavior_report import BehaviorReporter
from policyengine.audit import DecisionLog
from policyengine.behavior.events import Caller
from policyengine.engine.condition_watch import MAX_CALLERS, ConditionHits, ConditionWatch
from policyengine.engine.observe_mode import Observe
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities, Snapshot
from tests.console.test_serving import serving

START = datetime(2050, 1, 3, 9, tzinfo=UTC)
HEAD = """language 1
package acme.reports
issuer acme { url "https://login.acme.example"   scopes none }
facts on POST /report { body.rows: number }
entity user { roles: set<string> }
"""
POLICY = (
    HEAD
    + """agent "report-*" { issued by acme   acts alone   may GET /data/**, POST /report }
profile "reporting" for agent "report-*" { expect GET /data/** repeated -> POST /report }
rate "reporting" per agent.id on /data/** { 600/1m burst 80   clamp 20/1m when not behavior.ready }
guard "order" on /** { deny when not behavior.sequence }
guard "rows" on POST /report {
  deny when behavior.trust < 0.9 and body.rows > 10
  warn when not behavior.ready and after GET /data/** within 1h per (agent.id)
}
"""
)


class Reports:
    """An observing engine whose clock is set before each request."""

    def __init__(self, text: str = POLICY, log: Path | None = None, days: float = 60) -> None:
        self.now = START
        self.log = None if log is None else DecisionLog(log, seal=None)
        self.engine = Engine.from_text(text, clock=lambda: self.now, log=self.log)
        self.engine.observe(Observe(START + timedelta(days=days)))

    def ask(self, agent: str, path: str = "/data/sales", after: timedelta = timedelta(), **body: int) -> Decision:
        self.now = START + after
        method = "POST" if body else "GET"
        caller = {"id": agent, "issuer": "acme"}
        return self.engine.decide({"agent": caller, "request": {"method": method, "path": path}, "body": body})

    @property
    def hits(self) -> dict[str, ConditionHits]:
        assert self.engine.conditions is not None
        return {f"{each.condition.rule} {each.condition.kind}": each for each in self.engine.conditions.hits}


def test_each_condition_counts_the_requests_callers_and_days_that_it_would_have_hit() -> None:
    reports = Reports()
    for day in range(2):
        for agent in ("report-1", "report-2", "report-1"):
            reports.ask(agent, after=timedelta(days=day, minutes=1))
    last = reports.ask("report-3", "/report", timedelta(days=2), rows=11)
    assert (last.outcome, last.would_be) == (Outcome.ALLOW, Outcome.DENY)
    clamp, order, rows = (
        reports.hits[name] for name in ('rate "reporting" clamp', 'guard "order" deny', 'guard "rows" deny')
    )
    assert (clamp.requests, clamp.allowed, clamp.days, len(clamp.callers)) == (6, 6, 2, 2)
    assert clamp.most(1) == [(Caller("acme", "report-1"), 4)]
    assert (order.requests, order.allowed, order.days) == (1, 0, 1)
    assert [(each.id, each.caller.agent) for each in order.latest] == [(last.id, "report-3")]
    assert (rows.requests, rows.unknown) == (1, 0)


def test_the_counts_are_those_of_the_report_on_the_log(tmp_path: Path) -> None:
    reports = Reports(log=tmp_path / "log.jsonl")
    for number in range(60):
        agent = f"report-{number % 3}"
        reports.ask(agent, after=timedelta(hours=number))
        if number % 4 == 0:
            reports.ask(agent, "/report", timedelta(hours=number, seconds=number), rows=number)
        if number % 7 == 0:
            reports.ask(agent, "/report", timedelta(hours=number, minutes=9), rows=number)
        if number % 11 == 0:
            reports.ask(agent, "/secrets", timedelta(hours=number, minutes=10))
    assert reports.log is not None
    reports.log.close()
    found = BehaviorReporter(Engine.from_text(POLICY), [tmp_path / "log.jsonl"]).report()
    live = reports.engine.conditions
    assert live is not None
    assert [counts(each.tally, each.callers) for each in found.conditions] == [
        counts(each, len(each.callers)) for each in live.hits
    ]
    assert all(each.requests for each in live.hits)


def counts(found: Any, callers: int) -> tuple[int, ...]:
    days = found.days if isinstance(found.days, int) else len(found.days)
    return found.requests, found.allowed, found.unknown, days, callers


def test_without_a_rule_that_reads_learned_facts_or_without_observe_mode_nothing_is_counted() -> None:
    text = HEAD + 'agent "report-*" { issued by acme   acts alone   may GET /data/** }\n'
    assert Reports(text).engine.conditions is None
    assert Engine.from_text(POLICY).conditions is None


def test_nothing_is_counted_after_the_end_of_observe_mode() -> None:
    reports = Reports(days=1)
    reports.ask("report-1")
    assert reports.ask("report-1", "/report", timedelta(days=1), rows=1).would_be is None
    assert reports.hits['rate "reporting" clamp'].requests == 1
    assert reports.hits['guard "order" deny'].requests == 0


def test_an_evaluation_is_not_counted() -> None:
    reports = Reports()
    caller = {"id": "report-1", "issuer": "acme"}
    reports.engine.evaluate({"agent": caller, "request": {"method": "GET", "path": "/data/sales"}})
    assert reports.hits['rate "reporting" clamp'].requests == 0


def test_a_reload_keeps_the_counts_of_the_conditions_that_stay() -> None:
    reports = Reports()
    reports.ask("report-1")
    changed = "\n# a comment\n" + POLICY.replace("behavior.trust < 0.9", "behavior.trust < 0.8")
    kernel = Engine.from_text(changed).kernel
    before, reports.engine = reports.hits, reports.engine.successor(kernel)
    reports.ask("report-1", after=timedelta(minutes=1))
    clamp = reports.hits['rate "reporting" clamp']
    assert (clamp.requests, clamp.condition.at) == (2, "policy.policy:10")
    assert reports.hits['guard "order" deny'] is before['guard "order" deny']
    assert reports.hits['guard "rows" deny'] is not before['guard "rows" deny']


def test_the_server_log_has_a_line_for_each_condition_and_day(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()
    with caplog.at_level(logging.INFO, "policyengine"):
        ids = [reports.ask("report-1", after=timedelta(hours=8 * number)).id for number in range(4)]
    lines = [one for one in caplog.records if getattr(one, "event", "") == "behavior_condition"]
    assert [(one.getMessage(), one.rule, one.decision) for one in lines] == [
        (
            'observe mode: rate "reporting": clamp 20/1m when not behavior.ready (policy.policy:8) would have hit '
            "report-1 of acme, for the first time on this day",
            "reporting",
            ids[number],
        )
        for number in (0, 2)
    ]


def test_callers_are_counted_separately_up_to_a_maximum() -> None:
    reports = Reports()
    hits = ConditionHits(reports.hits['guard "order" deny'].condition)
    decision = Decision.of(Outcome.ALLOW)
    for number in range(MAX_CALLERS + 2):
        hits.count(decision, Caller("acme", f"agent-{number}"), number)
    hits.count(decision, Caller("acme", "agent-0"), 0)
    assert (hits.requests, len(hits.callers), hits.more_callers) == (MAX_CALLERS + 3, MAX_CALLERS, True)
    assert hits.most(1) == [(Caller("acme", "agent-0"), 2)]
    assert len(hits.latest) == 5


def test_an_error_in_a_condition_is_logged_and_changes_no_decision(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()
    watch = ConditionWatch(reports.engine.kernel)
    request = Request.from_mapping({"request": {"method": "POST", "path": "/report"}, "body": {"rows": 11}})
    broken = Snapshot(cast(Entities, None), behavior=cast("dict[str, object]", {"trust": 0.5}))
    for _ in range(2):
        watch.note(Decision.of(Outcome.ALLOW), request, Caller("acme", "report-1"), broken, 0)
    [line] = [one for one in caplog.records if getattr(one, "event", "") == "behavior_condition"]
    assert line.levelno == logging.ERROR
    assert "is not counted for the conditions on learned facts" in line.getMessage()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "reports.policy"
    file.write_text(POLICY)
    return file


def test_serve_observe_reports_live_what_conditions_would_have_hit(policy: Path) -> None:
    options = "--observe --observe-until 7d --log log.jsonl --log-format json".split()
    with serving(policy, *options) as served:
        asked = {"agent": {"id": "report-1", "issuer": "acme"}, "request": {"method": "POST", "path": "/report"}}
        answer = served.ask({**asked, "body": {"rows": 1}})
        assert (answer["outcome"], answer["would_be"]) == ("allow", "deny")
        operator = served.operator()
        page = operator.get("/behavior").text
        metrics = httpx.get(f"{served.urls['listening']}/metrics", trust_env=False).text
        _, errors = served.stop()
    assert "What the conditions would have hit" in page
    assert f'href="/decisions/{answer["id"]}"' in page
    labels = 'condition="deny when not behavior.sequence",result="stopped",rule="order"'
    assert f"policyengine_behavior_conditions_total{{{labels}}} 1.0" in metrics.splitlines()
    events = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    [line] = [event for event in events if event["event"] == "behavior_condition"]
    assert (line["rule"], line["decision"]) == ("order", answer["id"])
