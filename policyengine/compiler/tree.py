"""Kernel → decision tree: an index of the rules by endpoint pattern and by principal.

A tree is a value: equal policies have equal trees. It contains the numbers of the rules in the kernel, not the rules,
so it is small and can be stored in a bundle. `build_program.py` collects the rules of each endpoint from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.spec.trace import Block

Numbers: TypeAlias = tuple[int, ...]
Affix: TypeAlias = tuple[str, str]  # the prefix and suffix of a segment; ("", "") matches any segment


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the trie of paths: the next segments, the patterns that end here, and those that end here in `**`."""

    literals: tuple[tuple[str, Node], ...]
    affixes: tuple[tuple[Affix, Node], ...]
    ends: Numbers
    rests: Numbers


@dataclass(frozen=True, slots=True)
class Tool:
    glob: str


@dataclass(frozen=True, slots=True)
class Action:
    verb: str
    type: str


@dataclass(frozen=True, slots=True)
class Opens:
    """Openings of one `may`, by their numbers in it; `kind` is the list of the kernel that contains the block."""

    kind: str  # "agents", "users", "anyones"
    block: int
    grant: int
    openings: Numbers


@dataclass(frozen=True, slots=True)
class Uses:
    """The rules that use one pattern. `hands` are pairs of a block and the number of its `may delegate`. `excepts` are
    guards that except the pattern, `spared` limits that do. `watches` record the requests that match it."""

    opens: tuple[Opens, ...] = ()
    hands: tuple[tuple[int, int], ...] = ()
    guards: Numbers = ()
    excepts: Numbers = ()
    binders: Numbers = ()
    limits: Numbers = ()
    spared: Numbers = ()
    watches: Numbers = ()


@dataclass(frozen=True, slots=True)
class Principals:
    """Blocks by the principals that they match: by name, by group, by a glob of names; `others` have a condition."""

    names: tuple[tuple[str, Numbers], ...]
    groups: tuple[tuple[str, Numbers], ...]
    globs: tuple[tuple[str, int], ...]
    others: Numbers


@dataclass(frozen=True, slots=True)
class Tree:
    """The index of a policy. `uses`, `methods` (None: every method) and `foldings` are by the number of a pattern.
    `binding` are the patterns that bind facts. Guards in `everywhere` and limits in `always` have no pattern."""

    package: str
    revision: str
    paths: Node
    methods: tuple[tuple[str, ...] | None, ...]
    foldings: tuple[k.Folding, ...]
    binding: Numbers
    tools: tuple[tuple[Tool, int], ...]
    actions: tuple[tuple[Action, int], ...]
    uses: tuple[Uses, ...]
    everywhere: Numbers
    always: Numbers
    agents: Principals
    users: Principals


@dataclass(frozen=True, slots=True)
class Covering:
    """The rules that cover an endpoint, by their numbers in the kernel; `hands` are blocks that delegate there."""

    agents: frozenset[int]
    users: frozenset[int]
    anyones: frozenset[int]
    hands: frozenset[int]
    guards: Numbers
    binders: Numbers
    limits: Numbers
    watches: Numbers


def tree_of(kernel: k.Kernel) -> Tree:
    uses = _uses(kernel)
    patterns = list(uses)
    numbered = list(enumerate(patterns))
    return Tree(
        kernel.package,
        kernel.revision,
        _paths((pattern, number) for number, pattern in numbered if isinstance(pattern, k.HttpPattern)),
        tuple(pattern.methods if isinstance(pattern, k.HttpPattern) else None for pattern in patterns),
        tuple(pattern.folding if isinstance(pattern, k.HttpPattern) else "none" for pattern in patterns),
        tuple(number for number, use in enumerate(uses.values()) if use.binders),
        tuple((Tool(p.glob), number) for number, p in numbered if isinstance(p, k.ToolPattern)),
        tuple((Action(p.verb, p.type), number) for number, p in numbered if isinstance(p, k.ActionPattern)),
        tuple(uses.values()),
        tuple(number for number, guard in enumerate(kernel.guards) if guard.place.patterns is None),
        tuple(number for number, limit in enumerate(kernel.limits) if limit.place.patterns is None),
        _principals(kernel.agents),
        _principals(kernel.users),
    )


# ── Rules by pattern ───────────────────────────────────────────────────────────────────────────


def _uses(kernel: k.Kernel) -> dict[k.Pattern, Uses]:
    """Return the uses by pattern, in the order in which the kernel names the patterns."""
    opens: dict[k.Pattern, list[Opens]] = defaultdict(list)
    hands: dict[k.Pattern, list[tuple[int, int]]] = defaultdict(list)
    guards, excepts = placed([guard.place for guard in kernel.guards])
    limits, spared = placed([limit.place for limit in kernel.limits])
    binders: dict[k.Pattern, list[int]] = defaultdict(list)
    for pattern, opening in _openings(kernel):
        opens[pattern].append(opening)
    for number, block in enumerate(kernel.agents):
        for which, delegate in enumerate(block.delegates):
            for pattern in dict.fromkeys(delegate.patterns):
                hands[pattern].append((number, which))
    for number, binder in enumerate(kernel.binders):
        binders[binder.pattern].append(number)
    watches, _ = placed([watch.event.place for watch in kernel.watches])
    every = (opens, hands, guards, excepts, binders, limits, spared, watches)
    return {
        pattern: Uses(*(tuple(found.get(pattern, ())) for found in every))  # type: ignore[arg-type]
        for pattern in dict.fromkeys(pattern for found in every for pattern in found)
    }


def placed(places: Iterable[k.Place]) -> tuple[dict[k.Pattern, list[int]], dict[k.Pattern, list[int]]]:
    """Return by pattern the numbers of the places that include it, and of those that except it."""
    inside: dict[k.Pattern, list[int]] = defaultdict(list)
    outside: dict[k.Pattern, list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        for pattern in dict.fromkeys(place.patterns or ()):
            inside[pattern].append(number)
        for pattern in dict.fromkeys(place.excepts):
            outside[pattern].append(number)
    return inside, outside


def _openings(kernel: k.Kernel) -> Iterator[tuple[k.Pattern, Opens]]:
    lists: tuple[tuple[str, tuple[Block, ...]], ...] = (
        ("agents", kernel.agents), ("users", kernel.users), ("anyones", kernel.anyones),
    )  # fmt: skip
    for kind, blocks in lists:
        for number, block in enumerate(blocks):
            for which, grant in enumerate(block.grants):
                found: dict[k.Pattern, list[int]] = defaultdict(list)
                for place, opening in enumerate(grant.openings):
                    found[opening.pattern].append(place)
                for pattern, places in found.items():
                    yield pattern, Opens(kind, number, which, tuple(places))


# ── Paths ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Growing:
    literals: dict[str, _Growing] = field(default_factory=dict)
    affixes: dict[Affix, _Growing] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    rests: list[int] = field(default_factory=list)

    def next(self, segment: k.Segment) -> _Growing:
        if segment.wild:
            return self.affixes.setdefault((segment.prefix, segment.suffix), _Growing())
        return self.literals.setdefault(segment.prefix, _Growing())

    def grown(self) -> Node:
        return Node(
            tuple((text, self.literals[text].grown()) for text in sorted(self.literals)),
            tuple((affix, self.affixes[affix].grown()) for affix in sorted(self.affixes)),
            tuple(self.ends),
            tuple(self.rests),
        )


def _paths(patterns: Iterable[tuple[k.HttpPattern, int]]) -> Node:
    root = _Growing()
    for pattern, number in patterns:
        node = root
        for segment in pattern.segments:
            node = node.next(segment)
        (node.rests if pattern.rest else node.ends).append(number)
    return root.grown()


# ── Principals ─────────────────────────────────────────────────────────────────────────────────


def _principals(blocks: Iterable[k.AgentBlock | k.UserBlock]) -> Principals:
    names: dict[str, list[int]] = defaultdict(list)
    groups: dict[str, list[int]] = defaultdict(list)
    globs: list[tuple[str, int]] = []
    others: list[int] = []
    for number, block in enumerate(blocks):
        match block.who:
            case k.ExactName(name):
                names[name].append(number)
            case k.InGroup(group):
                groups[group].append(number)
            case k.NamePattern(glob):
                globs.append((glob, number))
            case k.PrincipalCondition() | k.AnyUser():
                others.append(number)
    by_name, by_group = ((tuple((n, tuple(found[n])) for n in sorted(found))) for found in (names, groups))
    return Principals(by_name, by_group, tuple(globs), tuple(others))
