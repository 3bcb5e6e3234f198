"""What a report says about groups: what was left out, and why."""

from dataclasses import replace

import pytest

from policyengine.analysis.behavior_report.group_report import MAX_CROWDS, MAX_GROUPS, GroupReport, MoveRequests
from policyengine.analysis.behavior_report.group_text import format_share, group_notes, group_parts, shorten_list
from policyengine.behavior.events import Caller
from policyengine.behavior.lockstep.bounds import MAX_TOKEN_CALLERS
from policyengine.behavior.lockstep.group import (
    CommonMinutes,
    LockstepCrowd,
    LockstepFindings,
    LockstepGroup,
    MemberEvidence,
)

CALLERS = tuple(Caller("acme", f"key-{number}") for number in range(5))


def evidence(caller: Caller, common: int) -> MemberEvidence:
    return MemberEvidence(caller, 2, CALLERS[0], 50, common, 0.25, 0.0, -1_500, 0)


def group(name: str, size: int = 3, minutes: int = 7) -> LockstepGroup:
    members = CALLERS[:size]
    found = tuple(evidence(caller, 20 + place) for place, caller in enumerate(members))
    return LockstepGroup(name, (), members, 4_000, found, (), CommonMinutes(minutes, 0, 60_000))


FINDINGS = LockstepFindings((group("a"),), (), 3, 0, MAX_TOKEN_CALLERS)
REPORT = GroupReport(0, 86_400_000, MoveRequests(1_200, 30, 0, 0, 0), FINDINGS)
CROWD = LockstepCrowd(CALLERS, 80, (60_000, 600_000))


def test_a_report_that_compares_everything_has_no_notes():
    assert list(group_notes(REPORT)) == []


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"denied": 1}, "1 denied request left out"),
        (
            {"crowded": 1_500},
            "1,500 requests left out, because a caller, or all callers, sent too many: choose a later start with "
            "`--since`",
        ),
        ({"earlier": 2}, "2 requests left out, because they are too long before the last request"),
    ],
)
def test_requests_that_are_left_out_are_noted(changed, note):
    assert list(group_notes(replace(REPORT, requests=replace(REPORT.requests, **changed)))) == [note]


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        (
            {"left_out": 7},
            "7 pairs of callers not compared, because there are too many: choose a later start with `--since`",
        ),
        (
            {"token_callers": 41},
            "requests that more than 41 callers send at the same time not compared, because there are too many pairs "
            "of callers",
        ),
        ({"groups": tuple(group(str(number)) for number in range(MAX_GROUPS + 9))}, "9 smaller groups not listed"),
        ({"crowds": (CROWD,) * (MAX_CROWDS + 2)}, "2 smaller crowds not listed"),
    ],
)
def test_what_the_search_leaves_out_is_noted(changed, note):
    assert list(group_notes(replace(REPORT, findings=FINDINGS._replace(**changed)))) == [note]


def test_the_largest_groups_are_first():
    found = FINDINGS._replace(groups=(group("b", 3), group("c", 5), group("a", 3)))
    assert [one.id for one in replace(REPORT, findings=found).groups] == ["c", "a", "b"]


def test_the_table_has_the_weakest_evidence_of_the_members():
    [summary, (_, row), members] = group_parts(REPORT)
    assert "1 group of 3 callers, in 1,200 requests of 30 callers" in str(summary)
    assert row == (
        "a", "0", "3", "20 – 22", "0.2", "<1e-300", "4 s", "1.5 s", "1970-01-01 00:00", "1970-01-01 00:01"
    )  # fmt: skip
    assert members == "  a: residents key-0 of acme, key-1 of acme, key-2 of acme"


def test_a_group_whose_members_follow_each_other_may_have_no_common_minute():
    found = replace(REPORT, findings=FINDINGS._replace(groups=(group("a", minutes=0),)))
    assert found.to_dict()["found"][0]["first"] is None
    [_, (_, row), _] = group_parts(found)
    assert row[-2:] == ("–", "–")


def test_long_lists_and_small_shares_are_shortened():
    assert shorten_list(CALLERS[::-1], 2) == "key-0 of acme, key-1 of acme, 3 more"
    assert (format_share(0.0), format_share(0.0123)) == ("<1e-300", "1e-02")
