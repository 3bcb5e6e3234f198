"""A changed profile is told, and so are the learned facts with which two policies answer differently."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policyengine.analysis import compare
from policyengine.analysis.diff.oracle import PolicyOracle
from policyengine.analysis.diff.render import render_markdown, render_text
from policyengine.engine import Engine

BASE = 'issuer idp { scopes none }\nagent "bot" { issued by idp   acts alone   may GET /a }\n'
GUARD = 'guard "g" on GET /a { deny when behavior.error_rate > 0.5 }\n'
PROFILE = 'profile "p" for agent "bot" { learn 14d }\n'


def diff(old: str, new: str) -> Any:
    return compare(Engine.from_text(BASE + old, "p.policy").kernel, Engine.from_text(BASE + new, "p.policy").kernel)


def test_a_changed_profile_is_a_difference_that_may_widen() -> None:
    found = diff(GUARD + PROFILE, GUARD + PROFILE.replace("14d", "7d   run by task.id"))
    assert (found.differs, found.widens, found.proved, found.differences) == (True, True, True, ())
    assert render_text(found) == (
        "changed: how behavior is learned\n"
        '  - p.policy:4: profile "p": for agent "bot" '
        "{ run within 5m   learn 14d   ready 20 runs, 7d   burst once in 100d }\n"
        '  + p.policy:4: profile "p": for agent "bot" '
        "{ run by task.id within 5m   learn 7d   ready 20 runs, 7d   burst once in 100d }\n\n"
        "1 changed profile; everything else is proved equal\n"
    )
    assert "how behavior is learned" in render_markdown(found)
    assert len(json.loads(json.dumps(found.to_dict()))["profiles"]["removed"]) == 1


def test_a_changed_order_of_calls_is_a_difference() -> None:
    old, new = "expect GET /a -> GET /a", "expect (GET /a | GET /a -> GET /b optional) repeated -> GET /a"
    found = diff(
        GUARD + f'profile "p" for agent "bot" {{ {old} }}\n', GUARD + f'profile "p" for agent "bot" {{ {new} }}\n'
    )
    shown = render_text(found)
    assert f"burst once in 100d   {old} }}" in shown
    assert f"burst once in 100d   {new} }}" in shown


def test_a_profile_matters_only_where_a_rule_reads_what_is_learned() -> None:
    assert not diff("", PROFILE).differs
    assert not diff(GUARD + PROFILE, GUARD + 'profile "p" for agent "bot" { learn 14d   run within 5m }').differs


@pytest.mark.parametrize(
    ("old", "new", "given"),
    [
        ("behavior.error_rate > 0.5", "behavior.error_rate > 0.7", {"error_rate": 0.7}),
        ("behavior.burst", "behavior.burst and behavior.ready", {"burst": True, "ready": False}),
        ("behavior.trust < 1", "behavior.trust <= 1", {"trust": 1}),
    ],
)
def test_a_difference_shows_the_learned_facts_that_it_needs(old: str, new: str, given: dict[str, Any]) -> None:
    rules = [f'guard "g" on GET /a {{ deny when {one} }}\n' for one in (old, new)]
    found = diff(*rules)
    (difference,) = found.differences
    (witness,) = difference.witnesses
    assert {name: value for name, value in witness.behavior.items() if name in given} == given
    assert "behavior" not in witness.request
    shown = ", ".join(f"{name}: {json.dumps(value)}" for name, value in witness.behavior.items())
    assert f"for example, given behavior {{ {shown} }}:" in render_text(found)
    assert difference.to_dict()["behavior"] == witness.behavior
    oracles = [PolicyOracle(Engine.from_text(BASE + rule).kernel) for rule in rules]
    answers = [one.answer(witness.question, witness.at) for one in oracles]
    assert answers[0] != answers[1]


def test_a_difference_only_for_unknown_learned_facts_is_found() -> None:
    found = diff(
        'guard "g" on GET /a { deny when behavior.burst }\n',
        'guard "g" on GET /a { deny unless behavior.burst or not behavior.burst   deny when behavior.burst }\n',
    )
    assert not [one for one in found.differences if str(one.direction) == "widening"]
