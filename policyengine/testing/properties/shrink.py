"""Shrinks a counterexample until every remaining fact is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from policyengine.runtime.decision import Decision
from policyengine.testcases.scenario import DEFAULT_TIME
from policyengine.testing.properties.check import ClaimChecker
from policyengine.testing.properties.draft_request import DraftRequest, FactPath
from policyengine.typesystem import EntityRef

ShrinkStep: TypeAlias = Callable[[DraftRequest], bool]  # returns False if there was nothing to do


def shrink(sketch: DraftRequest, judge: ClaimChecker) -> DraftRequest:
    """Return a counterexample from which no part can be removed: without it, the request would not break the claim with
    the same outcome at the same gate. Given facts stay, except entity rows that do not change the outcome and its
    reasons.
    """
    first = judge.decided(sketch)
    sketch = _shrink_fully(sketch, shrink_steps, lambda smaller: judge.breaks(smaller, like=first))
    last = judge.decided(sketch)
    return _shrink_fully(sketch, row_shrink_steps, lambda smaller: _same_result(judge.decided(smaller), last))


def _same_result(one: Decision | None, other: Decision | None) -> bool:
    return one is not None and other is not None and (one.outcome, one.reasons) == (other.outcome, other.reasons)


def _shrink_fully(
    sketch: DraftRequest, moves_of: Callable[[DraftRequest], Iterator[ShrinkStep]], fits: Callable[[DraftRequest], bool]
) -> DraftRequest:
    going = True
    while going:
        going = False
        for move in tuple(moves_of(sketch)):
            smaller = sketch.copy()
            if move(smaller) and fits(smaller):
                sketch, going = smaller, True
    return sketch


def shrink_steps(sketch: DraftRequest) -> Iterator[ShrinkStep]:
    """Yield the steps, those that remove most first."""
    if not sketch.world.approvals:
        yield from (_without_approval(one.id) for one in sketch.approvals)
    if not sketch.has_time() and sketch.now != DEFAULT_TIME:
        yield _at_default_time
    yield from (_without_root(root) for root in sketch.facts if root not in sketch.world.facts)
    for ref in sketch.rows:
        if ref not in sketch.world.rows:
            yield _without_row(ref)
            yield from (_without_cell(ref, name) for name in sketch.rows[ref].attributes)
            yield from (_without_parent(ref, parent) for parent in sketch.rows[ref].parents)
            yield from _element_steps(ref, sketch)
    yield from (_without_attribute(key) for key in sketch.attributes if key not in sketch.world.attributes)
    for path in sketch.leaves():
        yield _without_fact(path)
        value = sketch.raw(path)
        if isinstance(value, tuple):
            yield from (_without_element(path, one) for one in value)
    yield from _hop_steps(sketch)


def row_shrink_steps(sketch: DraftRequest) -> Iterator[ShrinkStep]:
    yield from (_without_row(ref) for ref in sketch.rows if ref in sketch.world.rows)


# ── Smaller requests ───────────────────────────────────────────────────────────────────────────


def _at_default_time(sketch: DraftRequest) -> bool:
    sketch.now = DEFAULT_TIME
    return True


def _without_approval(id_: str) -> ShrinkStep:
    def move(sketch: DraftRequest) -> bool:
        left = [one for one in sketch.approvals if one.id != id_]
        less, sketch.approvals = len(left) < len(sketch.approvals), left
        return less

    return move


def _without_root(root: str) -> ShrinkStep:
    return lambda sketch: sketch.facts.pop(root, None) is not None


def _without_fact(path: FactPath) -> ShrinkStep:
    return lambda sketch: sketch.remove(path)


def _without_element(path: FactPath, one: object) -> ShrinkStep:
    def move(sketch: DraftRequest) -> bool:
        value = sketch.raw(path)
        return isinstance(value, tuple) and one in value and sketch.put(path, tuple(x for x in value if x != one))

    return move


def _without_row(ref: EntityRef) -> ShrinkStep:
    return lambda sketch: sketch.rows.pop(ref, None) is not None


def _without_cell(ref: EntityRef, name: str) -> ShrinkStep:
    return lambda sketch: ref in sketch.rows and sketch.rows[ref].attributes.pop(name, None) is not None


def _without_parent(ref: EntityRef, parent: EntityRef) -> ShrinkStep:
    def move(sketch: DraftRequest) -> bool:
        if ref not in sketch.rows or parent not in sketch.rows[ref].parents:
            return False
        sketch.rows[ref].parents.remove(parent)
        return True

    return move


def _element_steps(ref: EntityRef, sketch: DraftRequest) -> Iterator[ShrinkStep]:
    for name, value in sketch.rows[ref].attributes.items():
        if isinstance(value, tuple):
            yield from (_without_member(ref, name, one) for one in value)


def _without_member(ref: EntityRef, name: str, one: object) -> ShrinkStep:
    def move(sketch: DraftRequest) -> bool:
        value = sketch.rows[ref].attributes.get(name) if ref in sketch.rows else None
        if not isinstance(value, tuple) or one not in value:
            return False
        sketch.rows[ref].attributes[name] = tuple(x for x in value if x != one)
        return True

    return move


def _without_attribute(key: tuple[str, str]) -> ShrinkStep:
    return lambda sketch: sketch.attributes.pop(key, _NOTHING) is not _NOTHING


def _hop_steps(sketch: DraftRequest) -> Iterator[ShrinkStep]:
    hops = sketch.raw(("chain", "hops"))
    if not isinstance(hops, tuple) or sketch.is_given(("chain", "hops")):
        return
    for index in reversed(range(len(hops))):
        yield _without_member_of_hop(index, None)
        yield from (_without_member_of_hop(index, name) for name in hops[index] if name != "agent")


def _without_member_of_hop(index: int, name: str | None) -> ShrinkStep:
    """Remove one member of a hop, or the whole hop."""

    def move(sketch: DraftRequest) -> bool:
        hops = sketch.raw(("chain", "hops"))
        if not isinstance(hops, tuple) or index >= len(hops) or (name is not None and name not in hops[index]):
            return False
        less = () if name is None else ({key: value for key, value in hops[index].items() if key != name},)
        return sketch.put(("chain", "hops"), (*hops[:index], *less, *hops[index + 1 :]))

    return move


_NOTHING = object()
