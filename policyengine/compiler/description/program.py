"""Describes the program of a policy: all distinct endpoints with their rules."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.description.endpoint_walk import EndpointSet, EndpointWalk
from policyengine.compiler.description.model import EndpointDescription, ProgramDescription, ProgramItem
from policyengine.compiler.description.rules import RuleDescriber
from policyengine.compiler.graph.draw import tree_patterns
from policyengine.compiler.graph.endpoint_view import source_words
from policyengine.compiler.tree import Tree

LETTER_CASE = {"none": "", "ascii": " in any case of ASCII letters", "full": " in any letter case"}


def describe_program(kernel: k.Kernel, tree: Tree) -> ProgramDescription:
    """Describe the program of this kernel and tree. The program is built for the description, so that its slot numbers
    do not depend on the decisions of an engine.
    """
    builder = ProgramBuilder(kernel, tree)
    walk, describer = EndpointWalk(builder), RuleDescriber(kernel)
    patterns = {number: pattern_words(with_captures(kernel, tree, number, one)) for number, one in tree_patterns(tree)}
    endpoints = []
    for endpoint in walk.endpoints():
        rules = tuple(describer.items(endpoint.rules, [tree.uses[number] for number in endpoint.patterns]))
        if any(item.kind != "task" for item in rules):
            matching = [patterns[number] for number in endpoint.patterns]
            matching += [f"{patterns[number]}, in another letter case" for number in endpoint.loose]
            words = endpoint_words(endpoint, walk.methods)
            endpoints.append(EndpointDescription(words, tuple(dict.fromkeys(matching)), rules))
    always = tuple(policy_items(kernel))
    return ProgramDescription(
        kernel.packages, kernel.revision, builder.nodes.count, always, tuple(endpoints), walk.omitted
    )


def policy_items(kernel: k.Kernel) -> Iterator[ProgramItem]:
    """Yield the rules that the walker applies at every endpoint, apart from guards and limits."""
    for limits in kernel.delegation:
        yield ProgramItem("chain", f"every chain: {source_words(limits)}", "", limits.span.at)
    yield from (ProgramItem("users", f"users unrestricted in {package}") for package in kernel.unrestricted)
    yield from (ProgramItem("tasks", f"tasks advisory in {package}") for package in kernel.advisory)


def endpoint_words(endpoint: EndpointSet, methods: tuple[str, ...]) -> str:
    """Return an example of the requests: `GET|PATCH /v1/invoices/*`."""
    kind = endpoint.methods[0]
    if not endpoint.patterns and not endpoint.loose:
        return {"TOOL": "any other tool", "ACTION": "any other action"}.get(kind, "any other path")
    if tuple(endpoint.methods) == methods:
        return endpoint.example
    if "*" in endpoint.methods:
        others = [method for method in methods if method not in endpoint.methods]
        return f"any method except {'|'.join(others)} {endpoint.example}"
    return f"{'|'.join(endpoint.methods)} {endpoint.example}"


# ── Patterns ──────────────────────────────────────────────────────────────────────────────────


def with_captures(kernel: k.Kernel, tree: Tree, number: int, pattern: k.Pattern) -> k.Pattern:
    """Return the pattern with the captures that rules bind; the tree stores only its segments."""
    binders = tree.uses[number].binders
    return kernel.binders[binders[0]].pattern if binders else pattern


def pattern_words(pattern: k.Pattern) -> str:
    match pattern:
        case k.HttpPattern(methods, segments, rest, folding):
            parts = [*map(segment_words, segments), *(["**"] if rest else [])]
            return f"{'|'.join(methods) + ' ' if methods else ''}/{'/'.join(parts)}{LETTER_CASE[folding]}"
        case k.ToolPattern(glob):
            return f"TOOL {glob}"
        case k.ActionPattern(verb, type_):
            return f"ACTION {verb} {type_}"


def segment_words(segment: k.Segment) -> str:
    if not segment.wild:
        return segment.prefix
    typed = f": {segment.entity}" if segment.entity else ""
    return f"{segment.prefix}{f'{{{segment.capture}{typed}}}' if segment.capture else '*'}{segment.suffix}"
