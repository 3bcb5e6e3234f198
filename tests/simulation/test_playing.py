"""Playing: what limits make of traffic, and what is counted of it."""

from itertools import pairwise

import pytest

from policyengine.clock import epoch_nanoseconds
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


def test_each_caller_is_counted_separately():
    assert played(flow("lockstep", plan(callers=20, rate=20, seconds=1), vary="agent.id")).total.throttle == 0


def test_a_limit_counts_applied_and_throttled_requests():
    line = played(flow("steady", plan(), SEARCH, MAIL)).total.rules["mail"]
    assert (line.asked, line.admitted, line.throttled, line.remaining, line.limit) == (30, 3, 27, 0, 3)


def test_a_limit_of_several_bounds_counts_a_request_once():
    text = POLICY.replace("count <= 3 within 1h", "count <= 3 within 1h  count <= 9 within 1d")
    line = played(flow("steady", plan(seconds=5), MAIL), text).total.rules["mail"]
    assert (line.asked, line.admitted, line.throttled, line.remaining, line.limit) == (5, 3, 2, 0, 3)


def test_denied_and_confirmed_requests_are_counted_separately():
    text = POLICY + 'guard "ask" on POST /mail { confirm by role admin }\nentity user { roles: set<string> }\n'
    other = {"request": {"method": "DELETE", "path": "/search"}}
    whole = played([TrafficEvent(START, dict(MAIL)), TrafficEvent(START, other)], text).total
    assert (whole.allow, whole.confirm, whole.deny) == (0, 1, 1)


def test_an_unconfirmed_request_spends_no_budget():
    text = POLICY + 'guard "ask" on POST /mail { confirm by role admin }\nentity user { roles: set<string> }\n'
    whole = played(flow("steady", plan(seconds=5), MAIL), text).total
    assert (whole.confirm, whole.throttle, whole.rules["mail"].remaining) == (5, 0, 3)


def test_callers_are_sorted_by_throttled_requests():
    events = flow("steady", plan(rate=10)) + flow("steady", plan(rate=2, callers=2), vary="agent.id")
    found = played(sorted(events, key=lambda one: one.at)).callers
    assert found[0].words == "agent worker"
    assert found[0].times > sum(one.times for one in found[1:])


def test_the_simulated_clock_decides_time_conditions():
    decides, clock = engine(POLICY + 'guard "late" on GET /search { deny when time >= 2027-01-01T00:00:30Z }\n')
    series = Series(START)
    simulate(decides, clock, flow("steady", plan()), series)
    assert (series.total.allow, series.total.deny) == (30, 30)


def test_the_virtual_clock_returns_the_same_time_in_both_forms():
    clock = VirtualClock(START + 123_456)
    assert clock.nanoseconds() == epoch_nanoseconds(clock())


def test_the_error_names_the_line_of_an_invalid_request():
    decides, clock = engine()
    with pytest.raises(TrafficLineError) as told:
        simulate(decides, clock, [TrafficEvent(START, dict(SEARCH), 1), TrafficEvent(START, {"usr": 1}, 2)], Series())
    assert (told.value.line, told.value.message) == (2, "unknown member `usr`")


# ── Slots ─────────────────────────────────────────────────────────────────────────────────────


def test_slots_widen_with_the_traffic_and_lose_no_events():
    found = played(flow("steady", plan(rate=1, seconds=7_200)))
    assert len(found.slots) <= MAX_SLOTS
    assert found.series.width in SLOT_WIDTHS_US
    assert found.total.events == 7_200
    assert {slot.events for slot in found.slots} == {found.series.width // SECOND}


def test_each_width_is_a_multiple_of_the_one_before():
    assert all(wide % narrow == 0 for narrow, wide in pairwise(SLOT_WIDTHS_US))


def test_a_requested_slot_width_is_kept():
    found = played(flow("steady", plan(seconds=25)), width=10 * SECOND)
    assert [slot.events for slot in found.slots] == [10, 10, 5]


def test_a_requested_slot_width_that_is_too_short_is_rejected():
    with pytest.raises(TooManySlotsError):
        played([TrafficEvent(START, dict(SEARCH)), TrafficEvent(START + 20_000 * SECOND, dict(SEARCH))], width=SECOND)


def test_a_trace_of_twenty_years_fits_the_slots():
    year = 366 * 86_400 * SECOND
    found = played([TrafficEvent(START, dict(SEARCH)), TrafficEvent(START + 20 * year, dict(SEARCH))])
    assert len(found.slots) <= MAX_SLOTS
    assert found.total.events == 2


def test_remaining_is_the_minimum_over_callers():
    found = played(flow("steady", plan(rate=4, seconds=2), vary=None))
    assert found.total.rules["searches"].remaining == 0
