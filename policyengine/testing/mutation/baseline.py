"""The cases of a policy, asked once as it is: what each needed, so that mutants are asked only what touches them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.compiler.evaluator import Evaluator
from policyengine.entities.store import Directory
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.entities import EntityData
from policyengine.runtime.history import WindowKey
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities, Snapshot
from policyengine.spec.evaluate import facts_of
from policyengine.spec.facts import Facts, has_agent, presenter_of
from policyengine.spec.history_records import histories, windows
from policyengine.spec.reference import conclude, walk
from policyengine.spec.trace import BlockSeen, Walk
from policyengine.testcases import Case
from policyengine.testing.mutation.lowering_cache import RULES
from policyengine.testing.mutation.outcome_key import comes_to
from policyengine.testing.runner import approved, holder
from policyengine.testing.sequence import Sequence

Key: TypeAlias = tuple[str, int]  # a list of the kernel, and the number of a rule in it
Asked: TypeAlias = list[k.Happened | k.Aggregate]  # of the past
LITERAL = re.compile(r'\d[\w.:/-]*|"[^"]*"')
LIMITS: Key = ("delegation", 0)  # all of them together
NO_IDS: frozenset[str] = frozenset()
NO_KEYS: frozenset[WindowKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a case, and which approvals it spent; its limits, which only a sequence can answer, and what is to
    be remembered of it there."""

    decision: Decision
    spends: frozenset[str] = NO_IDS
    counted: Effects | None = None

    @classmethod
    def of(cls, decision: Decision, effects: Effects) -> Answer:
        return cls(decision, frozenset(effects.spends), effects if effects.limits or effects.records else None)

    @property
    def rests_on_limits(self) -> bool:
        return self.counted is not None and bool(self.counted.limits)

    def made(self, sequence: Sequence, case: Case) -> Decision:
        """What becomes of it in its sequence, where it spends what it spends."""
        if self.counted is None:
            sequence.spent |= self.spends
            return self.decision
        return sequence.made(self.decision, self.counted, case)[0]


@dataclass(frozen=True, slots=True)
class Question:
    """A case, its directory, and how the policy came to its answer.

    `rules` are those that may have a say, by list and number: for each its place among those of its list in `seen`.
    `opening` opened a door, `refusing` kept one shut or had an effect; `issuers` are those of the presenter and of the
    hops; `spent` was before; `literals` are written in the case. `answer` is what it comes to by itself, `came` what
    came of it in its sequence.
    """

    case: Case
    plain: Directory
    facts: Facts
    seen: Walk
    rules: Mapping[Key, int]
    opening: frozenset[Key]
    refusing: frozenset[Key]
    issuers: frozenset[str]
    by_agent: bool
    spent: frozenset[str]
    comes_to: Hashable
    literals: frozenset[str]
    answer: Answer
    came: Decision

    @property
    def request(self) -> Request:
        return self.facts.request

    @property
    def binders(self) -> tuple[k.Binder, ...]:
        """Those at its endpoint."""
        return self.facts.kernel.binders

    @property
    def asks_of_the_past(self) -> bool:
        return bool(self.facts.history)

    def part_of(self, kernel: k.Kernel, changed: Mapping[Key, object], base: k.Kernel) -> k.Kernel:
        """The policy with nothing in it that surely has no say here."""
        rules = {key: getattr(base, key[0])[key[1]] for key in self.rules} | dict(changed)
        return only(kernel, rules)


def only(kernel: k.Kernel, rules: Mapping[Key, object], whole: Mapping[str, object] | None = None) -> k.Kernel:
    """The kernel with these rules alone, in their order; None is no rule. `whole` are other members that it gets."""
    found: dict[str, list[object]] = {name: [] for name in RULES}
    for (name, _), rule in sorted(rules.items(), key=lambda item: item[0]):
        found[name] += [] if rule is None else [rule]
    members = {**(whole or {}), **{name: tuple(some) for name, some in found.items()}}
    return replace(kernel, **members)  # type: ignore[arg-type]  # its members


def ask(case: Case, request: Request, plain: Directory, kernel: k.Kernel, sequence: Sequence) -> Answer:
    """What the policy decides of a case. Raises CannotAsk and RequestError, as a run of the tests does."""
    return Answer.of(*conclude(*looked_at(case, request, plain, kernel, asked_by(kernel), sequence)))


def ask_again(question: Question, kernel: k.Kernel, sequence: Sequence) -> Answer:
    """What a policy decides of a case when all facts are as they were; approvals are bound and spent anew."""
    facts = replace(question.facts, kernel=kernel, request=replace(question.request, approvals=()))
    facts = recalled(facts, asked_by(kernel), sequence)
    return Answer.of(*conclude(*walked(question.case, facts, Snapshot(facts.entities, sequence.spent))))


def looked_at(
    case: Case, request: Request, plain: Directory, kernel: k.Kernel, asked: Asked, sequence: Sequence
) -> tuple[Facts, Walk]:
    snapshot = Snapshot(_directory(case, request, plain, kernel), sequence.spent)
    facts = facts_of(kernel, request, snapshot, case.now)
    return walked(case, recalled(facts, asked, sequence), snapshot)


def asked_by(kernel: k.Kernel) -> Asked:
    """What a whole policy asks of the past."""
    return list(histories(tuple(getattr(kernel, name) for name in RULES))) if kernel.watches else []


def recalled(facts: Facts, asked: Asked, sequence: Sequence, keys: frozenset[WindowKey] = NO_KEYS) -> Facts:
    """The facts, with what is asked of what happened before in the sequence, and with these keys."""
    if not asked and not keys:
        return facts
    return replace(facts, history=sequence.fetched(windows(asked, facts) | keys, facts.now))


def walked(case: Case, facts: Facts, snapshot: Snapshot) -> tuple[Facts, Walk]:
    """The given approvals are bound to what the first walk says has to be approved."""
    seen = walk(facts, snapshot)
    given = tuple(approved(case, seen, facts, snapshot)) if case.approvals else ()
    if not given:
        return facts, seen
    facts = replace(facts.looked_at_anew, request=replace(facts.request, approvals=given))
    return facts, walk(facts, snapshot)


def _directory(case: Case, request: Request, plain: Directory, kernel: k.Kernel) -> Entities:
    """With the attributes that the case gives of whatever `user` or `resource` turns out to be."""
    if not case.attributes:
        return plain
    facts = facts_of(kernel, request, Snapshot(plain), case.now)
    rows = dict(case.rows)
    for (root, name), value in case.attributes.items():
        ref = holder(root, name, facts)
        row = rows.get(ref, EntityData(ref, {}))
        rows[ref] = replace(row, attributes={**row.attributes, name: value})
    return Directory(rows.values())


# ── The policy as it is ───────────────────────────────────────────────────────────────────────


def questions_of(cases: Iterable[Case], kernel: k.Kernel) -> Iterator[Question]:
    """In the order of the cases, which decides what a sequence has spent; what is repeated is as many cases. Raises
    CannotAsk and RequestError."""
    sequences: dict[tuple[str, str, int], Sequence] = {}
    directories: dict[int, tuple[object, Directory]] = {}
    slices = Evaluator(kernel, Directory(())).slices
    numbers = {id(rule): (name, number) for name in RULES for number, rule in enumerate(getattr(kernel, name))}
    for case in chain.from_iterable(case.requests for case in cases):
        _, plain = directories.setdefault(id(case.rows), (case.rows, Directory(case.rows.values())))
        request = Request.from_mapping(case.question)
        sequence = sequences.setdefault(sequence_of(case), Sequence())
        part, before = slices.of(request), sequence.spent
        facts, seen = looked_at(case, request, plain, part, slices.histories_in(part), sequence)
        answer = Answer.of(*conclude(facts, seen))
        came = answer.made(sequence, case)
        rules = {numbers[id(rule)]: place for name in RULES for place, rule in enumerate(getattr(part, name))}
        yield Question(
            case,
            plain,
            facts,
            seen,
            rules,
            frozenset(numbers[id(one.block)] for one in blocks_of(seen) if one.opens),
            frozenset(refusing(seen, came, numbers)),
            frozenset(str(one.issuer) for one in (presenter_of(facts), *(hop.agent for hop in seen.hops))),
            has_agent(request),
            before,
            comes_to(seen),
            literals(case.span.text),
            answer,
            came,
        )


def sequence_of(case: Case) -> tuple[str, str, int]:
    return case.package, case.test, case.sequence


def literals(text: str) -> frozenset[str]:
    return frozenset(LITERAL.findall(text))


def blocks_of(seen: Walk) -> Iterator[BlockSeen]:
    yield from (*seen.anyone, *seen.presenter, *(seen.user or ()))
    yield from (block for hop in seen.hops for block in hop.blocks)


def refusing(seen: Walk, came: Decision, numbers: Mapping[int, Key]) -> Iterator[Key]:
    """The blocks that are void by what they ask, the guards that act, rates and budgets that let nothing through, the
    limits of delegation."""
    for block in blocks_of(seen):
        if block.applies is True and any(one.holds is not True for one in block.requirements):
            yield numbers[id(block.block)]
    yield from (numbers[id(one.guard)] for one in seen.guards if any(effect.triggered for effect in one.effects))
    full = {reason.rule for reason in came.reasons}
    yield from (numbers[id(one.limit)] for one in seen.limited if one.acts and one.limit.name in full)
    if seen.hops or any(limit.holds is not True for limit in seen.limits):
        yield LIMITS
