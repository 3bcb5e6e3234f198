"""Checks that the rules of a bundle match the policy texts in it: explanations quote the texts, which could otherwise
differ from the decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from policyengine import kernel as k
from policyengine.check import compile_sources
from policyengine.compiler.bundle.file import FORMAT, PolicyBundle, digest_of
from policyengine.compiler.bundle.payload import encode_payload, read_everything
from policyengine.compiler.tree import tree_of
from policyengine.runtime.format_values import format_value

RULE_NOUNS = {
    "agents": "agent", "users": "user", "anyones": "`anyone` block", "guards": "guard", "limits": "limit",
    "binders": "pattern", "watches": "record", "maps": "map", "profiles": "profile",
}  # fmt: skip


def find_difference(bundle: PolicyBundle) -> str | None:
    """Return how a bundle differs from the result of compiling its own policy texts, or None. Raises BundleError for a
    rule that cannot be read.
    """
    stored = read_everything(bundle.kernel)
    compiled, diagnostics = compile_sources(bundle.sources)
    if compiled is None:
        first = next(one for one in diagnostics if one.is_error)
        return f"the texts do not compile: {first.code} {first.message}"
    for difference in kernel_differences(stored, compiled):
        return difference
    if bundle.tree != tree_of(compiled):
        return "some of its rules apply at other endpoints"
    shape, payload = encode_payload(compiled, bundle.sources)
    if digest_of(FORMAT, bundle.made_by, shape, payload).hex() != bundle.digest:
        return "a rule refers to the wrong place in the texts"
    return None


def kernel_differences(stored: k.Kernel, compiled: k.Kernel) -> Iterator[str]:
    for name in (field.name for field in fields(k.Kernel)):
        here, there = getattr(stored, name), getattr(compiled, name)
        if here == there:
            continue
        if not isinstance(here, tuple) or not isinstance(there, tuple):
            yield f"`{name}` is different"
        elif len(here) != len(there):
            yield f"{len(here):,} {name} instead of {len(there):,}"
        else:
            number = next(number for number, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1])
            yield f"{describe_rule(name, number, there[number])} is not the rule that is written there"


def describe_rule(collection: str, number: int, rule: object) -> str:
    """Return a rule of the kernel as its name and its place in the policy texts: `guard "shut" at acme.policy:9`."""
    noun = RULE_NOUNS.get(collection)
    if noun is None or not isinstance(rule, k.Node):
        return f"number {number + 1} of the {collection}"
    if isinstance(rule, k.AgentBlock | k.UserBlock | k.AnyoneBlock):
        return f"`{rule.label}` at {rule.span.at}"
    name = getattr(rule, "name", None)
    return f"{noun} {format_value(name)} at {rule.span.at}" if name else f"the {noun} at {rule.span.at}"
