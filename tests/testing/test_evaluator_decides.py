"""The evaluator decides, as in production, wherever a tool reports, compares or counts a decision: each test seeds a
fault into the walker and shows that the tool sees it. The specification sees no fault, so it would hide each of them.
"""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.analysis.diff.compare import compare
from policyengine.check import CheckResult, check
from policyengine.evaluator import is_compiled, walker
from policyengine.evaluator.program import DENY, OBLIGATION
from policyengine.explain.agreement import EngineDisagreementError
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import CaseResult, run

pytestmark = pytest.mark.skipif(is_compiled(), reason="compiled functions call each other directly")

Patch = pytest.MonkeyPatch
POLICY = """
entity user { roles: set<string> }
facts on POST /pay { body.amount: number }
issuer acme { url "https://login.acme.example"   scopes none   records chains }
user "alice" { may POST /pay }
agent "bot" { issued by acme   acts for any user   may POST /pay }
agent "other" { issued by acme   acts for any user   may POST /else }
guard "large" on POST /pay { confirm by role finance within 15m when body.amount > 500 }
"""
GIVEN = 'given entities { user "carol" { roles: ["finance"] } } given agent "bot" from acme'
FOR_ALICE, FOR_BOB = f'{GIVEN} for user "alice"', f'{GIVEN} for user "bob"'
LARGE = "POST /pay { body.amount: 900 }"
OLD_APPROVAL = f'{FOR_ALICE} given approval {{ rule: "large", by: "carol", age: 16m }} {LARGE}'


def checked(text: str) -> CheckResult:
    module, found = parse(Source("p.policy", text))
    made = check([module] if module else [], found)
    assert made.kernel is not None, [one.render() for one in made.diagnostics]
    return made


def result(inside: str) -> CaseResult:
    made = checked(f'{POLICY}test "t" {{ {inside} }}')
    return run(made.cases, made.kernel).results[0]


# ── Differences of two policies ───────────────────────────────────────────────────────────────

NOTIFYING = POLICY.replace("when body.amount > 500", "when body.amount > 500\n  step_up high when body.amount > 500")


def duties_of_a_confirm_are_forgotten(patch: Patch) -> None:
    plain = walker.pass_guards

    def forget(st: Any, rules: Any, found: walker.Passage) -> None:
        plain(st, rules, found)
        if any(one.effect.kind not in (DENY, OBLIGATION) for one in found.acting):
            found.acting = tuple(one for one in found.acting if one.effect.kind != OBLIGATION)

    patch.setattr(walker, "pass_guards", forget)
    patch.setattr("policyengine.evaluator.decide.pass_guards", forget, raising=False)


def test_a_difference_is_one_of_the_evaluators(monkeypatch: Patch) -> None:
    old, new = checked(POLICY).kernel, checked(NOTIFYING).kernel
    assert compare(old, new, samples=0).differences
    duties_of_a_confirm_are_forgotten(monkeypatch)
    assert not compare(old, new, samples=0).differences


def test_a_difference_is_reported_only_if_the_specification_agrees(monkeypatch: Patch) -> None:
    old, new = checked(POLICY).kernel, checked(NOTIFYING.replace("role finance", "role boss")).kernel
    assert compare(old, new, samples=0).differences
    duties_of_a_confirm_are_forgotten(monkeypatch)
    with pytest.raises(EngineDisagreementError, match="after an approval"):
        compare(old, new, samples=0)
