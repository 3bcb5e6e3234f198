"""When models are learned: from the places of the days, as if the decisions are read one after the other."""

from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior.bulk.model_days import DayPlaces, ModelDays, model_times
from policyengine.behavior.state import DAY

DAYS = st.lists(st.integers(0, 6), max_size=30)


def places_of(days):
    return [
        DayPlaces(day, days.index(day), day * DAY + days.index(day), len(days) - 1 - days[::-1].index(day))
        for day in set(days)
    ]


def one_by_one(days, learned_day):
    """Return the places and times at which models are learned, and whether one was learned again."""
    found, reader, returned, day = [], ModelDays(learned_day), False, learned_day
    for place, each in enumerate(days):
        reader.add(each * DAY + place)
        if reader.count > len(found):
            found.append((place, reader.times[-1]))
            returned, day = returned or each < day, each
    return found, returned


@given(days=DAYS | DAYS.map(sorted), learned_day=st.integers(0, 6))
def test_the_places_of_the_days_say_when_models_are_learned_unless_one_is_learned_again(days, learned_day):
    found, returned = one_by_one(days, learned_day)
    assert model_times(places_of(days), learned_day) == (None if returned else found)


def test_a_day_late_is_learned_with_the_latest_model():
    assert one_by_one([3, 4, 3, 4], 0) == ([(0, 3 * DAY), (1, 4 * DAY + 1)], False)
    assert one_by_one([3, 5, 3], 0)[1]
