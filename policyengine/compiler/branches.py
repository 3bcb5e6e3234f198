"""The paths of the tree as they are walked: made deterministic when they are met, so that one walk finds every pattern.

A branch stands for all places of the trie that a path can be at. It is made when first needed, and kept; what a policy
does not name is never kept, so what strangers ask for cannot fill the memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from policyengine.compiler.leaf import Leaf
from policyengine.compiler.tree import Node, Tree

# Segments that are canonical as they stand; all others are looked at with care.
PLAIN = re.compile(r"[A-Za-z0-9_~@:!$&'()*+,=-]+(?:\.+[A-Za-z0-9_~@:!$&'()*+,=-]+)*").fullmatch
MOST_BRANCHES = 100_000  # kept; a policy whose patterns cross in more ways is walked without keeping more


class Branch:
    """Where a walk may be: what comes `next` by literal, where any other segment leads (`wild`), the leaves here.

    `ends` are the leaves of a path that ends here, `rest` of one that goes on beyond what is known; by method. `last`
    are those of a path whose last segment is not in `next`, where it does not matter what it is.
    """

    __slots__ = ("ends", "grown", "last", "next", "nodes", "rest", "rests", "wild")

    def __init__(self, nodes: tuple[Node, ...], rests: tuple[int, ...]) -> None:
        self.nodes = nodes
        self.rests = tuple(sorted({*rests, *(number for node in nodes for number in node.rests)}))
        self.next: dict[str, Branch] = {}
        self.wild: Branch | None = None
        self.ends: dict[str, Leaf] = {}
        self.rest: dict[str, Leaf] = {}
        self.last: dict[str, Leaf] = {}
        self.grown = False


class Paths:
    """Makes branches out of the trie, and leaves at them."""

    def __init__(self, tree: Tree, leaf: Callable[[str, Iterable[int]], Leaf]) -> None:
        self._methods = tree.methods
        self._leaf = leaf
        self._named = frozenset(method for methods in tree.methods for method in methods or ())
        self._branches: dict[tuple[tuple[int, ...], tuple[int, ...]], Branch] = {}
        self.root = self._branch((tree.paths,), ())
        self.start = Branch((), ())
        self.start.next[""], self.start.grown = self.root, True

    def step(self, branch: Branch, segment: str) -> Branch | None:
        """Where a segment leads that `next` and `wild` do not tell of; None where no pattern goes on."""
        if not branch.grown and len(self._branches) < MOST_BRANCHES:
            self._grow(branch)
        return branch.next.get(segment) or branch.wild or self._reached(branch, segment)

    def at(self, branch: Branch, method: str, *, ended: bool) -> Leaf:
        """The leaf for a method, where the path ends or goes on beyond."""
        known = branch.ends if ended else branch.rest
        name = "GET" if method == "HEAD" else method
        found = known.get(name)
        if found is None:
            numbers = (*(number for node in branch.nodes for number in node.ends), *branch.rests)
            fitting = [one for one in (numbers if ended else branch.rests) if self._covers(one, name)]
            found = self._leaf("http", fitting)
            if name in self._named:
                known[name] = found
        if name in self._named:
            known[method] = found
        return found

    def beyond(self, branch: Branch) -> Branch:
        """A branch where every segment goes on beyond."""
        found = Branch((), branch.rests)
        found.rest = found.last = branch.rest
        return found

    def _covers(self, number: int, method: str) -> bool:
        methods = self._methods[number]
        return methods is None or method in methods

    def _grow(self, branch: Branch) -> None:
        literals: dict[str, list[Node]] = defaultdict(list)
        for node in branch.nodes:
            for text, then in node.literals:
                literals[text].append(then)
        for text, nodes in literals.items():
            branch.next[text] = self._branch((*nodes, *affixed(branch, text)), branch.rests)
        plain = affixed(branch, None)
        if len(plain) == sum(len(node.affixes) for node in branch.nodes) and plain:
            branch.wild = self._branch(plain, branch.rests)
            branch.last = branch.wild.ends
        elif not any(node.affixes for node in branch.nodes):
            branch.last = branch.rest
        branch.grown = True

    def _reached(self, branch: Branch, segment: str) -> Branch | None:
        literal = (then for node in branch.nodes for text, then in node.literals if text == segment)
        nodes = (*(() if branch.grown else literal), *affixed(branch, segment))
        return self._branch(nodes, branch.rests) if nodes else None

    def _branch(self, nodes: tuple[Node, ...], rests: tuple[int, ...]) -> Branch:
        key = (tuple(id(node) for node in nodes), rests)
        found = self._branches.get(key)
        if found is None:
            found = Branch(nodes, rests)
            if len(self._branches) < MOST_BRANCHES:
                self._branches[key] = found
        return found


def affixed(branch: Branch, segment: str | None) -> tuple[Node, ...]:
    """The places after a segment that no literal stands for; None is one that fits no beginning and no end."""
    return tuple(then for node in branch.nodes for affix, then in node.affixes if fits(affix, segment))


def fits(affix: tuple[str, str], segment: str | None) -> bool:
    before, after = affix
    if segment is None:
        return not before and not after
    fixed = len(before) + len(after)
    return len(segment) > fixed and segment.startswith(before) and segment.endswith(after)
