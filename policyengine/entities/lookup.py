"""The entity store of one decision, which looks up rows by key, and the cache of looked-up rows."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from time import monotonic
from typing import Any, Protocol

from policyengine.circuit_breaker import CircuitBreaker
from policyengine.entities.store import (
    NO_ANSWER,
    NOBODY_ANSWERED,
    NOTHING_KNOWN,
    Ancestors,
    EntityStore,
    RowResult,
    UnknownRow,
    get_attribute,
    with_parents,
)
from policyengine.plurals import pluralize
from policyengine.runtime.entities import EntityData
from policyengine.runtime.snapshot import NO_ROW, NOT_ANSWERED
from policyengine.runtime.values import Invalid
from policyengine.typesystem import EntityRef

_LOG = logging.getLogger("policyengine")
MAX_ANCESTOR_STEPS = 32  # maximum levels of membership above an entity
MAX_ROUNDS = 100  # maximum consecutive lookups of one decision, each of which may depend on the previous one
MAX_ROWS = 10_000  # maximum number of rows that one decision looks up
PAUSE_SECONDS = 1.0  # seconds for which a source that failed is not queried again
UNANSWERED = Invalid(NOT_ANSWERED)


class RowLookupError(Exception):
    """The error for a failed row lookup: the reason, without secrets, and whether lookups of other rows would fail as
    well.
    """

    def __init__(self, why: str, *, lasts: bool = True) -> None:
        super().__init__(why)
        self.lasts = lasts


class RowSource(Protocol):
    """A source of rows of some entity types. `fetch` returns within `seconds` or raises RowLookupError; its result
    lacks entities without a row.
    """

    @property
    def identity(self) -> object:
        """The source and its configuration, for comparison: equal for sources that send the same queries to the same
        place."""

    @property
    def shown(self) -> str: ...
    @property
    def types(self) -> frozenset[str]: ...
    @property
    def attributes(self) -> Mapping[str, frozenset[str]]:
        """The attributes that rows may have, by entity type."""

    @property
    def timeout(self) -> float: ...
    @property
    def ttl(self) -> float: ...
    @property
    def most(self) -> int: ...

    def fetch(self, refs: Sequence[EntityRef], seconds: float) -> Mapping[EntityRef, RowResult]: ...

    def probe(self, seconds: float) -> None:
        """Check that rows can be looked up now. Raises RowLookupError."""


class LookupEntityStore(EntityStore):
    """The entity store of one decision: the loaded rows, and rows that are looked up for this decision, each at most
    once. `lacking` collects the entities that the decision needs but does not have, until `fetch` looks them up."""

    def __init__(
        self, directory: EntityStore, lookups: EntityLookups, found: Mapping[EntityRef, RowResult] | None = None
    ) -> None:
        self.directory, self.lookups, self.notes, self.loaded = directory, lookups, (), directory.loaded
        self.read_time = directory.read_time
        self.found: dict[EntityRef, RowResult] = dict(found or {})
        self.lacking: set[EntityRef] = set()
        self._lookups = lookups
        self._rounds = 0
        self._until: float | None = None

    def looking(self) -> LookupEntityStore:
        return self

    @property
    def types(self) -> Collection[str]:
        """The entity types whose rows are looked up."""
        return self._lookups.types

    def fetch(self) -> None:
        """Look up all lacking rows. Rows that do not arrive within the time limit of the decision, which the first call
        starts, stay unknown.
        """
        asked = sorted(self.lacking, key=lambda ref: (ref.type, ref.id))
        self.lacking.clear()
        self._rounds += 1
        self._until = self._until or self._lookups.clock() + self._lookups.timeout
        if self._rounds > MAX_ROUNDS:
            self.found |= dict.fromkeys(asked, NO_ANSWER)
            self._lookups.gave_up()
        else:
            self.found |= self._lookups.fetch(asked, self._until)

    def rows(self) -> list[EntityData]:
        """Return the looked-up rows that exist."""
        return [row for row in self.found.values() if isinstance(row, EntityData)]

    def found_of(self, ref: EntityRef) -> RowResult:
        if ref.type not in self._lookups.types:
            return self.directory.found_of(ref)
        if ref not in self.found:
            if len(self.found) + len(self.lacking) >= MAX_ROWS:
                self._lookups.gave_up()
                return NO_ANSWER
            kept = self._lookups.kept(ref)
            if kept is None:
                self.lacking.add(ref)
                return NO_ANSWER
            self.found[ref] = kept[0]
        return self.found[ref]

    def _is_looked_up(self, ref: EntityRef) -> bool:
        return False  # `found_of` has noted the row as lacking

    def __len__(self) -> int:
        return len(self.directory) + len(self.rows())

    def __iter__(self) -> Iterator[EntityData]:
        yield from self.directory
        yield from self.rows()

    def __contains__(self, ref: EntityRef) -> bool:
        """Return whether the store has the row, or the row's source did not answer: in both cases a row in the request
        is ignored.
        """
        return self.found_of(ref) is not None

    def attribute(self, ref: EntityRef, name: str) -> object:
        row = self.found_of(ref)
        match row:
            case None:
                return NO_ROW
            case UnknownRow():
                return UNANSWERED
            case EntityData():
                return get_attribute(row, name)

    def ancestors(self, ref: EntityRef) -> Ancestors:
        match self.found_of(ref):
            case EntityData() as row:
                return with_parents(row, self._climb(row.parents))
            case None:
                return NOTHING_KNOWN
            case UnknownRow():
                return NOBODY_ANSWERED

    def _climb(self, parents: Iterable[EntityRef]) -> Ancestors:
        """Return the ancestors, level by level. Each level may need a round trip, so the number of levels
        is bounded.
        """
        found = dict.fromkeys(parents)
        level, complete, answered = list(found), True, True
        for _ in range(MAX_ANCESTOR_STEPS):
            above: dict[EntityRef, None] = {}
            rows = [self.found_of(ref) for ref in level]
            answered = answered and NO_ANSWER not in rows
            for row in rows:
                complete = complete and isinstance(row, EntityData) and not row.partial
                parents = row.parents if isinstance(row, EntityData) else ()
                above |= dict.fromkeys(parent for parent in parents if parent not in found)
            found |= above
            level = list(above)
        if level:
            self._lookups.gave_up()
        return Ancestors(tuple(found), complete and not level, answered)


class EntityLookups:
    """All row sources of an entity store, each with a cache that is limited in age and in rows (`most`). A source that
    does not answer is not queried again for PAUSE_SECONDS, so that decisions do not wait for it. `failures` counts
    lookups without an answer."""

    def __init__(
        self, sources: Iterable[RowSource], clock: Callable[[], float] = monotonic, *, types: Collection[str] = ()
    ) -> None:
        """Create the lookups. `types` are further types that count as looked up but have no source, as in a recorded
        decision.
        """
        self._kept = [RowCache(one, clock) for one in sources]
        self._by_type = {name: kept for kept in self._kept for name in kept.source.types}
        self.types: Collection[str] = frozenset((*self._by_type, *types))
        self.timeout = max((kept.source.timeout for kept in self._kept), default=0.0)
        self.clock = clock
        self._told = False

    def listen(self, tell: Callable[[bool, str], None]) -> None:
        """From now on, call `tell` when a source does not answer, with the reason, and when it answers again."""
        for kept in self._kept:
            kept.tell = tell

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EntityLookups) and self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]

    def _identity(self) -> tuple[object, ...]:
        return self.types, *(kept.source.identity for kept in self._kept)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the sources without their caches, because another process looks up rows itself."""
        return EntityLookups, (tuple(kept.source for kept in self._kept), self.clock)

    @property
    def attributes(self) -> Mapping[str, frozenset[str]]:
        """The attributes that rows may have, by entity type."""
        return {name: names for kept in self._kept for name, names in kept.source.attributes.items()}

    @property
    def failures(self) -> int:
        """The number of lookups without an answer."""
        return sum(kept.failures for kept in self._kept)

    def failure(self) -> str | None:
        """Probe all sources and return the first error, or None."""
        return next((why for kept in self._kept if (why := kept.failure()) is not None), None)

    def beside(self, directory: EntityStore) -> LookupEntityStore:
        return LookupEntityStore(directory, self)

    def fetch(self, refs: Sequence[EntityRef], until: float) -> Mapping[EntityRef, RowResult]:
        found: dict[EntityRef, RowResult] = dict.fromkeys(refs, NO_ANSWER)
        for kept in self._kept:
            own = [ref for ref in refs if self._by_type.get(ref.type) is kept]
            if own:
                found |= kept.fetch(own, until)
        return found

    def kept(self, ref: EntityRef) -> tuple[RowResult, float] | None:
        """Return the cached row and its expiry, or None if it must be looked up."""
        kept = self._by_type.get(ref.type)
        return None if kept is None else kept.known(ref)

    def gave_up(self) -> None:
        if not self._told:
            self._told = True
            limits = f"{MAX_ROWS:,} rows, {MAX_ROUNDS} rounds or {MAX_ANCESTOR_STEPS} levels of membership"
            _LOG.warning("a decision needs more lookups than %s; the remaining rows are unknown", limits)


class RowCache:
    """The cached rows of one source, least recently used first."""

    def __init__(self, source: RowSource, clock: Callable[[], float]) -> None:
        self.source, self.failures = source, 0
        self._outage_failures = 0  # failures of the current outage
        self._clock, self._guard = clock, Lock()
        self._rows: OrderedDict[EntityRef, tuple[RowResult, float]] = OrderedDict()
        self._circuit = CircuitBreaker(clock, threshold=1, pause=PAUSE_SECONDS)
        self.tell: Callable[[bool, str], None] | None = None

    def known(self, ref: EntityRef) -> tuple[RowResult, float] | None:
        with self._guard:
            kept = self._rows.get(ref)
            if kept is None or self._clock() >= kept[1]:
                return None
            self._rows.move_to_end(ref)
            return kept

    def fetch(self, refs: Sequence[EntityRef], until: float) -> dict[EntityRef, RowResult]:
        """Look up rows without reading the cache, which the caller has already done."""
        now = self._clock()
        if until <= now or not self._circuit.admit():
            self._count_failure(in_outage=self._circuit.is_open)
            return dict.fromkeys(refs, NO_ANSWER)
        try:
            rows = self.source.fetch(refs, min(until - now, self.source.timeout))
        except RowLookupError as error:
            self._failed(error)
            return dict.fromkeys(refs, NO_ANSWER)
        self._end_outage()
        found = {ref: rows.get(ref) for ref in refs}
        self._keep(found, now + self.source.ttl)
        return found

    def failure(self) -> str | None:
        """Return why rows cannot be looked up now, or None. A source that failed within PAUSE_SECONDS is not probed
        again."""
        if not self._circuit.admit():
            return "it failed to answer a moment ago"
        try:
            self.source.probe(self.source.timeout)
        except RowLookupError as error:
            self._failed(error)
            return str(error)
        self._end_outage()
        return None

    def _keep(self, found: Mapping[EntityRef, RowResult], expires: float) -> None:
        with self._guard:
            for ref, row in found.items():
                self._rows[ref] = row, expires
                self._rows.move_to_end(ref)
            while len(self._rows) > self.source.most:
                self._rows.popitem(last=False)

    def _count_failure(self, *, in_outage: bool) -> None:
        with self._guard:
            self.failures += 1
            self._outage_failures += in_outage

    def _failed(self, error: RowLookupError) -> None:
        lasts = error.lasts or self._circuit.is_open
        self._count_failure(in_outage=lasts)
        opened = lasts and self._circuit.fail()
        if not lasts or opened:
            _LOG.error("the entity store at `%s` does not answer: %s; its facts are unknown", self.source.shown, error)
        if opened and self.tell is not None:
            self.tell(True, f"the entity store at `{self.source.shown}` does not answer: {error}")

    def _end_outage(self) -> None:
        if self._circuit.succeed():
            with self._guard:
                failures, self._outage_failures = self._outage_failures, 0
            shown, after = self.source.shown, pluralize(failures, "failure")
            _LOG.warning("the entity store at `%s` answers again after %s", shown, after)
            if self.tell is not None:
                self.tell(False, f"the entity store at `{self.source.shown}` answers again")
