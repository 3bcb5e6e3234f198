"""Asks mutants the cases that touch them, nearest first, until one fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from policyengine.semantics import kernel as k
from policyengine.semantics.examples import Case
from policyengine.testing.meets import meets
from policyengine.testing.mutation.anew import answered_anew
from policyengine.testing.mutation.questions import NO_IDS, Answer, Question, ask, questions_of, sequence_of
from policyengine.testing.mutation.touching import Memo, changed_for, leaves_facts, touches
from policyengine.testing.mutation.workshop import Mutant


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
    """All cases of a policy. Those of a sequence that spends approvals stand together: each rests on those before."""

    kernel: k.Kernel
    groups: tuple[tuple[Question, ...], ...]

    @classmethod
    def of(cls, cases: Iterable[Case], kernel: k.Kernel) -> Examiner:
        """Raises TestsFail, CannotAsk and RequestError."""
        questions = list(questions_of((case for case in cases if case.skip is None), kernel))
        for question in questions:
            if not meets(question.case.expected, question.answer.decision):
                raise TestsFail(question.case)
        return cls(kernel, tuple(grouped(questions)))

    def examine(self, mutant: Mutant) -> Asked:
        memo: Memo = {}
        asked: list[Case] = []
        for group in self._touched(mutant, memo):
            for case, passed in self._answers(group, mutant, memo):
                asked.append(case)
                if not passed:
                    return Asked(tuple(asked), case)
        return Asked(tuple(asked), None)

    def _touched(self, mutant: Mutant, memo: Memo) -> list[tuple[Question, ...]]:
        """Nearest first: those that name a changed guard or that a changed rule decided, then the others as written."""
        names = {guard.name for guard in guards_of(mutant)}
        changed = mutant.rules.keys()
        touched = [group for group in self.groups if any(touches(mutant, question, memo) for question in group)]

        def distance(group: tuple[Question, ...]) -> int:
            if any(question.case.expected.rule in names for question in group):
                return 0
            return 1 if any(not changed.isdisjoint(question.decisive) for question in group) else 2

        return sorted(touched, key=distance)

    def _answers(self, group: Sequence[Question], mutant: Mutant, memo: Memo) -> Iterator[tuple[Case, bool]]:
        """Whether each case of a group still passes; what does not touch the mutant spends what it always did."""
        spent = NO_IDS
        for question in group:
            if len(group) > 1 and not touches(mutant, question, memo):  # of one it is known
                spent |= question.answer.spends
                continue
            try:
                answer = self.answer(question, mutant, spent)
            except Exception:
                # As a run of the tests tells it: whatever keeps a case from being decided, its test notices.
                yield question.case, False
                return
            spent |= answer.spends
            yield question.case, meets(question.case.expected, answer.decision)

    def answer(self, question: Question, mutant: Mutant, spent: frozenset[str]) -> Answer:
        changed = changed_for(mutant, question)
        lists = {name for name, _ in changed}
        same_facts = leaves_facts(mutant, question)
        approvals = question.case.approvals and ("guards" in lists or spent != question.spent)
        waived = self.kernel.unrestricted and "agents" in lists
        if same_facts and not approvals and not waived:
            return answered_anew(question, changed, mutant.whole)
        kernel = mutant.kernel
        part = question.part_of(kernel, mutant.rules, mutant.base) if same_facts else kernel
        return ask(question.case, question.request, question.plain, part, spent)


def guards_of(mutant: Mutant) -> Iterator[k.Guard]:
    return (mutant.base.guards[number] for name, number in mutant.rules if name == "guards")


def grouped(questions: Iterable[Question]) -> Iterator[tuple[Question, ...]]:
    """One by one, but for those with approvals: these in the order of their sequence, where its first one stands."""
    sequences: dict[object, list[Question]] = {}
    for question in questions:
        alone = not question.case.approvals
        sequences.setdefault(id(question) if alone else sequence_of(question.case), []).append(question)
    return (tuple(group) for group in sequences.values())
