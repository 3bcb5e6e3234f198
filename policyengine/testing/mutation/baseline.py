"""Decides the cases of a policy without faults and records the rules that each case depends on, so that a mutant runs
only the cases that it may affect.

The evaluator decides; the trace of the specification shows which rules matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.analysis.slices import Slices
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.sizes import LargestSizes
from policyengine.compiler.tree import Tree
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities
from policyengine.spec.facts import has_agent, presenter_of
from policyengine.spec.trace import BlockTrace, DecisionTrace
from policyengine.testcases import Case
from policyengine.testing.case_sequence import CaseSequence
from policyengine.testing.decide_case import (
    CaseDecision,
    case_entities,
    decide_case,
    trace_case,
    traced_snapshot,
)
from policyengine.testing.mutation.lowering_cache import RULE_LISTS

RuleKey: TypeAlias = tuple[str, int]  # the name of a list of the kernel, and an index in it
LITERAL_PATTERN = re.compile(r'\d[\w.:/-]*|"[^"]*"')
DELEGATION_KEY: RuleKey = ("delegation", 0)  # stands for all delegation limits
NO_IDS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CaseAnswer:
    """The answer to a case: its decision, the approvals that it spent, its limits (which are charged only in a
    sequence), and the events to record in the sequence.
    """

    decision: Decision
    spends: frozenset[str] = NO_IDS
    counted: Effects | None = None

    @classmethod
    def of(cls, asked: CaseDecision) -> CaseAnswer:
        effects = asked.effects
        return cls(asked.decision, frozenset(effects.spends), effects if effects.limits or effects.records else None)

    @property
    def rests_on_limits(self) -> bool:
        return self.counted is not None and bool(self.counted.limits)

    def made(self, sequence: CaseSequence, case: Case) -> Decision:
        """Return the final decision in a sequence, and spend its approvals and limits there."""
        if self.counted is None:
            sequence.learn(case, self.decision)
            sequence.spent |= self.spends
            return self.decision
        return sequence.made(self.decision, self.counted, case)[0]


@dataclass(frozen=True, slots=True)
class CaseQuestion:
    """A case with its request and its entity store; `plain` is the store without the attributes that the case sets."""

    case: Case
    request: Request
    plain: Entities
    entities: Entities

    def decided(self, evaluator: Evaluator, sequence: CaseSequence, *, same_facts: bool = True) -> CaseDecision:
        """Return the decision of an evaluator. `same_facts` is False if the fault may have changed facts, so that the
        attributes of the case may belong to other entities. Raises CaseSetupError and RequestError, as a test run does.
        """
        entities = self.entities
        if self.case.attributes and not same_facts:
            entities = case_entities(self.case, self.request, self.plain, evaluator.kernel)
        return decide_case(self.case, self.request, entities, evaluator, sequence)


@dataclass(frozen=True, slots=True)
class BaselineCase:
    """A case, and how the policy without faults decided it. `rules` are the rules that may apply, by list and index.
    `opening` rules granted access; `refusing` rules refused it or had an effect. `issuers` are the issuers of the
    presenter and of the hops, `binders` the bindings at its endpoint, `spent` the approvals spent by earlier cases,
    `literals` the values written in the case. `answer` is its answer outside a sequence, `came` its decision in its
    sequence.
    """

    question: CaseQuestion
    rules: frozenset[RuleKey]
    opening: frozenset[RuleKey]
    refusing: frozenset[RuleKey]
    issuers: frozenset[str]
    binders: tuple[k.Binder, ...]
    by_agent: bool
    has_hops: bool
    asks_of_the_past: bool
    spent: frozenset[str]
    literals: frozenset[str]
    answer: CaseAnswer
    came: Decision

    @property
    def case(self) -> Case:
        return self.question.case

    @property
    def request(self) -> Request:
        return self.question.request


@dataclass(frozen=True, slots=True)
class Baseline:
    """The cases, decided by the policy without faults, in order. `tree` is the tree of that policy, `sizes` are the
    sizes of the entity stores.
    """

    cases: tuple[BaselineCase, ...]
    tree: Tree
    sizes: LargestSizes

    @classmethod
    def of(cls, cases: Iterable[Case], kernel: k.Kernel) -> Baseline:
        """Decide the cases; repetitions are separate cases. Raises CaseSetupError, RequestError and
        EngineDisagreementError."""
        questions = list(case_questions(cases, kernel))
        stores = {id(one.entities): one.entities for one in questions}
        sizes = LargestSizes(tuple(stores.values()))
        evaluator = Evaluator(kernel, EntityStore(()), sizes=sizes)
        return cls(tuple(baseline_cases(questions, evaluator)), evaluator.tree, sizes)


def case_questions(cases: Iterable[Case], kernel: k.Kernel) -> Iterator[CaseQuestion]:
    directories: dict[int, tuple[object, EntityStore]] = {}
    for case in chain.from_iterable(case.requests for case in cases):
        _, plain = directories.setdefault(id(case.rows), (case.rows, EntityStore(case.rows.values())))
        request = Request.from_mapping(case.question)
        yield CaseQuestion(case, request, plain, case_entities(case, request, plain, kernel))


def baseline_cases(questions: Iterable[CaseQuestion], evaluator: Evaluator) -> Iterator[BaselineCase]:
    """Yield the cases in order, because the order determines what a sequence has spent."""
    sequences: dict[tuple[str, str, int], CaseSequence] = {}
    kernel, slices = evaluator.kernel, Slices(evaluator)
    numbers = {id(rule): (name, number) for name in RULE_LISTS for number, rule in enumerate(getattr(kernel, name))}
    for question in questions:
        case, sequence = question.case, sequences.setdefault(sequence_key(question.case), CaseSequence())
        part, before = slices.of(question.request), sequence.spent
        asked = question.decided(evaluator, sequence)
        conditions = slices.histories_in(part)
        history = traced_snapshot(asked.snapshot, asked.request, case, part, conditions, sequence)
        facts, seen = trace_case(asked, part, history)
        answer = CaseAnswer.of(asked)
        came = answer.made(sequence, case)
        yield BaselineCase(
            question,
            frozenset(numbers[id(rule)] for name in RULE_LISTS for rule in getattr(part, name)),
            frozenset(numbers[id(one.block)] for one in block_traces(seen) if one.opens),
            frozenset(refusing_rules(seen, came, numbers)),
            frozenset(str(one.issuer) for one in (presenter_of(facts), *(hop.agent for hop in seen.hops))),
            part.binders,
            has_agent(question.request),
            bool(seen.hops),
            bool(facts.history),
            before,
            literals_in(case.span.text),
            answer,
            came,
        )


def sequence_key(case: Case) -> tuple[str, str, int]:
    return case.package, case.test, case.sequence


def literals_in(text: str) -> frozenset[str]:
    return frozenset(LITERAL_PATTERN.findall(text))


def block_traces(seen: DecisionTrace) -> Iterator[BlockTrace]:
    yield from (*seen.anyone, *seen.presenter, *(seen.user or ()))
    yield from (block for hop in seen.hops for block in hop.blocks)


def refusing_rules(seen: DecisionTrace, came: Decision, numbers: Mapping[int, RuleKey]) -> Iterator[RuleKey]:
    """Yield the rules that stopped the request or had an effect: blocks with failed requirements, guards that apply,
    exhausted limits, and delegation limits.
    """
    for block in block_traces(seen):
        if block.applies is True and any(one.holds is not True for one in block.requirements):
            yield numbers[id(block.block)]
    yield from (numbers[id(one.guard)] for one in seen.guards if any(effect.triggered for effect in one.effects))
    full = {reason.rule for reason in came.reasons}
    yield from (numbers[id(one.limit)] for one in seen.limited if one.acts and one.limit.name in full)
    if seen.hops or any(limit.holds is not True for limit in seen.limits):
        yield DELEGATION_KEY
