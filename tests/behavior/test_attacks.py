"""The attacks of the design on learned behavior, by their numbers there, each with the outcome that it must have.

Those on clusters (13-16, 18) are in test_cluster_attacks and lockstep/test_lockstep_attacks, those on sequences and
shapes (25, 26) in test_sequences and test_new_shapes. 30 is in test_model and test_folder, and the outage of 31 in
stores/test_behavior_failing.
"""

from functools import lru_cache
from random import Random

import pytest

from policyengine.behavior.events import ALLOWED, DENIED, HELD, Caller, Tagger
from policyengine.behavior.fold import GAINS_PER_DAY, ProfileSettings
from policyengine.behavior.learn import MAX_MARGIN, WEIGHT_UNIT, CallerDay, learn_margins, learn_model
from policyengine.behavior.row import DAYS_KEPT, HOUR, MAX_SEEN, NEW_TRUST, ROW_BYTES, BehaviorRow, pack_row
from policyengine.behavior.state import CallerRow
from tests.behavior.callers import (
    DAY,
    GROUP,
    ISSUER,
    MINUTE,
    SETTINGS,
    START,
    USUAL,
    AdaptiveLimiter,
    Callers,
    Pace,
    caller,
    class_model,
    jittered,
)
from tests.depth import examples, scaled

ME = caller()
RAISE = 3  # raise x3 at most 120/1m


@pytest.fixture
def trusted():
    """A caller that worked for seventeen days: eight hours a day, six requests an hour."""
    callers = Callers(class_model())
    callers.work(ME, days=17)
    assert callers.read(ME).trust > 900
    return callers


def flood(callers, minutes, per_minute, limiter=None):
    """Attempt requests at a pace; return what the adaptive and the static limiter admit, and the milliseconds until the
    adaptive one acts."""
    adaptive, static, began, noticed = limiter or AdaptiveLimiter(), AdaptiveLimiter(), callers.now, None
    before = adaptive.admitted
    for _ in callers.steps(int(minutes * per_minute), per_minute):
        adaptive.ask(callers, ME)
        static.admit(callers.now, static.BASE)
        if noticed is None and callers.now < adaptive.until:
            noticed = callers.now - began
    return adaptive.admitted - before, static.admitted, noticed


# ── Patience ──────────────────────────────────────────────────────────────────────────────────


@lru_cache
def workers_of(days):
    """Return a caller that worked for some days."""
    callers = Callers(class_model())
    callers.work(ME, days)
    return callers


def copy_of_workers(days):
    """Return another state of the same caller, whose days are simulated once."""
    known, copied = workers_of(days), Callers(class_model())
    copied.state.rows = {each: CallerRow(one.group, one.row.copy()) for each, one in known.state.rows.items()}
    copied.now = known.now
    return copied


@scaled
@pytest.mark.parametrize("days", [17, 365], ids=["attack 1: 17 days", "attack 2: a year"])
@pytest.mark.parametrize("per_minute", [100, 1_000])
def test_patience_buys_no_more_than_the_bound(days, per_minute):
    minutes = examples(15, 60)  # more than the clamp lasts
    admitted, static, noticed = flood(copy_of_workers(days), minutes, per_minute)
    assert noticed < MINUTE
    base, clamp = AdaptiveLimiter.BASE, AdaptiveLimiter.CLAMPED
    bound = (RAISE - 1) * (base.burst + base.rate * noticed / MINUTE) + clamp.burst + clamp.rate * minutes
    assert admitted - static <= bound
    assert admitted < static / 4


@scaled
def test_attack_3_a_cycle_of_trust_gains_a_thousandth_of_the_quota_of_a_year():
    callers, limiter = Callers(class_model()), AdaptiveLimiter()
    gained, cycles, days = 0, 0, examples(180, 365)
    while callers.now < START + days * DAY:
        callers.work(ME, days=1)
        if callers.read(ME).trust > 900:
            admitted, static, _ = flood(callers, 10, 300, limiter)
            gained, cycles = gained + max(admitted - static, 0), cycles + 1
    assert cycles > 5
    assert gained <= AdaptiveLimiter.BASE.rate * 60 * 24 * days / 1_000


class NarrowLimiter(AdaptiveLimiter):
    BASE, RAISED, CLAMPED, NOT_READY = Pace(4, 8), Pace(12, 12), Pace(1, 1), Pace(3, 3)


def frog(growth, days, margin=1.5, start=8):
    """Grow every day; yield the most admitted requests of an hour, and whether there was a burst."""
    callers, limiter = Callers(class_model(margin)), NarrowLimiter()
    callers.work(ME, days=14, rate=start)
    for day in range(days):
        rate, most, burst, began = start * growth**day, 0, False, callers.now
        for hour in range(4):
            callers.now, before = began + hour * HOUR, limiter.admitted
            for _ in callers.steps(int(rate), rate / 60):
                burst |= limiter.ask(callers, ME).burst
            most = max(most, limiter.admitted - before)
        callers.now = began + DAY
        yield most, burst


def test_attack_4_a_frog_of_ten_percent_a_day_is_never_above_at_most():
    found = [most for most, _ in frog(1.1, 36, start=30)]
    assert NarrowLimiter.BASE.rate * 60 < max(found) <= NarrowLimiter.RAISED.rate * 60 + NarrowLimiter.RAISED.burst


@pytest.mark.parametrize("margin", [1.125, 1.5, 2, 3])
def test_attack_5_a_frog_of_a_quarter_a_day_is_a_burst(margin):
    found = [burst for _, burst in frog(1.25, 12, margin)]
    assert any(found[:9])
    assert all(found[9:])


# ── Trust ─────────────────────────────────────────────────────────────────────────────────────


def test_attack_6_floods_pump_trust_in_eight_hours_of_a_day_at_most():
    callers = Callers(class_model(margin=8))
    for day in range(3):
        gains, trust = 0, callers.row(ME).trust
        for hour in range(24):
            callers.now = START + day * DAY + hour * HOUR
            for _ in range(200):
                callers.send(ME)
            now = callers.now = callers.now + HOUR
            gains += callers.row(ME).trust > trust
            trust = callers.row(ME).trust
        assert now == START + (day + 1) * DAY
        assert gains <= GAINS_PER_DAY


@pytest.mark.parametrize("outcome", [DENIED, HELD])
def test_attack_7_denied_calls_bring_nothing(outcome):
    callers = Callers(class_model())
    for day in range(17):
        for hour in range(8, 16):
            callers.now = START + day * DAY + hour * HOUR
            for _ in range(20):
                callers.send(ME, outcome=outcome)
    row = callers.row(ME)
    assert (row.trust, row.runs, row.days, row.seen) == (NEW_TRUST, 0, 0, {})
    assert (set(row.paces), set(row.peaks)) == ({0}, {0})
    assert not callers.read(ME).ready


def test_attack_7_a_denied_flood_raises_no_ceiling_of_a_ready_caller(trusted):
    before = list(trusted.row(ME).peaks)
    for _ in trusted.steps(500, 1_000):
        trusted.send(ME, outcome=DENIED)
    trusted.send(ME)
    today = 2 * (trusted.now // DAY % DAYS_KEPT)
    assert trusted.row(ME).peaks[today] == 16  # one request
    assert [peak for place, peak in enumerate(trusted.row(ME).peaks) if place // 2 != today // 2] == [
        peak for place, peak in enumerate(before) if place // 2 != today // 2
    ]


def test_attack_7_a_denied_flood_before_readiness_raises_no_ceiling():
    flooded, calm = Callers(class_model()), Callers(class_model())
    for _ in range(10):
        for _ in range(200):
            flooded.send(ME, outcome=DENIED)
        flooded.work(ME, days=1)
        calm.work(ME, days=1)
    assert flooded.row(ME).peaks == calm.row(ME).peaks


# ── Probing ───────────────────────────────────────────────────────────────────────────────────


def test_attack_8_denied_probing_tightens_by_errors_novelty_and_bursts(trusted):
    for number in range(30):
        trusted.now += MINUTE
        found = trusted.send(ME, f"GET /admin/{number}", outcome=DENIED)
    assert (found.error_rate > 500, found.novelty > 300) == (True, True)
    assert found.burst
    assert found.trust <= 300
    assert trusted.row(ME).level_slow == 0


# ── The class ─────────────────────────────────────────────────────────────────────────────────


def days_of_class(callers, random, poisoners=0, days=13):
    """Return the learned days of callers; those of poisoners are as high as a row can hold."""
    found = []
    for number in range(callers):
        for _ in range(days):
            ratio = 65_535 if number < poisoners else int(1_024 * (0.5 + random.random()))
            found.append(CallerDay(ratio, ratio, WEIGHT_UNIT, number))
    return found


def seen_within(margin, requests=200):
    """Return whether requests at twenty times the pace of a steady caller become a burst."""
    callers = Callers(class_model(margin))
    callers.work(ME, days=14)
    return any(callers.send(ME).burst for _ in callers.steps(requests, 2))


@pytest.mark.parametrize("callers", [3, 10, 40, 200])
def test_attack_9_who_poisons_a_class_alone_hides_no_burst(callers):
    found = learn_margins(days_of_class(callers, Random(1), poisoners=1), 100)
    assert max(found.slow, found.fast) <= MAX_MARGIN
    assert seen_within(found.slow / 1_024)
    if callers == 200:  # enough days for the declared rate
        clean = learn_margins(days_of_class(callers, Random(1)), 100)
        assert found.slow <= clean.slow * 1.05


def test_attack_10_two_that_collude_stay_below_the_highest_margin_and_are_seen_in_the_number_of_days():
    found = learn_margins(days_of_class(40, Random(1), poisoners=2), 100)
    assert max(found.slow, found.fast) <= MAX_MARGIN
    assert found.days == 40 * 13
    assert seen_within(found.slow / 1_024)


def teacher(endpoint, runs=100, at=START):
    row = BehaviorRow(at)
    row.runs, row.days, row.seen = runs, (1 << 14) - 1, {endpoint: at // DAY}
    return row


def test_attack_11_only_ready_principals_of_one_issuer_teach():
    honest = {caller(number): (GROUP, teacher(1)) for number in range(5)}
    foreign = {Caller("https://evil.example", f"agent-{number}"): (GROUP, teacher(66)) for number in range(50)}
    fresh = {caller(100 + number): (GROUP, teacher(66, runs=19)) for number in range(50)}
    versions = {caller(3, version=str(number)): (GROUP, teacher(66)) for number in range(50)}
    rows = honest | foreign | fresh | versions
    found = learn_model(((who, *each) for who, each in rows.items()), lambda _: SETTINGS, START, 1, "")
    assert found.class_of((ISSUER, GROUP)).seen == {1}


def test_attack_12_mimics_change_no_row_and_no_fact_of_a_resident(trusted):
    alone, victim = Callers(class_model()), trusted.row(ME)
    alone.work(ME, days=17)
    for number in range(1, 11):
        for _ in range(200):
            trusted.send(caller(number), clamped=True)
    assert pack_row(victim) == pack_row(alone.row(ME))
    assert trusted.read(ME) == alone.read(ME)


def test_attack_12_a_mimic_lowers_no_margin_of_its_class_by_being_calm():
    days = days_of_class(40, Random(1))
    calm = [CallerDay(1_024, 1_024, WEIGHT_UNIT, 99)] * 13
    assert learn_margins([*days, *calm], 100).slow >= learn_margins(days, 100).slow * 0.98


def test_attack_17_callers_at_one_cron_minute_make_no_burst():
    callers, random = Callers(), Random(4)
    who = [caller(number) for number in range(5)]
    bursts = readings = 0
    for day in range(24):
        for hour in (2, 8, 14, 20):
            callers.now = START + day * DAY + hour * HOUR + 7 * MINUTE
            for _ in range(10):
                callers.now += random.randrange(400)
                for one in who:
                    found = callers.send(one, run=day * 24 + hour + 1)
                    bursts, readings = bursts + found.burst, readings + found.ready
    assert readings > 2_000
    assert bursts == 0


# ── Identity ──────────────────────────────────────────────────────────────────────────────────


def test_attack_19_rotated_keys_are_never_ready_and_stay_clamped():
    callers, limiter = Callers(class_model(endpoints=[USUAL])), AdaptiveLimiter()
    for number in callers.steps(3_000, 100):
        found = limiter.ask(callers, caller(number // 10))
        assert not found.ready
        assert limiter.pace_of(found, callers.now) == AdaptiveLimiter.NOT_READY
    assert limiter.admitted <= 60 + 30 * 30 + 1


def test_attack_19_a_clamp_until_readiness_does_not_keep_a_caller_from_it():
    callers, limiter = Callers(class_model()), AdaptiveLimiter()
    for day in range(10):
        for hour in range(8, 16):
            for minute in range(0, 60, 6):
                callers.now = START + day * DAY + hour * HOUR + minute * MINUTE
                found = limiter.ask(callers, ME)
    assert found.ready
    assert not found.burst
    assert max(callers.row(ME).paces) == 160


@pytest.mark.parametrize("trust", [20_000, 950_000])
def test_attack_20_a_new_version_is_a_new_row_without_a_raise(trust):
    callers = Callers(class_model())
    callers.work(caller(version="a"), days=17)
    callers.row(caller(version="a")).trust = trust
    new, limiter = caller(version="b"), AdaptiveLimiter()
    found = limiter.ask(callers, new)
    assert not found.ready
    assert limiter.pace_of(found, callers.now) == AdaptiveLimiter.NOT_READY
    assert callers.row(new).trust <= min(trust, NEW_TRUST)
    assert callers.row(new).runs == 0


def test_attack_20_a_new_version_leaves_no_level_behind():
    callers = Callers(class_model())
    callers.work(caller(version="a"), days=9)
    for _ in range(100):
        callers.send(caller(version="a"))
    assert callers.send(caller(version="b")).level_slow > callers.row(caller(version="a")).level_slow


def test_attack_21_a_change_of_version_that_is_not_attested_goes_on_in_the_same_row(trusted):
    found = [trusted.send(ME, f"POST /v2/{number}") for number in range(20)]
    assert found[0].ready
    assert found[-1].novelty > 300
    assert list(trusted.state.rows) == [ME]


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def test_attack_22_one_unseen_endpoint_is_one_alarm(trusted):
    trust = trusted.row(ME).trust
    found = [trusted.send(ME, "GET /new") for _ in range(5)]
    assert [one.is_new for one in found] == [True, False, False, False, False]
    assert trusted.row(ME).trust == 3 * trust // 10
    assert found[-1].novelty < 50


def test_attack_23_a_flood_of_endpoints_is_bounded_and_seen(trusted):
    found = [trusted.send(ME, f"GET /{number}") for number in range(5_000)]
    row = trusted.row(ME)
    assert len(row.seen) == MAX_SEEN
    assert len(pack_row(row)) < ROW_BYTES
    assert found[20].novelty > 300
    assert row.trust < 300_000


def test_attack_24_equal_tags_cannot_be_searched_for_without_the_key():
    texts = [f"GET /{number}" for number in range(2_000)]
    ours, theirs = Tagger(b"ours"), Tagger(b"theirs")
    assert not any(ours.tag(text) == theirs.tag(text) for text in texts)
    near = [text for text in texts if (theirs.tag(text) ^ theirs.tag(USUAL)) % 128 == 0]
    assert near
    assert not any((ours.tag(text) ^ ours.tag(USUAL)) % 128 == 0 for text in near)


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


def test_attack_27_a_spike_in_a_quiet_hour_below_the_peak_of_the_day_is_not_found():
    """This is the documented limit: ceilings are of the day, not of the hour."""
    callers, random = Callers(class_model(margin=2)), Random(2)
    for day in range(14):
        for at in jittered(random, 60, hours=range(8, 10)):
            callers.now = START + day * DAY + at
            callers.send(ME)
    callers.now = START + 14 * DAY + 3 * HOUR
    peak = max(callers.row(ME).peaks) // 16
    assert not any(callers.send(ME).burst for _ in range(peak))
    assert any(callers.send(ME).burst for _ in range(peak))


def test_attack_28_disorder_never_lowers_a_level_nor_the_time(trusted):
    random, began = Random(3), trusted.now
    level, at = 0, trusted.row(ME).level_at
    for _ in range(20):
        trusted.now = began - random.randrange(MINUTE)
        trusted.send(ME)
        row = trusted.row(ME)
        assert row.level_at >= at
        if row.level_at == at:
            assert row.level_slow > level
        level, at = row.level_slow, row.level_at


def test_attack_29_forged_failures_only_tighten(trusted):
    before, row = trusted.read(ME), trusted.row(ME)
    for _ in range(100):
        trusted.state.fold_failure(ME)
    after = trusted.read(ME)
    assert after.error_rate == 1_000
    assert (after.ready, after.trust, after.burst, after.novelty) == before.values()[:4]
    assert row.runs == trusted.row(ME).runs


def test_what_is_known_of_a_class_that_is_lost_is_neutral(trusted):
    lost = Callers(settings=ProfileSettings())
    lost.state.rows, lost.now = trusted.state.rows, trusted.now
    assert lost.read(ME).values() == (False, 500, False, 0, 0, 0, True)
    assert AdaptiveLimiter().pace_of(lost.read(ME), lost.now) == AdaptiveLimiter.NOT_READY


def test_a_frog_that_hides_behind_a_clamp_gets_no_higher_ceiling(trusted):
    before = max(trusted.row(ME).peaks)
    for _ in trusted.steps(2_000, 500):
        trusted.send(ME, outcome=ALLOWED, clamped=True)
    assert max(trusted.row(ME).peaks) == max(before, 4 * 16)
