"""Inherited sets: the union over an entity and its ancestors, as far as it is known.

A level is the entity or one of its ancestors. If a level lacks the attribute, or the ancestors are incomplete, the set
is a lower bound, and an unknown element stands for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policyengine.runtime.values import Cause, Unknown, Value, unique_elements
from policyengine.spec.kleene import elements
from policyengine.typesystem import EntityRef

LACKS = "an entity that the set is inherited from has no such set"


class InheritanceLevel(NamedTuple):
    """An entity and its part of the set; unknown if it lacks the attribute."""

    ref: EntityRef
    held: Value


def unite_levels(levels: Sequence[InheritanceLevel], gaps: Sequence[Unknown], fact: str) -> Value:
    """Return the union of all levels. `gaps` are the reasons why elements may be missing. The attribute is absent if
    there are neither elements nor gaps and no level has the attribute.
    """
    lacking = [(level.ref, level.held) for level in levels if isinstance(level.held, Unknown)]
    if len(lacking) == len(levels):
        return Unknown.merge(*(held for _, held in lacking), *gaps)
    items = [item for level in levels if not isinstance(level.held, Unknown) for item in elements(level.held)]
    beyond = [*(unknown_rest(ref, held, fact) for ref, held in lacking), *gaps]
    return unique_elements((*items, Unknown.merge(*beyond)) if beyond else tuple(items))


def unknown_rest(ref: EntityRef, held: Unknown, fact: str) -> Unknown:
    """Return the unknown part of a level that lacks the set. It is never absent, because `else` does not apply to
    elements.
    """
    return Unknown(frozenset(Cause(fact, LACKS, entity=ref) if cause.absent else cause for cause in held.causes))
