"""Builds boxes from the kernel and the tree: for the whole tree, an area of it, or one endpoint, and for all agents or
one agent.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from msgspec import structs

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import PatternIndex, overlaps
from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.graph.endpoint_view import EndpointView, source_words
from policyengine.compiler.graph.order_view import order_boxes
from policyengine.compiler.graph.selection import AgentReach, is_area
from policyengine.compiler.tree import Affix, Node, Tree, Uses
from policyengine.source import Source, Span

Trail: TypeAlias = tuple[k.Segment, ...]  # the segments that lead to a node
NOWHERE = Span(Source("", ""), 0, 0)
STANDARD = ("GET", "POST", "PUT", "PATCH", "DELETE")
NO_USES = Uses()


def draw(kernel: k.Kernel, tree: Tree, endpoint: k.Pattern | None = None, reach: AgentReach | None = None) -> Box:
    """Return the root box. `endpoint` selects an endpoint or an area below a path; `reach` selects the grants of one
    agent."""
    kept = dict(enumerate(tree.uses))
    if endpoint is not None or reach is not None:
        kept = _selected_uses(tree, endpoint, reach)
    within: Iterator[Box]
    if endpoint is None or is_area(endpoint):
        drawing = _TreeDrawer(kernel, tree, EndpointView(kernel), kept, _captures(kernel))
        within = chain(drawing.sections(*_blocks(kernel, kept, endpoint, reach)), _orders(kernel, endpoint, reach))
        label = f"policy {', '.join(kernel.packages)}" if endpoint is None else source_words(endpoint)
    else:
        within = _at_endpoint(EndpointView(kernel, endpoint), list(kept.values()), tree)
        label = source_words(endpoint)
    boxes = (*within, *_unmentioned_groups(kernel, reach))
    return Box(BoxKind.POLICY if endpoint is None else BoxKind.ENDPOINT, label, _title(kernel, reach), None, boxes)


def _title(kernel: k.Kernel, reach: AgentReach | None) -> str:
    agent = f"for agent {reach.name}, " if reach else ""
    unrestricted = "; users unrestricted: no agent needs a user's grant" if kernel.unrestricted else ""
    return f"{agent}revision {kernel.revision.removeprefix('sha256:')[:12]}{unrestricted}"


def _selected_uses(tree: Tree, endpoint: k.Pattern | None, reach: AgentReach | None) -> dict[int, Uses]:
    patterns = dict(tree_patterns(tree))
    kept = {number: tree.uses[number] for number, pattern in patterns.items() if _meets(pattern, endpoint)}
    return kept if reach is None else _uses_of_agent(kept, patterns, reach)


def _meets(pattern: k.Pattern, endpoint: k.Pattern | None) -> bool:
    return endpoint is None or overlaps(pattern, endpoint)


def _at_endpoint(standing: EndpointView, uses: Sequence[Uses], tree: Tree) -> Iterator[Box]:
    if not any(use.opens for use in uses):
        yield Box(BoxKind.NOTE, "no grant here: denied by default")
    yield from standing.boxes(uses, tree.everywhere, tree.always)


# ── One agent ─────────────────────────────────────────────────────────────────────────────────


def _uses_of_agent(uses: Mapping[int, Uses], patterns: Mapping[int, k.Pattern], reach: AgentReach) -> dict[int, Uses]:
    """Return the grants of the agent and of `anyone`, and the user grants and guards that apply to them."""
    doors, open_doors = PatternIndex[int](), PatternIndex[int]()
    kept = {number: _grants_in(use, reach) for number, use in uses.items()}
    for number, use in kept.items():
        if use.opens:
            open_doors.add(patterns[number], number)
        if any(opens.kind == "agents" for opens in use.opens):
            doors.add(patterns[number], number)
    for number, use in uses.items():
        users = tuple(opens for opens in use.opens if opens.kind == "users")
        if users and any(True for _ in doors.overlapping(patterns[number])):
            kept[number] = structs.replace(kept[number], opens=(*kept[number].opens, *users))
        shut = use.guards or use.excepts or use.limits
        if shut and any(True for _ in open_doors.overlapping(patterns[number])):
            kept[number] = structs.replace(kept[number], guards=use.guards, excepts=use.excepts, limits=use.limits)
    return kept


def _grants_in(use: Uses, reach: AgentReach) -> Uses:
    opens = tuple(one for one in use.opens if one.kind == "anyones" or _is_agents_grant(one.kind, one.block, reach))
    hands = tuple(hand for hand in use.hands if hand[0] in reach.blocks)
    return Uses(opens, hands, binders=use.binders if opens else ())


def _is_agents_grant(kind: str, block: int, reach: AgentReach) -> bool:
    return kind == "agents" and block in reach.blocks


def _unmentioned_groups(kernel: k.Kernel, reach: AgentReach | None) -> Iterator[Box]:
    if reach is not None and reach.groups:
        hint = "left out: membership in these groups is unknown here; `--group NAME` includes them"
        blocks = sorted(
            (kernel.agents[number] for number in reach.groups), key=lambda block: natural_sort_key(block.label)
        )
        boxes = tuple(EndpointView(kernel).block_box(BoxKind.AGENT, block, demands=False) for block in blocks)
        yield Box(BoxKind.SECTION, "groups", hint, children=boxes)


def _blocks(
    kernel: k.Kernel, uses: Mapping[int, Uses], endpoint: k.Pattern | None, reach: AgentReach | None
) -> tuple[str, list[k.AgentBlock]]:
    """Return the label of the agent section, and the selected blocks in natural order."""
    if reach is not None:
        name, numbers = "blocks of the agent", reach.blocks
    elif endpoint is None:
        name, numbers = "agents", frozenset(range(len(kernel.agents)))
    else:
        opens = (opens for use in uses.values() for opens in use.opens)
        name, numbers = "agents", frozenset(one.block for one in opens if one.kind == "agents")
    return name, sorted((kernel.agents[number] for number in numbers), key=lambda block: natural_sort_key(block.label))


def _orders(kernel: k.Kernel, endpoint: k.Pattern | None, reach: AgentReach | None) -> Iterator[Box]:
    boxes = tuple(order_boxes(kernel, reach)) if endpoint is None else ()
    if boxes:
        yield Box(BoxKind.SECTION, "orders of calls", children=boxes)


# ── The tree ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _TreeDrawer:
    """Draws the tree. `uses` holds the drawn patterns; `captures` maps wildcard segments to their text in policies."""

    kernel: k.Kernel
    tree: Tree
    standing: EndpointView
    uses: Mapping[int, Uses]
    captures: Mapping[Trail, str]

    def sections(self, name: str, blocks: Iterable[k.AgentBlock]) -> Iterator[Box]:
        kernel, tree = self.kernel, self.tree
        agents = tuple(self.standing.block_box(BoxKind.AGENT, block) for block in blocks)
        limits = tuple(Box(BoxKind.NOTE, source_words(limit), at=limit.span.at) for limit in kernel.delegation)
        paths = tuple(self._paths())
        parts = (
            (name, agents),
            ("every chain", limits),
            ("everywhere", tuple(self.standing.everywhere(tree.everywhere, tree.always))),
            ("paths", paths),
            ("tools", tuple(self._plain(BoxKind.TOOL, ((tool.glob, number) for tool, number in tree.tools)))),
            (
                "actions",
                tuple(self._plain(BoxKind.ACTION, ((f"{a.verb} {a.type}", number) for a, number in tree.actions))),
            ),
        )
        yield from (Box(BoxKind.SECTION, name, children=boxes) for name, boxes in parts if boxes)

    def _paths(self) -> Iterator[Box]:
        """Yield the boxes of the root, which is a separate box only if rules apply at `/` itself."""
        for root in self._node(self.tree.paths, (), "/"):
            yield from root.children if _is_passage(root) else (root,)

    def _plain(self, kind: BoxKind, places: Iterable[tuple[str, int]]) -> Iterator[Box]:
        """Yield the boxes of tools or actions, which have neither methods nor children."""
        for name, number in sorted(places, key=lambda place: natural_sort_key(place[0])):
            boxes = tuple(self.standing.boxes([self.uses.get(number, NO_USES)]))
            if boxes:
                yield Box(kind, name, children=boxes)

    def _node(self, node: Node, trail: Trail, label: str) -> Iterator[Box]:
        """Yield the box of a node, or nothing if no box below it is drawn; a node with a single child path is merged
        with it.
        """
        methods = tuple(self._methods(node.ends))
        rest = tuple(self._methods(node.rests))
        below = [box for name, way, child in self._ways(node, trail) for box in self._node(child, way, name)]
        if not methods and not rest and len(below) == 1 and below[0].kind is BoxKind.PATH:
            yield replace(below[0], label=label.rstrip("/") + below[0].label)
            return
        if rest:
            below.append(Box(BoxKind.PATH, "/**", children=rest))
        if methods or below:
            yield Box(BoxKind.PATH, label, children=(*methods, *below))

    def _ways(self, node: Node, trail: Trail) -> Iterator[tuple[str, Trail, Node]]:
        for text, child in sorted(node.literals.items(), key=lambda way: natural_sort_key(way[0])):
            yield f"/{text}", (*trail, k.Segment(text)), child
        for affix, child in sorted(node.affixes.items()):
            way = (*trail, _wild(affix))
            yield f"/{affix[0]}{self.captures.get(way, '*')}{affix[1]}", way, child

    def _methods(self, numbers: Sequence[int]) -> Iterator[Box]:
        """Yield a box for each group of methods with the same rules, and one for rules without a method."""
        by_method: dict[str | None, list[int]] = defaultdict(list)
        for number in numbers:
            if number in self.uses:
                for method in self.tree.methods[number] or (None,):
                    by_method[method].append(number)
        found = [
            (method, tuple(self.standing.boxes([self.uses[number] for number in by_method[method]])))
            for method in sorted(by_method, key=_method_order)
        ]
        while found:
            first, boxes = found[0]
            named = [method for method, others in found if first and method and others == boxes]
            if boxes:
                yield Box(BoxKind.METHOD, "|".join(named) or "any method", children=boxes)
            found = [(method, others) for method, others in found[1:] if method not in named]


def _is_passage(box: Box) -> bool:
    return box.label == "/" and all(child.kind is BoxKind.PATH for child in box.children)


def _method_order(method: str | None) -> tuple[int, str]:
    if method is None:
        return (len(STANDARD) + 1, "")
    return (STANDARD.index(method) if method in STANDARD else len(STANDARD), method)


def natural_sort_key(text: str) -> list[tuple[str, int]]:
    """Return a sort key by which `svc2` comes before `svc10`."""
    return [(other, int(digits or 0)) for other, digits in re.findall(r"([^0-9]*)([0-9]{0,18})", text)]


# ── Patterns of the tree ──────────────────────────────────────────────────────────────────────


def tree_patterns(tree: Tree) -> Iterator[tuple[int, k.Pattern]]:
    """Yield each pattern with its number, reconstructed from its position in the tree."""
    yield from ((number, k.ToolPattern(tool.glob, span=NOWHERE)) for tool, number in tree.tools)
    yield from ((number, k.ActionPattern(a.verb, a.type, span=NOWHERE)) for a, number in tree.actions)
    pending: list[tuple[Node, Trail]] = [(tree.paths, ())]
    while pending:
        node, trail = pending.pop()
        for numbers, rest in ((node.ends, False), (node.rests, True)):
            for number in numbers:
                yield number, k.HttpPattern(tree.methods[number], trail, rest, tree.foldings[number], span=NOWHERE)
        pending += [(child, (*trail, k.Segment(text))) for text, child in node.literals.items()]
        pending += [(child, (*trail, _wild(affix))) for affix, child in node.affixes.items()]


def _wild(affix: Affix) -> k.Segment:
    return k.Segment(affix[0], True, affix[1])


def _captures(kernel: k.Kernel) -> dict[Trail, str]:
    """Return the text of each final wildcard segment as policies write it: `{id: invoice}`; several names if they
    differ."""
    found: dict[Trail, dict[str, str | None]] = defaultdict(dict)
    # Scopes share patterns, so most are the same object.
    once = {id(pattern): pattern for pattern in _written_patterns(kernel)}
    for pattern in once.values():
        trail: Trail = ()
        for segment in pattern.segments:
            trail = (*trail, k.Segment(segment.prefix, segment.wild, segment.suffix))
            if segment.capture:
                found[trail][segment.capture] = segment.entity or found[trail].get(segment.capture)
    return {trail: _capture(names) for trail, names in found.items()}


def _capture(names: Mapping[str, str | None]) -> str:
    return "{" + "|".join(f"{name}: {names[name]}" if names[name] else name for name in sorted(names)) + "}"


def _written_patterns(kernel: k.Kernel) -> Iterator[k.HttpPattern]:
    places = [guard.place for guard in kernel.guards]
    found: list[Iterable[k.Pattern]] = [(binder.pattern for binder in kernel.binders)]
    found += [(*place.excepts, *(place.patterns or ())) for place in places]
    found += [
        (opening.pattern for opening in grant.openings)
        for blocks in (kernel.agents, kernel.users, kernel.anyones)
        for block in blocks
        for grant in block.grants
    ]
    yield from (pattern for patterns in found for pattern in patterns if isinstance(pattern, k.HttpPattern))
