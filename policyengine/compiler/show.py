"""The generated code as people read it: each shape once, its lines beside the policy lines of its first rule."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from traceback import walk_tb
from types import CodeType, FunctionType, TracebackType
from typing import Any

from policyengine.compiler.branches import Branch
from policyengine.compiler.driver import Form
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.leaf import Leaf, Side
from policyengine.compiler.leaves import Leaves
from policyengine.control_characters import one_line
from policyengine.source import Span

MOST_BRANCHES = 10_000  # that are walked; a policy with more shows the shapes of those
MARGIN = 88  # where the places stand
USUAL: Form = (
    ("agent", ("groups", "id", "issuer")), ("credential", ("scopes",)), ("request", ("method", "path")),
    ("user", ("id",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """Code that several rules share: one of them, and how many there are."""

    rule: FunctionType
    rules: int


def show(evaluator: Evaluator) -> str:
    """All shapes of a policy's rules, and the driver for the usual form of a question."""
    parts = [f"# The driver for questions of the form {words(USUAL)}", evaluator.quick.driver_text(USUAL)]
    for number, shape in enumerate(shapes(evaluator.leaves)):
        rules = "1 rule" if shape.rules == 1 else f"{shape.rules:,} rules"
        parts += [
            f"# Shape {number}: {rules}. The constants and places are those of the first.",
            *lines(shape.rule),
            "",
        ]
    return "\n".join(parts).rstrip() + "\n"


def words(form: Form) -> str:
    return "  ".join(root if not names else f"{root} {{ {', '.join(names)} }}" for root, names in form)


def shapes(leaves: Leaves) -> list[Shape]:
    """In the order in which a walk of the tree meets them."""
    found: dict[CodeType, list[FunctionType]] = {}
    seen: set[int] = set()
    for leaf in every_leaf(leaves):
        if id(leaf) not in seen:
            seen.add(id(leaf))
            for rule in rules_of(leaf):
                if isinstance(rule, FunctionType) and rule.__code__.co_filename.startswith("<policyengine shape"):
                    found.setdefault(rule.__code__, []).append(rule)
    return [Shape(rules[0], len(rules)) for rules in found.values()]


def every_leaf(leaves: Leaves) -> Iterator[Leaf]:
    paths = leaves.paths
    methods = sorted({method for methods in leaves.tree.methods for method in methods or ()}) or ["GET"]
    pending: list[Branch] = [paths.root]
    seen: set[int] = set()
    while pending and len(seen) < MOST_BRANCHES:
        branch = pending.pop()
        if id(branch) in seen:
            continue
        seen.add(id(branch))
        paths.step(branch, "")  # makes what comes next
        for method in methods:
            yield paths.at(branch, method, ended=True)
            if branch.rests:
                yield paths.at(branch, method, ended=False)
        after = [branch.next[text] for text in sorted(branch.next, reverse=True)]
        pending += [*([branch.wild] if branch.wild is not None else []), *after]
    yield from (leaves.at_tool(tool.glob) for tool, _ in leaves.tree.tools)
    yield from (leaves.at_action(action.verb, action.type) for action, _ in leaves.tree.actions)


def rules_of(leaf: Leaf) -> Iterator[Any]:
    yield from (leaf.anyone, leaf.told_anyone, leaf.guards, leaf.task, leaf.limits, leaf.records)
    for side in (leaf.agents, leaf.told_agents, leaf.users, leaf.told_users, leaf.served, leaf.told_served):
        yield from rules_of_side(side)
    yield from rules_of_side(leaf.standing_agents)
    yield from rules_of_side(leaf.standing_users)


def rules_of_side(side: Side) -> Iterator[Any]:
    yield from (side.names.made(name) for name in side.names)
    yield from (side.groups.made(group) for group in side.groups)
    yield from (rule for _, rule in side.globs)
    yield side.others


def lines(rule: FunctionType) -> Iterator[str]:
    """The text of a rule, with its places, and its constants."""
    *constants, places = rule.__defaults__ or ((),)
    text = linecache.getlines(rule.__code__.co_filename)
    yield text[0].rstrip()
    before = ""
    for line, span in zip(text[1:], places, strict=False):
        place = "" if span is None else one_line(span.at)
        yield line.rstrip() if place in ("", before) else f"{line.rstrip():<{MARGIN}}  # {place}"
        before = place
    for number, constant in enumerate(constants):
        yield f"# C{number} = {shown(constant)}"


def shown(constant: object) -> str:
    if isinstance(constant, frozenset):
        return "{" + ", ".join(sorted(map(shown, constant))) + "}"
    if isinstance(constant, FunctionType):
        return constant.__name__
    if isinstance(constant, tuple):
        return "(" + ", ".join(map(shown, constant)) + ")"
    return (
        ascii(constant)
        if isinstance(constant, str)
        else type(constant).__name__
        if is_part(constant)
        else str(constant)
    )


def is_part(constant: object) -> bool:
    """Whether it is a part of the evaluator, a column of the directory or so, that has no text of its own."""
    return type(constant).__module__.startswith("policyengine.compiler")


def place_of(traceback: TracebackType | None) -> str | None:
    """The place in the policy that the innermost generated line of a traceback is for: `payments.policy:47`."""
    place = None
    for frame, number in walk_tb(traceback):
        if frame.f_code.co_filename.startswith("<policyengine shape"):
            places = frame.f_locals.get("places", ())
            span: Span | None = places[number - 2] if 2 <= number < len(places) + 2 else None
            place = span.at if span is not None else place
    return place
