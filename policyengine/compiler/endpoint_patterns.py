"""The endpoint patterns that a policy declares, as text, and the most specific pattern that a request matches.

Records contain this pattern instead of the path, because the number of patterns is bounded and the number of paths is
not. Patterns are compared as follows: a pattern without a final `**` is more specific; then, at the first segment in
which the patterns differ, a literal is more specific than a wildcard, and a wildcard with more text around it than a
wildcard with less; then the pattern with fewer unnamed wildcards; finally, the pattern that is first as text. So a
pattern is more specific than every other pattern that matches all of its endpoints, in any order of declarations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.endpoint_reader import STANDARD_METHODS
from policyengine.compiler.tree import Affix, Node, Tree, WildStep, tree_of
from policyengine.evaluator.program import EndpointRules
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint

TOOL, ACTION = "TOOL", "ACTION"
ANY = "ANY"  # stands for methods that are neither standard nor named in the policy
LITERAL, WILDCARD, REST = 0, 1, 2
Step: TypeAlias = str | Affix | WildStep  # a literal segment as its text, or a wildcard
Trail: TypeAlias = "tuple[Trail, Step] | None"  # the steps from the root of the tree, as a list linked from its end
Rank: TypeAlias = tuple[bool, tuple[tuple[int, int], ...], int, str]


class EndpointPatterns:
    """The declared patterns of the policy of a tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._trails = read_trails(tree.paths)
        self._methods = frozenset(STANDARD_METHODS).union(*(methods or () for methods in tree.methods))
        self._tools = {number: tool.glob for tool, number in tree.tools}
        self._actions = {
            (action.verb, action.type): f"{ACTION} {action.verb} {action.type}" for action, _ in tree.actions
        }

    def find(self, endpoint: Endpoint, rules: EndpointRules) -> str | None:
        """Return the most specific pattern that matches an HTTP endpoint or a tool, with the method of the endpoint:
        `GET /invoices/{id}`. `rules` are the rules of the endpoint. Return None if no pattern matches.
        """
        if type(endpoint) is HttpEndpoint:
            word = endpoint.method if endpoint.method in self._methods else ANY
        elif type(endpoint) is ToolEndpoint:
            word = TOOL
        else:
            return None
        names = rules.pattern_names
        if word not in names:
            names[word] = self._most_specific(word, rules.patterns)
        return names[word]

    def find_action(self, endpoint: ActionEndpoint) -> str | None:
        """Return the pattern of an action, if the policy declares it; otherwise None."""
        return self._actions.get((endpoint.verb, endpoint.type))

    def all(self) -> tuple[str, ...]:
        """Return everything that the other methods can return, sorted."""
        return tuple(sorted({*self._actions.values(), *self._tool_texts(), *self._http_texts()}))

    def _tool_texts(self) -> Iterator[str]:
        return (f"{TOOL} {glob}" for glob in self._tools.values())

    def _http_texts(self) -> Iterator[str]:
        every = (*self._methods, ANY)
        for number in self._trails:
            path = self._rank(number)[-1]
            yield from (f"{method} {path}" for method in self._tree.methods[number] or every)

    # ── The most specific ─────────────────────────────────────────────────────────────────────

    def _most_specific(self, word: str, numbers: Sequence[int]) -> str | None:
        if not numbers:
            return None
        if word == TOOL:
            return f"{TOOL} {min((self._tools[number] for number in numbers), key=rank_glob)}"
        return f"{word} {min(map(self._rank, numbers))[-1]}"

    def _rank(self, number: int) -> Rank:
        """Return the sort key of a path pattern, which ends with its text; the most specific pattern is first."""
        trail, rest = self._trails[number]
        steps = self._tree.captured.get(number) or steps_of(trail)
        path = "/" + "/".join([*map(step_text, steps), *(["**"] if rest else [])])
        return rest, (*map(rank_step, steps), *([(REST, 0)] if rest else [])), path.count("*"), path


def declared_endpoints(kernel: k.Kernel, tree: Tree | None = None) -> tuple[str, ...]:
    """Return every pattern that decision records of a policy can contain as `endpoint`, sorted. Their number depends
    only on the policy, not on requests. `tree` is the tree of the kernel, if it exists already.
    """
    return EndpointPatterns(tree or tree_of(kernel)).all()


def read_trails(root: Node) -> dict[int, tuple[Trail, bool]]:
    """Return the trail of each path pattern below the root of a tree, and whether it ends in `**`."""
    found: dict[int, tuple[Trail, bool]] = {}
    pending: list[tuple[Node, Trail]] = [(root, None)]
    while pending:
        node, trail = pending.pop()
        for number in node.ends:
            found[number] = trail, False
        for number in node.rests:
            found[number] = trail, True
        for text, child in node.literals.items():
            pending.append((child, (trail, text)))
        for affix, child in node.affixes.items():
            pending.append((child, (trail, affix)))
    return found


def steps_of(trail: Trail) -> list[Step]:
    steps: list[Step] = []
    while trail is not None:
        trail, step = trail
        steps.append(step)
    return steps[::-1]


def rank_step(step: Step) -> tuple[int, int]:
    return (LITERAL, 0) if isinstance(step, str) else (WILDCARD, -len(step[0]) - len(step[1]))


def rank_glob(glob: str) -> tuple[int, int, str]:
    """Return the sort key of a pattern of tools: the more characters it fixes, the more specific it is."""
    stars = glob.count("*")
    return stars - len(glob), stars, glob


def step_text(step: Step) -> str:
    """Return a segment as policies write it: `{id: invoice}`."""
    if isinstance(step, str):
        return step
    prefix, suffix, capture, entity = (*step, None, None)[:4]
    typed = f": {entity}" if entity else ""
    return f"{prefix}{f'{{{capture}{typed}}}' if capture else '*'}{suffix}"
