"""Inherited sets: what an entity and all that it is in hold together, as far as that is known.

A level is the entity itself or something that it is in. What one of them holds is in the set. Where one lacks the
attribute, or what is above is not all known, the set is a lower bound: an unknown element stands in it for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policyengine.runtime.values import Cause, Unknown, Value, unique_elements
from policyengine.spec.kleene import elements
from policyengine.typesystem import EntityRef

LACKS = "a level that it is inherited from lacks it"


class InheritanceLevel(NamedTuple):
    """An entity and what it holds of the set; unknown where it lacks it."""

    ref: EntityRef
    held: Value


def unite_levels(levels: Sequence[InheritanceLevel], gaps: Sequence[Unknown], fact: str) -> Value:
    """All that the levels hold, each once. `gaps` say why there may be more of them; with neither elements nor gaps nor
    any level that holds it the attribute is absent."""
    lacking = [(level.ref, level.held) for level in levels if isinstance(level.held, Unknown)]
    if len(lacking) == len(levels):
        return Unknown.merge(*(held for _, held in lacking), *gaps)
    items = [item for level in levels if not isinstance(level.held, Unknown) for item in elements(level.held)]
    beyond = [*(unknown_rest(ref, held, fact) for ref, held in lacking), *gaps]
    return unique_elements((*items, Unknown.merge(*beyond)) if beyond else tuple(items))


def unknown_rest(ref: EntityRef, held: Unknown, fact: str) -> Unknown:
    """What a level that lacks the set may hold. It is never absent: `else` does not speak of elements."""
    return Unknown(frozenset(Cause(fact, LACKS, entity=ref) if cause.absent else cause for cause in held.causes))
