"""Finds every distinct endpoint of a program: each set of patterns that can match one request, with its rules.

Paths are walked from the root in a fixed order: literal segments, then segments with the prefix or suffix of a pattern,
then any other segment. Paths in another letter case are not walked: only patterns that ignore case match them, and the
description of such a pattern says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product

from policyengine.compiler.build_program import ProgramBuilder
from policyengine.evaluator.program import EndpointRules, PathBranch
from policyengine.runtime.endpoints import ActionEndpoint, ToolEndpoint

MAX_BRANCHES = 10_000  # maximum branches of paths to walk, and tool names to try
FILLERS = range(0xE000, 0xF900)  # private-use characters; one that no pattern contains stands for any other text


@dataclass(slots=True)
class EndpointSet:
    """The requests that the same patterns match: the first path, tool or action that the walk found, all its methods,
    the numbers of the patterns, and the rules.
    """

    methods: list[str]
    example: str
    patterns: tuple[int, ...]
    loose: tuple[int, ...]
    rules: EndpointRules


class EndpointWalk:
    """Walks all endpoints of a program: paths, tools and actions. `omitted` is the number of branches and tool names
    that were found but not walked.
    """

    def __init__(self, builder: ProgramBuilder) -> None:
        self.omitted = 0
        self.methods = (*sorted({method for methods in builder.tree.methods for method in methods or ()}), "*")
        self._builder = builder
        self._found: dict[int, EndpointSet] = {}
        self._filler = unused_character(builder)

    def endpoints(self) -> list[EndpointSet]:
        """Return the endpoints in the order of the walk."""
        self._walk_paths()
        self._walk_tools()
        actions = ((action.verb, action.type) for action, _ in self._builder.tree.actions)
        for verb, type_ in dict.fromkeys((*actions, (self._filler, self._filler))):
            self._add("ACTION", f"{verb} {type_}", self._builder.rules_at(ActionEndpoint(verb, type_)))
        keys = {id(rules): key for key, rules in self._builder.rules.items()}
        for number, endpoint in self._found.items():
            _, endpoint.patterns, endpoint.loose = keys[number]
        return list(self._found.values())

    def _add(self, method: str, example: str, rules: EndpointRules) -> None:
        known = self._found.get(id(rules))
        if known is None:
            self._found[id(rules)] = EndpointSet([method], example, (), (), rules)
        elif known.example == example:
            known.methods.append(method)

    # ── Paths ─────────────────────────────────────────────────────────────────────────────────

    def _walk_paths(self) -> None:
        paths = self._builder.paths
        pending: list[tuple[PathBranch, str]] = [(paths.root, "")]
        walked: set[int] = set()
        while pending:
            branch, path = pending.pop()
            if id(branch) in walked:
                continue
            if len(walked) >= MAX_BRANCHES:
                self.omitted += len({id(branch), *(id(other) for other, _ in pending)} - walked)
                return
            walked.add(id(branch))
            self._add_methods(branch, path or "/", ended=True)
            onward = [(paths.step(branch, text), f"{path}/{shown}") for text, shown in self._segments_after(branch)]
            if branch.rests and any(then is None for then, _ in onward):
                self._add_methods(branch, f"{path}/**", ended=False)
            pending += [(then, shown) for then, shown in reversed(onward) if then is not None]

    def _add_methods(self, branch: PathBranch, path: str, *, ended: bool) -> None:
        for method in self.methods:
            self._add(method, path, self._builder.paths.at(branch, method, ended=ended))

    def _segments_after(self, branch: PathBranch) -> Iterator[tuple[str, str]]:
        """Yield segments that lead to different branches, each with its text in descriptions."""
        for text in sorted({text for node, _ in branch.places for text in node.literals}):
            yield text, text
        yield from self._samples({affix for node, _ in branch.places for affix in node.affixes})

    def _samples(self, affixes: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Yield a sample text for each combination of a prefix and a suffix of the patterns, and finally a text that
        stands for any other text.
        """
        heads, tails = ({affix[side] for affix in affixes} | {""} for side in (0, 1))
        samples = product(sorted(heads, reverse=True), sorted(tails, reverse=True))
        for head, tail in islice(samples, MAX_BRANCHES):
            yield f"{head}{self._filler}{tail}", f"{head}*{tail}"
        self.omitted += max(0, len(heads) * len(tails) - MAX_BRANCHES)

    # ── Tools ─────────────────────────────────────────────────────────────────────────────────

    def _walk_tools(self) -> None:
        for name, shown in dict.fromkeys(self._tool_names()):
            self._add("TOOL", shown, self._builder.rules_at(ToolEndpoint(None, name)))

    def _tool_names(self) -> Iterator[tuple[str, str]]:
        globs = list(dict.fromkeys(tool.glob for tool, _ in self._builder.tree.tools))
        yield from ((glob, glob) for glob in globs if "*" not in glob)
        yield from ((glob.replace("*", self._filler), glob) for glob in globs if glob.count("*") > 1)
        single = [glob.partition("*") for glob in globs if glob.count("*") == 1]
        yield from self._samples({(head, tail) for head, _, tail in single})


def unused_character(builder: ProgramBuilder) -> str:
    """Return a character that is in no pattern of the policy, and that has no letter case."""
    used: set[str] = set()
    for tool, _ in builder.tree.tools:
        used.update(tool.glob)
    pending = [builder.tree.paths]
    while pending:
        node = pending.pop()
        for text, child in node.literals.items():
            used.update(text)
            pending.append(child)
        for (head, tail), child in node.affixes.items():
            used.update(head, tail)
            pending.append(child)
    return next((chr(code) for code in FILLERS if chr(code) not in used), chr(FILLERS[0]))
