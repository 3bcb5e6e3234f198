"""The decision tree of a kernel: an index of the rules by endpoint pattern and by principal.

A tree is a value: equal policies have equal trees. It contains the numbers of the rules in the kernel, not the rules;
`build_program.py` collects the rules of each endpoint from it. `TreeBuilder` needs only the patterns and the principals
of a rule, so that a bundle builds its tree without decoding conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, assert_never

from msgspec import Struct

from policyengine import kernel as k
from policyengine.kernel.sequence_automaton import leaves

Numbers: TypeAlias = tuple[int, ...]
Affix: TypeAlias = tuple[str, str]  # the prefix and suffix of a segment; ("", "") matches any segment
Item = TypeVar("Item")
# A wild segment: prefix, suffix, and the names of its capture and entity.
WildStep: TypeAlias = tuple[str, str, str | None, str | None]
Steps: TypeAlias = tuple[str | WildStep, ...]  # the segments of a path pattern; a literal one is its text
Methods: TypeAlias = tuple[str, ...] | None
# The head of a block: "name", "group" or "glob" with its text, "condition", or "always".
Head: TypeAlias = tuple[str, str]


NO_NODES: Any = MappingProxyType({})  # shared by all nodes that end a pattern
FIRST = (0,)


# Structs are created and read faster than dataclasses, and are smaller; loading a policy builds a tree of up to
# thousands of rules.
class Node(Struct):
    """A node of the trie of paths: the next segments, the patterns that end here, and the patterns that end here with
    `**`.
    """

    literals: dict[str, Node] = NO_NODES
    affixes: dict[Affix, Node] = NO_NODES
    ends: Sequence[int] = ()
    rests: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    glob: str


@dataclass(frozen=True, slots=True)
class Action:
    verb: str
    type: str


class Opens(Struct, frozen=True, gc=False):
    """The openings of one `may` that use a pattern, by number; `kind` is the member of the kernel that contains the
    block.
    """

    kind: str  # "agents", "users", "anyones"
    block: int
    grant: int
    openings: Numbers


class Uses(Struct):
    """The rules that use one pattern. `hands` are pairs of a block and the number of its `may delegate`. `excepts` are
    guards, and `spared` limits, that exclude the pattern. `watches` record the requests that match it.
    """

    opens: Sequence[Opens] = ()
    hands: Sequence[tuple[int, int]] = ()
    guards: Sequence[int] = ()
    excepts: Sequence[int] = ()
    binders: Sequence[int] = ()
    limits: Sequence[int] = ()
    spared: Sequence[int] = ()
    watches: Sequence[int] = ()


class Principals(Struct, frozen=True):
    """Blocks by the principals that they match: by name, by group, or by a glob of names; `others` have a condition or
    match everyone. `asking` are the blocks with a condition in their head or in a requirement.
    """

    names: dict[str, list[int]]
    groups: dict[str, list[int]]
    globs: Sequence[tuple[str, int]]
    others: Sequence[int]
    asking: Sequence[int]


class Tree(Struct, frozen=True):
    """The index of a policy. `uses`, `methods` (None: every method) and `foldings` are indexed by pattern number.
    `captured` are the segments of the patterns that have captures, by number; the trie does not have their names.
    `binding` are the patterns that bind facts. Guards in `everywhere` and limits in `always` have no pattern.
    """

    package: str
    revision: str
    paths: Node
    methods: Sequence[Methods]
    foldings: Sequence[k.Folding]
    captured: dict[int, Steps]
    binding: Sequence[int]
    tools: Sequence[tuple[Tool, int]]
    actions: Sequence[tuple[Action, int]]
    uses: Sequence[Uses]
    everywhere: Sequence[int]
    always: Sequence[int]
    agents: Principals
    users: Principals


@dataclass(frozen=True, slots=True)
class Covering:
    """The rules that cover an endpoint, by their numbers in the kernel. `hands` are agent blocks that may delegate
    there, `binders` bind facts there, and `watches` record the requests there for histories.
    """

    agents: frozenset[int]
    users: frozenset[int]
    anyones: frozenset[int]
    hands: frozenset[int]
    guards: Numbers
    binders: Numbers
    limits: Numbers
    watches: Numbers


# ── From a kernel ─────────────────────────────────────────────────────────────────────────────


def tree_of(kernel: k.Kernel) -> Tree:
    builder = TreeBuilder(kernel.package, kernel.revision)
    of = PatternNumbers(builder.add_pattern)
    for agent in kernel.agents:
        asks = any(isinstance(one, k.ActsFor) and one.condition is not None for one in agent.requirements)
        grants = [[of(target.pattern) for target in grant.openings] for grant in agent.grants]
        builder.add_agent(
            head_of(agent.who), asks, grants, [list(map(of, delegate.patterns)) for delegate in agent.delegates]
        )
    for user in kernel.users:
        builder.add_user(
            head_of(user.who), [[of(target.pattern) for target in grant.openings] for grant in user.grants]
        )
    for anyone in kernel.anyones:
        builder.add_anyone([[of(target.pattern) for target in grant.openings] for grant in anyone.grants])
    for guard in kernel.guards:
        builder.add_guard(*numbers_in(guard.place, of))
    for binder in kernel.binders:
        builder.add_binder(of(binder.pattern))
    for limit in kernel.limits:
        builder.add_limit(*numbers_in(limit.place, of))
    for watch in kernel.watches:
        builder.add_watch(numbers_in(watch.event.place, of)[0] or ())
    for pattern in step_patterns(kernel):
        of(pattern)
    return builder.tree()


def indexed_parts(rule: k.AgentBlock | k.UserBlock | k.AnyoneBlock | k.Guard | k.Limit) -> tuple[object, ...]:
    """Return everything in a rule on which the tree depends: replacing the rule by a rule with equal parts does not
    change the tree.
    """
    match rule:
        case k.Guard() | k.Rate() | k.Budget():
            return rule.place.patterns, rule.place.excepts
        case k.AnyoneBlock():
            return (grant_patterns(rule),)
        case k.UserBlock():
            return head_of(rule.who), grant_patterns(rule)
        case k.AgentBlock():
            asks = any(isinstance(one, k.ActsFor) and one.condition is not None for one in rule.requirements)
            return head_of(rule.who), asks, grant_patterns(rule), [delegate.patterns for delegate in rule.delegates]
        case _:
            assert_never(rule)


def grant_patterns(block: k.AgentBlock | k.UserBlock | k.AnyoneBlock) -> list[list[k.Pattern]]:
    return [[target.pattern for target in grant.openings] for grant in block.grants]


def placed_patterns(kernel: k.Kernel) -> Iterator[k.Pattern]:
    """Yield the patterns of all rules in the order in which `tree_of` numbers them."""
    for agent in kernel.agents:
        yield from (target.pattern for grant in agent.grants for target in grant.openings)
        yield from (pattern for delegate in agent.delegates for pattern in delegate.patterns)
    others: tuple[k.UserBlock | k.AnyoneBlock, ...] = (*kernel.users, *kernel.anyones)
    for block in others:
        yield from (target.pattern for grant in block.grants for target in grant.openings)
    yield from (pattern for guard in kernel.guards for pattern in patterns_in(guard.place))
    yield from (binder.pattern for binder in kernel.binders)
    yield from (pattern for limit in kernel.limits for pattern in patterns_in(limit.place))
    yield from (pattern for watch in kernel.watches for pattern in patterns_in(watch.event.place))
    yield from step_patterns(kernel)


def step_patterns(kernel: k.Kernel) -> Iterator[k.Pattern]:
    """Yield the patterns of the steps that profiles expect. No rule uses them, but they separate endpoints that match
    different steps."""
    return (pattern for profile in kernel.profiles for step in leaves(profile.order) for pattern in step.patterns)


def patterns_in(place: k.Place) -> tuple[k.Pattern, ...]:
    return (*(place.patterns or ()), *place.excepts)


def numbers_in(place: k.Place, of: PatternNumbers) -> tuple[list[int] | None, list[int]]:
    """Return the numbers of the patterns in a place (None: everywhere), and of those that it excludes."""
    return None if place.patterns is None else list(map(of, place.patterns)), list(map(of, place.excepts))


class PatternNumbers:
    """Numbers patterns in the order in which they are first looked up; calls `add` for each new pattern. Patterns are
    looked up by identity first, because hashing is slower; the kernel keeps them alive.
    """

    def __init__(self, add: Callable[[k.Pattern], None]) -> None:
        self._add = add
        self._numbers: dict[k.Pattern, int] = {}
        self._by_identity: dict[int, int] = {}

    def __call__(self, pattern: k.Pattern) -> int:
        number = self._by_identity.get(id(pattern))
        if number is None:
            number = self._numbers.get(pattern)
            if number is None:
                number = self._numbers[pattern] = len(self._numbers)
                self._add(pattern)
            self._by_identity[id(pattern)] = number
        return number


# ── Building ──────────────────────────────────────────────────────────────────────────────────


class TreeBuilder:
    """Builds a tree: callers first add the patterns in the order of their numbers, then the rules of each kind in the
    order of the kernel.
    """

    def __init__(self, package: str, revision: str) -> None:
        self.package, self.revision = package, revision
        self.uses: list[Uses] = []
        self._root = Node()
        self._methods: list[Methods] = []
        self._same_methods: dict[Methods, Methods] = {}
        self._foldings: list[k.Folding] = []
        self._captured: dict[int, Steps] = {}
        self._tools: list[tuple[Tool, int]] = []
        self._actions: list[tuple[Action, int]] = []
        self._everywhere: list[int] = []
        self._always: list[int] = []
        self._agents, self._users = PrincipalIndex(), PrincipalIndex()
        self._counts = dict.fromkeys(("anyones", "guards", "binders", "limits", "watches"), 0)

    def tree(self) -> Tree:
        binding = [number for number, uses in enumerate(self.uses) if uses.binders]
        return Tree(
            self.package, self.revision, self._root, self._methods, self._foldings, self._captured, binding,
            self._tools, self._actions, self.uses, self._everywhere, self._always, self._agents.principals(),
            self._users.principals(),
        )  # fmt: skip

    # ── Patterns ──────────────────────────────────────────────────────────────────────────────

    def add_pattern(self, pattern: k.Pattern) -> None:
        match pattern:
            case k.HttpPattern(methods, segments, rest, folding):
                self.add_path(methods, tuple(map(segment_step, segments)), rest, folding)
            case k.ToolPattern(glob):
                self.add_tool(glob)
            case k.ActionPattern(verb, type_):
                self.add_action(verb, type_)

    def add_path(self, methods: Methods, steps: Steps, rest: bool, folding: k.Folding) -> None:
        """Add a pattern of paths."""
        node, has_captures = self._root, False
        for step in steps:
            if isinstance(step, str):
                then = node.literals.get(step)
                if then is None:
                    then = Node()
                    if node.literals is NO_NODES:
                        node.literals = {step: then}
                    else:
                        node.literals[step] = then
            else:
                has_captures = has_captures or step[2] is not None
                affix = step[0], step[1]
                then = node.affixes.get(affix)
                if then is None:
                    then = Node()
                    node.affixes = {**node.affixes, affix: then}
            node = then
        number = self._add_number(self._same_methods.setdefault(methods, methods), folding)
        if has_captures:
            self._captured[number] = steps
        if rest:
            node.rests = append_item(node.rests, number)
        else:
            node.ends = append_item(node.ends, number)

    def add_tool(self, glob: str) -> None:
        self._tools.append((Tool(glob), self._add_number(None, "none")))

    def add_action(self, verb: str, type_: str) -> None:
        self._actions.append((Action(verb, type_), self._add_number(None, "none")))

    def _add_number(self, methods: Methods, folding: k.Folding) -> int:
        self._methods.append(methods)
        self._foldings.append(folding)
        self.uses.append(Uses())
        return len(self.uses) - 1

    # ── Rules ─────────────────────────────────────────────────────────────────────────────────

    def add_agent(
        self, head: Head, asks: bool, grants: Iterable[Sequence[int]], delegates: Iterable[Iterable[int]]
    ) -> None:
        """Add an agent block: its head, whether a requirement has a condition, and the patterns of each grant and
        delegation.
        """
        number = self._agents.add(head, asks)
        self._add_grants("agents", number, grants)
        for which, patterns in enumerate(delegates):
            for pattern in dict.fromkeys(patterns):
                uses = self.uses[pattern]
                uses.hands = append_item(uses.hands, (number, which))

    def add_user(self, head: Head, grants: Iterable[Sequence[int]]) -> None:
        self._add_grants("users", self._users.add(head, False), grants)

    def add_anyone(self, grants: Iterable[Sequence[int]]) -> None:
        self._add_grants("anyones", self._count("anyones"), grants)

    def add_guard(self, patterns: Iterable[int] | None, excepts: Iterable[int]) -> None:
        number = self._count("guards")
        if patterns is None:
            self._everywhere.append(number)
        for pattern in dict.fromkeys(patterns or ()):
            self.uses[pattern].guards = append_item(self.uses[pattern].guards, number)
        for pattern in dict.fromkeys(excepts):
            self.uses[pattern].excepts = append_item(self.uses[pattern].excepts, number)

    def add_limit(self, patterns: Iterable[int] | None, excepts: Iterable[int]) -> None:
        number = self._count("limits")
        if patterns is None:
            self._always.append(number)
        for pattern in dict.fromkeys(patterns or ()):
            self.uses[pattern].limits = append_item(self.uses[pattern].limits, number)
        for pattern in dict.fromkeys(excepts):
            self.uses[pattern].spared = append_item(self.uses[pattern].spared, number)

    def add_binder(self, pattern: int) -> None:
        self.uses[pattern].binders = append_item(self.uses[pattern].binders, self._count("binders"))

    def add_watch(self, patterns: Iterable[int]) -> None:
        number = self._count("watches")
        for pattern in dict.fromkeys(patterns):
            self.uses[pattern].watches = append_item(self.uses[pattern].watches, number)

    def _count(self, kind: str) -> int:
        self._counts[kind] += 1
        return self._counts[kind] - 1

    def _add_grants(self, kind: str, block: int, grants: Iterable[Sequence[int]]) -> None:
        for which, targets in enumerate(grants):
            if len(targets) == 1:
                self._add_opens(targets[0], Opens(kind, block, which, FIRST))
            else:
                places: dict[int, list[int]] = {}
                for place, pattern in enumerate(targets):
                    places.setdefault(pattern, []).append(place)
                for pattern, numbers in places.items():
                    self._add_opens(pattern, Opens(kind, block, which, tuple(numbers)))

    def _add_opens(self, pattern: int, opens: Opens) -> None:
        uses = self.uses[pattern]
        uses.opens = append_item(uses.opens, opens)


class PrincipalIndex:
    """Indexes the blocks of one kind by their heads."""

    def __init__(self) -> None:
        self._names: dict[str, list[int]] = {}
        self._groups: dict[str, list[int]] = {}
        self._globs: list[tuple[str, int]] = []
        self._others: list[int] = []
        self._asking: list[int] = []
        self._count = 0

    def add(self, head: Head, asks: bool) -> int:
        number = self._count
        self._count += 1
        how, text = head
        if how == "name":
            self._names.setdefault(text, []).append(number)
        elif how == "group":
            self._groups.setdefault(text, []).append(number)
        elif how == "glob":
            self._globs.append((text, number))
        else:
            self._others.append(number)
        if asks or how == "condition":
            self._asking.append(number)
        return number

    def principals(self) -> Principals:
        names, groups = dict(sorted(self._names.items())), dict(sorted(self._groups.items()))
        return Principals(names, groups, self._globs, self._others, self._asking)


def head_of(who: k.ExactName | k.NamePattern | k.InGroup | k.AnyUser | k.PrincipalCondition) -> Head:
    match who:
        case k.ExactName(name):
            return "name", name
        case k.InGroup(group):
            return "group", group
        case k.NamePattern(glob):
            return "glob", glob
        case k.PrincipalCondition():
            return "condition", ""
        case k.AnyUser():
            return "always", ""


def segment_step(segment: k.Segment) -> str | WildStep:
    if not segment.wild:
        return segment.prefix
    return segment.prefix, segment.suffix, segment.capture, segment.entity


def append_item(held: Sequence[Item], item: Item) -> Sequence[Item]:
    """Return the sequence with the item appended: the same list, or a new list in place of the shared empty tuple."""
    if isinstance(held, list):
        held.append(item)
        return held
    return [item]
