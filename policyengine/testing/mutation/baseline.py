"""Decide the cases of a policy without faults and record the rules that each case depends on, so that a mutant runs
only the cases that it may affect.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.analysis.slices import Slices
from policyengine.compiler.evaluator import Evaluator
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.entities import EntityData
from policyengine.runtime.history import WindowKey
from policyengine.runtime.request import Approval, Request
from policyengine.runtime.snapshot import Entities, Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.facts import Facts, has_agent, presenter_of
from policyengine.spec.reference import conclude, trace_request
from policyengine.spec.required_history import history_conditions, history_windows
from policyengine.spec.trace import BlockTrace, DecisionTrace
from policyengine.testcases import Case, GivenApproval
from policyengine.testing.case_sequence import CaseSequence
from policyengine.testing.decide_case import root_entity
from policyengine.testing.mutation.lowering_cache import RULE_LISTS
from policyengine.testing.mutation.outcome_key import outcome_key

RuleKey: TypeAlias = tuple[str, int]  # a list of the kernel, and an index in it
HistoryExpressions: TypeAlias = list[k.HistoryCondition | k.Aggregate]  # conditions about history
LITERAL_PATTERN = re.compile(r'\d[\w.:/-]*|"[^"]*"')
DELEGATION_KEY: RuleKey = ("delegation", 0)  # stands for all delegation limits
NO_IDS: frozenset[str] = frozenset()
NO_KEYS: frozenset[WindowKey] = frozenset()


@dataclass(frozen=True, slots=True)
class CaseAnswer:
    """The answer of a case: its decision, the approvals it spent, its limits (which only a sequence can charge), and
    the events to record in the sequence.
    """

    decision: Decision
    spends: frozenset[str] = NO_IDS
    counted: Effects | None = None

    @classmethod
    def of(cls, decision: Decision, effects: Effects) -> CaseAnswer:
        return cls(decision, frozenset(effects.spends), effects if effects.limits or effects.records else None)

    @property
    def rests_on_limits(self) -> bool:
        return self.counted is not None and bool(self.counted.limits)

    def made(self, sequence: CaseSequence, case: Case) -> Decision:
        """Return the final decision in a sequence, and spend its approvals and limits there."""
        if self.counted is None:
            sequence.spent |= self.spends
            return self.decision
        return sequence.made(self.decision, self.counted, case)[0]


@dataclass(frozen=True, slots=True)
class BaselineCase:
    """A case with its entity store and its trace. `rules` are the rules that may apply, by list and index, each with
    its index in the trace `seen`. `opening` rules granted access; `refusing` rules refused it or had an effect.
    `issuers` are the issuers of the presenter and of the hops, `spent` the approvals spent before, `literals` the
    values written in the case. `answer` is the answer of the case alone, `came` its decision in its sequence.
    """

    case: Case
    plain: EntityStore
    facts: Facts
    seen: DecisionTrace
    rules: Mapping[RuleKey, int]
    opening: frozenset[RuleKey]
    refusing: frozenset[RuleKey]
    issuers: frozenset[str]
    by_agent: bool
    spent: frozenset[str]
    comes_to: Hashable
    literals: frozenset[str]
    answer: CaseAnswer
    came: Decision

    @property
    def request(self) -> Request:
        return self.facts.request

    @property
    def binders(self) -> tuple[k.Binder, ...]:
        """The binders at its endpoint."""
        return self.facts.kernel.binders

    @property
    def asks_of_the_past(self) -> bool:
        return bool(self.facts.history)

    def part_of(self, kernel: k.Kernel, changed: Mapping[RuleKey, object], base: k.Kernel) -> k.Kernel:
        """Return the mutated policy without the rules that cannot affect this case."""
        rules = {key: getattr(base, key[0])[key[1]] for key in self.rules} | dict(changed)
        return restrict_kernel(kernel, rules)


def restrict_kernel(
    kernel: k.Kernel, rules: Mapping[RuleKey, object], whole: Mapping[str, object] | None = None
) -> k.Kernel:
    """Return the kernel with only these rules, in order; None means no rule. `whole` replaces other members."""
    found: dict[str, list[object]] = {name: [] for name in RULE_LISTS}
    for (name, _), rule in sorted(rules.items(), key=lambda item: item[0]):
        found[name] += [] if rule is None else [rule]
    members = {**(whole or {}), **{name: tuple(some) for name, some in found.items()}}
    return replace(kernel, **members)  # type: ignore[arg-type]  # its members


def decide_case(
    case: Case, request: Request, plain: EntityStore, kernel: k.Kernel, sequence: CaseSequence
) -> CaseAnswer:
    """Decide a case with a policy. Raises CaseSetupError and RequestError, as a test run does."""
    return CaseAnswer.of(*conclude(*facts_and_walk(case, request, plain, kernel, kernel_histories(kernel), sequence)))


def decide_again(question: BaselineCase, kernel: k.Kernel, sequence: CaseSequence) -> CaseAnswer:
    """Decide a case with a policy and the same facts; approvals are bound and spent again."""
    facts = replace(question.facts, kernel=kernel, request=replace(question.request, approvals=()))
    facts = with_history(facts, kernel_histories(kernel), sequence)
    return CaseAnswer.of(
        *conclude(*walk_with_approvals(question.case, facts, Snapshot(facts.entities, sequence.spent)))
    )


def facts_and_walk(
    case: Case,
    request: Request,
    plain: EntityStore,
    kernel: k.Kernel,
    asked: HistoryExpressions,
    sequence: CaseSequence,
) -> tuple[Facts, DecisionTrace]:
    snapshot = Snapshot(_case_entities(case, request, plain, kernel), sequence.spent)
    facts = build_facts(kernel, request, snapshot, case.now)
    return walk_with_approvals(case, with_history(facts, asked, sequence), snapshot)


def kernel_histories(kernel: k.Kernel) -> HistoryExpressions:
    """Return all conditions of a policy about history."""
    return list(history_conditions(tuple(getattr(kernel, name) for name in RULE_LISTS))) if kernel.watches else []


def with_history(
    facts: Facts, asked: HistoryExpressions, sequence: CaseSequence, keys: frozenset[WindowKey] = NO_KEYS
) -> Facts:
    """Return the facts with the history that the conditions and keys need, from the sequence."""
    if not asked and not keys:
        return facts
    return replace(facts, history=sequence.fetched(history_windows(asked, facts) | keys, facts.now))


def walk_with_approvals(case: Case, facts: Facts, snapshot: Snapshot) -> tuple[Facts, DecisionTrace]:
    """Bind the given approvals to the requirements that a first trace reports, then trace the request again."""
    seen = trace_request(facts, snapshot)
    given = tuple(given_approvals(case, seen, facts, snapshot)) if case.approvals else ()
    if not given:
        return facts, seen
    facts = replace(facts.looked_at_anew, request=replace(facts.request, approvals=given))
    return facts, trace_request(facts, snapshot)


def given_approvals(case: Case, seen: DecisionTrace, facts: Facts, snapshot: Snapshot) -> Iterator[Approval]:
    """Yield the given approvals, each bound to what its rule requires for this request, or for the earlier request it
    names."""
    for given in case.approvals:
        walked = (
            seen
            if given.question is None
            else trace_request(facts_of_request(given.question, facts, snapshot), snapshot)
        )
        bindings = [
            effect.approval.binding
            for guard in walked.guards
            if guard.guard.name == given.rule
            for effect in guard.effects
            if effect.triggered and effect.approval is not None
        ]
        for number, binding in enumerate(bindings):
            yield make_approval(given, number, binding, case)


def facts_of_request(question: Mapping[str, object], facts: Facts, snapshot: Snapshot) -> Facts:
    """Return the facts of another request with the same policy, entities and history."""
    found = build_facts(facts.kernel, Request.from_mapping(question), snapshot, facts.now)
    return replace(found, history=facts.history)


def make_approval(given: GivenApproval, number: int, binding: str, case: Case) -> Approval:
    return Approval(f"{given.id}/{number}", given.by, case.now - given.age, binding, given.rule)


def _case_entities(case: Case, request: Request, plain: EntityStore, kernel: k.Kernel) -> Entities:
    """Return the entities with the attributes that the case sets on `user` or `resource`."""
    if not case.attributes:
        return plain
    facts = build_facts(kernel, request, Snapshot(plain), case.now)
    rows = dict(case.rows)
    for (root, name), value in case.attributes.items():
        ref = root_entity(root, name, facts)
        row = rows.get(ref, EntityData(ref, {}))
        rows[ref] = replace(row, attributes={**row.attributes, name: value})
    return EntityStore(rows.values())


# ── The policy as it is ───────────────────────────────────────────────────────────────────────


def baseline_cases(cases: Iterable[Case], kernel: k.Kernel) -> Iterator[BaselineCase]:
    """Yield the cases in order, because that determines what a sequence has spent; repetitions are separate cases.
    Raises CaseSetupError and RequestError."""
    sequences: dict[tuple[str, str, int], CaseSequence] = {}
    directories: dict[int, tuple[object, EntityStore]] = {}
    slices = Slices(Evaluator(kernel, EntityStore(())))
    numbers = {id(rule): (name, number) for name in RULE_LISTS for number, rule in enumerate(getattr(kernel, name))}
    for case in chain.from_iterable(case.requests for case in cases):
        _, plain = directories.setdefault(id(case.rows), (case.rows, EntityStore(case.rows.values())))
        request = Request.from_mapping(case.question)
        sequence = sequences.setdefault(sequence_key(case), CaseSequence())
        part, before = slices.of(request), sequence.spent
        facts, seen = facts_and_walk(case, request, plain, part, slices.histories_in(part), sequence)
        answer = CaseAnswer.of(*conclude(facts, seen))
        came = answer.made(sequence, case)
        rules = {numbers[id(rule)]: place for name in RULE_LISTS for place, rule in enumerate(getattr(part, name))}
        yield BaselineCase(
            case,
            plain,
            facts,
            seen,
            rules,
            frozenset(numbers[id(one.block)] for one in block_traces(seen) if one.opens),
            frozenset(refusing_rules(seen, came, numbers)),
            frozenset(str(one.issuer) for one in (presenter_of(facts), *(hop.agent for hop in seen.hops))),
            has_agent(request),
            before,
            outcome_key(seen),
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
    """Yield the rules that refused: blocks with failed requirements, guards that act, exhausted limits, and delegation
    limits.
    """
    for block in block_traces(seen):
        if block.applies is True and any(one.holds is not True for one in block.requirements):
            yield numbers[id(block.block)]
    yield from (numbers[id(one.guard)] for one in seen.guards if any(effect.triggered for effect in one.effects))
    full = {reason.rule for reason in came.reasons}
    yield from (numbers[id(one.limit)] for one in seen.limited if one.acts and one.limit.name in full)
    if seen.hops or any(limit.holds is not True for limit in seen.limits):
        yield DELEGATION_KEY
