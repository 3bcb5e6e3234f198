"""`python -m bench simulate`: what it plays is admitted or throttled as its name says."""

import pytest

from bench import simulate
from policyengine.simulation import Series


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(simulate, "EVENTS", 2_000)
    monkeypatch.setattr("bench.policy_tests.TRIES", 1)


def test_every_scenario_has_a_row_and_the_static_rate_has_a_target():
    found = simulate.run(lambda _: None)
    assert [row[0] for row in found.rows] == list(simulate.SCENARIOS)
    assert found.targets[0].seen == round(found.data[1]["per_second"])
    assert all(one["events"] == pytest.approx(2_000, rel=0.1) for one in found.data)


@pytest.mark.parametrize("what", simulate.SCENARIOS)
def test_a_scenario_is_throttled_only_when_its_name_says_throttled(what, monkeypatch):
    kept = []
    monkeypatch.setattr(simulate, "Series", lambda start: kept.append(Series(start)) or kept[0])
    simulate.simulate_once(*simulate.SCENARIOS[what])
    assert bool(kept[0].total.throttle) == ("throttled" in what)
    assert not kept[0].total.deny
