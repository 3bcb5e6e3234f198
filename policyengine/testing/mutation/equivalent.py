"""Finds mutants that provably decide like the original policy, so that no test can detect them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import covers, place_covers
from policyengine.checker.patterns.step_letters import same_order
from policyengine.kernel.fingerprint import canonical_text
from policyengine.solver.formulas import Truth
from policyengine.solver.satisfiability import ACTS_ON_TRUE, ACTS_UNLESS_FALSE, implies
from policyengine.spec.rate_units import floors_of
from policyengine.testing.mutation.lowering_cache import KernelRule, Mutant


def is_equivalent(mutant: Mutant) -> bool:
    """Return whether the mutant is proved to be equivalent; False means that there is no proof."""
    whole = all(
        name == "watches"  # watches follow from the rules
        or (same_profiles if name == "profiles" else same_meaning)(value, getattr(mutant.base, name))
        for name, value in mutant.whole.items()
    )
    return whole and all(
        rule is not None and same_rule(getattr(mutant.base, name)[number], rule)
        for (name, number), rule in mutant.rules.items()
    )


def same_meaning(one: object, other: object) -> bool:
    return canonical_text(one) == canonical_text(other)


def same_profiles(one: object, other: object) -> bool:
    """Return whether the profiles of two policies differ only in how they write their orders of calls."""
    assert isinstance(one, tuple)
    assert isinstance(other, tuple)
    return len(one) == len(other) and all(
        same_meaning(replace(a, order=()), replace(b, order=())) and same_order(a.order, b.order)
        for a, b in zip(one, other, strict=True)
    )


def same_rule(old: KernelRule, new: KernelRule) -> bool:
    match old, new:
        case k.Guard(), k.Guard():
            return same_place(old.place, new.place) and same_effects(old.effects, new.effects)
        case k.Rate(), k.Rate():
            return same_limit(old, new)
        case k.Budget(), k.Budget():
            return same_limit(old, new)
        case k.AgentBlock(), k.AgentBlock():
            return same_agents(old, new)
        case k.UserBlock(), k.UserBlock():
            who = same_principal(old.who, new.who) and same_meaning(old.requirements, new.requirements)
            return who and same_grants(old.grants, new.grants)
        case k.AnyoneBlock(), k.AnyoneBlock():
            return same_grants(old.grants, new.grants)
        case _:
            return False


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


def same_agents(old: k.AgentBlock, new: k.AgentBlock) -> bool:
    asked = zip_longest(old.requirements, new.requirements)
    handed = zip_longest(old.delegates, new.delegates)
    return (
        same_principal(old.who, new.who)
        and all(same_requirement(*pair) for pair in asked)
        and all(same_delegate(*pair) for pair in handed)
        and same_grants(old.grants, new.grants)
    )


def same_principal(old: object, new: object) -> bool:
    if isinstance(old, k.PrincipalCondition) and isinstance(new, k.PrincipalCondition):
        return same_condition(old.condition, new.condition, ACTS_ON_TRUE)
    return same_meaning(old, new)


def same_requirement(old: k.Requirement | None, new: k.Requirement | None) -> bool:
    if isinstance(old, k.ActsFor) and isinstance(new, k.ActsFor):
        return same_condition(old.condition, new.condition, ACTS_ON_TRUE)
    return same_meaning(old, new)


def same_delegate(old: k.DelegationGrant | None, new: k.DelegationGrant | None) -> bool:
    if old is None or new is None:
        return False
    return same_meaning(replace(old, when=None), replace(new, when=None)) and same_condition(
        old.when, new.when, ACTS_ON_TRUE
    )


def same_grants(old: Sequence[k.Grant], new: Sequence[k.Grant]) -> bool:
    """Return whether both lists certainly grant the same access."""
    return grants_cover(old, new) and grants_cover(new, old)


def grants_cover(wider: Sequence[k.Grant], narrower: Sequence[k.Grant]) -> bool:
    return all(
        any(opening_covers(one, opening, when) for one in conditional_openings(wider))
        for opening, when in conditional_openings(narrower)
    )


def conditional_openings(grants: Iterable[k.Grant]) -> Iterator[tuple[k.GrantTarget, k.Expr | None]]:
    return ((opening, grant.when) for grant in grants for opening in grant.openings)


def opening_covers(wider: tuple[k.GrantTarget, k.Expr | None], narrower: k.GrantTarget, when: k.Expr | None) -> bool:
    opening, condition = wider
    carried = set(narrower.carriers) <= set(opening.carriers) and bool(narrower.carriers) == bool(opening.carriers)
    if not carried or not covers(opening.pattern, narrower.pattern):
        return False
    return condition is None or (when is not None and implies(when, condition, ACTS_ON_TRUE))


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


def same_limit(old: k.Limit, new: k.Limit) -> bool:
    """Return whether the limits are certainly equivalent; raises and clamps are compared as written, and floors of
    rates that do not count by `cluster.id` are not compared."""
    here = replace(new, place=old.place, when=old.when)
    if isinstance(old, k.Rate) and isinstance(here, k.Rate) and not floors_of(old) and not floors_of(here):
        here = replace(here, floor=old.floor)
    return (
        same_place(old.place, new.place)
        and same_meaning(old, here)
        and same_condition(old.when, new.when, ACTS_UNLESS_FALSE)
    )


def same_place(old: k.Place, new: k.Place) -> bool:
    return same_meaning(old, new) or (place_covers(old, new) and place_covers(new, old))


def same_effects(old: Sequence[k.Effect], new: Sequence[k.Effect]) -> bool:
    return all(same_effect(*pair) for pair in zip_longest(old, new))


def same_effect(old: k.Effect | None, new: k.Effect | None) -> bool:
    """Return whether the effects are certainly equivalent. Conditions of confirms are compared as written, because an
    approval is bound to the facts that they read.
    """
    if old is None or new is None:
        return False
    if isinstance(old, k.Confirm) or isinstance(new, k.Confirm):
        return same_meaning(old, new)
    rest = same_meaning(replace(old, condition=None), replace(new, condition=None))
    return rest and same_condition(old.condition, new.condition, ACTS_UNLESS_FALSE)


def same_condition(old: k.Expr | None, new: k.Expr | None, acting: frozenset[Truth]) -> bool:
    if old is None or new is None:
        return old is new
    return same_meaning(old, new) or (implies(old, new, acting) and implies(new, old, acting))
