"""Reconciles overlapping operations, so that a request has one resource, a segment one name, and a fact one type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from policyengine.importers.model import ApiOperation, HttpTemplate, OperationFact, PathSegment
from policyengine.importers.path_overlaps import PathIndex
from policyengine.importers.path_patterns import literal_count


def reconcile(operations: Sequence[ApiOperation]) -> tuple[tuple[ApiOperation, ...], tuple[str, ...]]:
    """Return the reconciled operations, and notes on those that were left out. Raises ApiImportError."""
    kept, notes = _drop_too_wide(operations)
    found = list(kept)
    for here, there in overlapping_pairs(found):
        plain, rich = sorted((here, there), key=lambda number: -literal_count(_http_endpoint(found[number]).segments))
        found[rich] = replace(
            found[rich], endpoint=_align_captures(_http_endpoint(found[rich]), _http_endpoint(found[plain]))
        )
        _agree_on_facts(found, here, there)
    return tuple(found), notes


def without_types(operation: ApiOperation) -> ApiOperation:
    """Return the operation without facts and bindings; it is then compatible with all others."""
    endpoint = operation.endpoint
    return replace(operation, endpoint=endpoint.bare if isinstance(endpoint, HttpTemplate) else endpoint, facts=())


def overlapping_pairs(operations: Sequence[ApiOperation]) -> Iterator[tuple[int, int]]:
    """Yield pairs of operations that one request may match. Tools never overlap. Raises ApiImportError if there are too
    many pairs.
    """
    index, numbers, pairs = PathIndex(), list[int](), list[tuple[int, int]]()
    for number, operation in enumerate(operations):
        if isinstance(operation.endpoint, HttpTemplate):
            met = index.meeting(operation.endpoint.method, operation.endpoint.segments)
            pairs += [(numbers[other], number) for other in met]
            numbers.append(number)
            index.add(operation.endpoint)
    yield from sorted(pairs)


def _http_endpoint(operation: ApiOperation) -> HttpTemplate:
    assert isinstance(operation.endpoint, HttpTemplate)
    return operation.endpoint


def _drop_too_wide(operations: Sequence[ApiOperation]) -> tuple[tuple[ApiOperation, ...], tuple[str, ...]]:
    """Remove operations whose pattern is wider than the template and overlaps another operation. Raises
    ApiImportError.
    """
    out = {
        number
        for pair in overlapping_pairs(operations)
        for number in pair
        if operations[number].wider
    }  # fmt: skip
    notes = tuple(
        f"`{operations[i].key}` would also match other endpoints: it is left out, and stays denied" for i in sorted(out)
    )
    return tuple(one for i, one in enumerate(operations) if i not in out), notes


def _align_captures(endpoint: HttpTemplate, other: HttpTemplate) -> HttpTemplate:
    """Return the endpoint with aligned captures: one position for each name, and one pattern that binds `resource`."""
    places = {part.capture: (number, part.before, part.after) for number, part in enumerate(other.segments)}
    one_resource = (
        _resource_segment(endpoint.segments) in (None, _resource_segment(other.segments))
        or _resource_segment(other.segments) is None
    )
    parts: list[PathSegment] = []
    for number, part in enumerate(endpoint.segments):
        here = number, part.before, part.after
        elsewhere = bool(part.capture) and places.get(part.capture, here) != here
        entity = other.segments[number].entity
        clashes = part.entity and (elsewhere or not one_resource or entity not in ("", part.entity))
        name = f"{part.capture}_{number + 1}" if elsewhere else part.capture
        parts.append(replace(part, capture=name, entity="" if clashes else part.entity))
    return HttpTemplate(endpoint.method, tuple(parts))


def _resource_segment(segments: Sequence[PathSegment]) -> tuple[str, int] | None:
    return next(((part.entity, i) for i, part in reversed(list(enumerate(segments))) if part.entity), None)


def _agree_on_facts(found: list[ApiOperation], here: int, there: int) -> None:
    types = {fact.name: fact.type for fact in found[here].facts}
    clash = {fact.name for fact in found[there].facts if types.get(fact.name, fact.type) != fact.type}
    if clash:
        for number in (here, there):
            found[number] = replace(found[number], facts=_facts_except(found[number].facts, clash))


def _facts_except(facts: tuple[OperationFact, ...], names: set[str]) -> tuple[OperationFact, ...]:
    return tuple(fact for fact in facts if fact.name not in names)
