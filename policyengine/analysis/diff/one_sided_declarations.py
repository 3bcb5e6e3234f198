"""Declarations that only one of two policies has, which reports name for regions without proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from policyengine import kernel as k
from policyengine.analysis.diff.model import RuleExcerpt, unique_items
from policyengine.analysis.diff.oracle import rule_excerpt
from policyengine.kernel.fingerprint import CanonicalWriters


def changed_rules(old: k.Kernel, new: k.Kernel) -> tuple[RuleExcerpt, ...]:
    """Return the changed grants, guards and other declarations that affect decisions; limits are compared
    separately.
    """
    return (*declared_in_one_only(old, new, blocks_and_guards), *changed_trust_and_bindings(old, new))


def changed_trust_and_bindings(old: k.Kernel, new: k.Kernel) -> tuple[RuleExcerpt, ...]:
    """Return changed issuers, attesters, delegation limits and bindings."""
    return declared_in_one_only(old, new, trust_and_bindings)


def declared_in_one_only(
    old: k.Kernel, new: k.Kernel, parts: Callable[[k.Kernel], Iterable[tuple[str, k.Node]]]
) -> tuple[RuleExcerpt, ...]:
    write = CanonicalWriters()
    sides = [{write(part): (name, part) for name, part in parts(kernel)} for kernel in (old, new)]
    removed = [one for text, one in sides[0].items() if text not in sides[1]]
    added = [one for text, one in sides[1].items() if text not in sides[0]]
    return unique_items(rule_excerpt(name, part.span) for name, part in (*removed, *added))


def blocks_and_guards(kernel: k.Kernel) -> Iterator[tuple[str, k.Node]]:
    for blocks in (kernel.agents, kernel.users, kernel.anyones):
        yield from ((block.label, block) for block in blocks)
    for guard in kernel.guards:
        yield f'guard "{guard.name}"', guard


def trust_and_bindings(kernel: k.Kernel) -> Iterator[tuple[str, k.Node]]:
    for kind, named in (("issuer", kernel.issuers), ("attester", kernel.attesters)):
        yield from ((f"{kind} {name}", one) for name, one in named.items())
    for kind, several in (("delegation", kernel.delegation), ("binding", kernel.binders)):
        yield from ((kind, one) for one in several)
