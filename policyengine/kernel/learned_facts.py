"""Finds the learned facts that rules read: facts that compare an agent with its usual behavior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

from policyengine import kernel as k
from policyengine.vocabulary import CLUSTER_ID, CLUSTER_SIZE, LEARNED_FACTS, learned_name

GROUP_FACTS = frozenset({learned_name(CLUSTER_ID), learned_name(CLUSTER_SIZE)})


def with_learned_facts(kernel: k.Kernel) -> k.Kernel:
    """Return the kernel with `reads_behavior` set as its rules require."""
    return replace(kernel, reads_behavior=any(True for _ in learned_facts(rules_of(kernel))))


def learned_fact_names(kernel: k.Kernel) -> frozenset[str]:
    """Return the names (`learned_name`) of the learned facts that the rules of a kernel read."""
    if not kernel.reads_behavior:
        return frozenset()
    return frozenset(learned_name(fact.path) for fact in learned_facts(rules_of(kernel)))


def reads_groups(kernel: k.Kernel) -> bool:
    """Return whether a rule reads the group of the caller."""
    return not learned_fact_names(kernel).isdisjoint(GROUP_FACTS)


def rules_of(kernel: k.Kernel) -> tuple[object, ...]:
    """Return the parts of a kernel that may read learned facts."""
    return kernel.agents, kernel.users, kernel.anyones, kernel.guards, kernel.limits


def learned_facts(part: object) -> Iterator[k.Fact]:
    """Yield every learned fact in a part of the kernel, including learned facts of past requests."""
    if isinstance(part, tuple):
        for item in part:
            yield from learned_facts(item)
    elif isinstance(part, k.Fact):
        if part.path in LEARNED_FACTS:
            yield part
    elif is_dataclass(part):
        for field in fields(part):
            if field.name not in ("span", "type"):
                yield from learned_facts(getattr(part, field.name))
