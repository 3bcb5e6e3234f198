"""The automaton of paths: the trie of the tree, made deterministic as requests need it, so that one walk finds every
pattern.

A branch is a set of places in the trie. It is created for the first request that reaches it, and kept. Segments that
the policy does not name create no branches, so that callers cannot fill the memory. The same walk finds patterns that
ignore letter case: each place has the least folding with which a path reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.compiler.tree import Node, Numbers, Tree
from policyengine.evaluator.program import EndpointRules, PathBranch
from policyengine.runtime.letter_case import fold_case
from policyengine.spec.match_endpoint import least_folding

MOST_BRANCHES = 100_000  # maximum number of branches to keep; further branches are created again for each walk
Place: TypeAlias = tuple[Node, int]  # a node, and the number of the least folding with which a path reaches it


class Paths:
    """Creates the branches of a tree and their rules."""

    def __init__(self, tree: Tree, rules: Callable[[str, Iterable[int], Iterable[int]], EndpointRules]) -> None:
        self._methods = tree.methods
        self._foldings = tuple(map(k.FOLDINGS.index, tree.foldings))
        self._binding = frozenset(tree.binding)
        self._rules = rules
        self._named = frozenset(method for methods in tree.methods for method in methods or ())
        self._branches: dict[tuple[tuple[tuple[int, int], ...], Numbers, Numbers], PathBranch] = {}
        self.root = self._branch(((tree.paths, 0),), (), ())
        self.start = PathBranch((), (), ())
        self.start.next[""], self.start.grown = self.root, True

    def step(self, branch: PathBranch, segment: str) -> PathBranch | None:
        """Return the branch after a segment, even if it is not yet in `next`; None if no pattern continues."""
        if not branch.grown and len(self._branches) < MOST_BRANCHES:
            self._grow(branch)
        known = branch.next.get(segment)
        if known is not None:
            return known
        if not branch.grown:
            return self._onward(branch, literals(branch), segment)
        alike = branch.cased.get(fold_case(segment), ())
        if not alike and branch.wild is not None:
            return branch.wild
        reached = self._onward(branch, alike, segment)
        if reached is not None and any(text == segment for text, _ in alike):
            branch.next[segment] = reached  # only segments that the policy names are kept
        return reached

    def at(self, branch: PathBranch, method: str, *, ended: bool) -> EndpointRules:
        """Return the rules for a method at a branch: where the path ends (`ended`), or where it continues beyond all
        patterns.
        """
        known = branch.ends if ended else branch.rest
        name = "GET" if method == "HEAD" else method
        found = known.get(name)
        if found is None:
            fitting, loose = self._patterns_at(branch.places if ended else (), "ends")
            covering = [one for one in (*fitting, *branch.rests) if self._covers(one, name)]
            found = self._rules("http", covering, [one for one in (*loose, *branch.loose) if self._covers(one, name)])
            if name in self._named:
                known[name] = found
        if name in self._named:
            known[method] = found
        return found

    def beyond(self, branch: PathBranch) -> PathBranch:
        """Return a branch for paths that continue beyond all patterns with any segments."""
        found = PathBranch((), branch.rests, branch.loose)
        found.rest = found.last = branch.rest
        return found

    def _covers(self, number: int, method: str) -> bool:
        methods = self._methods[number]
        return methods is None or method in methods

    def _patterns_at(self, places: Iterable[Place], name: str) -> tuple[list[int], list[int]]:
        """Return the patterns that end at the places: those that match with their folding, and others that
        bind facts.
        """
        fitting: list[int] = []
        loose: list[int] = []
        for node, folding in places:
            for number in getattr(node, name):
                if self._foldings[number] >= folding:
                    fitting.append(number)
                elif number in self._binding:
                    loose.append(number)
        return fitting, loose

    def _grow(self, branch: PathBranch) -> None:
        for text, place in literals(branch):
            branch.cased.setdefault(fold_case(text), []).append((text, place))
        plain = wildcard_places(branch, None)
        if len(plain) == sum(len(node.affixes) for node, _ in branch.places) and plain:
            branch.wild = self._branch(plain, branch.rests, branch.loose)
            branch.last = branch.wild.ends
        elif not any(node.affixes for node, _ in branch.places):
            branch.last = branch.rest
        branch.grown = True

    def _onward(self, branch: PathBranch, alike: Iterable[tuple[str, Place]], segment: str) -> PathBranch | None:
        folded = ((place, least_folding(k.Segment(text), segment)) for text, place in alike)
        literal = ((node, max(before, took)) for (node, before), took in folded if took is not None)
        places = (*literal, *wildcard_places(branch, segment))
        return self._branch(places, branch.rests, branch.loose) if places else None

    def _branch(self, places: tuple[Place, ...], rests: Numbers, loose: Numbers) -> PathBranch:
        fitting, binding = self._patterns_at(places, "rests")
        rests, loose = tuple(sorted({*rests, *fitting})), tuple(sorted({*loose, *binding}))
        key = (tuple((id(node), folding) for node, folding in places), rests, loose)
        found = self._branches.get(key)
        if found is None:
            found = PathBranch(places, rests, loose)
            if len(self._branches) < MOST_BRANCHES:
                self._branches[key] = found
        return found


def literals(branch: PathBranch) -> Iterator[tuple[str, Place]]:
    for node, folding in branch.places:
        yield from ((text, (then, folding)) for text, then in node.literals.items())


def wildcard_places(branch: PathBranch, segment: str | None) -> tuple[Place, ...]:
    """Return the places that wildcards reach with this segment; None stands for a segment without the prefix or suffix
    of any wildcard.
    """
    found: list[Place] = []
    for node, folding in branch.places:
        for (before, after), then in node.affixes.items():
            anything = 0 if not (before or after) else None
            took = anything if segment is None else least_folding(k.Segment(before, True, after), segment)
            if took is not None:
                found.append((then, max(folding, took)))
    return tuple(found)
