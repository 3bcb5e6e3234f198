"""Requests of groups are a monoid: however agents are distributed, merging gives what adding in order gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior import recent_requests
from policyengine.behavior.bulk import placed_requests
from policyengine.behavior.bulk.placed_requests import PlacedRequests
from policyengine.behavior.events import ALLOWED, DENIED, HELD, Caller
from policyengine.behavior.recent_requests import FirstReady, RecentRequests, packed_days
from policyengine.behavior.state import DAY

AGENTS = tuple(Caller(issuer, f"agent-{number}") for issuer in ("acme", "partner") for number in range(3))
INSTANCES = tuple(caller._replace(instance=instance) for caller in AGENTS for instance in ("", "a"))
REQUEST = st.tuples(
    st.integers(20_000 * DAY, 20_008 * DAY) | st.integers(20_005 * DAY, 20_006 * DAY), st.sampled_from(INSTANCES),
    st.integers(0, 2**32 - 1), st.integers(0, 3), st.sampled_from((ALLOWED, ALLOWED, HELD, DENIED)),
)  # fmt: skip
REQUESTS = st.lists(REQUEST, max_size=60)


@pytest.fixture(scope="module", autouse=True)
def small_limits():
    """Limits that generated requests exceed."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (recent_requests, placed_requests):
            patch.setattr(module, "MAX_DAY_EVENTS", 9)
            patch.setattr(module, "MAX_CALLER_EVENTS", 3)
            patch.setattr(module, "PART_REQUESTS", 4)
        yield


def add_in_order(requests, found):
    for request in requests:
        found.add(*request)
    return found


def place(requests, wanted=lambda caller: True, first=0):
    """Return the requests of some callers with their places, added agent by agent."""
    found = PlacedRequests()
    placed = [(number, request) for number, request in enumerate(requests, first) if wanted(request[1])]
    for number, request in sorted(placed, key=lambda each: each[1][1][:2]):
        found.add(number, *request)
    return found


def content(requests):
    """Return everything that is saved, and the callers by number."""
    days = requests.days
    saved = list(packed_days(days, {}, {day: days[day].count for day in sorted(days)}))
    return saved, {day: each.callers() for day, each in days.items()}


def content_of(placed):
    found = RecentRequests()
    placed.add_to(found)
    return content(found)


@given(requests=REQUESTS, data=st.data())
def test_requests_of_agents_merge_to_those_of_all_agents(requests, data):
    part_of = {caller[:2]: data.draw(st.integers(0, 3)) for caller in AGENTS}
    parts = [place(requests, lambda caller, part=part: part_of[caller[:2]] == part) for part in range(4)]
    merged = PlacedRequests()
    for part in data.draw(st.permutations(parts)):
        if data.draw(st.booleans()):
            for raw in part.pack():
                merged.merge_packed(raw)
        else:
            merged.merge(part)
    assert content_of(merged) == content(add_in_order(requests, RecentRequests()))


@given(requests=REQUESTS, part_of=st.lists(st.integers(0, 2), min_size=60, max_size=60))
def test_requests_cut_anywhere_merge_to_all_requests(requests, part_of):
    """Also those of one agent may be in several parts."""
    parts = [PlacedRequests() for _ in range(3)]
    for number, request in enumerate(requests):
        parts[part_of[number]].add(number, *request)
    first, second, third = parts
    second.merge(third)
    first.merge(second)
    assert content_of(first) == content(add_in_order(requests, RecentRequests()))


@given(before=REQUESTS, after=REQUESTS)
def test_requests_are_added_to_those_of_earlier_days(before, after):
    found = add_in_order(before, RecentRequests())
    place(after, first=len(before)).add_to(found)
    assert content(found) == content(add_in_order(before + after, RecentRequests()))


@given(requests=REQUESTS)
def test_saved_requests_come_back_with_the_same_callers(requests):
    found, again = add_in_order(requests, RecentRequests()), RecentRequests()
    for part in content(found)[0]:
        again.merge(part)
    assert content(again) == content(found)


def test_requests_of_days_before_the_last_ones_are_left_out():
    found = RecentRequests()
    for day in (20_009, 20_005, 20_006, 20_010, 20_006):
        found.add(day * DAY, AGENTS[0], 1, 1, ALLOWED)
    assert list(found.days) == [20_009, 20_010]


@given(st.lists(st.tuples(st.sampled_from(INSTANCES), st.integers(0, 9)), max_size=20), st.data())
def test_the_days_since_which_agents_are_ready_merge(days, data):
    whole, parts = FirstReady(), [FirstReady() for _ in range(3)]
    for caller, day in days:
        whole.note(caller, day)
        parts[data.draw(st.integers(0, 2))].note(caller, day)
    merged = FirstReady()
    for part in data.draw(st.permutations(parts)):
        merged.merge_packed(part.pack())
    assert merged.times() == whole.times()
