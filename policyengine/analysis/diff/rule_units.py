"""Rule units: grants and effects at one class of endpoints, each of which can change on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.specialize import CallerAssumption
from policyengine.runtime.globs import Glob
from policyengine.spec.approval_digest import VOLATILE, bound_objects, describe_bound
from policyengine.spec.match_endpoint import match_pattern
from policyengine.time_formats import format_duration

Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleUnit:
    """A grant or effect at one class of endpoints. Two units have the same `text` if and only if they have the same
    meaning. A grant has a `block`, an effect a `guard`. `told` is the text with the name and messages of the guard,
    which do not affect the outcome.
    """

    kind: str
    text: str
    told: str
    part: k.Grant | k.DelegationGrant | k.Effect
    block: k.AgentBlock | k.UserBlock | k.AnyoneBlock | None = None
    guard: k.Guard | None = None

    @property
    def name(self) -> str:
        """The name of the rule."""
        if self.guard is not None:
            return f'guard "{self.guard.name}"'
        assert self.block is not None
        return self.block.label

    @property
    def confirms(self) -> bool:
        return isinstance(self.part, k.Confirm)


def unit_conditions(unit: RuleUnit) -> Iterator[k.Expr]:
    part, block = unit.part, unit.block
    when = part.condition if isinstance(part, k.Deny | k.Confirm | k.ObligationEffect) else part.when
    if when is not None:
        yield when
    if block is not None and not isinstance(block, k.AnyoneBlock):
        if isinstance(block.who, k.PrincipalCondition):
            yield block.who.condition
        yield from (r.condition for r in block.requirements if isinstance(r, k.ActsFor) and r.condition is not None)


def count_unit_texts(units: Iterable[RuleUnit]) -> Counter[str]:
    """Count the texts of units. A repeated unit counts once, except a confirm, because each confirm needs its own
    approval.
    """
    several = tuple(units)
    once = Counter({unit.text: 1 for unit in several if not unit.confirms})
    return once + Counter(unit.text for unit in several if unit.confirms)


def units_missing_from(units: Iterable[RuleUnit], others: Iterable[RuleUnit]) -> list[RuleUnit]:
    """Return the units that the others do not contain."""
    left = count_unit_texts(others)
    found: list[RuleUnit] = []
    for unit in units:
        if not left[unit.text]:
            found.append(unit)
        elif unit.confirms:
            left[unit.text] -= 1
    return found


def effect_key(effect: k.Effect, at: EndpointClass) -> tuple[str, ...]:
    """Return the key of an effect that applies."""
    match effect:
        case k.Deny():
            return ("deny",)
        case k.Confirm(_, by, within):
            bound = describe_bound(effect, at.endpoint)
            return ("confirm", by.words, "any time" if within is None else format_duration(within), *bound)
        case k.ObligationEffect(_, kind, arguments):
            return ("oblige", kind, *arguments)
        case _:
            assert_never(effect)


def approval_bound_facts(confirm: k.Confirm, at: EndpointClass) -> dict[str, Key]:
    """Return the facts to which an approval is bound in addition to whole objects: the facts that the rule and its
    message read.
    """
    shown = [part.expression for part in confirm.message or () if isinstance(part, k.MessageFact)]
    objects = bound_objects(confirm, at.endpoint)
    return {
        " ".join(node.span.text.split()) or str(node.path): node.path
        for expression in (*([] if confirm.condition is None else [confirm.condition]), *shown)
        for node in fact_nodes(expression)
        if node.path not in VOLATILE and not any(is_bound_path(node.path, one) for one in objects)
    }


def is_bound_path(path: tuple[str, ...], by: k.BoundObject) -> bool:
    inside = path[: len(by.path)] == by.path
    return inside and not any(path[: len(one)] == one or one[: len(path)] == path for one in by.excepts)


def fact_nodes(expression: k.Expr) -> Iterator[k.Fact]:
    return (node for node in k.walk(expression) if isinstance(node, k.Fact))


def history_places(guard: k.Guard) -> Iterator[k.Place]:
    for effect in guard.effects:
        for node in k.walk(effect.condition) if effect.condition is not None else ():
            if isinstance(node, k.HistoryCondition | k.Aggregate):
                yield node.event.place
                yield from () if node.since is None else (node.since.place,)


def carriers_of(grant: k.Grant, at: EndpointClass) -> frozenset[str] | None:
    """Return the credential scopes that carry the grant there; None if it does not cover the class."""
    found = [one.carriers for one in grant.openings if match_pattern(one.pattern, at.endpoint) is not None]
    return frozenset(name for carriers in found for name in carriers) if found else None


# ── Callers that a block can match ─────────────────────────────────────────────────────────────────


def may_concern(unit: RuleUnit, settled: CallerAssumption) -> bool:
    """Return whether a grant may apply to the caller: the caller's name matches, or other facts decide."""
    block = unit.block
    if block is None or isinstance(block, k.AnyoneBlock):
        return True
    name = settled.agent if isinstance(block, k.AgentBlock) else settled.user
    if not isinstance(name, str):
        return False
    match block.who:
        case k.ExactName(wanted):
            return name == wanted
        case k.NamePattern(glob):
            return Glob(glob).matches(name)
        case _:
            return True
