"""`python -m bench behavior`: seeded traffic, what is counted as an alarm, and abuse against rates."""

from random import Random

import pytest

from bench import behavior, behavior_cost, behavior_limits
from bench.behavior_limits import ABUSE, BEGAN, Admitted, LeakyRate, Pace, Victim, harmless_burst
from bench.behavior_sequences import RUNS_A_DAY, TESTED, habits, loops, order_figures, workflows
from bench.behavior_traffic import ALL_KINDS, DAY, HOUR, MINUTE, ToolUser, caller_days, tool_calls


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_traffic_is_seeded_sorted_and_of_one_day(kind):
    days = caller_days(kind, 1, 14)
    assert days == caller_days(kind, 1, 14)
    assert days != caller_days(kind, 2, 14)
    assert all(moments == sorted(moments) for moments in days)
    assert all(0 <= moment < DAY for moments in days for moment in moments)
    assert sum(map(len, days)) > 14 * 10


def test_a_cell_counts_caller_days_with_an_alarm_once():
    steady = [[number * 6 * MINUTE + 8 * HOUR for number in range(80)]] * 40
    spike = [*steady[:35], [8 * HOUR + number * 1_000 for number in range(500)], *steady[36:]]
    found = behavior.burst_cell("test", [*([steady] * 5), spike], 20, 40)
    assert (found.days, found.alarms) == (6 * 16, 1)
    assert found.times == pytest.approx(20 / 96)
    assert found.seen[-1] < 200
    assert found.slowest in range(6)


def test_a_caller_with_longer_sessions_needs_a_longer_spike(monkeypatch):
    steady = [[8 * HOUR + number * 1_000 for number in range(60 + 20 * (day % 10 == 9))] for day in range(40)]
    monkeypatch.setattr(behavior, "caller_days", lambda *_: steady)
    assert behavior.known_spike("test", 0, 2, days=40) < behavior.known_spike("test", 0, 16, days=40) < 100


def test_a_decision_with_learned_facts_is_measured_on_ready_callers(monkeypatch):
    monkeypatch.setattr(behavior_cost, "DECISIONS", 50)
    found = behavior_cost.LearningAgents("clamp 90000/1m when behavior.burst")
    assert min(found.work()) > 0
    facts = found.engine.behavior.learner.latest.facts
    assert (facts.ready, facts.burst) == (True, False)


def test_novelty_of_simulated_tools_is_low_and_foreign_tools_are_seen(monkeypatch):
    monkeypatch.setattr(behavior, "CLASSES", 30)
    found = behavior.novelty(lambda random: ToolUser(random).run, "test")
    assert found.runs == 120
    assert found.benign < 0.1 < found.alone
    assert found.foreign == 1


@pytest.mark.parametrize("user", [workflows, habits, loops])
def test_orders_are_seeded_and_runs_of_other_callers_are_seen(user):
    found = order_figures("test", user, workers=8)
    assert found.runs == 8 * RUNS_A_DAY * TESTED
    assert found.observed[0.05] <= 1.5 * 0.05
    assert found.observed[0.01] <= 0.02
    assert found.other > 0.7
    assert found.shuffled > 0.8
    assert user(Random(1))(Random(2)) == user(Random(1))(Random(2))


def test_patience_gains_less_than_its_bound():
    assert 0 <= behavior.patience(17, 100) <= 1


def test_a_harmless_burst_throttles_nothing_and_one_less_does():
    days = caller_days("cron batches", 1, 10)
    burst = harmless_burst([days], 4)
    for one, harmless in ((burst, True), (burst - 1, False)):
        rate = LeakyRate()
        admitted = [rate.admit(day * DAY + moment, Pace(4, one)) for day in range(10) for moment in days[day]]
        assert all(admitted) is harmless


@pytest.mark.parametrize("name", ABUSE)
def test_abuse_comes_in_order_after_the_history(name):
    victim = Victim.of("people at work", 1, caller_days("people at work", 1, 20))
    parts = list(ABUSE[name](victim))
    moments = [at for part in parts for at, _ in part.requests]
    assert moments == sorted(moments)
    assert moments[0] >= BEGAN + 20 * DAY
    admitted, attempted = Admitted.of(parts, victim, lambda *_: True)
    assert admitted == pytest.approx(attempted, rel=0.1)


def test_adaptive_rates_admit_less_abuse_than_static_ones(monkeypatch):
    monkeypatch.setattr(behavior_limits, "KINDS", ["people at work"])
    monkeypatch.setattr(behavior_limits, "RATES", (1, 2, 4))
    monkeypatch.setattr(behavior_limits, "MAX_HARM", 1)
    found = behavior_limits.limits(callers=4, days=26, victims=1)
    assert found.mean(1) < found.mean(0) <= 1
    assert found.harmed <= found.benign


def test_tools_are_read_from_a_module_of_tasks(tmp_path):
    file = tmp_path / "user_tasks.py"
    file.write_text('def ground_truth(self):\n    return [Call(function="read", id=1), Call(function="send")]\n')
    assert tool_calls(file) == [["read", "send"]]


def test_a_user_of_tools_repeats_itself_with_its_seed():
    assert ToolUser(Random(1)).run() == ToolUser(Random(1)).run()
