"""Checks entity rows against the policy: reports names and values that no rule can use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.diagnostics.suggest import suggest
from policyengine.runtime.entities import EntityData
from policyengine.runtime.values import Unknown, coerce
from policyengine.spec.kleene import elements


def check_rows(rows: Iterable[EntityData], entities: Mapping[str, k.EntityType]) -> list[str]:
    """Return one sentence for each kind of problem, about the first row that has it. Rows may have more attributes than
    the policy declares, so only names that look misspelled and values of another type are reported.
    """
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        for name, doubt in check_row(row, entities):
            found.setdefault((row.ref.type, name), doubt)
    return list(found.values())


def check_row(row: EntityData, entities: Mapping[str, k.EntityType]) -> Iterator[tuple[str, str]]:
    entity = entities.get(row.ref.type)
    if entity is None:
        meant = suggest(row.ref.type, entities)
        if meant is not None:
            yield "", f"{row.ref}: the policy does not declare `{row.ref.type}`; did you mean `{meant}`?"
        return
    for name, raw in row.attributes.items():
        field = entity.field(name)
        if field is None:
            meant = suggest(name, [one.name for one in entity.fields if one.name not in row.attributes])
            if meant is not None:
                yield name, f"{row.ref}: the policy does not declare `{name}`; did you mean `{meant}`?"
        elif (why := value_problem(raw, name, field.type)) is not None:
            yield name, f"{row.ref}: `{name}` is unknown: {why}"


def value_problem(raw: object, name: str, type_: typesystem.Type) -> str | None:
    """Return why the attribute cannot be read as its declared type, or None. Absence is not a problem."""
    value = coerce(raw, type_, name)
    parts = [value, *elements(value)] if not isinstance(value, Unknown) else [value]
    causes = [cause for one in parts if isinstance(one, Unknown) for cause in one.causes if not cause.absent]
    return min((cause.why for cause in causes), default=None)
