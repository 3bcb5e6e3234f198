"""Tests give what is learned about callers: values, unknown facts, and nothing, which is neutral."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policyengine.check import CheckResult, check
from policyengine.runtime.snapshot import NOT_READABLE
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing.coverage import measure
from policyengine.testing.mutation import MutantStatus, mutate
from policyengine.testing.properties import try_properties
from policyengine.testing.runner import ResultStatus, case_results

POLICY = """
issuer idp { scopes none }
agent "bot" { issued by idp   acts alone   may GET /a, POST /b, GET /c }
rate "r" per agent.id on GET /a {
  2/1m burst 2
  raise x2 at most 4/1m when behavior.trust > 0.9
  clamp 1/1m for 10m when behavior.burst
  clamp 2/1m when not behavior.ready
}
guard "errors" on POST /b { deny when behavior.error_rate >= 0.5 }
guard "new" on POST /b { confirm by role boss when not behavior.ready }
guard "odd" on GET /c { warn when behavior.novelty > 0.3 }
entity user { roles: set<string> }
test "t" {
  given agent "bot" from idp
  INSIDE
}
"""


def run(inside: str) -> list[ResultStatus]:
    found = checked(inside)
    assert found.kernel is not None, found.diagnostics
    return [one.status for one in case_results(found.cases, found.kernel)]


def passes(inside: str) -> bool:
    return set(run(inside)) == {ResultStatus.PASSED}


@pytest.mark.parametrize(
    "inside",
    [
        "GET /a => allow   GET /a => allow   GET /a => throttle",
        "given behavior { trust: 0.95, ready: true }   repeat 4 in 4s GET /a => allow   GET /a => throttle",
        "given behavior { trust: 0.9, ready: true }   repeat 3 in 3s GET /a => first throttle at 3",
        "given behavior { trust: 1, burst: true, ready: true }   GET /a => allow   GET /a => throttle",
        "given behavior { trust: unknown, ready: true }   repeat 3 in 3s GET /a => first throttle at 3",
        "given behavior { burst: unknown }   GET /a => allow   GET /a => throttle",
        "given behavior { ready: true, error_rate: 0.49 }   POST /b => allow",
        'given behavior { ready: true, error_rate: 0.5 }   POST /b => deny by "errors"',
        'given behavior { ready: true, error_rate: unknown }   POST /b => deny by "errors"',
        'given behavior { ready: unknown }   POST /b => confirm by "new"',
        'given behavior { ready: true }   POST /b => allow   given behavior absent   POST /b => confirm by "new"',
        'POST /b { behavior.ready: true } => allow   POST /b => confirm by "new"',
        'GET /c { behavior.novelty: 0.31 } => allow with { obligations: ["warn"] }',
        "GET /c { behavior.novelty: 0.3 } => allow with { obligations: [] }",
        "cases { | request | behavior.error_rate | behavior.ready | => | | POST /b | 0.2 | true | allow |"
        " | POST /b | 0.5 | true | deny | | POST /b | unknown | true | deny | | POST /b | 0 | false | confirm | }",
        "cases for behavior.ready in [true, false, unknown], x in [0.1, 0.9] {"
        " given behavior { novelty: x }   GET /c => allow }",
    ],
)
def test_decisions_follow_the_given_facts(inside: str) -> None:
    assert passes(inside)


def checked(inside: str, more: str = "") -> CheckResult:
    module, found = parse(Source("p", POLICY.replace("INSIDE", inside) + more))
    return check([module] if module else [], found)


def test_what_is_learned_is_not_part_of_the_question() -> None:
    (case,) = checked("given behavior { trust: 0.95, burst: unknown }   GET /a => allow").cases
    assert "behavior" not in case.question
    assert case.behavior == {"trust": Decimal("0.95"), "burst": NOT_READABLE}


def test_a_fixture_gives_learned_facts_and_a_later_given_changes_them() -> None:
    inside = 'use known   POST /b => allow   given behavior.ready false   POST /b => confirm by "new"'
    found = checked(inside, "fixture known { given behavior { ready: true } }")
    assert found.kernel is not None
    assert {one.status for one in case_results(found.cases, found.kernel)} == {ResultStatus.PASSED}


def test_an_explanation_shows_the_learned_facts_that_were_read() -> None:
    found = checked("given behavior { burst: unknown, trust: 0.25 }   GET /a => throttle")
    assert found.kernel is not None
    (result,) = case_results(found.cases, found.kernel)
    assert result.walk is not None
    text = result.walk.render()
    assert "behavior.trust = 0.25" in text
    assert "the learned behavior of the caller cannot be read" in text


def test_forall_finds_the_learned_facts_that_break_a_claim() -> None:
    claim = 'forall request where behavior.trust > 0.3 and request.method == "POST" => not allow'
    found = checked(claim)
    assert found.kernel is not None
    (result,) = try_properties(found.properties, found.kernel)
    assert result.status is ResultStatus.FAILED
    assert "given behavior { ready: true" in (result.text or "")


def test_forall_tries_unknown_learned_facts() -> None:
    """A request with an unknown fact is denied: no counterexample to that exists."""
    found = checked('forall request where behavior.error_rate >= 0.5 and request.method == "POST" => not allow')
    assert found.kernel is not None
    (result,) = try_properties(found.properties, found.kernel, examples=40)
    assert result.status is ResultStatus.PASSED


BOTH_SIDES = (
    "POST /b { behavior.ready: true, behavior.error_rate: 0.49 } => allow"
    "   POST /b { behavior.ready: true, behavior.error_rate: 0.5 } => deny"
)


@pytest.mark.parametrize(
    ("inside", "survives"), [(BOTH_SIDES, False), ("POST /b { behavior.ready: true } => allow", True)]
)
def test_a_changed_condition_survives_tests_that_give_no_learned_facts(inside: str, survives: bool) -> None:
    outcomes = mutate(checked(inside)).outcomes
    flipped = [one for one in outcomes if "error_rate > 0.5" in one.diff and one.operator == "flip a comparison"]
    assert [one.fate is MutantStatus.SURVIVED for one in flipped] == [survives]


def test_mutation_changes_nothing_in_profiles() -> None:
    profile = 'profile "p" for agent "bot" { run by task.id within 5m   ready 20 runs, 7d   learn 14d }'
    plain, with_profile = (len(mutate(checked(BOTH_SIDES, more)).outcomes) for more in ("", profile))
    assert plain == with_profile


def test_coverage_tells_which_side_of_a_learned_condition_no_test_reached() -> None:
    found = checked(BOTH_SIDES)
    assert found.kernel is not None
    missing = [point.words for point in measure(found.cases, found.kernel).missing]
    assert any("behavior.burst" in words for words in missing)
    assert not any("error_rate" in words and "unknown" not in words for words in missing)
