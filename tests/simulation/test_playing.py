"""Playing: what limits make of traffic, and what is counted of it."""

from itertools import pairwise

import pytest

from policyengine.compiler.reads import nanoseconds
from policyengine.simulation import Series, TooManySlotsError, TrafficEvent, TrafficLineError, VirtualClock, simulate
from policyengine.simulation.time_slots import MAX_SLOTS, SLOT_WIDTHS_US
from tests.simulation.playing import MAIL, POLICY, SEARCH, SECOND, START, engine, flow, plan, played


def test_a_rate_admits_its_burst_and_its_pace():
    whole = played(flow("steady", plan(rate=10, seconds=60))).total
    assert whole.allow == 5 + 59
    assert whole.throttle == 600 - 64


def test_a_budget_admits_its_amount():
    found = played(flow("steady", plan(), MAIL))
    assert (found.total.allow, found.total.throttle) == (3, 57)
    assert found.total.rules["mail"].remaining == 0


def test_each_caller_has_a_count_of_its_own():
    assert played(flow("lockstep", plan(callers=20, rate=20, seconds=1), vary="agent.id")).total.throttle == 0


def test_a_limit_counts_what_it_applied_to_and_what_it_stopped():
    line = played(flow("steady", plan(), SEARCH, MAIL)).total.rules["mail"]
    assert (line.asked, line.admitted, line.throttled, line.remaining, line.limit) == (30, 3, 27, 0, 3)


def test_a_limit_of_several_bounds_counts_a_request_once():
    text = POLICY.replace("count <= 3 within 1h", "count <= 3 within 1h  count <= 9 within 1d")
    line = played(flow("steady", plan(seconds=5), MAIL), text).total.rules["mail"]
    assert (line.asked, line.admitted, line.throttled, line.remaining, line.limit) == (5, 3, 2, 0, 3)


def test_what_is_denied_and_what_asks_a_person_is_counted_apart():
    text = POLICY + 'guard "ask" on POST /mail { confirm by role admin }\nentity user { roles: set<string> }\n'
    other = {"request": {"method": "DELETE", "path": "/search"}}
    whole = played([TrafficEvent(START, dict(MAIL)), TrafficEvent(START, other)], text).total
    assert (whole.allow, whole.confirm, whole.deny) == (0, 1, 1)


def test_what_asks_a_person_takes_of_no_budget():
    text = POLICY + 'guard "ask" on POST /mail { confirm by role admin }\nentity user { roles: set<string> }\n'
    whole = played(flow("steady", plan(seconds=5), MAIL), text).total
    assert (whole.confirm, whole.throttle, whole.rules["mail"].remaining) == (5, 0, 3)


def test_who_was_throttled_most_is_known():
    events = flow("steady", plan(rate=10)) + flow("steady", plan(rate=2, callers=2), vary="agent.id")
    found = played(sorted(events, key=lambda one: one.at)).callers
    assert found[0].words == "agent worker"
    assert found[0].times > sum(one.times for one in found[1:])


def test_a_clock_in_the_middle_of_nowhere_is_what_decides():
    decides, clock = engine(POLICY + 'guard "late" on GET /search { deny when time >= 2027-01-01T00:00:30Z }\n')
    series = Series(START)
    simulate(decides, clock, flow("steady", plan()), series)
    assert (series.total.allow, series.total.deny) == (30, 30)


def test_the_clock_says_the_same_to_whoever_asks():
    clock = VirtualClock(START + 123_456)
    assert clock.nanoseconds() == nanoseconds(clock())


def test_a_line_that_is_no_request_is_told():
    decides, clock = engine()
    with pytest.raises(TrafficLineError) as told:
        simulate(decides, clock, [TrafficEvent(START, dict(SEARCH), 1), TrafficEvent(START, {"usr": 1}, 2)], Series())
    assert (told.value.line, told.value.message) == (2, "unknown member `usr`")


# ── Slots ─────────────────────────────────────────────────────────────────────────────────────


def test_slots_grow_wider_with_the_traffic_and_lose_nothing():
    found = played(flow("steady", plan(rate=1, seconds=7_200)))
    assert len(found.slots) <= MAX_SLOTS
    assert found.series.width in SLOT_WIDTHS_US
    assert found.total.events == 7_200
    assert {slot.events for slot in found.slots} == {found.series.width // SECOND}


def test_each_width_is_a_multiple_of_the_one_before():
    assert all(wide % narrow == 0 for narrow, wide in pairwise(SLOT_WIDTHS_US))


def test_a_width_that_was_asked_for_stays():
    found = played(flow("steady", plan(seconds=25)), width=10 * SECOND)
    assert [slot.events for slot in found.slots] == [10, 10, 5]


def test_a_width_that_was_asked_for_and_is_too_short_is_refused():
    with pytest.raises(TooManySlotsError):
        played([TrafficEvent(START, dict(SEARCH)), TrafficEvent(START + 20_000 * SECOND, dict(SEARCH))], width=SECOND)


def test_a_trace_of_years_fits():
    year = 366 * 86_400 * SECOND
    found = played([TrafficEvent(START, dict(SEARCH)), TrafficEvent(START + 20 * year, dict(SEARCH))])
    assert len(found.slots) <= MAX_SLOTS
    assert found.total.events == 2


def test_the_least_that_was_left_is_that_of_the_tightest_caller():
    found = played(flow("steady", plan(rate=4, seconds=2), vary=None))
    assert found.total.rules["searches"].remaining == 0
