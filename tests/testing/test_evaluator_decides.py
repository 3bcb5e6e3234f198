"""The evaluator decides, as in production, wherever a tool reports, compares or counts a decision: each test seeds a
fault into the walker and shows that the tool sees it. The specification sees no fault, so it would hide each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from policyengine import kernel as k
from policyengine.analysis.diff.compare import compare
from policyengine.audit import DecisionLog, read_records
from policyengine.check import CheckResult, check
from policyengine.engine import Engine
from policyengine.evaluator import walker
from policyengine.evaluator.rules import DENY, OBLIGATION
from policyengine.explain.agreement import EngineDisagreementError
from policyengine.source import Source
from policyengine.spec import work
from policyengine.syntax.parse import parse
from policyengine.testing import CaseResult, ResultStatus, run
from policyengine.testing.coverage import measure
from policyengine.testing.mutation import MutantResult, MutantStatus, mutate
from policyengine.testing.properties import PropertyResult, try_properties
from policyengine.testing.properties.results import ClaimVerdict
from policyengine.testing.recording.convert import RecordingResult, convert_log
from policyengine.testing.repl_session import ReplSession, UndecidableRequestError
from tests.evaluator.faults import an_old_approval_counts, interpreted_only, the_user_needs_no_grant

pytestmark = interpreted_only

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


# ── Test cases ────────────────────────────────────────────────────────────────────────────────


def test_a_case_with_approvals_is_decided_by_the_evaluator(monkeypatch: Patch) -> None:
    assert result(f"{OLD_APPROVAL} => allow").status is ResultStatus.FAILED
    an_old_approval_counts(monkeypatch)
    assert result(f"{OLD_APPROVAL} => allow").status is ResultStatus.PASSED


def test_a_failed_case_errs_if_the_specification_explains_another_decision(monkeypatch: Patch) -> None:
    assert result(f"{OLD_APPROVAL} => confirm").status is ResultStatus.PASSED
    an_old_approval_counts(monkeypatch)
    found = result(f"{OLD_APPROVAL} => confirm")
    assert found.status is ResultStatus.ERRORED
    assert found.problem == (
        "internal error: POST /pay: the evaluator decides `allow`, but the specification decides "
        '`confirm by guard "large"`; they differ in outcome, gate, reasons, remedies, effects: please report this bug'
    )


PAIRS = """
entity user { roles: set<string> }
anyone { may POST /pay }
guard "pairs" on POST /pay { deny when any one in user.roles: any other in user.roles: one < other and other < one }
"""
ROLES = "[" + ", ".join(f'"r{number}"' for number in range(40)) + "]"


WIDE = pytest.mark.parametrize(
    "given",
    [f'given entities {{ user "alice" {{ roles: {ROLES} }} }}', f"given user.roles {ROLES}"],
    ids=["in a row", "as an attribute"],
)


@WIDE
def test_a_large_attribute_takes_as_many_steps_in_a_test_as_in_production(given: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 1_000)
    made = checked(f'{PAIRS}test "t" {{ given user "alice" {given} POST /pay => deny }}')
    (found,) = run(made.cases, made.kernel).results
    assert found.decision is not None
    assert found.decision.gate == "failure"


def test_coverage_reports_no_points_of_another_decision(monkeypatch: Patch) -> None:
    made = checked(f'{POLICY}test "t" {{ {FOR_BOB} POST /pay {{ body.amount: 1 }} => deny }}')
    assert measure(made.cases, made.kernel).hits
    the_user_needs_no_grant(monkeypatch)
    with pytest.raises(EngineDisagreementError, match="the evaluator decides `allow`"):
        measure(made.cases, made.kernel)


def test_a_session_answers_as_the_evaluator_decides_or_not_at_all(monkeypatch: Patch) -> None:
    session = ReplSession.of(checked(POLICY))
    session.take(FOR_BOB)
    assert str(session.take("POST /pay { body.amount: 1 }")[0].decision.outcome) == "deny"
    the_user_needs_no_grant(monkeypatch)
    with pytest.raises(UndecidableRequestError, match="internal error: POST /pay: the evaluator decides `allow`"):
        session.take("POST /pay { body.amount: 1 }")


# ── Mutants ───────────────────────────────────────────────────────────────────────────────────

BOUND = """
facts on POST /pay { body.amount: number }
anyone { may POST /pay }
guard "large" on POST /pay { deny when body.amount > 500 }
test "t" {
  POST /pay { body.amount: 900 } => deny
  POST /pay { body.amount: 100 } => allow
}
"""


def reads_501(condition: k.Expr) -> bool:
    return any(isinstance(node, k.Constant) and node.value == 501 for node in k.walk(condition))


def a_rule_with_a_bound_of_501_is_forgotten(patch: Patch) -> None:
    plain = walker.pass_guards

    def forget(st: Any, rules: Any, found: walker.Passage) -> None:
        plain(st, rules, found)
        found.acting = tuple(one for one in found.acting if not reads_501(one.effect.effect.condition))

    patch.setattr(walker, "pass_guards", forget)


def mutant_of_501() -> MutantResult:
    report = mutate(checked(BOUND))
    (found,) = [one for one in report.outcomes if one.operator == "move a bound" and "501" in one.name]
    return found


def test_a_mutant_is_killed_if_its_evaluator_decides_differently(monkeypatch: Patch) -> None:
    assert mutant_of_501().fate is MutantStatus.SURVIVED
    a_rule_with_a_bound_of_501_is_forgotten(monkeypatch)
    assert mutant_of_501().fate is MutantStatus.KILLED


@WIDE
def test_a_large_attribute_takes_as_many_steps_in_a_mutant(given: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 1_000)
    report = mutate(checked(f'{PAIRS}test "t" {{ given user "alice" {given} POST /pay => deny }}'))
    fates = {(one.operator, one.fate) for one in report.outcomes}
    assert ("drop a guard", MutantStatus.KILLED) in fates
    assert ("flip a comparison", MutantStatus.SURVIVED) in fates  # the decision takes too many steps, as before
    assert ("flip a comparison", MutantStatus.KILLED) not in fates


def test_no_mutant_is_tried_if_evaluator_and_specification_differ(monkeypatch: Patch) -> None:
    made = checked(f'{POLICY}test "t" {{ {OLD_APPROVAL} => confirm }}')
    an_old_approval_counts(monkeypatch)
    with pytest.raises(EngineDisagreementError):
        mutate(made)


# ── Claims ────────────────────────────────────────────────────────────────────────────────────


def claim(text: str) -> PropertyResult:
    made = checked(f'{POLICY}test "t" {{ {GIVEN} {text} }}')
    (found,) = try_properties(made.properties, made.kernel, examples=50)
    return found


def test_a_request_breaks_a_claim_if_the_evaluator_decides_so(monkeypatch: Patch) -> None:
    text = 'forall request where user.id != "alice" => not allow'
    assert claim(text).verdict is ClaimVerdict.PASSED
    the_user_needs_no_grant(monkeypatch)
    found = claim(text)
    assert found.verdict is ClaimVerdict.ERRORED
    assert not found.ok
    assert "internal error: POST /pay: the evaluator decides `allow`, but" in found.render()
    assert found.to_dict()["problem"] == found.in_short == found.problem


# ── Recorded decisions ────────────────────────────────────────────────────────────────────────

QUESTION: dict[str, Any] = {
    "request": {"method": "POST", "path": "/pay"},
    "agent": {"id": "bot", "issuer": "acme"},
    "user": {"id": "bob"},
    "body": {"amount": 1},
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    clock: Callable[[], datetime] = lambda: datetime(2027, 1, 4, tzinfo=UTC)  # noqa: E731
    Engine.from_text(POLICY, log=DecisionLog(path), clock=clock).decide(QUESTION)
    return path


def recorded(log: Path) -> RecordingResult:
    return convert_log(read_records(log), checked(POLICY))


def test_a_recorded_decision_becomes_a_test_only_if_the_evaluator_repeats_it(log: Path, monkeypatch: Patch) -> None:
    assert "=> deny" in recorded(log).text
    the_user_needs_no_grant(monkeypatch)
    assert [one.why for one in recorded(log).left_out] == ["a test of the request has another outcome than the log"]


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
