"""The state that a decision may depend on, read before it and never during."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from policyengine.runtime.entities import EntityData
from policyengine.runtime.history import History, WindowKey
from policyengine.runtime.values import Invalid
from policyengine.typesystem import EntityRef

NOT_ANSWERED = "the directory did not answer"
NO_ROW = Invalid("there is no row for its entity")
PARTIAL_ROW = Invalid("the row of its entity is partial and does not say it")


class Membership(Protocol):
    """What an entity is in; `complete` is false where the directory does not know enough to be sure, `answered` where
    that is because it did not answer."""

    @property
    def refs(self) -> Sequence[EntityRef]: ...

    @property
    def complete(self) -> bool: ...
    @property
    def answered(self) -> bool: ...


class Entities(Protocol):
    """What a decision asks of a directory."""

    def __contains__(self, ref: EntityRef) -> bool: ...

    def has_row(self, ref: EntityRef) -> bool | None:
        """Whether there is a row that says all; None where nobody knows."""

    def attribute(self, ref: EntityRef, name: str) -> object:
        """The raw attribute: ABSENT where a row lacks it, NO_ROW where there is no row."""

    def parents(self, ref: EntityRef) -> Membership: ...

    def ancestors(self, ref: EntityRef) -> Membership: ...

    def with_rows(self, rows: Sequence[EntityData]) -> Entities: ...

    def largest(self, name: str) -> int:
        """How large that attribute may be, as `measure_extent` says."""

    @property
    def deepest(self) -> int:
        """How many entities one may be in."""


class LookupEntities(Entities, Protocol):
    """Entities of which some are looked up. What one decision asked for and was not told yet is `lacking`."""

    @property
    def lacking(self) -> Collection[EntityRef]: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`spent` are the ids of approvals that an earlier allow has used; `history` the windows that were asked for: of
    one that is not there nothing is known."""

    entities: Entities
    spent: frozenset[str] = frozenset()
    history: Mapping[WindowKey, History] = field(default_factory=dict)
