"""Profiles without an effect, and conditions on learned facts that do not do what they seem to: thresholds out of
range, and clamps that new callers escape.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import globs_meet, place_overlaps
from policyengine.diagnostics.model import Diagnostic
from policyengine.kernel.learned_facts import learned_facts, with_learned_facts
from policyengine.lint.dead_limit_conditions import conditions_of_limits
from policyengine.spec.rate_units import counts_by_groups
from policyengine.time_formats import format_duration
from policyengine.typesystem import Scalar
from policyengine.vocabulary import BUILT_IN_FACTS, NEUTRAL_VALUES

READY, SEQUENCE = ("behavior", "ready"), ("behavior", "sequence")
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def profiles_of_nobody(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W911 for each profile that applies to no agent of an agent block."""
    for profile in kernel.profiles:
        if not any(may_share_agent(profile.agents, block.who) for block in kernel.agents):
            message = f"no agent block applies to an agent of the profile `{profile.name}`"
            hint = "write the name as in an `agent` block, or remove the profile"
            yield Diagnostic("W911", message, profile.span, hint)


def unread_profiles(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W914 for each profile of a policy in which no rule reads a learned fact."""
    if kernel.profiles and not with_learned_facts(kernel).reads_behavior:
        for profile in kernel.profiles:
            message = f"nothing is learned for the profile `{profile.name}`: no rule reads a learned fact"
            hint = "add a rule that reads one, such as `warn when behavior.burst` in a guard"
            yield Diagnostic("W914", message, profile.span, hint)


def may_share_agent(
    agents: k.ExactName | k.NamePattern | k.InGroup, who: k.ExactName | k.NamePattern | k.InGroup | k.PrincipalCondition
) -> bool:
    match agents, who:
        case ((k.ExactName(one) | k.NamePattern(one)), (k.ExactName(other) | k.NamePattern(other))):
            return globs_meet(one, other)
        case _:  # an agent of any name may be in a group, or meet a condition
            return True


# ── Thresholds ────────────────────────────────────────────────────────────────────────────────


def thresholds_out_of_range(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W912 for each comparison whose result does not depend on the fact, which is a number from 0 to 1."""
    for condition in dict.fromkeys(read_conditions(kernel)):
        for node in k.walk(condition):
            if isinstance(node, k.Relation) and (found := threshold(node)) is not None:
                fact, operator, bound = found
                if (result := constant_result(operator, bound)) is not None:
                    message = f"`{' '.join(node.span.text.split())}` is always {str(result).lower()}"
                    hint = f"`{'.'.join(fact.path)}` is a number from 0 to 1"
                    yield Diagnostic("W912", message, node.span, hint)


def read_conditions(kernel: k.Kernel) -> Iterator[k.Expr]:
    effects = (effect for guard in kernel.guards for effect in guard.effects)
    yield from (effect.condition for effect in effects if effect.condition is not None)
    yield from (condition for _, condition, _ in conditions_of_limits(kernel))


def threshold(node: k.Relation) -> tuple[k.Fact, str, Decimal | int] | None:
    """Return the fact, the operator and the constant of a comparison such as `behavior.trust > 0.9`. Return None for
    other relations.
    """
    for fact, other, mirrored in ((node.left, node.right, False), (node.right, node.left, True)):
        if isinstance(fact, k.Fact) and is_share(fact) and isinstance(other, k.Constant) and node.operator in MIRRORED:
            return fact, MIRRORED[node.operator] if mirrored else node.operator, other.value  # type: ignore[return-value]
    return None


def is_share(fact: k.Fact) -> bool:
    return fact.path[0] == "behavior" and BUILT_IN_FACTS[fact.path].type is Scalar.NUMBER


def constant_result(operator: str, bound: Decimal | int) -> bool | None:
    """Return the result of the comparison if it is the same for all numbers from 0 to 1. Return None if it is not the
    same.
    """
    holds = k.RELATIONS[operator].holds
    results = {holds(0, bound), holds(1, bound)}
    inside = 0 <= bound <= 1
    return results.pop() if len(results) == 1 and not (inside and operator in ("==", "!=")) else None


# ── Callers about which nothing is known ──────────────────────────────────────────────────────


def escaped_clamps(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W913 for each rate whose clamps on learned facts have no counterpart for callers that are not `ready`."""
    for limit in kernel.limits:
        if not isinstance(limit, k.Rate) or any(acts_when_fresh(clamp.when) for clamp in limit.clamps):
            continue
        clamp = next((one for one in limit.clamps if reads_habits(one.when)), None)
        if clamp is not None and not is_guarded_when_fresh(limit.place, kernel):
            message = "this clamp never slows down callers about whom too little is known"
            yield Diagnostic("W913", message, clamp.span, f"add `{fresh_clamp(limit, clamp)} when not behavior.ready`")


# ── Groups ────────────────────────────────────────────────────────────────────────────────────


def group_floors(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W919 for each floor in a rate that does not count by groups, and a W920 for each rate that counts by
    groups without a floor."""
    for rate in kernel.limits:
        if not isinstance(rate, k.Rate) or rate.pace is None:
            continue
        if rate.floor is not None and not counts_by_groups(rate):
            message = f"the floor of `{rate.name}` has no effect: the rate does not count by `cluster.id`"
            yield Diagnostic("W919", message, rate.span, "write `per cluster.id`, or remove the floor")
        elif rate.floor is None and counts_by_groups(rate):
            message = f"one member of a group can use up the rate `{rate.name}` of the others"
            yield Diagnostic("W920", message, rate.span, f"add `floor {least_floor(rate.pace)}`")


def least_floor(pace: k.Pace | k.PaceByFact) -> str:
    """Return a tenth of the pace as a floor, at least one request in its window."""
    count = max(1, pace.count // 10) if isinstance(pace, k.Pace) else 1
    return f"{count}/{format_duration(pace.within)}"


def reads_habits(condition: k.Expr) -> bool:
    """Return whether a condition reads a learned fact that is neutral for new callers."""
    return any(fact.path != SEQUENCE and fact.path[0] == "behavior" for fact in learned_facts(condition))


def fresh_clamp(rate: k.Rate, clamp: k.Clamp) -> str:
    """Return a clamp at half of the rate, or at the pace of the other clamp if the rate is a fact."""
    pace = rate.pace if isinstance(rate.pace, k.Pace) else clamp.pace
    count = max(1, pace.count // 2) if pace is rate.pace else pace.count
    return f"clamp {count}/{format_duration(pace.within)}"


def is_guarded_when_fresh(place: k.Place, kernel: k.Kernel) -> bool:
    """Return whether a guard or a limit at the place applies to callers that are not `ready`."""
    guarded = (
        guard.place for guard in kernel.guards for effect in guard.effects
        if isinstance(effect, k.Deny | k.Confirm) and effect.condition is not None and acts_when_fresh(effect.condition)
    )  # fmt: skip
    limited = (
        limit.place for limit, condition, raises in conditions_of_limits(kernel)
        if not raises and acts_when_fresh(condition)
    )  # fmt: skip
    return any(places_meet(place, other) for other in (*guarded, *limited))


def places_meet(place: k.Place, other: k.Place) -> bool:
    return other.patterns is None or any(place_overlaps(place, pattern) for pattern in other.patterns)


def acts_when_fresh(condition: k.Expr) -> bool:
    """Return whether a condition reads `behavior.ready`, and may be true for a caller that is not ready."""
    asks = any(fact.path == READY for fact in learned_facts(condition))
    return asks and fresh_value(condition) is not False


def fresh_value(node: k.Expr) -> Any:
    """Return the value of an expression for a caller about which nothing is known yet; None if it depends on other
    facts.
    """
    match node:
        case k.Constant(value):
            return value
        case k.Fact(path):
            return None if path == SEQUENCE else NEUTRAL_VALUES.get(path)
        case k.DefinitionRef(_, inner):
            return fresh_value(inner)
        case k.Not(operand):
            value = fresh_value(operand)
            return None if value is None else not value
        case k.And(items) | k.Or(items):
            deciding = isinstance(node, k.Or)
            values = [fresh_value(item) for item in items]
            return deciding if deciding in values else None if None in values else not deciding
        case k.Relation(operator, left, right) if operator in MIRRORED:
            values = [fresh_value(left), fresh_value(right)]
            return None if None in values else node.row.holds(*values)
        case _:
            return None
