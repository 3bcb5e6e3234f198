"""When models are learned and groups are searched: from the places of the days, as if decisions are read in order."""

from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior.bulk.day_starts import DayPlaces, DayStart, DayStarts, merge_starts, start_places
from policyengine.behavior.events import Tagger
from policyengine.behavior.model import EMPTY_MODEL
from policyengine.behavior.state import DAY, BehaviorState

DAYS = st.lists(st.integers(0, 6), max_size=30)


def places_of(days):
    return [
        DayPlaces(day, days.index(day), day * DAY + days.index(day), len(days) - 1 - days[::-1].index(day))
        for day in set(days)
    ]


def starts_of(days, learned_day, searched_day, groups=True):
    """Return the places and the starts of days."""
    state = BehaviorState(Tagger(b"key"), model=EMPTY_MODEL.with_groups((), searched_day))
    state.learned_day = learned_day
    reader = DayStarts(state, groups)
    found = [(place, reader.add(each * DAY + place)) for place, each in enumerate(days)]
    return [(place, start) for place, start in found if start is not None]


def one_by_one(days, learned_day):
    """Return the places and times at which models are learned, and whether one was learned again."""
    found = [(place, start.at) for place, start in starts_of(days, learned_day, 0, groups=False)]
    order = [learned_day, *(days[place] for place, _ in found)]
    return found, order != sorted(order)


@given(days=DAYS | DAYS.map(sorted), learned_day=st.integers(0, 6))
def test_the_places_of_the_days_say_when_models_are_learned_unless_one_is_learned_again(days, learned_day):
    found, returned = one_by_one(days, learned_day)
    assert start_places(places_of(days), learned_day) == (None if returned else found)


@given(days=DAYS, learned_day=st.integers(0, 6), searched_day=st.integers(0, 6))
def test_models_and_searches_have_their_own_days(days, learned_day, searched_day):
    learned, searched = one_by_one(days, learned_day)[0], one_by_one(days, searched_day)[0]
    found = starts_of(days, learned_day, searched_day)
    assert merge_starts(learned, searched) == found
    if learned_day == searched_day:
        assert all(start.learns and start.searches for _, start in found)


def test_a_start_may_be_one_of_groups_alone():
    assert starts_of([4, 5], 4, 3) == [(0, DayStart(4 * DAY, False, True)), (1, DayStart(5 * DAY + 1, True, True))]
    assert starts_of([4, 5], 4, 3, groups=False) == [(1, DayStart(5 * DAY + 1, True, False))]


def test_a_day_late_is_learned_with_the_latest_model():
    assert one_by_one([3, 4, 3, 4], 0) == ([(0, 3 * DAY), (1, 4 * DAY + 1)], False)
    assert one_by_one([3, 5, 3], 0)[1]
