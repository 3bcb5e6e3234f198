"""Declarations that only one of two policies has: what a doubt names where it is about all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from policyengine import kernel as k
from policyengine.analysis.diff.model import Rule, unique
from policyengine.analysis.diff.oracle import rule
from policyengine.kernel.fingerprint import Writers


def changed_rules(old: k.Kernel, new: k.Kernel) -> tuple[Rule, ...]:
    """Doors, guards and whatever else decides; limits are compared by themselves."""
    return (*apart(old, new, doors_and_guards), *changed_setting(old, new))


def changed_setting(old: k.Kernel, new: k.Kernel) -> tuple[Rule, ...]:
    """What stands beside doors and guards: issuers, delegation, what patterns bind."""
    return apart(old, new, setting)


def apart(old: k.Kernel, new: k.Kernel, parts: Callable[[k.Kernel], Iterable[tuple[str, k.Part]]]) -> tuple[Rule, ...]:
    write = Writers()
    sides = [{write(part): (name, part) for name, part in parts(kernel)} for kernel in (old, new)]
    removed = [one for text, one in sides[0].items() if text not in sides[1]]
    added = [one for text, one in sides[1].items() if text not in sides[0]]
    return unique(rule(name, part.span) for name, part in (*removed, *added))


def doors_and_guards(kernel: k.Kernel) -> Iterator[tuple[str, k.Part]]:
    for blocks in (kernel.agents, kernel.users, kernel.anyones):
        yield from ((block.label, block) for block in blocks)
    for guard in kernel.guards:
        yield f'guard "{guard.name}"', guard


def setting(kernel: k.Kernel) -> Iterator[tuple[str, k.Part]]:
    for kind, named in (("issuer", kernel.issuers), ("attester", kernel.attesters)):
        yield from ((f"{kind} {name}", one) for name, one in named.items())
    for kind, several in (("delegation", kernel.delegation), ("what is bound", kernel.binders)):
        yield from ((kind, one) for one in several)
