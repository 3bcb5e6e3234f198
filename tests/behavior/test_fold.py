"""The fold: what an event does to a row, and which facts follow. Each formula of the guide has a test."""

from array import array
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior.events import ALLOWED, DENIED, HELD, NO_RUN, RequestTags
from policyengine.behavior.fold import (
    FAST_FACTOR,
    LEAST_PACE,
    LEAST_PEAK,
    LEVEL_UNIT,
    PEAK_UNIT,
    SLOW_FACTOR,
    CallerFacts,
    ProfileSettings,
    advance,
    apply_decision,
    apply_failure,
    end_hour,
    is_ready,
    learned_part,
    mix,
    read_behavior,
    set_limits,
)
from policyengine.behavior.model import NO_CLASS, ClassModel
from policyengine.behavior.row import (
    DAYS_KEPT,
    HOUR,
    HOURS_OF_DAY,
    MAX_COUNT,
    MAX_LEVEL,
    MAX_SEEN,
    MILLION,
    NEW_TRUST,
    BehaviorRow,
    base_of,
    pack_row,
)
from tests.behavior.callers import DAY, MINUTE, SETTINGS, START, Callers, caller, class_model

A, B = 11, 22  # tags of endpoints
READY_CLASS = ClassModel("i", "g", 1_000, 10, frozenset({B}), 1_536, 1_536, 1_000, declared=True)
gaps = st.one_of(st.integers(0, 2 * HOUR), st.integers(0, 40 * DAY))
outcomes = st.sampled_from([ALLOWED, ALLOWED, DENIED, HELD])
events = st.lists(st.tuples(gaps, st.integers(1, 60), st.integers(0, 3), outcomes, st.booleans()), max_size=60)


def step(row, at, endpoint=A, run=1, outcome=ALLOWED, clamped=False, model=READY_CLASS, settings=SETTINGS):
    advance(row, at, settings)
    tags = RequestTags(endpoint, run)
    reading = read_behavior(row, model, tags, at, settings)
    apply_decision(row, reading, tags, at, outcome, clamped, settings)
    return reading


def folded(steps):
    row, at = BehaviorRow(START), START
    for gap, endpoint, run, outcome, clamped in steps:
        at += gap
        step(row, at, endpoint, run, outcome, clamped)
    return row, at


def ready_row(at=START, pace=16 * 10, peak=16 * 10):
    """Return the row of a caller that is ready, with ten requests an hour and levels of ten requests."""
    row = BehaviorRow(at)
    row.runs, row.days = 100, (1 << DAYS_KEPT) - 1
    row.paces[:] = array("I", [pace] * HOURS_OF_DAY)
    row.peaks[:] = array("I", [peak] * (2 * DAYS_KEPT))
    row.seen = {A: at // DAY}
    return row


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


@given(events, gaps, gaps)
def test_two_steps_forward_are_one(steps, first, second):
    row, at = folded(steps)
    other = row.copy()
    advance(row, at + first, SETTINGS)
    advance(row, at + first + second, SETTINGS)
    advance(other, at + first + second, SETTINGS)
    assert pack_row(row) == pack_row(other)


@given(events, gaps)
def test_a_packed_row_goes_on_as_the_row_itself(steps, gap):
    row, at = folded(steps)
    other = row.copy()
    assert step(row, at + gap) == step(other, at + gap)
    assert pack_row(row) == pack_row(other)


@given(events, st.lists(st.integers(-40 * DAY, 40 * DAY), max_size=30))
def test_a_clock_that_jumps_leaves_a_sound_row(steps, jumps):
    row, at = folded(steps)
    for jump in jumps:
        at = max(at + jump, 0)
        step(row, at)
        assert abs(row.hour - at // HOUR) <= HOURS_OF_DAY
        assert all(0 <= level <= MAX_LEVEL for level in (row.level_slow, row.level_fast, row.level_denied))
        assert all(0 <= share <= MILLION for share in (row.trust, row.novelty, row.errors))
        assert pack_row(row.copy()) == pack_row(row)


def test_a_clock_that_is_minutes_behind_neither_drains_nor_goes_back():
    row = ready_row()
    step(row, START + HOUR)
    level = row.level_slow
    step(row, START)
    assert (row.hour, row.level_at, row.level_slow) == (START // HOUR + 1, START + HOUR, level + LEVEL_UNIT)


def test_a_caller_of_a_clock_that_was_days_ahead_starts_again():
    row = ready_row()
    step(row, START + 3 * DAY)
    assert not step(row, START).ready
    assert (row.hour, row.level_at, row.runs) == (START // HOUR, START, 0)


@pytest.mark.parametrize(("hours", "forgotten"), [(0, False), (1, True)])
def test_a_caller_that_is_absent_for_longer_than_is_learned_is_forgotten(hours, forgotten):
    row = ready_row()
    row.serial, row.trust = 7, 900_000
    advance(row, START + SETTINGS.learn_days * DAY + hours * HOUR, SETTINGS)
    assert (row.runs == 0, row.seen == {}, row.trust == NEW_TRUST) == (forgotten,) * 3
    assert row.serial == 7


def test_days_without_requests_are_not_active():
    row = BehaviorRow(START)
    for day in (0, 2, 3):
        step(row, START + day * DAY)
    assert row.days == 0b1011


# ── The pace and the levels ───────────────────────────────────────────────────────────────────


def test_the_first_day_sets_the_pace_of_an_hour_and_another_day_moves_it_by_an_eighth():
    row = BehaviorRow(START)
    for count, pace in ((8, 8 * 16), (16, 9 * 16), (9, 9 * 16), (1, 8 * 16)):
        row.hour_count = count
        end_hour(row)
        assert row.paces[0] == pace


def test_a_pace_falls_to_nothing():
    row = BehaviorRow(START)
    row.paces[0] = 1_000
    for _ in range(100):
        end_hour(row)
    assert row.paces[0] == 0


@pytest.mark.parametrize(("count", "pace"), [(0, 320), (10, 320), (36, 328), (1_000, 330)])
def test_an_hour_with_an_alarm_never_lowers_the_pace_and_hardly_raises_it(count, pace):
    row = BehaviorRow(START)
    row.paces[0], row.hour_count, row.hour_alarm = 320, count, True
    end_hour(row)
    assert row.paces[0] == pace


def test_the_pace_is_the_highest_of_three_hours():
    row = BehaviorRow(START)
    for hour, pace in ((23, 900), (0, 500), (1, 700), (2, 10_000)):
        row.paces[hour] = pace
    set_limits(row, SETTINGS)
    assert row.pace == 900
    row.hour += 10
    set_limits(row, SETTINGS)
    assert row.pace == LEAST_PACE


def test_levels_fall_at_two_and_ten_times_the_pace():
    row = ready_row()
    for _ in range(10):
        step(row, START)
    assert (row.level_slow, row.level_fast) == (10 * LEVEL_UNIT, 10 * LEVEL_UNIT)
    found = read_behavior(
        row, READY_CLASS, RequestTags(A), START + 6 * MINUTE, SETTINGS
    )  # usually one request in that time
    assert (found.level_slow, found.level_fast) == (
        (11 - SLOW_FACTOR) * LEVEL_UNIT,
        max(11 - FAST_FACTOR, 1) * LEVEL_UNIT,
    )


@pytest.mark.parametrize(
    ("margin", "usual"),
    [(3, 23), (2, 15), (1.125, 11), (20, 80)],  # 4 × 2.5 ** ¾ × 3, × 2; at least 9/8 × 10, at most 8 × 10
)
def test_a_level_above_its_base_times_the_margin_is_a_burst(margin, usual):
    row, units = ready_row(), int(margin * 1_024)
    model = ClassModel("i", "g", 1_000, 10, frozenset({B}), units, units, 1_000, declared=True)
    assert [step(row, START, model=model).burst for _ in range(usual + 1)] == [False] * usual + [True]


def test_a_day_like_the_days_before_never_exceeds_the_margin_that_equals_its_ratio():
    for level in range(LEAST_PEAK, 2_000):
        ratio = -(-level * 1_024 // base_of(level))
        assert level * 1_024 <= base_of(level) * ratio


def test_the_base_is_the_ceiling_at_four_requests_and_grows_less():
    assert base_of(LEAST_PEAK) == LEAST_PEAK
    assert base_of(2**8 * LEAST_PEAK) == 2**6 * LEAST_PEAK
    assert base_of(MAX_COUNT) < MAX_COUNT // 64
    bases = [base_of(ceiling) for ceiling in range(LEAST_PEAK, 4_096)]
    assert bases == sorted(bases)


def test_a_burst_needs_margins():
    row = ready_row()
    plain = ClassModel("i", "g", 1_000, 10)
    assert not any(step(row, START, model=plain).burst for _ in range(100))


@given(st.lists(st.tuples(st.integers(0, MINUTE), st.sampled_from([ALLOWED, DENIED, HELD])), max_size=90))
def test_requests_that_are_not_allowed_raise_only_their_own_bucket(steps):
    row, at = ready_row(), START
    for gap, outcome in steps:
        at += gap
        step(row, at, outcome=outcome)
    other, at = ready_row(), START
    for gap, outcome in steps:
        at += gap
        if outcome == ALLOWED:
            step(other, at)
    drained = (row.level_at - other.level_at) * row.pace
    assert row.level_slow == max(other.level_slow - SLOW_FACTOR * drained, 0)
    assert (row.peaks, row.runs, row.days) == (other.peaks, other.runs, other.days)


def test_requests_that_are_not_allowed_make_a_burst():
    row = ready_row()
    assert [step(row, START, outcome=DENIED).burst for _ in range(12)] == [False] * 11 + [True]
    assert (row.level_slow, row.level_denied) == (0, 12 * LEVEL_UNIT)


@pytest.mark.parametrize("outcome", [ALLOWED, DENIED])
def test_a_burst_ends_within_hours_of_a_flood(outcome):
    row = ready_row()
    for _ in range(10_000):
        step(row, START, outcome=outcome)
    assert step(row, START + 3 * HOUR).burst
    assert not step(row, START + 6 * HOUR).burst


def test_levels_stay_exact_however_many_requests_come_at_once():
    row = ready_row()
    row.level_slow = row.level_fast = row.level_denied = MAX_LEVEL
    for outcome in (ALLOWED, DENIED, ALLOWED):
        found = step(row, START, outcome=outcome)
        assert found.burst
        assert max(found.level_slow, found.level_fast, found.level_denied) <= MAX_LEVEL
    assert float(row.level_slow) == row.level_slow
    assert pack_row(row.copy()) == pack_row(row)


def test_ceilings_are_the_highest_peaks_of_the_days_before():
    row = BehaviorRow(START)
    day = START // DAY
    for ago, peak in ((0, 9_999), (1, 100), (SETTINGS.learn_days, 200), (SETTINGS.learn_days + 1, 8_888)):
        place = 2 * ((day - ago) % DAYS_KEPT)
        row.peaks[place], row.peaks[place + 1] = peak, peak + 1
    set_limits(row, SETTINGS)
    assert (row.ceiling_slow, row.ceiling_fast) == (200, 201)


def test_a_profile_that_learns_longer_than_days_are_kept_does_not_read_today():
    row = BehaviorRow(START)
    row.peaks[2 * (START // DAY % DAYS_KEPT)] = 9_999
    set_limits(row, ProfileSettings(learn_days=90))
    assert row.ceiling_slow == LEAST_PEAK


@pytest.mark.parametrize(
    ("level", "clamped", "learned"),
    [(80, False, 80), (100, True, 100), (140, False, 105), (200, False, 112), (9_000, False, 112), (9_000, True, 100)],
)
def test_a_day_raises_a_ceiling_by_an_eighth_at_most_and_not_under_a_clamp(level, clamped, learned):
    assert learned_part(level, 100, clamped) == learned


def test_the_levels_of_a_new_caller_are_learned_in_full():
    row = BehaviorRow(START)
    for _ in range(50):
        step(row, START, clamped=True)
    assert row.peaks[2 * (START // DAY % DAYS_KEPT)] == 50 * 16


def test_a_day_is_compared_with_the_days_before_it():
    row = ready_row()
    for _ in range(20):
        step(row, START)
    advance(row, START + DAY, SETTINGS)
    place = 2 * (START // DAY % DAYS_KEPT)
    assert list(row.ratios[place : place + 2]) == [-(-20 * 16 * 1_024 // row.base_slow)] * 2
    assert row.base_slow == base_of(10 * 16)
    assert (row.top_slow, row.top_fast) == (0, 0)


def test_a_day_of_a_caller_that_is_not_ready_teaches_no_margin():
    row = BehaviorRow(START)
    step(row, START)
    advance(row, START + DAY, SETTINGS)
    assert set(row.ratios) == {0}


# ── Trust ─────────────────────────────────────────────────────────────────────────────────────


def hour_of(row, hour, requests=5, outcome=ALLOWED):
    for number in range(requests):
        step(row, START + hour * HOUR + number * MINUTE, outcome=outcome)
    advance(row, START + (hour + 1) * HOUR, SETTINGS)


@pytest.mark.parametrize(
    ("requests", "outcome", "gains"), [(5, ALLOWED, True), (4, ALLOWED, False), (50, DENIED, False)]
)
def test_a_clean_hour_with_five_allowed_requests_gains_trust(requests, outcome, gains):
    row = BehaviorRow(START)
    hour_of(row, 0, requests, outcome)
    assert row.trust == (506_000 if gains else 500_000)  # T + 0.012 (1 − T)


def test_trust_is_gained_in_eight_hours_of_a_day_at_most():
    row = BehaviorRow(START)
    trusts = []
    for hour in range(48):
        hour_of(row, hour)
        trusts.append(row.trust)
    assert [trusts[hour] > ([NEW_TRUST, *trusts])[hour] for hour in range(48)] == ([True] * 8 + [False] * 16) * 2


def test_trust_passes_nine_tenths_on_the_seventeenth_day_and_never_reaches_one():
    row = BehaviorRow(START)
    passed = None
    for day in range(400):
        for hour in range(8):
            hour_of(row, 24 * day + hour)
        passed = passed or (day + 1 if row.trust > 900_000 else None)
    assert passed == 17
    assert row.trust < MILLION


def test_an_alarm_leaves_three_tenths_of_trust_once_an_hour():
    row = ready_row()
    row.trust = 900_000
    step(row, START, endpoint=1)
    step(row, START, endpoint=2)
    assert row.trust == 270_000
    step(row, START + HOUR, endpoint=3)
    assert row.trust == 81_000


def test_an_hour_with_an_alarm_gains_no_trust():
    row = ready_row()
    step(row, START, endpoint=1)
    hour_of(row, 0)
    assert row.trust == 150_000


# ── Novelty and errors ────────────────────────────────────────────────────────────────────────


def test_shares_weigh_a_request_by_a_thirty_second_part():
    assert mix(0, hit=True) == MILLION // 32
    assert mix(MILLION, hit=False) == MILLION - MILLION // 32


@given(st.lists(st.booleans(), max_size=500), st.integers(0, MILLION))
def test_shares_stay_between_nothing_and_one(hits, share):
    for hit in hits:
        share = mix(share, hit)
        assert 0 <= share <= MILLION


def test_a_share_falls_to_nothing():
    share = MILLION
    for _ in range(2_000):
        share = mix(share, hit=False)
    assert share == 0


@pytest.mark.parametrize(("endpoint", "is_new"), [(A, False), (B, False), (33, True)])
def test_an_endpoint_is_new_if_neither_the_caller_nor_its_class_used_it(endpoint, is_new):
    row = ready_row()
    found = step(row, START, endpoint)
    assert found.is_new is is_new
    assert found.novelty == (31 if is_new else 0)  # this request included
    assert row.novelty == (MILLION // 32 if is_new else 0)
    assert not step(row, START, endpoint).is_new


def test_a_denied_request_makes_an_endpoint_no_habit():
    row = ready_row()
    step(row, START, 33, outcome=DENIED)
    assert step(row, START, 33, outcome=DENIED).is_new


def test_a_new_caller_has_no_novelty():
    row = BehaviorRow(START)
    for endpoint in range(50):
        step(row, START, endpoint)
    assert row.novelty == 0


def test_the_endpoint_not_used_for_longest_makes_room():
    row = BehaviorRow(START)
    for endpoint in range(MAX_SEEN + 1):
        step(row, START + (endpoint // 10) * DAY, endpoint)
    assert sorted(row.seen) == list(range(1, MAX_SEEN + 1))


def test_denials_and_failures_are_errors_and_throttled_requests_are_none():
    row = ready_row()
    for outcome in (ALLOWED, HELD):
        step(row, START, outcome=outcome)
    assert row.errors == 0
    step(row, START, outcome=DENIED)
    assert row.errors == MILLION // 32
    apply_failure(row)
    assert row.errors == 2 * (MILLION // 32)
    for _ in range(100):
        apply_failure(row)
    assert row.errors == MILLION
    assert read_behavior(row, READY_CLASS, RequestTags(A), START, SETTINGS).error_rate == 1_000


# ── Runs, readiness, facts ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("requests", "runs"),
    [
        ([(0, 1), (1, 1), (5, 1)], 0),  # minutes, and the tag of the run
        ([(0, 1), (1, 2)], 1),
        ([(0, 1), (6, 1), (12, 1)], 2),
        ([(0, NO_RUN), (5, NO_RUN), (11, NO_RUN)], 1),
    ],
)
def test_a_run_ends_with_another_key_or_a_pause(requests, runs):
    row = BehaviorRow(START)
    for minute, run in requests:
        step(row, START + minute * MINUTE, run=run)
    assert row.runs == runs


@pytest.mark.parametrize(("runs", "days", "ready"), [(20, 7, True), (19, 7, False), (20, 6, False)])
def test_a_caller_is_ready_by_its_own_runs_and_days(runs, days, ready):
    row = ready_row()
    row.runs, row.days = runs, (1 << days) - 1
    assert is_ready(row, SETTINGS) is ready


def test_days_before_those_that_are_learned_do_not_make_ready():
    row = ready_row()
    row.days = ((1 << 7) - 1) << SETTINGS.learn_days
    assert not is_ready(row, SETTINGS)


@pytest.mark.parametrize("model", [NO_CLASS, ClassModel("i", "g", 199, 10), ClassModel("i", "g", 1_000, 2)])
def test_facts_are_neutral_until_the_class_is_ready(model):
    row = ready_row()
    row.trust, row.novelty, row.errors = 1, 2, 3
    found = read_behavior(row, model, RequestTags(33), START, SETTINGS)
    assert found.values() == (False, 500, False, 0, 0, 0, True)
    step(row, START, 33, model=model)
    assert row.trust == 1  # no alarm


def test_facts_have_thousandths():
    found = CallerFacts(True, 987, True, 31, 0, True, 1, 2, 3, deviation=991).to_facts()
    assert found == {
        "ready": True, "trust": Decimal("0.987"), "burst": True, "novelty": Decimal("0.031"), "error_rate": Decimal(0),
        "deviation": Decimal("0.991"), "sequence": True, "step": 0,
    }  # fmt: skip


def test_a_caller_becomes_ready_by_work():
    callers = Callers(class_model())
    callers.work(caller(), days=6)
    assert not callers.read(caller()).ready
    callers.work(caller(), days=1)
    assert callers.read(caller()).ready


@given(events)
def test_levels_are_whole_numbers_of_a_request(steps):
    row, _ = folded(steps)
    assert all(type(value) is int for value in (row.level_slow, row.level_fast, row.trust, row.novelty, *row.peaks))
    assert LEVEL_UNIT == 16 * PEAK_UNIT
