"""What differs between two decisions of one request."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.audit.decision_changes import compare_decisions, describe_item
from policyengine.audit.encoder import WITHHELD_MESSAGE

REASON = {"outcome": "deny", "gate": "guard", "rule": "islands", "message": "m", "at": "a.policy:1"}
FULL = {"outcome": "throttle", "gate": "rate", "rule": "few", "message": "again in 5s", "at": "a.policy:2"}
WAIT = {"kind": "wait", "rule": "few", "within": "5s"}
APPROVAL = {"kind": "approval", "rule": "big", "by": "role lead", "within": "15m", "binding": "sha256:1"}
REDACT = {"kind": "redact", "arguments": ["body.card"], "rule": "cards", "at": "a.policy:3"}
UNKNOWN = {"fact": "user.roles", "why": "absent"}


def decision(outcome: str = "deny", **lists: list[dict[str, Any]]) -> dict[str, Any]:
    return {"outcome": outcome, "reasons": [], "remedies": [], "obligations": [], "unknown": [], **lists}


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (decision(reasons=[REASON]), decision(reasons=[{**REASON, "at": "b.policy:9"}])),
        (decision(reasons=[{**REASON, "message": WITHHELD_MESSAGE}]), decision(reasons=[REASON])),
        (decision(reasons=[FULL]), decision(reasons=[{**FULL, "message": "again in 4s"}])),
        (decision(remedies=[WAIT]), decision(remedies=[{**WAIT, "within": "4s"}])),
        (decision(remedies=[APPROVAL]), decision(remedies=[{**APPROVAL, "binding": "sha256:2"}])),
        (decision(obligations=[REDACT, REDACT]), decision(obligations=[REDACT])),
    ],
)
def test_places_times_and_bindings_are_no_difference(then: dict[str, Any], now: dict[str, Any]) -> None:
    assert compare_decisions(then, now) == ()


def test_each_member_that_only_one_decision_has_is_a_difference() -> None:
    then, now = decision("deny", reasons=[REASON], obligations=[REDACT]), decision("allow", unknown=[UNKNOWN])
    assert [(one.member, one.then, one.now) for one in compare_decisions(then, now)] == [
        ("outcome", "deny", "allow"),
        ("reasons", REASON, None),
        ("obligations", REDACT, None),
        ("unknown", None, UNKNOWN),
    ]


def test_another_message_of_the_same_rule_is_a_difference() -> None:
    other = {**REASON, "message": "n"}
    [change] = compare_decisions(decision(reasons=[REASON]), decision(reasons=[other]))
    assert change.to_dict() == {"member": "reasons", "then": REASON, "now": other}


@pytest.mark.parametrize(
    ("member", "item", "words"),
    [
        ("reasons", REASON, 'deny by guard "islands": m  (a.policy:1)'),
        ("remedies", APPROVAL, 'remedy of "big": approval role lead'),
        ("remedies", {"kind": "scope", "scopes": ["a", "b"]}, "remedy: scope a b"),
        ("obligations", REDACT, 'obligation of "cards": redact body.card'),
        ("unknown", UNKNOWN, "unknown: user.roles: absent"),
    ],
)
def test_an_item_is_described_in_words(member: str, item: dict[str, Any], words: str) -> None:
    assert describe_item(member, item) == words
