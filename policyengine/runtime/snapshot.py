"""The state on which a decision depends, read before the decision and never during it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from policyengine.runtime.entities import EntityData
from policyengine.runtime.halts import HaltSet
from policyengine.runtime.history import History, WindowKey
from policyengine.runtime.values import Invalid
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import LEARNED_FACTS, learned_name

# Learned facts of a caller, by the names of `learned_name`. `step`, the state of the declared order of calls before the
# request, is not a fact: only explanations show it.
LearnedFacts: TypeAlias = dict[str, object]  # never changed; a dict, because compiled code searches it fast
NOT_ANSWERED = "the entity store did not answer"
NO_ROW = Invalid("the entity has no row")
NOT_READABLE = Invalid("the learned behavior of the caller cannot be read")
UNREADABLE_FACTS: LearnedFacts = {learned_name(path): NOT_READABLE for path in LEARNED_FACTS}
PARTIAL_ROW = Invalid("the row of the entity is partial and does not contain it")


class Membership(Protocol):
    """The parents of an entity. `complete` is False if the entity store may lack parents; `answered` is False if it
    lacks them because its source did not answer.
    """

    @property
    def refs(self) -> Sequence[EntityRef]: ...

    @property
    def complete(self) -> bool: ...
    @property
    def answered(self) -> bool: ...


class EntitySizes(Protocol):
    """The size of one or several entity stores, which bounds the work of a decision."""

    def largest(self, name: str) -> int:
        """Return the maximum size of that attribute, in the unit of `measure_extent`."""

    @property
    def deepest(self) -> int:
        """The maximum number of ancestors of an entity."""


class Entities(EntitySizes, Protocol):
    """The interface of an entity store for one decision."""

    def __contains__(self, ref: EntityRef) -> bool: ...

    def has_row(self, ref: EntityRef) -> bool | None:
        """Return whether there is a complete row; None if that is unknown."""

    def attribute(self, ref: EntityRef, name: str) -> object:
        """Return the raw attribute: ABSENT if the row lacks it, NO_ROW if there is no row, and another Invalid if the
        source did not answer or the row is partial.
        """

    def parents(self, ref: EntityRef) -> Membership: ...

    def ancestors(self, ref: EntityRef) -> Membership: ...

    def with_rows(self, rows: Sequence[EntityData]) -> Entities: ...


class LookupEntities(Entities, Protocol):
    """Entities, some of them looked up on demand. `lacking` are the entities that a decision needs and that are not
    loaded yet.
    """

    @property
    def lacking(self) -> Collection[EntityRef]: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state for one decision.

    `spent` holds the ids of approvals that an earlier allow used; `history` holds the requested windows: a missing one
    is unknown. `behavior` holds learned facts: a missing one has its neutral value, an Invalid one is unknown. `halts`
    are the halts in effect; None if no halt is.
    """

    entities: Entities
    spent: frozenset[str] = frozenset()
    history: Mapping[WindowKey, History] = field(default_factory=dict)
    behavior: LearnedFacts | None = None
    halts: HaltSet | None = None
