"""Checks that entity rows, issuer claims or AuthZEN maps supply the attributes that rules read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.runtime.entities import EntityData
from policyengine.source import Span
from policyengine.typesystem import EntityRef, FieldType, RefType

Owned: TypeAlias = tuple[str, str]  # entity name, attribute name
LookedUp: TypeAlias = Mapping[str, frozenset[str]]  # entity name → attributes that its looked-up rows may have
ROLES: Owned = ("user", "roles")  # read to find the approvers of a `confirm`


@dataclass(slots=True)
class AttributeReads:
    """The position of the first read of each attribute. `levels` holds the attributes that are read only through the
    levels of an inherited set.
    """

    first: dict[Owned, Span] = field(default_factory=dict)
    levels: dict[Owned, Span] = field(default_factory=dict)

    def add(self, node: k.Attribute) -> None:
        type_ = node.base.type
        owners = type_.entities if isinstance(type_, RefType) and node.name != "id" else ()
        for owner in owners:
            keep_earlier(self.first, (owner, node.name), node.span)
        for owner, _ in node.levels:
            keep_earlier(self.levels, (owner, node.name), node.span)


def keep_earlier(found: dict[Owned, Span], key: Owned, span: Span) -> None:
    known = found.get(key)
    if known is None or (span.source.name, span.start) < (known.source.name, known.start):
        found[key] = span


def attribute_reads(kernel: k.Kernel) -> AttributeReads:
    found = AttributeReads()
    for part in walk_parts((kernel.agents, kernel.users, kernel.anyones, kernel.guards, kernel.limits)):
        if isinstance(part, k.Attribute):
            found.add(part)
        elif isinstance(part, k.Confirm) and isinstance(part.approvers.of, k.RoleHolder):
            keep_earlier(found.first, ROLES, part.span)
    return found


def walk_parts(part: object) -> Iterator[object]:
    """Yield a part of the kernel and everything inside it."""
    if isinstance(part, tuple):
        for item in part:
            yield from walk_parts(item)
    elif is_dataclass(part):
        yield part
        for member in fields(part):
            if member.name not in ("span", "type"):
                yield from walk_parts(getattr(part, member.name))


# ── What is missing ───────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class EntityRowCounts:
    """Counts for each entity: its rows, its rows that have an attribute, and the first row that lacks it."""

    looked_up: LookedUp
    all: Counter[str] = field(default_factory=Counter)
    having: Counter[Owned] = field(default_factory=Counter)
    lacking: dict[Owned, EntityRef] = field(default_factory=dict)

    def count(self, row: EntityData, names: Iterable[str]) -> None:
        entity = row.ref.type
        self.all[entity] += 1
        for name in names:
            if row.attributes.get(name) is not None:
                self.having[entity, name] += 1
            else:
                self.lacking.setdefault((entity, name), row.ref)

    def supply(self, owned: Owned) -> bool:
        return self.having[owned] > 0 or owned[1] in self.looked_up.get(owned[0], ())


def unsupplied_attributes(kernel: k.Kernel, rows: Iterable[EntityData], looked_up: LookedUp) -> Iterator[Diagnostic]:
    """Yield W180 to W182: attributes that nothing supplies, rows that lack an attribute, and parents without a row.

    Decisions see these as unknown.
    """
    reads, every = attribute_reads(kernel), list(rows)
    counted, wanted = EntityRowCounts(looked_up), {**reads.levels, **reads.first}
    names = {entity.name: [one.name for one in entity.fields] for entity in kernel.entities.values()}
    for row in every:
        counted.count(row, (name for name in names.get(row.ref.type, ()) if (row.ref.type, name) in wanted))
    mapped = frozenset(claimed_attributes(kernel)) | frozenset(
        mapped_attribute(one) for one in kernel.maps if is_attribute(one)
    )
    for owned in sorted(wanted):
        entity = kernel.entities.get(owned[0])
        declared = None if entity is None else entity.field(owned[1])
        if declared is not None:
            yield from check_attribute(owned, declared, counted, mapped, reads)
    yield from parents_without_rows(kernel, every, looked_up)


def claimed_attributes(kernel: k.Kernel) -> Iterator[Owned]:
    for issuer in kernel.issuers.values():
        yield from ((root, attribute) for _, (root, attribute) in issuer.claims)


def is_attribute(item: k.MapItem) -> bool:
    return isinstance(item, k.MapFact) and item.entity


def mapped_attribute(item: k.MapItem) -> Owned:
    assert isinstance(item, k.MapFact)
    return item.path[0], item.path[1]


def check_attribute(
    owned: Owned, declared: FieldType, rows: EntityRowCounts, mapped: frozenset[Owned], reads: AttributeReads
) -> Iterator[Diagnostic]:
    entity, name = owned
    count, lacking = rows.all[entity], rows.all[entity] - rows.having[owned]
    span = reads.first.get(owned) or reads.levels[owned]
    settled = count > 0 and (declared.optional or declared.else_empty)  # then the attribute is known to be absent
    if not rows.supply(owned) and owned not in mapped and not settled:
        have = f"no row of `{entity}` has it" if count else f"no `{entity}` has a row"
        why = f"{have}, and no claim or map supplies it"
        if entity in rows.looked_up:
            why = f"`{entity}` rows are looked up, and the mapping has no such attribute"
        message = f"nothing supplies `{entity}.{name}`: {why}"
        yield Diagnostic(
            "W180", message, span, "add it to the rows, or allow this warning if requests contain the rows"
        )
    elif lacking and owned in reads.levels and not declared.else_empty:
        message = describe_lack(owned, lacking, count, rows.lacking[owned])
        declaration = f"`{name}: {declared.type} inherited else []`"
        hint = (
            f"{declaration} makes missing sets empty; otherwise it is unknown whether a value that no row contains is "
            "in the set"
        )
        yield Diagnostic("W181", message, span, hint)
    elif lacking and not settled and owned not in mapped:
        message = describe_lack(owned, lacking, count, rows.lacking[owned])
        yield Diagnostic("W181", message, span, "add it to the row, or `?` to its type")


def parents_without_rows(kernel: k.Kernel, rows: Iterable[EntityData], looked_up: LookedUp) -> Iterator[Diagnostic]:
    """Yield a W182 for each entity type with parents that have no row: the parents of such a parent are unknown."""
    known = {row.ref for row in rows}
    gone = dict.fromkeys(parent for row in rows for parent in row.parents if parent not in known)
    by_type = Counter(ref.type for ref in gone if ref.type not in looked_up)
    for name, count in sorted(by_type.items()):
        first, entity = next(ref for ref in gone if ref.type == name), kernel.entities.get(name)
        if entity is not None:
            what = f"`{first}`" if count == 1 else f"`{first}` and {count - 1:,} more"
            message = f"other rows are in {what}, which no row describes"
            yield Diagnostic("W182", message, entity.span, "add the row: without it, further parents are unknown")


def describe_lack(owned: Owned, lacking: int, count: int, first: EntityRef) -> str:
    entity, name = owned
    if lacking == 1:
        return f"`{first}` lacks `{name}`"
    return f"{lacking:,} of {count:,} `{entity}` rows lack `{name}`; the first is `{first}`"
