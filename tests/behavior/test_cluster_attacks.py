"""Attacks on groups of callers, and the outcome that each must have: nobody gets another caller throttled."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import timedelta
from functools import lru_cache

import pytest

from policyengine.behavior.events import Caller
from policyengine.behavior.lockstep.pools import find_pools
from policyengine.behavior.lockstep.search_process import PoolSearch
from policyengine.behavior.row import DAYS_KEPT, BehaviorRow
from policyengine.behavior.state import DAY, BehaviorState, CallerRow
from policyengine.behavior.tracker import BehaviorTracker
from tests.behavior.keys_of_one_clock import BEGIN, CALLS, POLICY, Clockwork

RATE, FLOOR = 200, 2  # a third of those of the policy, so that a third of the requests reaches them
SMALL = POLICY.replace("600/1m floor 6/1m", f"{RATE}/1m floor {FLOOR}/1m")
KEYS = [f"key-{number}" for number in range(30)]
FIRST = int(BEGIN.timestamp()) // 86_400
NOON = BEGIN + timedelta(days=1, hours=12)


@pytest.fixture(autouse=True)
def _search_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no process for each of forty searches: `test_cluster_decisions.py` tests that process."""
    monkeypatch.setattr(PoolSearch, "find", lambda _, columns, ready: find_pools(columns, ready))


def make_resident(clockwork: Clockwork, agent: str, issuer: str = "acme") -> None:
    """Let a caller be ready since the day before."""
    row = BehaviorRow((FIRST - 1) * DAY)
    row.serial, row.runs, row.days, row.ready_day = 100, 40, (1 << DAYS_KEPT) - 1, FIRST - 1
    state = clockwork.engine.behavior.state
    state.rows = {**state.rows, Caller(issuer, agent): CallerRow('agent "*"', row)}


def pooled(clockwork: Clockwork) -> set[str]:
    """Return the names of the agents of acme that are in a group."""
    state = clockwork.engine.behavior.state
    agents = {caller.agent for caller in state.rows if caller.issuer == "acme"}
    return {agent for agent in agents if state.model.group_of(state.members.of("acme", agent)) is not None}


def allowed(clockwork: Clockwork, agent: str, at=NOON, count: int = RATE + 30, **more: object) -> int:
    """Return how many of the requests of an agent at one time are allowed."""
    return sum(clockwork.decide(agent, at, **more).allowed for _ in range(count))


def ring_of(tenants: int, keys: Sequence[str] = KEYS) -> Clockwork:
    """Return a day of keys that one clock starts, and of honest tenants with the same workflow."""
    clockwork = Clockwork(SMALL)
    clockwork.begin_day(0)
    clockwork.run_days([0], keys, [f"tenant-{number}" for number in range(tenants)])
    clockwork.begin_day(1)
    return clockwork


known_ring = lru_cache(ring_of)


def copy_of_ring(tenants: int, keys: Sequence[str] = KEYS) -> Clockwork:
    """Return another engine that learned the same day, which is simulated once."""
    known = known_ring(tenants, tuple(keys))
    learned = known.engine.behavior.state
    state = BehaviorState(learned.tagger, model=learned.model)
    state.rows = {caller: CallerRow(one.group, one.row.copy()) for caller, one in learned.rows.items()}
    state.requests = deepcopy(learned.requests)
    copied = Clockwork(SMALL, behavior=BehaviorTracker(state))
    copied.now = known.now
    copied.random.setstate(known.random.getstate())
    return copied


@pytest.fixture
def ring() -> Clockwork:
    return copy_of_ring(tenants=3)


@pytest.fixture
def small_ring() -> Clockwork:
    return copy_of_ring(tenants=3, keys=KEYS[:12])


def test_thirty_keys_with_one_clock_share_limits_and_thirty_honest_tenants_do_not():
    ring = ring_of(tenants=30)
    assert pooled(ring) == set(KEYS)
    assert allowed(ring, "tenant-1") == allowed(ring, "tenant-2") == RATE
    # All that the group has at this time, with a floor of 2/1m each; alone, each key would have more than 7.
    assert allowed(ring, KEYS[0]) + sum(allowed(ring, key, count=7) for key in KEYS[1:]) == RATE


def test_a_group_has_the_rate_only_once_whatever_each_key_sends(ring):
    first = allowed(ring, "key-0")
    assert first == RATE - 29 * FLOOR  # the other members keep their floors
    assert [allowed(ring, key, count=4) for key in KEYS[1:]] == [FLOOR] * 29


def test_a_member_that_the_others_starve_keeps_its_floor_for_ever(ring):
    for minute in range(6):
        at = NOON + timedelta(minutes=minute)
        assert allowed(ring, "key-0", at) >= FLOOR
        assert allowed(ring, "key-1", at, 7) == FLOOR
    full = ring.decide("key-1", at)
    assert full.reasons[0].message == "`200/1m shared by 30 callers`: again in 429ms"


def test_a_group_that_grows_does_not_take_the_floor_of_a_rival_away():
    """The keys follow the clock of a rival that is new, too."""
    clockwork = Clockwork(SMALL)
    clockwork.begin_day(0)
    many = [f"key-{number}" for number in range(25)]
    clockwork.run_days([0], [*many, "rival-1", "rival-2", "rival-3"])
    clockwork.begin_day(1)
    assert pooled(clockwork) == {*many, "rival-1", "rival-2", "rival-3"}
    for key in many:
        allowed(clockwork, key, count=10)
    assert allowed(clockwork, "rival-1", count=10) == FLOOR


def test_a_resident_that_others_mimic_keeps_its_own_limit():
    clockwork = Clockwork(SMALL)
    make_resident(clockwork, "victim")
    clockwork.begin_day(0)
    clockwork.run_days([0], ["victim", *KEYS[:10]])
    clockwork.begin_day(1)
    assert pooled(clockwork) == set(KEYS[:10])
    for key in KEYS[:10]:
        allowed(clockwork, key, count=35)
    assert allowed(clockwork, "victim") == RATE


def test_a_newcomer_that_others_mimic_never_falls_below_the_floor():
    clockwork = Clockwork(SMALL)
    clockwork.begin_day(0)
    clockwork.run_days([0], ["victim", *KEYS[:10]])
    clockwork.begin_day(1)
    assert "victim" in pooled(clockwork)
    for key in KEYS[:10]:
        allowed(clockwork, key, count=35)
    assert allowed(clockwork, "victim", count=7) == FLOOR


def test_a_key_does_not_leave_its_group_by_becoming_ready(small_ring):
    for number in (1, 2, 3):
        small_ring.run_days([number], KEYS[:12])
        small_ring.begin_day(number + 1)
    for key in KEYS[:6]:
        make_resident(small_ring, key)
    small_ring.run_days([4], KEYS[:12])
    small_ring.begin_day(5)
    assert pooled(small_ring) == set(KEYS[:12])


def test_a_key_does_not_leave_its_group_by_silence(small_ring):
    for number in (1, 2):
        small_ring.run_days([number], KEYS[:12])
        small_ring.begin_day(number + 1)
    for quiet in range(3, 14):
        small_ring.run_days([quiet], KEYS[4:8])
        small_ring.begin_day(quiet + 1)
        assert pooled(small_ring) == set(KEYS[:12])


@pytest.mark.parametrize("member", ["instance", "model"])
def test_a_key_does_not_leave_its_group_by_another_instance_or_model(ring, member):
    assert allowed(ring, "key-0", **{member: "other"}) == RATE - 29 * FLOOR
    assert allowed(ring, "key-0", **{member: "another"}) == 0


def test_keys_of_instances_that_change_with_each_run_are_found():
    clockwork = Clockwork(SMALL)
    clockwork.begin_day(0)
    for number, at in enumerate(clockwork.times(0, 15)):
        for key in KEYS[:5]:
            for step, call in enumerate(CALLS):
                clockwork.decide(key, at + timedelta(seconds=step / 2), call, instance=f"i-{number}")
    clockwork.begin_day(1)
    assert pooled(clockwork) == set(KEYS[:5])


def test_keys_of_several_issuers_are_one_group():
    clockwork = Clockwork(SMALL)
    clockwork.begin_day(0)
    for at in clockwork.times(0, 15):
        for number, key in enumerate(KEYS[:6]):
            for step, call in enumerate(CALLS):
                clockwork.decide(key, at + timedelta(seconds=step / 2), call, "partner" if number % 2 else "acme")
    clockwork.begin_day(1)
    assert clockwork.groups() == [6]


def test_a_caller_of_another_issuer_with_the_name_of_a_key_is_not_in_its_group(ring):
    found = ring.decide("key-0", NOON, issuer="partner")
    assert (found.principal.cluster, found.principal.cluster_size) == ("key-0", 1)
    assert allowed(ring, "key-0", issuer="partner", count=RATE - 1) == RATE - 1


def test_callers_of_two_issuers_with_one_name_do_not_share_a_limit():
    clockwork = Clockwork(SMALL)
    assert allowed(clockwork, "bot") == RATE
    assert allowed(clockwork, "bot", issuer="partner") == RATE


def test_no_caller_takes_a_name_that_shares_the_limit_of_a_group_or_of_another_caller(ring):
    group = ring.decide("key-0", NOON).principal.cluster
    assert allowed(ring, "key-0") == RATE - 29 * FLOOR - 1
    for name in (group, f"acme/{group}", "acme/tenant-1", "acme:tenant-1", "/tenant-1"):
        assert allowed(ring, name) == RATE
    assert allowed(ring, "tenant-1") == RATE


def test_two_keys_are_no_group():
    clockwork = Clockwork(SMALL)
    clockwork.begin_day(0)
    clockwork.run_days([0], KEYS[:2], ["tenant-1", "tenant-2"])
    clockwork.begin_day(1)
    assert clockwork.groups() == []


def test_denied_requests_make_nobody_a_member():
    clockwork = Clockwork(SMALL)
    clockwork.begin_day(0)
    for at in clockwork.times(0, 15):
        for key in KEYS[:6]:
            for step in range(3):
                clockwork.decide(key, at + timedelta(seconds=step), ("DELETE", "/orders"))
    clockwork.begin_day(1)
    assert clockwork.groups() == []


def test_a_daily_schedule_makes_a_group_for_two_days_at_most():
    """Honest tenants whose jobs start at the same odd minutes each day look like one clock until the third day."""
    clockwork = Clockwork(SMALL)
    minutes = [at - BEGIN for at in clockwork.times(0)]
    tenants = [f"tenant-{number}" for number in range(5)]
    sizes = []
    for day in range(6):
        clockwork.begin_day(day)
        sizes.append(clockwork.groups())
        for minute in minutes:
            for tenant in tenants:
                at = BEGIN + timedelta(days=day, seconds=clockwork.random.uniform(0, 1)) + minute
                for step, call in enumerate(CALLS):
                    clockwork.decide(tenant, at + timedelta(seconds=step / 2), call)
    assert sizes[-1] == []
