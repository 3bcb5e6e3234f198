"""The metrics of learned behavior: alarms, known and ready callers, and the model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from policyengine.behavior import census
from policyengine.behavior.census import CallerCensus
from policyengine.behavior.events import Caller
from policyengine.behavior.row import BehaviorRow
from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.state import CallerRow
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.reload import ReloadableEngine
from policyengine.server.telemetry.behavior_counts import (
    MAX_CONDITION_CHARACTERS,
    MAX_CONDITIONS,
    publish_classes,
)
from policyengine.server.telemetry.metrics import MetricsCollector
from policyengine.server.telemetry.process_metrics import publish_metrics
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.stores.url import open_store
from tests.analysis.working_agents import LEARNING, STATIC, WorkingAgents, seconds
from tests.behavior.keys_of_one_clock import Clockwork
from tests.server.test_metrics import Samples, samples

CLASS = 'agent "report-*"'


def published(engine: Engine, tally: ServerCounters | None = None) -> Samples:
    tally = tally or ServerCounters()
    publish_metrics(tally, ReloadableEngine(engine))
    found = samples(iter(MetricsCollector(tally).collect()))
    return {key: value for key, value in found.items() if key[0].startswith("policyengine_behavior_")}


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"policyengine_behavior_{name}", frozenset(labels.items())]


def test_there_are_none_if_the_policies_read_no_learned_facts() -> None:
    assert published(Engine.from_text(STATIC)) == {}


def test_alarms_callers_and_the_model_are_published(tmp_path: Path) -> None:
    agents = WorkingAgents(tmp_path / "log.jsonl", LEARNING)
    first = published(agents.engine)
    assert value(first, "alarms_total", fact="burst") == 0
    assert value(first, "model_number") == 0
    assert not [name for name, _ in first if "age" in name]
    morning = agents.work()
    for number in range(60):
        agents.ask(3, morning + seconds(number / 2))
    agents.ask(2, morning + seconds(40), "/secrets/1")
    agents.now = morning + timedelta(hours=1)
    found = published(agents.engine)
    agents.close()
    assert value(found, "alarms_total", fact="burst") > 10
    assert value(found, "alarms_total", fact="novelty") == 1
    assert value(found, "ready_callers", **{"class": CLASS}) == 5
    assert value(found, "model_number") == agents.engine.behavior.state.model.content.serial > 10
    assert 3_500 < value(found, "model_age_seconds") <= 3_600


def test_callers_are_counted_by_class(tmp_path: Path) -> None:
    agents = WorkingAgents(tmp_path / "log.jsonl", LEARNING)
    agents.work(1)
    found = published(agents.engine)
    agents.close()
    assert value(found, "callers", **{"class": CLASS}) == 5


def observing(text: str) -> Engine:
    engine = Engine.from_text(text)
    engine.observe(Observe(datetime.now(UTC) + timedelta(days=1)))
    return engine


def ask(engine: Engine) -> None:
    agent = {"id": "report-1", "issuer": "acme"}
    engine.decide({"agent": agent, "request": {"method": "GET", "path": "/data/sales"}})


def test_what_conditions_would_have_hit_in_observe_mode_is_published_and_goes_on_after_a_reload() -> None:
    engine = observing(STATIC + 'rate "r" per agent.id on /** { 9/1m   clamp 1/1m when not behavior.ready }\n')
    labels, tally = {"rule": "r", "condition": "clamp 1/1m when not behavior.ready"}, ServerCounters()
    for expected in (1, 2):
        ask(engine)
        found = published(engine, tally)
        stopped = value(found, "conditions_total", result="stopped", **labels)
        allowed = value(found, "conditions_total", result="allowed", **labels)
        assert (allowed, stopped) == (1, expected - 1)
        engine = engine.successor(engine.kernel)
    assert value(published(engine, tally), "conditions_total", result="stopped", **labels) == 1


def test_long_conditions_are_cut_and_those_beyond_a_maximum_are_counted_together() -> None:
    many = "".join(
        f'guard "g{number}" on /** {{ warn when not behavior.ready }}\n' for number in range(MAX_CONDITIONS + 2)
    )
    long = " and ".join(["not behavior.ready"] * 9)
    engine = observing(f'{STATIC}guard "long" on /** {{ warn when {long} }}\n{many}')
    ask(engine)
    found = {
        (labels["rule"], labels["condition"]): count
        for (name, pairs), count in published(engine).items()
        if name.endswith("conditions_total") and (labels := dict(pairs))["result"] == "allowed"
    }
    assert len(found) == MAX_CONDITIONS + 1  # those of `g199` and later are others
    assert found["other", "other"] == 3
    assert found["long", f"{f'warn when {long}'[: MAX_CONDITION_CHARACTERS - 1]}…"] == 1


def rows_of(count: int) -> dict[Caller, CallerRow]:
    return {
        Caller("acme", f"a{number}"): CallerRow("x" if number % 2 else "", BehaviorRow(0)) for number in range(count)
    }


def test_a_count_takes_several_calls_if_there_are_many_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "COUNTED_AT_ONCE", 4)
    counting, rows = CallerCensus(), rows_of(10)
    shown = []
    for _ in range(3):
        counting.advance(rows)
        shown.append(dict(counting.counts))
    assert shown == [{}, {}, {"": 5, "x": 5}]


def test_callers_are_counted_at_most_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(census, "monotonic", lambda: now)
    counting = CallerCensus()
    counting.advance(rows_of(4))
    now += 59
    counting.advance(rows_of(8))
    assert counting.counts == {"": 2, "x": 2}
    now += 1
    counting.advance(rows_of(8))
    assert counting.counts == {"": 4, "x": 4}


def test_there_are_few_classes_and_those_that_are_gone_become_0() -> None:
    tally = ServerCounters()
    publish_classes(tally, "behavior_callers", {f"c{number:03}": 1 for number in range(300)} | {"": 7})
    labels = tally.labels("behavior_callers")
    assert len(labels) == 201
    assert {"none", "other", "c000"} <= set(labels)
    publish_classes(tally, "behavior_callers", {"c001": 2})
    total = tally.total()
    assert (total["behavior_callers", "c000"], total["behavior_callers", "c001"]) == ([0], [2])


def test_damaged_callers_of_a_shared_store_are_counted(tmp_path: Path) -> None:
    engine = Engine.from_text(LEARNING, store=open_store(f"sqlite:///{tmp_path}/store.db"))
    tracker = engine.behavior
    assert isinstance(tracker, SharedTracker)
    assert value(published(engine), "damaged_callers") == 0
    tracker.damaged.add("key")
    tracker.damaged.add("key")
    assert value(published(engine), "damaged_callers") == 1
    tracker.close()


def test_groups_are_published_once_they_were_searched() -> None:
    clockwork = Clockwork()
    clockwork.begin_day(0)
    clockwork.engine.behavior.keep()
    clockwork.run_days([0], [f"key-{number}" for number in range(6)])
    found = published(clockwork.engine)
    assert (value(found, "groups"), value(found, "grouped_callers")) == (0, 0)
    clockwork.begin_day(1)
    found = published(clockwork.engine)
    assert (value(found, "groups"), value(found, "grouped_callers")) == (1, 6)


def test_groups_are_not_published_if_no_rule_reads_them(tmp_path: Path) -> None:
    agents = WorkingAgents(tmp_path / "log.jsonl", LEARNING)
    agents.work(2)
    found = published(agents.engine)
    agents.close()
    assert not [name for name, _ in found if "group" in name]
