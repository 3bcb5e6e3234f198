"""Groups that share limits, on the command line: learned from a log, shown, forgotten, and reported beforehand."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine.audit import DecisionLog
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.stores.url import open_store
from tests.behavior.keys_of_one_clock import BEGIN, POLICY, Clockwork

KEYS = [f"key-{number}" for number in range(6)]
CLAMPED = POLICY.replace("floor 6/1m", "floor 6/1m   clamp 60/1m when cluster.size > 3")
STATIC = POLICY.replace("per cluster.id", "per agent.id").replace(" floor 6/1m", "")


@pytest.fixture
def logged(run, tmp_path: Path) -> Path:
    """Return a folder with the log of two days of six keys, written by policies that learn nothing."""
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    clockwork = Clockwork(STATIC, log=log)
    for day in range(2):
        clockwork.run_days([day], KEYS, ["tenant"])
    clockwork.decide("tenant", BEGIN + timedelta(days=2))
    log.close()
    (tmp_path / "p.policy").write_text(CLAMPED)
    return tmp_path


def test_groups_are_learned_from_a_log_and_shown(run, logged: Path):
    assert run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "learned").code == 0
    shown = run("behavior", "show", "--behavior", "learned").out
    group = BehaviorTracker.open(logged / "learned", locks=False).state.model.content.groups[0].id
    assert f"group {group}: 6 callers that have moved as one since 2026-03-02" in shown
    assert "last found on 2026-03-04" in shown
    member = run("behavior", "show", "key-3", "--behavior", "learned").out
    assert f"  group        {group}, 6 callers that have moved as one" in member
    assert "  group " not in run("behavior", "show", "tenant", "--behavior", "learned").out


def test_groups_are_shown_as_json(run, logged: Path):
    run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "learned")
    [group] = json.loads(run("behavior", "show", "--behavior", "learned", "--format", "json").out)["groups"]
    assert (group["callers"], group["last_found"]) == (6, "2026-03-04")
    found = json.loads(run("behavior", "show", "key-3", "--behavior", "learned", "--format", "json").out)
    assert found["callers"][0]["group"] == group


def test_the_requests_of_a_log_are_kept_for_the_next_search(run, logged: Path):
    run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "learned")
    requests = BehaviorTracker.open(logged / "learned", locks=False).state.requests
    assert [each.count for each in requests.days.values()] == [7 * 36, 7 * 36, 1]


def test_a_forgotten_caller_leaves_its_group(run, logged: Path):
    run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "learned")
    assert run("behavior", "forget", "key-3", "--behavior", "learned").code == 0
    assert "5 callers that have moved as one" in run("behavior", "show", "--behavior", "learned").out


def test_the_report_says_what_a_condition_on_groups_would_have_done(run, logged: Path):
    found = json.loads(run("behavior", "report", "log.jsonl", "p.policy", "--format", "json").out)
    [condition] = found["conditions"]
    assert condition["words"] == "clamp 60/1m when cluster.size > 3"
    assert (condition["requests"], condition["callers"], condition["unknown"]) == (6 * 36, 6, 0)


def test_groups_in_a_store_are_shown_by_number_and_by_the_name_of_a_member(run, tmp_path: Path):
    clockwork = Clockwork(store=open_store("sqlite:///shared.db"))
    tracker = clockwork.engine.behavior
    for day in range(2):
        clockwork.decide("tenant", BEGIN + timedelta(days=day))
        tracker.keep()
        clockwork.run_days([day], KEYS, ["tenant"])
        tracker.keep()
    clockwork.decide("tenant", BEGIN + timedelta(days=2))
    tracker.close()
    tracker._pools.restart()
    tracker.keep()
    tracker.close()
    shown = run("behavior", "show", "--store", "sqlite:///shared.db").out
    assert "6 callers that have moved as one" in shown
    member = run("behavior", "show", "key-3", "--issuer", "acme", "--store", "sqlite:///shared.db").out
    assert "6 callers that have moved as one" in member
