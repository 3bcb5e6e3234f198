"""Asks mutants the cases that touch them, nearest first, until one fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace

from policyengine import kernel as k
from policyengine.runtime.decision import Decision
from policyengine.runtime.endpoints import Endpoint
from policyengine.spec.match import place_covers
from policyengine.testcases import Case
from policyengine.testing.expectations import meets
from policyengine.testing.mutation.baseline import (
    LIMITS,
    Answer,
    Key,
    Question,
    ask,
    ask_again,
    literals,
    questions_of,
    sequence_of,
)
from policyengine.testing.mutation.impact import Memo, binds_otherwise, changed_for, leaves_facts, touches
from policyengine.testing.mutation.incremental import answered_anew, remembered_anew
from policyengine.testing.mutation.lowering_cache import Mutant, Rule
from policyengine.testing.sequence import Sequence


class TestsFail(Exception):
    """A test does not even pass without a fault: nothing can be learned from it."""

    __test__ = False  # no class of tests

    def __init__(self, case: Case) -> None:
        super().__init__(f"test `{case.test}` does not pass as it is: make the tests pass first")
        self.case = case


@dataclass(frozen=True, slots=True)
class Asked:
    """The cases that were asked, in that order; `killer` is the last of them, if it failed."""

    cases: tuple[Case, ...]
    killer: Case | None


@dataclass(frozen=True, slots=True)
class Examiner:
    """All cases of a policy. Those of a sequence that spends or counts stand together: each rests on those before."""

    kernel: k.Kernel
    groups: tuple[tuple[Question, ...], ...]
    by_rule: Mapping[Key, Several[int]]
    by_endpoint: Mapping[Endpoint, tuple[Question, Several[int]]]

    @classmethod
    def of(cls, cases: Iterable[Case], kernel: k.Kernel) -> Examiner:
        """Raises TestsFail, CannotAsk and RequestError."""
        questions = list(questions_of((case for case in cases if case.skip is None), kernel))
        for question in questions:
            if not meets(question.case.expected, question.came):
                raise TestsFail(question.case)
        groups = tuple(grouped(questions, counting=bool(kernel.limits or kernel.watches)))
        return cls(kernel, groups, by_rule(groups), by_endpoint(groups))

    def examine(self, mutant: Mutant) -> Asked:
        memo: Memo = {}
        asked: list[Case] = []
        for group in self._touched(mutant, memo):
            for case, passed in self._answers(group, mutant, memo):
                asked.append(case)
                if not passed:
                    return Asked(tuple(asked), case)
        return Asked(tuple(asked), None)

    def _touched(self, mutant: Mutant, memo: Memo) -> Iterator[tuple[Question, ...]]:
        """Nearest first: those that mention what the fault changes, those that name a changed guard, those that a
        changed rule refused, those that it let through; then the others as written."""
        near = Nearness.of(mutant)
        for group in sorted(self.candidates(mutant, memo), key=lambda group: min(map(near.distance, group))):
            if any(touches(mutant, question, memo) for question in group):  # most mutants fall to one of the first
                yield group

    def candidates(self, mutant: Mutant, memo: Memo) -> Several[tuple[Question, ...]]:
        """The groups that a changed rule had a say in, or has one now; all, where it may be about other callers."""
        pairs = ((getattr(mutant.base, name)[number], new) for (name, number), new in mutant.rules.items())
        if mutant.whole.keys() - {"binders", "watches"} or not all(same_callers(old, new) for old, new in pairs):
            return self.groups
        numbers = {number for key in mutant.rules for number in self.by_rule.get(key, ())}
        places = [rule.place for rule in mutant.rules.values() if isinstance(rule, k.Guard | k.Limit)]
        for question, some in self.by_endpoint.values():
            endpoint = question.request.endpoint
            bound = "binders" in mutant.whole and binds_otherwise(mutant.whole["binders"], question, memo)
            if bound or any(place_covers(place, endpoint) for place in places):
                numbers.update(some)
        return [self.groups[number] for number in sorted(numbers)]

    def _answers(self, group: Several[Question], mutant: Mutant, memo: Memo) -> Iterator[tuple[Case, bool]]:
        """Whether each case of a group still passes; what does not touch the mutant comes to what it always did, by
        itself: what others have left of its limits, or what happened before, may be another now."""
        sequence, same_past = Sequence(), True
        for question in group:
            case = question.case
            untouched = len(group) > 1 and not touches(mutant, question, memo)  # of one it is known
            if untouched and self._comes_to_the_same(question, sequence, same_past):
                answer = remembered_anew(question, mutant.whole)
                came = answer.made(sequence, case)
                if answer.rests_on_limits:
                    yield case, meets(case.expected, came)
            else:
                try:
                    answer = self.answer(question, mutant, sequence, memo, same_past=same_past)
                except Exception:
                    # As a run of the tests tells it: whatever keeps a case from being decided, its test notices.
                    yield case, False
                    return
                came = answer.made(sequence, case)
                yield case, meets(case.expected, came)
            same_past = same_past and self._enters_alike(question, came, mutant, memo)

    def _comes_to_the_same(self, question: Question, sequence: Sequence, same_past: bool) -> bool:
        """Whether a case that the mutant does not touch rests on nothing that may be another now."""
        approvals = self.kernel.limits and question.case.approvals and sequence.spent != question.spent
        return not approvals and (same_past or not question.asks_of_the_past)

    def _enters_alike(self, question: Question, came: Decision, mutant: Mutant, memo: Memo) -> bool:
        """Whether what is remembered of a case is what was remembered of it without the fault."""
        if not self.kernel.watches:
            return True
        return came.outcome is question.came.outcome and (
            not touches(mutant, question, memo)
            or (leaves_facts(mutant, question, memo) and not question.case.approvals)
        )

    def answer(
        self, question: Question, mutant: Mutant, sequence: Sequence, memo: Memo, *, same_past: bool = True
    ) -> Answer:
        changed = changed_for(mutant, question)
        lists = {name for name, _ in changed}
        same_facts = leaves_facts(mutant, question, memo)
        approvals = question.case.approvals and ("guards" in lists or sequence.spent != question.spent)
        waived = self.kernel.unrestricted and "agents" in lists
        past = not same_past and question.asks_of_the_past
        if same_facts and not approvals and not waived and not past:
            return answered_anew(question, changed, mutant, sequence)
        kernel = mutant.kernel
        if same_facts:
            return ask_again(question, question.part_of(kernel, mutant.rules, mutant.base), sequence)
        return ask(question.case, replace(question.request, approvals=()), question.plain, kernel, sequence)


@dataclass(frozen=True, slots=True)
class Nearness:
    """How likely a case is to notice a mutant: only the order in which cases are asked rests on it."""

    mentioned: frozenset[str]
    guards: frozenset[str]
    changed: frozenset[Key]

    @classmethod
    def of(cls, mutant: Mutant) -> Nearness:
        lines = mutant.fault.lines
        before, after = (literals(" ".join(some)) for some in (lines.before, lines.after))
        named = ((name, number) for name, number in mutant.rules if name in ("guards", "limits"))
        guards = (getattr(mutant.base, name)[number].name for name, number in named)
        limits = {LIMITS} if "delegation" in mutant.whole else set()
        return cls(frozenset(before ^ after or before), frozenset(guards), frozenset(mutant.rules.keys() | limits))

    def distance(self, question: Question) -> tuple[bool, int]:
        mentions = not self.mentioned.isdisjoint(question.literals)
        if question.case.expected.rule in self.guards or not self.changed.isdisjoint(question.refusing):
            return not mentions, 0
        return not mentions, 1 if not self.changed.isdisjoint(question.opening) else 2


def same_callers(old: Rule, new: Rule | None) -> bool:
    if isinstance(old, k.AgentBlock) and isinstance(new, k.AgentBlock):
        return old.who == new.who
    if isinstance(old, k.UserBlock) and isinstance(new, k.UserBlock):
        return old.who == new.who
    return isinstance(old, k.Guard | k.Limit)  # they are about whoever asks


def by_endpoint(groups: Several[tuple[Question, ...]]) -> dict[Endpoint, tuple[Question, list[int]]]:
    """The groups, by their numbers, that ask at each endpoint, and one question there."""
    found: dict[Endpoint, tuple[Question, list[int]]] = {}
    for number, group in enumerate(groups):
        for question in group:
            found.setdefault(question.request.endpoint, (question, []))[1].append(number)
    return found


def by_rule(groups: Several[tuple[Question, ...]]) -> dict[Key, list[int]]:
    """The groups, by their numbers, that each rule has a say in."""
    found: dict[Key, list[int]] = {}
    for number, group in enumerate(groups):
        for key in dict.fromkeys(key for question in group for key in question.rules):
            found.setdefault(key, []).append(number)
    return found


def grouped(questions: Iterable[Question], *, counting: bool = False) -> Iterator[tuple[Question, ...]]:
    """One by one, but for those with approvals: these in the order of their sequence, where its first one stands. So
    are all of them where the policy is `counting`."""
    sequences: dict[object, list[Question]] = {}
    for question in questions:
        alone = not (counting or question.case.approvals)
        sequences.setdefault(id(question) if alone else sequence_of(question.case), []).append(question)
    return (tuple(group) for group in sequences.values())
