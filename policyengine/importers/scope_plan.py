"""Groups operations into scopes and files by area, kind and required token scopes. Each scope is granted as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from policyengine.importers.model import ApiOperation, ApiOperationKind, HttpTemplate
from policyengine.importers.sanitize import NameAllocator, safe_name

MAX_OPERATIONS_PER_FILE = 40
MIN_OPERATIONS_PER_FILE = 8


@dataclass(frozen=True, slots=True)
class ScopeGroup:
    """The operations of one scope. `alias` is the OAuth scope that covers exactly these operations, if one exists."""

    name: str
    area: str
    kind: ApiOperationKind
    asks: tuple[frozenset[str], ...]
    operations: tuple[ApiOperation, ...]
    alias: str = ""

    @property
    def carried_by(self) -> str:
        return self.alias or self.name


@dataclass(frozen=True, slots=True)
class CarrierScope:
    """An OAuth scope that covers several groups; it includes their scopes."""

    name: str
    alias: str
    groups: tuple[ScopeGroup, ...]


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The planned files: one for each of `areas`, and one for `carried`."""

    areas: dict[str, tuple[ScopeGroup, ...]]
    carried: tuple[CarrierScope, ...]
    known_aliases: frozenset[str] = frozenset()

    @property
    def groups(self) -> tuple[ScopeGroup, ...]:
        return tuple(group for groups in self.areas.values() for group in groups)


@dataclass(slots=True)
class _Draft:
    operations: list[ApiOperation] = field(default_factory=list)


def plan_scopes(
    operations: Sequence[ApiOperation],
    taken: frozenset[str] = frozenset(),
    aliases: frozenset[str] = frozenset(),
    suffix: str = "",
) -> ImportPlan:
    """Plan the scopes and files. `taken` are existing scopes, `aliases` their OAuth names; `suffix` marks
    new scopes.
    """
    names = NameAllocator(taken)
    areas = {area: _group_operations(area, found, names, suffix) for area, found in _split_areas(operations).items()}
    meant: dict[str, list[ScopeGroup]] = defaultdict(list)
    for groups in areas.values():
        for group in groups:
            for scope in sorted({scope for ask in group.asks for scope in ask}):
                meant[scope].append(group)
    alone = {
        id(groups[0]): scope
        for scope, groups in meant.items()
        if len(groups) == 1 and {s for ask in groups[0].asks for s in ask} == {scope} and scope not in aliases
    }
    named = {
        area: tuple(_with_alias(group, alone.get(id(group), "")) for group in groups) for area, groups in areas.items()
    }
    by_name = {group.name: group for groups in named.values() for group in groups}
    carried = tuple(
        CarrierScope(
            names.new(f"tokens.{safe_name(scope, 'scope')}"), scope, tuple(by_name[group.name] for group in groups)
        )
        for scope, groups in sorted(meant.items())
        if scope not in aliases and scope not in alone.values()
    )
    return ImportPlan(named, carried, aliases)


def _with_alias(group: ScopeGroup, alias: str) -> ScopeGroup:
    return ScopeGroup(group.name, group.area, group.kind, group.asks, group.operations, alias)


def _group_operations(
    area: str, operations: Sequence[ApiOperation], names: NameAllocator, suffix: str
) -> tuple[ScopeGroup, ...]:
    found: dict[tuple[ApiOperationKind, tuple[frozenset[str], ...]], list[ApiOperation]] = defaultdict(list)
    for operation in operations:
        found[operation.kind, operation.asks].append(operation)
    groups = []
    for (kind, asks), same in sorted(found.items(), key=lambda one: (one[0][0].severity, list(map(sorted, one[0][1])))):
        several = sum(other is kind for other, _ in found) > 1
        means = "_or_".join("_and_".join(safe_name(scope, "scope") for scope in sorted(ask)) for ask in asks)[
            :40
        ].strip("_")
        name = f"{area}.{kind}" + (f".{means}" if several and means else "") + suffix
        groups.append(ScopeGroup(names.new(name), area, kind, asks, tuple(same)))
    return tuple(groups)


# ── Areas: one file each, of readable length ───────────────────────────────────────────


def _split_areas(operations: Sequence[ApiOperation]) -> dict[str, list[ApiOperation]]:
    by_area: dict[str, list[ApiOperation]] = defaultdict(list)
    for operation in operations:
        by_area[operation.area].append(operation)
    return {
        name: part
        for area in sorted(by_area)
        for name, part in _split_area(area, by_area[area]).items()
    }  # fmt: skip


def _split_area(area: str, operations: list[ApiOperation]) -> dict[str, list[ApiOperation]]:
    """Split a large area by the next path segment; small parts stay together."""
    if len(operations) <= MAX_OPERATIONS_PER_FILE:
        return {area: operations}
    below: dict[str, list[ApiOperation]] = defaultdict(list)
    depth = _common_prefix_length(operations)
    for operation in operations:
        below[_next_segment_name(operation, depth)].append(operation)
    large = {part for part in below if len(below[part]) >= MIN_OPERATIONS_PER_FILE}
    rest = [operation for operation in operations if _next_segment_name(operation, depth) not in large]
    found = _chunks(area, rest)
    for part in sorted(large):
        found |= _chunks(f"{area}.{part}", below[part])
    return found


def _chunks(name: str, operations: list[ApiOperation]) -> dict[str, list[ApiOperation]]:
    starts = range(0, len(operations), MAX_OPERATIONS_PER_FILE)
    return {
        name if number == 1 else f"{name}_{number}": operations[start : start + MAX_OPERATIONS_PER_FILE]
        for number, start in enumerate(starts, 1)
    }


def _literal_segments(operation: ApiOperation) -> list[str]:
    endpoint = operation.endpoint
    return [part.text for part in endpoint.segments if part.text] if isinstance(endpoint, HttpTemplate) else []


def _common_prefix_length(operations: Sequence[ApiOperation]) -> int:
    """Return the number of literal segments that all operations share at the start."""
    every = [_literal_segments(operation) for operation in operations]
    shortest = min(map(len, every))
    return next((i for i in range(shortest) if len({texts[i] for texts in every}) > 1), shortest)


def _next_segment_name(operation: ApiOperation, depth: int) -> str:
    return safe_name("".join(_literal_segments(operation)[depth : depth + 1]), "all")
