"""Operations to scopes and files: by area, by kind, and by what tokens must carry; a scope is one thing to grant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from policyengine.importers.model import Http, Kind, Operation
from policyengine.importers.sanitize import Names, word

MOST_IN_A_FILE = 40
WORTH_A_FILE = 8


@dataclass(frozen=True, slots=True)
class Group:
    """What becomes one scope. `alias` is the one OAuth scope that means exactly this, if there is one."""

    name: str
    area: str
    kind: Kind
    asks: tuple[frozenset[str], ...]
    operations: tuple[Operation, ...]
    alias: str = ""

    @property
    def carried_by(self) -> str:
        return self.alias or self.name


@dataclass(frozen=True, slots=True)
class Carried:
    """An OAuth scope that means several groups: it includes them."""

    name: str
    alias: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`areas` become files; `carried` one more."""

    areas: dict[str, tuple[Group, ...]]
    carried: tuple[Carried, ...]
    known_aliases: frozenset[str] = frozenset()

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(group for groups in self.areas.values() for group in groups)


@dataclass(slots=True)
class _Draft:
    operations: list[Operation] = field(default_factory=list)


def plan(
    operations: Sequence[Operation],
    taken: frozenset[str] = frozenset(),
    aliases: frozenset[str] = frozenset(),
    suffix: str = "",
) -> Plan:
    """`taken` are the scopes that a policy has already, `aliases` what tokens call them; `suffix` marks new ones."""
    names = Names(taken)
    areas = {area: _groups(area, found, names, suffix) for area, found in _areas(operations).items()}
    meant: dict[str, list[Group]] = defaultdict(list)
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
        area: tuple(_called(group, alone.get(id(group), "")) for group in groups) for area, groups in areas.items()
    }
    by_name = {group.name: group for groups in named.values() for group in groups}
    carried = tuple(
        Carried(names.new(f"tokens.{word(scope, 'scope')}"), scope, tuple(by_name[group.name] for group in groups))
        for scope, groups in sorted(meant.items())
        if scope not in aliases and scope not in alone.values()
    )
    return Plan(named, carried, aliases)


def _called(group: Group, alias: str) -> Group:
    return Group(group.name, group.area, group.kind, group.asks, group.operations, alias)


def _groups(area: str, operations: Sequence[Operation], names: Names, suffix: str) -> tuple[Group, ...]:
    found: dict[tuple[Kind, tuple[frozenset[str], ...]], list[Operation]] = defaultdict(list)
    for operation in operations:
        found[operation.kind, operation.asks].append(operation)
    groups = []
    for (kind, asks), same in sorted(found.items(), key=lambda one: (one[0][0].severity, list(map(sorted, one[0][1])))):
        several = sum(other is kind for other, _ in found) > 1
        means = "_or_".join("_and_".join(word(scope, "scope") for scope in sorted(ask)) for ask in asks)[:40].strip("_")
        name = f"{area}.{kind}" + (f".{means}" if several and means else "") + suffix
        groups.append(Group(names.new(name), area, kind, asks, tuple(same)))
    return tuple(groups)


# ── Areas: one file each, and none too long to read ───────────────────────────────────────────


def _areas(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    by_area: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_area[operation.area].append(operation)
    return {
        name: part
        for area in sorted(by_area)
        for name, part in _parts(area, by_area[area]).items()
    }  # fmt: skip


def _parts(area: str, operations: list[Operation]) -> dict[str, list[Operation]]:
    """By what follows in their paths, where that says enough; what is left stays together."""
    if len(operations) <= MOST_IN_A_FILE:
        return {area: operations}
    below: dict[str, list[Operation]] = defaultdict(list)
    depth = _common(operations)
    for operation in operations:
        below[_part(operation, depth)].append(operation)
    large = {part for part in below if len(below[part]) >= WORTH_A_FILE}
    rest = [operation for operation in operations if _part(operation, depth) not in large]
    found = _chunks(area, rest)
    for part in sorted(large):
        found |= _chunks(f"{area}.{part}", below[part])
    return found


def _chunks(name: str, operations: list[Operation]) -> dict[str, list[Operation]]:
    starts = range(0, len(operations), MOST_IN_A_FILE)
    return {
        name if number == 1 else f"{name}_{number}": operations[start : start + MOST_IN_A_FILE]
        for number, start in enumerate(starts, 1)
    }


def _texts(operation: Operation) -> list[str]:
    endpoint = operation.endpoint
    return [part.text for part in endpoint.segments if part.text] if isinstance(endpoint, Http) else []


def _common(operations: Sequence[Operation]) -> int:
    """How many literal segments all of them begin with."""
    every = [_texts(operation) for operation in operations]
    shortest = min(map(len, every))
    return next((i for i in range(shortest) if len({texts[i] for texts in every}) > 1), shortest)


def _part(operation: Operation, depth: int) -> str:
    return word("".join(_texts(operation)[depth : depth + 1]), "all")
