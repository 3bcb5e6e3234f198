"""Generated policies and questions: the properties that must hold of every case, and that chance reaches everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.check import check
from policyengine.runtime.decision import Gate, Outcome
from policyengine.source import Source
from policyengine.syntax.parse import parse
from tests.depth import examples, scaled
from tests.generate import Case, approved, cases, checked_policy, kernel_of, policy, shrunk
from tests.generate.policies import Policy, gateway, remembering
from tests.generate.properties import PROPERTIES

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda one: one.__name__)
@scaled
@settings(max_examples=examples(4, 24))
@given(SEEDS)
def test_a_property_holds_of_generated_cases(holds: Callable[[Case], None], seed: int) -> None:
    for case in cases(seed, questions=6):
        holds(case)


def test_the_same_seed_generates_the_same_cases() -> None:
    assert list(cases(7)) == list(cases(7))
    assert policy(Random(7)) != policy(Random(8))


@pytest.fixture(scope="module")
def many() -> list[k.Kernel]:
    """Kernels of some policies; what every policy has, such as its vocabulary, is in each."""
    seeds = (*range(36), 61)  # the last redacts, which is rare
    kernels = [kernel_of(checked_policy(Random(seed))) for seed in seeds]
    return [kernel for kernel in kernels if kernel is not None]


def test_generated_policies_contain_every_condition_node(many: list[k.Kernel]) -> None:
    reached = {type(part).__name__ for kernel in many for one in conditions(kernel) for part in k.walk(one)}
    past = {"HistoryCondition", "Aggregate", "PastFact"}  # traces show these: tests/history/test_reference_history.py
    assert reached >= {form.__name__ for form in k.Expr.__args__} - {"Constant"} - past  # type: ignore[attr-defined]


def test_generated_policies_contain_every_requirement_and_effect(many: list[k.Kernel]) -> None:
    requirements = {type(r) for kernel in many for block in kernel.agents for r in block.requirements}
    assert requirements == set(k.Requirement.__args__)  # type: ignore[attr-defined]
    effects = [effect for kernel in many for guard in kernel.guards for effect in guard.effects]
    assert {type(effect) for effect in effects} == set(k.Effect.__args__)  # type: ignore[attr-defined]
    kinds = {effect.kind for effect in effects if isinstance(effect, k.ObligationEffect)}
    assert kinds == {"audit", "redact", "notify", "warn", "step_up", "header"}
    approvers = {type(effect.approvers.of) for effect in effects if isinstance(effect, k.Confirm)}
    assert approvers == {k.RoleHolder, k.ServedUser, k.MemberOf}


def test_generated_policies_contain_every_kind_of_block_and_pattern(many: list[k.Kernel]) -> None:
    assert {type(block.who) for kernel in many for block in kernel.agents} == {
        k.ExactName,
        k.NamePattern,
        k.InGroup,
        k.PrincipalCondition,
    }
    assert {type(block.who) for kernel in many for block in kernel.users} == {
        k.ExactName,
        k.AnyUser,
        k.PrincipalCondition,
    }
    assert any(kernel.anyones for kernel in many)
    assert any(kernel.unrestricted for kernel in many)
    assert any(kernel.delegation for kernel in many)
    delegates = [one for kernel in many for block in kernel.agents for one in block.delegates]
    assert {type(one.to) for one in delegates} == {k.ExactName, k.NamePattern, k.InGroup}
    assert any(one.lifetime for one in delegates)
    assert any(one.when for one in delegates)
    patterns = {type(o.pattern) for kernel in many for b in kernel.agents for g in b.grants for o in g.openings}
    assert patterns == {k.HttpPattern, k.ToolPattern, k.ActionPattern}


@scaled
@pytest.mark.parametrize("write", [policy, gateway, remembering])
def test_the_whole_check_lets_pass_what_compiles(write: Callable[[Random], Policy]) -> None:
    """Warnings are looked for in every form of a condition, and change nothing."""
    for seed in range(examples(6, 24)):
        found = checked_policy(Random(seed), write)
        parsed = [parse(Source(f"{number}.policy", text))[0] for number, text in enumerate(found.texts)]
        checked = check([module for module in parsed if module is not None])
        kernel = kernel_of(found)
        assert checked.kernel is not None
        assert kernel is not None
        assert checked.kernel.revision == kernel.revision


def test_questions_reach_every_gate_and_outcome() -> None:
    decisions = [(case, case.decide()) for seed in range(30) for case in cases(seed)]
    later = [
        replace(case, question=approved(Random(1), case.question, one, case.now)).decide()
        for case, one in decisions
        if one.outcome is Outcome.CONFIRM
    ]
    # Nothing is halted here. That limits deny whom they cannot count is a matter of chance; that they throttle is one
    # of a store.
    assert {one.gate for _, one in decisions} - {Gate.RATE, Gate.BUDGET} == {None, *Gate} - {
        Gate.RATE, Gate.BUDGET, Gate.FAILURE, Gate.HALTED,
    }  # fmt: skip
    assert {one.outcome for _, one in decisions} == set(Outcome) - {Outcome.THROTTLE}
    assert sum(one.allowed for _, one in decisions) > len(decisions) / 10
    assert any(one.allowed for one in later)


def test_a_failing_case_is_shrunk() -> None:
    allowed = (case for seed in range(50) for case in cases(seed) if case.decide().allowed)
    case = min(islice(allowed, 8), key=lambda one: len(str(one)))  # a large one takes seconds
    small = shrunk(case, lambda one: one.decide().allowed)
    assert small.decide().allowed
    assert len(str(small)) < len(str(case)) / 2


def conditions(kernel: k.Kernel) -> list[k.Expr]:
    """Every expression that a kernel holds, messages aside."""
    found: list[k.Expr | None] = []
    for block in (*kernel.agents, *kernel.users, *kernel.anyones):
        found += [grant.when for grant in block.grants]
        if not isinstance(block, k.AnyoneBlock):
            found += [block.who.condition] if isinstance(block.who, k.PrincipalCondition) else []
            found += [one.condition for one in block.requirements if isinstance(one, k.ActsFor)]
    for guard in kernel.guards:
        found += [effect.condition for effect in guard.effects]
    found += [value for binder in kernel.binders for _, value in binder.facts]
    return [one for one in found if one is not None]
