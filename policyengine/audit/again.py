"""A recorded decision made once more by a policy: what comes of the same question in the same world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from policyengine.audit.records import Record
from policyengine.kinds import EntityRef
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import RequestError
from policyengine.runtime.snapshot import Entities, Membership, Snapshot
from policyengine.semantics.explain import Explanation, explain
from policyengine.semantics.facts import Facts
from policyengine.semantics.kernel import Kernel
from policyengine.semantics.meaning import facts_of
from policyengine.semantics.reference import conclude, walk
from policyengine.semantics.walk import Walk


class CannotRepeat(Exception):
    """A record does not hold all that its decision depended on."""


@dataclass(frozen=True, slots=True)
class Again:
    """What a policy says to a recorded question. `read` are the entities that were looked up for it."""

    record: Record
    decision: Decision
    facts: Facts
    seen: Walk
    read: frozenset[EntityRef]

    @property
    def explanation(self) -> Explanation:
        """The walk to the decision."""
        return explain(self.decision, self.facts, self.seen)

    @property
    def same(self) -> bool:
        """Whether it comes to the same: the outcome, and the rules and gates that are the reasons."""
        then = self.record.decision
        reasons = {(one["gate"], one.get("rule"), one["outcome"]) for one in then.get("reasons", ())}
        now = {(str(one.gate), one.rule, str(one.outcome)) for one in self.decision.reasons}
        return (then["outcome"], reasons) == (str(self.decision.outcome), now)


def decided_again(record: Record, kernel: Kernel) -> Again:
    """By the specification, with the facts, the directory, the clock and the approvals of then. Raises CannotRepeat."""
    if record.directory is None:
        raise CannotRepeat("the log does not hold the directory that this was decided by")
    try:
        request = record.question
    except RequestError as error:
        raise CannotRepeat(f"its request cannot be read: {error}") from None
    entities = Traced(record.directory)
    snapshot = Snapshot(entities, record.spent)
    facts = facts_of(kernel, request, snapshot, record.time)
    seen = walk(facts, snapshot)
    decision, _ = conclude(facts, seen)
    return Again(record, decision.with_id(record.id), facts, seen, frozenset(entities.asked))


@dataclass(slots=True)
class Traced:
    """A directory that remembers which entities it was asked about."""

    entities: Entities
    asked: set[EntityRef] = field(default_factory=set)

    def __contains__(self, ref: EntityRef) -> bool:
        self.asked.add(ref)
        return ref in self.entities

    def attribute(self, ref: EntityRef, name: str) -> object:
        self.asked.add(ref)
        return self.entities.attribute(ref, name)

    def parents(self, ref: EntityRef) -> Membership:
        self.asked.add(ref)
        return self.entities.parents(ref)

    def ancestors(self, ref: EntityRef) -> Membership:
        found = self.entities.ancestors(ref)
        self.asked.update((ref, *found.refs))
        return found

    def with_rows(self, rows: Sequence[EntityData]) -> Entities:
        return Traced(self.entities.with_rows(rows), self.asked) if rows else self
