"""Finds where two policies can differ: the places of declarations that only one policy has, and the
relevant patterns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.analysis.diff.endpoint_classes import EndpointClass, fully_folded, patterns_of, without_captures
from policyengine.analysis.diff.rule_units import history_places
from policyengine.checker.patterns.overlap import overlaps
from policyengine.kernel.fingerprint import CanonicalWriters
from policyengine.spec.match_endpoint import match_pattern
from policyengine.spec.trace import Block


@dataclass(frozen=True, slots=True)
class ChangeScope:
    """The scope of a change. Wherever something changed, at least one of the patterns in `places` matches; None means
    everywhere.
    """

    places: tuple[k.Pattern, ...] | None
    patterns: tuple[k.Pattern, ...]  # all patterns that distinguish endpoints there

    @classmethod
    def of(cls, old: k.Kernel, new: k.Kernel) -> ChangeScope:
        every, places = patterns_of(old, new), changed_places(old, new)
        if places is None:
            return cls(None, every)
        loose = dict.fromkeys(fully_folded(without_captures(one)) for one in places)
        return cls(
            tuple(loose), tuple(one for one in every if any(overlaps(fully_folded(one), place) for place in loose))
        )

    def holds(self, at: EndpointClass) -> bool:
        return self.places is None or any(match_pattern(one, at.endpoint) is not None for one in self.places)


def changed_places(old: k.Kernel, new: k.Kernel) -> list[k.Pattern] | None:
    """Return the changed places; None if a global declaration changed, such as an issuer or a delegation limit."""
    write = CanonicalWriters()
    if global_settings(old, write) != global_settings(new, write):
        return None
    sides = [[(part_text(part, kernel, write), part) for part in scoped_parts(kernel)] for kernel in (old, new)]
    changed = [*parts_without(*sides), *parts_without(*sides[::-1])]
    if any(isinstance(part, k.Binder) for part in changed):  # recorded events depend on bindings
        changed += [guard for kernel in (old, new) for guard in kernel.guards if any(history_places(guard))]
    found: list[k.Pattern] = []
    for part in changed:
        patterns = part_patterns(part)
        if patterns is None:
            return None
        found += patterns
    return found


def parts_without(
    parts: Sequence[tuple[str, ScopedPart]], others: Sequence[tuple[str, ScopedPart]]
) -> Iterator[ScopedPart]:
    left = Counter(text for text, _ in others)
    for text, part in parts:
        if left[text] > 0:
            left[text] -= 1
        else:
            yield part


def global_settings(kernel: k.Kernel, write: CanonicalWriters) -> tuple[object, ...]:
    issuers = kernel.issuers.values()
    trust = sorted((one.name, one.records_chains, one.scopes_none, sorted(one.claims)) for one in issuers)
    return trust, Counter(map(write, kernel.delegation))


ScopedPart: TypeAlias = Block | k.Guard | k.Binder


def scoped_parts(kernel: k.Kernel) -> Iterator[ScopedPart]:
    yield from kernel.binders
    yield from kernel.agents
    yield from kernel.users
    yield from kernel.anyones
    yield from kernel.guards


def part_text(part: ScopedPart, kernel: k.Kernel, write: CanonicalWriters) -> str:
    """Return the meaning of a declaration without its name, with the settings of its package and its attesters."""
    if isinstance(part, k.Binder):
        return write(part)
    if isinstance(part, k.Guard):
        return write(replace(part, name="", package=""))
    waived = part.package in kernel.unrestricted, part.package in kernel.advisory
    asked = () if isinstance(part, k.AnyoneBlock) else part.requirements
    names = sorted(name for one in asked if isinstance(one, k.AttestedBy) for name in one.attesters)
    trusted = [write(kernel.attesters[name]) for name in names]
    return f"{write(replace(part, label='', package=''))} {waived} {trusted}"


def part_patterns(part: ScopedPart) -> list[k.Pattern] | None:
    """Return the patterns of a declaration; None if it applies everywhere."""
    if isinstance(part, k.Binder):
        return [part.pattern]
    if isinstance(part, k.Guard):
        return None if part.place.patterns is None else list(part.place.patterns)
    found = [opening.pattern for grant in part.grants for opening in grant.openings]
    handed = part.delegates if isinstance(part, k.AgentBlock) else ()
    return [*found, *(pattern for one in handed for pattern in one.patterns)]
