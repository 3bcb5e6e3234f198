"""With which request of a run the deviation rose most, from the records of a log."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from policyengine.audit.logged_behavior import LoggedBehavior
from policyengine.audit.reader import DecisionRecord
from policyengine.behavior.deviation_rise import find_deviation_rise
from tests.behavior.reporting_agents import BEGIN

IDLE = 60_000


def record(second: int, deviation: str, *, event: int, run: int = 7, agent: str = "bot") -> DecisionRecord:
    facts = {"deviation": Decimal(deviation)}
    behavior = LoggedBehavior("class", "", "", run, False, "", event - 1, event, facts)
    decision = {"id": f"{agent} {second}", "outcome": "allow", "principal": {"agent": agent, "issuer": "idp"}}
    return DecisionRecord(
        0, BEGIN + timedelta(seconds=second), "decide", decision, {}, endpoint=f"GET /{second}", behavior=behavior
    )


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([(0, "0.2"), (1, "0.9"), (2, "0.95")], ("bot 1", 2, "0.2", 3, True)),
        ([(0, "0.2"), (1, "0.2")], ("bot 0", 1, "0", 2, True)),
        ([(0, "0.9"), (1, "0.5", {"run": 8}), (2, "0.6")], ("bot 2", 1, "0", 1, True)),
        ([(0, "0.9"), (61, "0.5"), (62, "0.6")], ("bot 61", 1, "0", 2, True)),
        ([(0, "0.9"), (60, "0.8"), (62, "0.9")], ("bot 0", 1, "0", 3, True)),
    ],
)
def test_the_largest_rise_of_the_latest_run_is_found(records, expected) -> None:
    found = [
        record(second, deviation, event=place, **more[0] if more else {})
        for place, (second, deviation, *more) in enumerate(records, 1)
    ]
    rise = find_deviation_rise(found[-1], found, IDLE)
    assert rise is not None
    assert (rise.record.id, rise.number, str(rise.before), rise.place, rise.complete) == expected


def test_other_callers_and_later_decisions_are_not_part_of_the_run() -> None:
    others = [record(1, "0.99", event=2, agent="other"), record(3, "1", event=3)]
    found = [record(0, "0.2", event=1), others[0], record(2, "0.3", event=2), others[1]]
    rise = find_deviation_rise(found[2], found, IDLE)
    assert rise is not None
    assert (rise.record.id, rise.place) == ("bot 0", 2)


@pytest.mark.parametrize("events", [(2, 3), (1, 3)])
def test_a_run_is_incomplete_if_the_log_lacks_an_event(events: tuple[int, int]) -> None:
    found = [record(place, "0.2", event=event) for place, event in enumerate(events)]
    rise = find_deviation_rise(found[-1], found, IDLE)
    assert rise is not None
    assert not rise.complete


def test_a_decision_without_a_deviation_has_no_rise() -> None:
    assert find_deviation_rise(record(0, "0", event=1), [], IDLE) is None
