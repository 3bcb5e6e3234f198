"""The groups of a day follow from those of the days before: members stay for some days, whatever they do."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior import groups
from policyengine.behavior.events import Tagger
from policyengine.behavior.groups import (
    DAYS_KEPT,
    DAYS_TO_CONFIRM,
    DAYS_UNCONFIRMED,
    CallerGroup,
    FoundPool,
    GroupMember,
    follow_groups,
    without_members,
)
from policyengine.behavior.member_keys import MemberKeys
from policyengine.behavior.model import EMPTY_MODEL, decode_content
from policyengine.behavior.state import DAY, BehaviorState

KEYS = MemberKeys(b"k" * 32)
FIRST = 20_000


def pool(members: str, confirmed: int = 5) -> FoundPool:
    return FoundPool(tuple(members), confirmed)


def follow(*days: list[FoundPool]) -> tuple[CallerGroup, ...]:
    """Return the groups after pools were found on some days in a row."""
    found: tuple[CallerGroup, ...] = ()
    for number, pools in enumerate(days):
        found = follow_groups(found, pools, FIRST + number, KEYS)
    return found


def members(found: tuple[CallerGroup, ...]) -> list[str]:
    return sorted("".join(member.key for member in group.members) for group in found)


CONFIRMED = [[pool("abc")]] * DAYS_TO_CONFIRM


def test_a_pool_is_a_group_from_the_day_on_which_it_is_found():
    [group] = follow([pool("cab", 7)])
    assert (group.size, group.since, members((group,))) == (3, 7, ["abc"])
    assert group.members[0] == GroupMember("a", 7, FIRST, 1)


def test_a_group_keeps_its_id_while_its_members_come_and_go():
    ids = {follow(*CONFIRMED, *days)[0].id for days in ([], [[pool("abcd")]], [[pool("cde")]], [[], []])}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("days", "kept"), [(1, DAYS_UNCONFIRMED), (2, DAYS_UNCONFIRMED), (3, DAYS_KEPT), (9, DAYS_KEPT)]
)
def test_members_that_are_quiet_stay_for_two_days_or_two_weeks(days, kept):
    """A schedule that repeats daily is recognized on the third day, so a group found before is forgotten soon."""
    found = [[pool("abc")]] * days
    assert members(follow(*found, *[[]] * (kept - 1))) == ["abc"]
    assert follow(*found, *[[]] * kept) == ()


def test_a_member_does_not_leave_its_group_by_moving_with_others():
    assert members(follow(*CONFIRMED, [pool("axy")])) == ["abcxy"]


def test_a_group_that_splits_stays_one_group():
    whole = [[pool("abcdef")]] * 3
    assert members(follow(*whole, [pool("abc"), pool("def")])) == ["abcdef"]


def test_newcomers_join_the_group_with_most_of_their_partners():
    two = [[pool("abc"), pool("def")]] * 3
    assert members(follow(*two, [pool("abdxyz")])) == ["abcxyz", "def"]


def test_a_group_with_too_few_members_left_is_no_group():
    assert follow(*CONFIRMED, *[[pool("abx")]] * DAYS_KEPT)[0].size == 3
    lost = follow_groups(follow([pool("abc")]), [], FIRST + DAYS_UNCONFIRMED, KEYS)
    assert lost == ()
    assert members(without_members(follow([pool("abcd"), pool("xyz")]), {"a", "x"})) == ["bcd"]


def test_members_that_form_a_group_again_after_weeks_get_another_id():
    assert follow([pool("abc")])[0].id != follow(*CONFIRMED, *[[]] * DAYS_KEPT, [pool("abc")])[0].id


def test_the_order_of_the_pools_does_not_matter():
    earlier = follow([pool("abc"), pool("def")])
    pools = [pool("agh"), pool("dgi"), pool("xyz"), pool("hij")]
    found = {follow_groups(earlier, order, FIRST + 1, KEYS) for order in permutations(pools)}
    assert len(found) == 1


@given(st.lists(st.lists(st.sets(st.sampled_from("abcdefghij"), min_size=3), max_size=3), max_size=20))
def test_no_caller_is_ever_in_two_groups(days):
    found = follow(*([FoundPool(tuple(sorted(one)), 5) for one in pools] for pools in days))
    everybody = [member.key for group in found for member in group.members]
    assert len(everybody) == len(set(everybody))
    assert all(group.size >= 3 for group in found)
    assert len({group.id for group in found}) == len(found)


def test_the_smallest_groups_are_left_out_if_there_are_too_many_members(monkeypatch):
    monkeypatch.setattr(groups, "MAX_MEMBERS", 5)
    assert members(follow([pool("abc"), pool("wxyz")])) == ["wxyz"]


def test_keys_of_members_need_the_secret_and_do_not_depend_on_where_issuer_and_name_meet():
    other = MemberKeys(b"o" * 32)
    assert KEYS.of("acme", "bot") != other.of("acme", "bot")
    assert KEYS.of("acme", "bot") == KEYS.of_hash("acme", KEYS.hash_agent("bot"))
    assert len({KEYS.of("ac", "mebot"), KEYS.of("acme", "bot"), KEYS.of("partner", "bot")}) == 3


def test_groups_are_a_part_of_the_model():
    found = follow([pool("abc")])
    model = EMPTY_MODEL.with_groups(found, FIRST)
    assert decode_content(model.payload).content == model.content
    assert model.group_of("b") == found[0]
    assert model.group_of("x") is None
    assert b"groups" not in EMPTY_MODEL.payload  # so that earlier versions read a model without groups
    assert model.without_members({"x"}) is model
    assert not model.without_members({"a"}).has_groups


def test_a_late_request_of_the_day_before_starts_no_search():
    """Otherwise a group found on one evening could be found on three days."""
    state = BehaviorState(Tagger(b"key"))
    state.model = state.model.with_groups((), FIRST)
    due = [day for day in range(FIRST - 3, FIRST + 3) if state.is_search_due(day * DAY)]
    assert due == [FIRST - 3, FIRST - 2, FIRST + 1, FIRST + 2]
    state.searched_day = FIRST - 2  # the clock was set back, and the search failed
    assert not state.is_search_due((FIRST - 2) * DAY)
