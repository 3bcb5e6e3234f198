"""Runs the cases that may detect a mutant, the likeliest first, until one fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass
from functools import cached_property

from policyengine import kernel as k
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.sizes import LargestSizes
from policyengine.compiler.tree import Tree, indexed_parts
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision
from policyengine.runtime.endpoints import Endpoint
from policyengine.spec.match_endpoint import place_covers
from policyengine.testcases import Case
from policyengine.testing.case_sequence import CaseSequence, declares_order
from policyengine.testing.expectations import meets_expectation
from policyengine.testing.mutation.baseline import (
    DELEGATION_KEY,
    Baseline,
    BaselineCase,
    CaseAnswer,
    RuleKey,
    literals_in,
    sequence_key,
)
from policyengine.testing.mutation.impact import Memo, binds_differently, can_affect, keeps_facts
from policyengine.testing.mutation.lowering_cache import KernelRule, Mutant


class FailingTestError(Exception):
    """The error for a test that fails without any fault, so that results of mutants would be meaningless."""

    __test__ = False  # not a test class for pytest

    def __init__(self, case: Case) -> None:
        super().__init__(f"test `{case.test}` fails on the unchanged policy: make the tests pass first")
        self.case = case


@dataclass(frozen=True, slots=True)
class MutantTrial:
    """The cases that ran, in order; `killer` is the last case if it failed."""

    cases: tuple[Case, ...]
    killer: Case | None


@dataclass(frozen=True, slots=True)
class MutantRunner:
    """All cases of a policy. Cases of a sequence that spends approvals or counts requests are grouped, because later
    cases depend on earlier ones.
    """

    kernel: k.Kernel
    tree: Tree
    sizes: LargestSizes
    groups: tuple[tuple[BaselineCase, ...], ...]
    by_rule: Mapping[RuleKey, Several[int]]
    by_endpoint: Mapping[Endpoint, tuple[BaselineCase, Several[int]]]

    @classmethod
    def of(cls, cases: Iterable[Case], kernel: k.Kernel) -> MutantRunner:
        """Decide all cases without faults. Raises FailingTestError, CaseSetupError, RequestError and
        EngineDisagreementError."""
        baseline = Baseline.of((case for case in cases if case.skip is None), kernel)
        for question in baseline.cases:
            if not meets_expectation(question.case.expected, question.came):
                raise FailingTestError(question.case)
        groups = tuple(group_by_sequence(baseline.cases, counting=counts_requests(kernel)))
        return cls(kernel, baseline.tree, baseline.sizes, groups, groups_by_rule(groups), groups_by_endpoint(groups))

    def examine(self, mutant: Mutant) -> MutantTrial:
        memo: Memo = {}
        asked: list[Case] = []
        deciding = self.evaluator_of(mutant)
        for group in self._rank_groups(mutant, memo):
            for case, passed in self._answers(group, mutant, deciding, memo):
                asked.append(case)
                if not passed:
                    return MutantTrial(tuple(asked), case)
        return MutantTrial(tuple(asked), None)

    def _rank_groups(self, mutant: Mutant, memo: Memo) -> Iterator[tuple[BaselineCase, ...]]:
        """Yield the groups that may detect the mutant, the most likely first: groups that mention the changed part,
        name a changed guard, or were refused or allowed by a changed rule; then the others in source order.
        """
        near = Nearness.of(mutant)
        for group in sorted(self.candidates(mutant, memo), key=lambda group: min(map(near.distance, group))):
            # One of the first groups detects most mutants.
            if any(can_affect(mutant, question, memo) for question in group):
                yield group

    def candidates(self, mutant: Mutant, memo: Memo) -> Several[tuple[BaselineCase, ...]]:
        """Return the groups to which a changed rule applied or applies now; all groups if the rule may now cover other
        callers.
        """
        pairs = ((getattr(mutant.base, name)[number], new) for (name, number), new in mutant.rules.items())
        if mutant.whole.keys() - {"binders", "watches"} or not all(same_callers(old, new) for old, new in pairs):
            return self.groups
        numbers = {number for key in mutant.rules for number in self.by_rule.get(key, ())}
        places = [rule.place for rule in mutant.rules.values() if isinstance(rule, k.Guard | k.Limit)]
        for question, some in self.by_endpoint.values():
            endpoint = question.request.endpoint
            bound = "binders" in mutant.whole and binds_differently(mutant.whole["binders"], question, memo)
            if bound or any(place_covers(place, endpoint) for place in places):
                numbers.update(some)
        return [self.groups[number] for number in sorted(numbers)]

    def evaluator_of(self, mutant: Mutant) -> MutantEvaluator:
        return MutantEvaluator(mutant, self.tree, self.sizes)

    def _answers(
        self, group: Several[BaselineCase], mutant: Mutant, deciding: MutantEvaluator, memo: Memo
    ) -> Iterator[tuple[Case, bool]]:
        """Yield each case of a group and whether it still passes. A case that the mutant does not affect keeps its
        decision, but its limits and history may differ because of other cases.
        """
        sequence, same_past = CaseSequence(), True
        for question in group:
            case = question.case
            untouched = len(group) > 1 and not can_affect(mutant, question, memo)  # a single case can be affected
            if untouched and self._comes_to_the_same(question, mutant, sequence, same_past):
                came = question.answer.made(sequence, case)
                if question.answer.rests_on_limits:
                    yield case, meets_expectation(case.expected, came)
            else:
                try:
                    answer = self.answer(question, deciding, sequence, memo)
                except Exception:
                    # As in a test run: a case that cannot be decided fails its test.
                    yield case, False
                    return
                came = answer.made(sequence, case)
                yield case, meets_expectation(case.expected, came)
            same_past = same_past and self._enters_alike(question, came, mutant, memo)

    def _comes_to_the_same(
        self, question: BaselineCase, mutant: Mutant, sequence: CaseSequence, same_past: bool
    ) -> bool:
        """Return whether an unaffected case depends on no changed state, so that its answer stays the same."""
        if "watches" in mutant.whole or question.case.traces or declares_order(self.kernel):
            return False
        approvals = self.kernel.limits and question.case.approvals and sequence.spent != question.spent
        return not approvals and (same_past or not question.asks_of_the_past)

    def _enters_alike(self, question: BaselineCase, came: Decision, mutant: Mutant, memo: Memo) -> bool:
        """Return whether the case records the same events as without the fault."""
        if not self.kernel.watches:
            return True
        return came.outcome is question.came.outcome and (
            not can_affect(mutant, question, memo)
            or (keeps_facts(mutant, question, memo) and not question.case.approvals)
        )

    def answer(
        self, question: BaselineCase, deciding: MutantEvaluator, sequence: CaseSequence, memo: Memo
    ) -> CaseAnswer:
        """Return the answer of the mutant's evaluator. Raises CaseSetupError and RequestError."""
        same_facts = keeps_facts(deciding.mutant, question, memo)
        return CaseAnswer.of(question.question.decided(deciding.evaluator, sequence, same_facts=same_facts))


@dataclass
class MutantEvaluator:
    """The evaluator of one mutant, as production builds it, built when a case first needs it. `tree` is the tree of the
    policy without the fault, `sizes` are the sizes of the entity stores of all cases.
    """

    mutant: Mutant
    tree: Tree
    sizes: LargestSizes

    @cached_property
    def evaluator(self) -> Evaluator:
        tree = self.tree if keeps_tree(self.mutant) else None
        return Evaluator(self.mutant.kernel, EntityStore(()), tree=tree, sizes=self.sizes)


def keeps_tree(mutant: Mutant) -> bool:
    """Return whether the mutant has the same tree as the policy: most faults change neither an endpoint nor a caller,
    and building the tree of a large policy takes longer than deciding its cases.
    """
    if not mutant.whole.keys().isdisjoint({"binders", "watches", "profiles"}):
        return False
    pairs = ((getattr(mutant.base, name)[number], new) for (name, number), new in mutant.rules.items())
    return all(new is not None and indexed_parts(old) == indexed_parts(new) for old, new in pairs)


@dataclass(frozen=True, slots=True)
class Nearness:
    """How likely a case is to detect a mutant; it only affects the order of cases."""

    mentioned: frozenset[str]
    guards: frozenset[str]
    changed: frozenset[RuleKey]

    @classmethod
    def of(cls, mutant: Mutant) -> Nearness:
        lines = mutant.fault.lines
        before, after = (literals_in(" ".join(some)) for some in (lines.before, lines.after))
        named = ((name, number) for name, number in mutant.rules if name in ("guards", "limits"))
        guards = (getattr(mutant.base, name)[number].name for name, number in named)
        limits = {DELEGATION_KEY} if "delegation" in mutant.whole else set()
        return cls(frozenset(before ^ after or before), frozenset(guards), frozenset(mutant.rules.keys() | limits))

    def distance(self, question: BaselineCase) -> tuple[bool, int]:
        mentions = not self.mentioned.isdisjoint(question.literals)
        if question.case.expected.rule in self.guards or not self.changed.isdisjoint(question.refusing):
            return not mentions, 0
        return not mentions, 1 if not self.changed.isdisjoint(question.opening) else 2


def same_callers(old: KernelRule, new: KernelRule | None) -> bool:
    if isinstance(old, k.AgentBlock) and isinstance(new, k.AgentBlock):
        return old.who == new.who
    if isinstance(old, k.UserBlock) and isinstance(new, k.UserBlock):
        return old.who == new.who
    return isinstance(old, k.Guard | k.Limit)  # guards and limits do not depend on the caller


def groups_by_endpoint(groups: Several[tuple[BaselineCase, ...]]) -> dict[Endpoint, tuple[BaselineCase, list[int]]]:
    """Return for each endpoint the indexes of its groups and one of its cases."""
    found: dict[Endpoint, tuple[BaselineCase, list[int]]] = {}
    for number, group in enumerate(groups):
        for question in group:
            found.setdefault(question.request.endpoint, (question, []))[1].append(number)
    return found


def groups_by_rule(groups: Several[tuple[BaselineCase, ...]]) -> dict[RuleKey, list[int]]:
    """Return for each rule the indexes of the groups to which it applies."""
    found: dict[RuleKey, list[int]] = {}
    for number, group in enumerate(groups):
        for key in dict.fromkeys(key for question in group for key in question.rules):
            found.setdefault(key, []).append(number)
    return found


def counts_requests(kernel: k.Kernel) -> bool:
    """Return whether a decision may depend on earlier requests of its sequence, other than by approvals."""
    return bool(kernel.limits or kernel.watches) or declares_order(kernel)


def group_by_sequence(
    questions: Iterable[BaselineCase], *, counting: bool = False
) -> Iterator[tuple[BaselineCase, ...]]:
    """Yield groups of cases: each case alone, but the cases of a sequence with approvals together, at the position of
    the first of them. If the policy is `counting`, the cases of every sequence form a group.
    """
    sequences: dict[object, list[BaselineCase]] = {}
    for question in questions:
        alone = not (counting or question.case.approvals)
        sequences.setdefault(id(question) if alone else sequence_key(question.case), []).append(question)
    return (tuple(group) for group in sequences.values())
