"""The text of a fault spells the kernel of its mutant; what is left out is the same; nothing that touches is missed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.check import CheckResult
from policyengine.compiler.tree import tree_of
from policyengine.kernel import Kernel
from policyengine.testcases import Case
from policyengine.testing.case_sequence import CaseSequence
from policyengine.testing.decide_case import CaseSetupError, trace_case
from policyengine.testing.mutation.baseline import CaseAnswer, sequence_key
from policyengine.testing.mutation.equivalent import is_equivalent
from policyengine.testing.mutation.faults import Fault
from policyengine.testing.mutation.impact import can_affect
from policyengine.testing.mutation.lowering_cache import LoweringCache
from policyengine.testing.mutation.operators import find_faults
from policyengine.testing.mutation.run_mutants import MutantRunner, keeps_tree
from policyengine.testing.runner import CaseRunner, run
from tests.depth import examples, scaled
from tests.generate import checked_policy
from tests.testing.mutation.faulty import EXAMPLE_NAMES, checked, example, kernel_of_text, meaning

LARGE = [pytest.param(name, marks=pytest.mark.deep) for name in ("drive", "multi-tenant", "payments", "plans")]
MOST = examples(4, 24)  # faults of one policy that chance wrote


def differing(policy: CheckResult, faults: list[Fault]) -> list[str]:
    """The faults whose text does not mean what their mutant means."""
    workshop = LoweringCache.of(policy)
    return [
        fault.name
        for fault in faults
        if meaning((mutant := workshop.mutant(fault)) and mutant.kernel) != meaning(kernel_of_text(policy, fault))
    ]


@scaled
@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_the_text_of_a_fault_compiles_to_its_mutant(name: str) -> None:
    policy = example(name)
    every = list(find_faults(policy.program))
    assert len(every) > 10
    assert differing(policy, Random(name).sample(every, min(MOST, len(every)))) == []


def so_in_a_policy(seed: int) -> None:
    random = Random(seed)
    policy = checked(*checked_policy(random).texts)
    every = find_faults(policy.program)
    assert differing(policy, random.sample(every, min(MOST, len(every)))) == []


@settings(deadline=None, max_examples=2)
@given(seed=st.integers(0, 2**32))
def test_the_text_of_a_fault_compiles_to_its_mutant_in_random_policies(seed: int) -> None:
    so_in_a_policy(seed)


@pytest.mark.deep
@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_the_text_of_a_fault_compiles_to_its_mutant_in_hundreds_of_policies(seed: int) -> None:
    so_in_a_policy(seed)


def answer_of_a_test_run(case: Case, kernel: Kernel, begun: CaseSequence) -> CaseAnswer:
    """The answer when the whole policy is run, which its trace confirms."""
    runner = CaseRunner.of(kernel)
    runner.sequences[sequence_key(case)] = begun
    asked, before = runner.decide(case)
    trace_case(asked, kernel, before)
    return CaseAnswer.of(asked)


def answered(ask_it: Callable[..., CaseAnswer], *arguments: object) -> CaseAnswer | None:
    """None where the case cannot be asked any more, such as one that gives `resource.tenant` and finds no resource."""
    try:
        return ask_it(*arguments)
    except CaseSetupError:
        return None


def told(answer: CaseAnswer | None) -> tuple[object, ...]:
    """All that a test may claim of a decision, and what it spends."""
    if answer is None:
        return (None,)
    decision = answer.decision
    reasons = [(one.outcome, one.gate, one.rule, one.message) for one in decision.reasons]
    said = reasons, decision.remedies, decision.obligations, decision.unknown, decision.principal
    charges = [] if answer.counted is None else [one.charge for one in answer.counted.limits]
    return decision.outcome, *said, answer.spends, charges


@scaled
@pytest.mark.parametrize("name", ["delegation", "spending-caps", *LARGE])
def test_the_mutant_runner_agrees_with_deciding_every_case_by_the_whole_policy(name: str) -> None:
    policy = example(name)
    workshop = LoweringCache.of(policy)
    examiner = MutantRunner.of(policy.cases, workshop.kernel)
    questions = [question for group in examiner.groups for question in group]
    for fault in Random(name).sample(find_faults(policy.program), examples(4, 8)):
        mutant = workshop.mutant(fault)
        deciding = examiner.evaluator_of(mutant)
        candidates = {id(one) for group in examiner.candidates(mutant, {}) for one in group} if mutant else set()
        for question in questions if mutant is not None else ():
            case, begun = question.case, CaseSequence(question.spent)
            whole = answered(answer_of_a_test_run, case, mutant.kernel, begun)
            asked = id(question) in candidates and can_affect(mutant, question, {})
            found = answered(examiner.answer, question, deciding, begun, {}) if asked else question.answer
            assert told(found) == told(whole), (fault.name, case.request)
            assert not is_equivalent(mutant) or told(whole)[0] == told(question.answer)[0], (
                fault.name,
                case.request,
            )


@pytest.mark.parametrize("name", ["approve-then-pay", "plans", "secret-then-silent", "spending-caps"])
def test_a_mutant_of_a_policy_with_limits_is_killed_when_the_test_run_fails(name: str) -> None:
    policy = example(name)
    workshop = LoweringCache.of(policy)
    tests = sorted({case.test for case in policy.cases})
    for test in Random(name).sample(tests, min(4, len(tests))):
        cases = [case for case in policy.cases if case.test == test]
        examiner = MutantRunner.of(cases, workshop.kernel)
        for fault in Random(f"{name} {test}").sample(find_faults(policy.program), 2):
            mutant = workshop.mutant(fault)
            if mutant is not None:
                killed = examiner.examine(mutant).killer is not None
                assert killed != run(cases, mutant.kernel).ok, (fault.name, test)


@scaled
@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_a_mutant_keeps_the_tree_only_if_it_would_be_the_same(name: str) -> None:
    policy = example(name)
    workshop = LoweringCache.of(policy)
    before = tree_of(workshop.kernel)
    every = list(find_faults(policy.program))
    faults = Random(name).sample(every, min(examples(40, 10_000), len(every)))
    mutants = [one for fault in faults if (one := workshop.mutant(fault)) is not None]
    kept = [one for one in mutants if keeps_tree(one)]
    assert all(tree_of(one.kernel) == before for one in kept)
    assert kept


POLICY = """
facts on /a {{ body.count: int   body.urgent: bool }}
user any {{ may GET /a, GET /b }}
guard "g" on /a {{ {inside} }}
"""


@pytest.mark.parametrize(
    ("inside", "left_out"),
    [
        ("deny when body.count > 3", []),
        ("deny when body.count >= 1 or body.count > 5", [
            "drop a part of or", "flip a comparison", "move a bound", "move a bound"]),
        ("deny when body.urgent and body.urgent", [
            "drop a part of and", "drop a part of and", "swap and/or"]),
    ],
)  # fmt: skip
def test_provably_equivalent_mutants_are_detected(inside: str, left_out: list[str]) -> None:
    policy = checked(POLICY.format(inside=inside))
    workshop = LoweringCache.of(policy)
    made = [(fault.operator, workshop.mutant(fault)) for fault in find_faults(policy.program)]
    assert sorted(name for name, mutant in made if mutant and is_equivalent(mutant)) == left_out


def test_dropping_a_may_covered_by_another_may_is_equivalent() -> None:
    policy = checked("user any { may GET /a/**\n may GET /a/b }")
    workshop = LoweringCache.of(policy)
    gone = [(one, workshop.mutant(one)) for one in find_faults(policy.program) if one.operator == "drop a may"]
    assert [fault.before.strip() for fault, mutant in gone if mutant and is_equivalent(mutant)] == ["may GET /a/b"]
