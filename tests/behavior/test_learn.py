"""Learning: which callers teach their class, and margins that keep the declared rate of false alarms."""

import gc
from random import Random

import pytest

from policyengine.behavior.events import Caller
from policyengine.behavior.fold import MARGIN_UNIT
from policyengine.behavior.learn import (
    LEAST_DAYS,
    LEAST_MARGIN,
    MAX_MARGIN,
    WEIGHT_UNIT,
    CallerDay,
    ClassLearner,
    RatioWeights,
    days_to_calibrate,
    excess,
    learn_margins,
    learn_model,
)
from policyengine.behavior.row import DAYS_KEPT, HOUR, HOURS_OF_DAY, BehaviorRow
from tests.behavior.callers import DAY, GROUP, ISSUER, SETTINGS, START, caller


def ready_row(endpoints=(), runs=100, ratios=(), at=START):
    """Return the row of a ready caller; the ratios are those of the last days, yesterday first."""
    row = BehaviorRow(at)
    row.runs, row.days = runs, (1 << SETTINGS.learn_days) - 1
    row.seen = dict.fromkeys(endpoints, at // DAY)
    for ago, ratio in enumerate(ratios, 1):
        place = 2 * ((at // DAY - ago) % DAYS_KEPT)
        row.ratios[place] = row.ratios[place + 1] = ratio
    return row


def learned(rows, now=START):
    found = learn_model(((who, GROUP, row) for who, row in rows.items()), lambda _: SETTINGS, now, 3, "tags")
    return found.class_of((ISSUER, GROUP))


def days_of_rows(principals):
    """Return the days that the rows of some principals teach."""
    learner = ClassLearner(SETTINGS, START)
    for number, rows in enumerate(principals):
        for row in rows:
            learner.add(f"agent-{number}", row)
    return learner.days()


def days_of(ratios, callers=None):
    """Return days with the weight of one, each of another caller unless their numbers are given."""
    both = [ratio if isinstance(ratio, tuple) else (ratio, 0) for ratio in ratios]
    return [
        CallerDay(slow, fast, WEIGHT_UNIT, number)
        for (slow, fast), number in zip(both, callers or range(len(both)), strict=True)
    ]


# ── Margins ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("declared", "times"), [(20, 4), (100, 4), (100, 2.1)])
def test_on_exchangeable_days_one_in_n_is_a_false_alarm(declared, times):
    random, alarms, drawn = Random(5), 0, 10_000
    for _ in range(100):
        days = [(ratio(random), ratio(random)) for _ in range(int(times * declared))]
        found = learn_margins(days_of(days), declared)
        assert found.declared
        fresh = [(ratio(random), ratio(random)) for _ in range(drawn // 100)]
        alarms += sum(slow > found.slow or fast > found.fast for slow, fast in fresh)
    assert 0.3 / declared <= alarms / drawn <= 1.2 / declared


def ratio(random):
    return int(MARGIN_UNIT * (1 + random.expovariate(1)))


def test_margins_are_the_smallest_that_keep_the_rate():
    found = learn_margins(days_of(range(2_000, 3_000)), 100)  # a thousand days, and the next one
    assert (found.declared, found.slow) == (True, 2_991)
    assert found.fast == LEAST_MARGIN


def test_both_buckets_together_keep_the_rate():
    days = days_of([(5_000, 0)] * 10 + [(0, 5_000)] * 10 + [(2_000, 2_000)] * 980)
    found = learn_margins(days, 100)
    assert sum(day.slow > found.slow or day.fast > found.fast for day in days) <= 10


def test_too_few_days_give_no_margins():
    assert learn_margins(days_of([1_500] * (LEAST_DAYS - 1)), 20) == (0, 0, LEAST_DAYS - 1, False)


def test_with_fewer_days_than_the_rate_needs_the_margin_has_a_reserve_and_is_not_declared():
    found = learn_margins(days_of([1_500] * 20 + [2_000]), 100)
    assert (found.slow, found.declared) == (4_000, False)


@pytest.mark.parametrize("burst_days", [20, 100])
def test_the_number_of_days_that_the_declared_rate_needs(burst_days):
    needed = days_to_calibrate(burst_days)
    assert learn_margins(days_of([1_500] * needed), burst_days).declared
    assert not learn_margins(days_of([1_500] * (needed - 1)), burst_days).declared


@pytest.mark.parametrize(("ratio", "margin"), [(0, LEAST_MARGIN), (1_024, LEAST_MARGIN), (65_535, MAX_MARGIN)])
def test_margins_have_bounds(ratio, margin):
    assert learn_margins(days_of([ratio] * 300), 100).slow == margin


def test_a_principal_causes_a_quarter_of_the_allowed_alarms_at_most():
    poisoner = [(9_000, 0)] * 14
    alone = learn_margins(days_of(list(range(2_000, 3_400)), [number % 100 for number in range(1_400)]), 100)
    callers = [*(number % 100 for number in range(1_400)), *([100] * 14)]
    found = learn_margins(days_of([*range(2_000, 3_400), *poisoner], callers), 100)
    assert alone.slow <= found.slow < 3_400
    assert excess(days_of(poisoner, [0] * 14), 8_000, 0, WEIGHT_UNIT) == WEIGHT_UNIT


def test_a_quantile_has_at_most_its_weight_above():
    days = [CallerDay(ratio, 0, weight, 0) for ratio, weight in ((5, 1), (9, 2), (5, 2), (7, 1))]
    ratios = RatioWeights(days, 0)
    assert [ratios.quantile(weight) for weight in (0, 1, 2, 3, 5, 6, 99)] == [9, 9, 7, 5, 5, 5, 5]


# ── Weights ───────────────────────────────────────────────────────────────────────────────────


def test_a_principal_weighs_a_twentieth_at_most():
    rows = [[ready_row(ratios=[1_500] * 13)], *([ready_row(ratios=[1_500])] for _ in range(39))]
    days = days_of_rows(rows)
    weights = [sum(day.weight for day in days if day.principal == number) for number in range(40)]
    assert weights[0] <= 3 * WEIGHT_UNIT  # of 52 days
    assert set(weights[1:]) == {WEIGHT_UNIT}


def test_the_principals_of_a_small_class_weigh_the_same_at_most():
    rows = [[ready_row(ratios=[1_500] * 13)], [ready_row(ratios=[1_500] * 2)]]
    days = days_of_rows(rows)
    assert sum(day.weight for day in days if day.principal == 0) <= 8 * WEIGHT_UNIT


def test_versions_of_a_principal_share_its_weight():
    rows = [[ready_row(ratios=[1_500] * 13)] * 3, *([ready_row(ratios=[1_500] * 13)] for _ in range(39))]
    days = days_of_rows(rows)
    assert sum(day.weight for day in days if day.principal == 0) <= sum(day.weight for day in days) / 18


def test_days_older_than_what_is_learned_do_not_teach():
    row = ready_row(ratios=[1_500] * 27)
    assert len(days_of_rows([[row]])) == SETTINGS.learn_days - 1


# ── Teachers ──────────────────────────────────────────────────────────────────────────────────


def test_an_endpoint_counts_for_the_class_once_two_principals_use_it():
    found = learned({caller(0): ready_row([1, 2]), caller(1): ready_row([2, 3]), caller(2): ready_row([2])})
    assert found.seen == {2}
    assert (found.callers, found.runs) == (3, 300)


def test_two_versions_of_a_caller_are_one_principal():
    rows = {caller(0, version="a"): ready_row([1]), caller(0, version="b"): ready_row([1]), caller(1): ready_row()}
    found = learned(rows)
    assert (found.callers, found.seen) == (2, frozenset())


def test_the_instances_of_an_agent_are_one_principal():
    assert learned({caller(0, instance=name): ready_row([1]) for name in "ab"}).seen == frozenset()


@pytest.mark.parametrize("row", [ready_row([1], runs=19), BehaviorRow(START)], ids=["runs", "days"])
def test_callers_that_are_not_ready_do_not_teach(row):
    row.seen = {1: 0}
    found = learned({caller(0): ready_row([1]), caller(1): row})
    assert (found.callers, found.seen) == (1, frozenset())


def test_callers_that_are_forgotten_do_not_teach():
    rows = {caller(number): ready_row([1]) for number in range(3)}
    assert learned(rows, START + SETTINGS.learn_days * HOURS_OF_DAY * HOUR).callers == 3
    assert learned(rows, START + SETTINGS.learn_days * HOURS_OF_DAY * HOUR + 1).callers == 0


def test_callers_of_another_issuer_are_another_class():
    rows = {caller(number): ready_row([1]) for number in range(3)}
    rows |= {Caller("https://other.example", f"agent-{number}"): ready_row([9]) for number in range(3)}
    assert learned(rows).seen == {1}


def test_a_class_of_many_callers_has_margins():
    random = Random(1)
    rows = {
        caller(number): ready_row(ratios=[int(1_024 + 1_024 * random.random()) for _ in range(13)])
        for number in range(20)
    }
    found = learned(rows)
    assert found.is_ready
    assert found.has_margins
    assert found.declared
    assert found.days == 260


def test_the_order_of_rows_does_not_change_the_model():
    rows = [(caller(number), GROUP, ready_row([number % 3], ratios=[1_500 + number] * 5)) for number in range(9)]
    one = learn_model(rows, lambda _: SETTINGS, START, 1, "t")
    other = learn_model(reversed(rows), lambda _: SETTINGS, START, 1, "t")
    assert one.digest == other.digest


def test_learning_keeps_no_row():
    """The rows of many callers, held at once, would make the garbage collector block decisions."""
    alive = []

    def rows():
        for number in range(50):
            yield caller(number), GROUP, ready_row([1], ratios=[1_500])
            alive.append(sum(type(found) is BehaviorRow for found in gc.get_objects(generation=0)))

    gc.collect()  # leaves only objects of this test in the youngest generation: to count all objects takes 17 s
    gc.disable()
    try:
        learn_model(rows(), lambda _: SETTINGS, START, 1, "t")
    finally:
        gc.enable()
    assert alive[0] >= 1
    assert alive[-1] <= alive[0] + 1
