"""What can decide at one class of endpoints: doors and effects, each as one thing that can change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.analysis.diff.endpoint_classes import Class
from policyengine.analysis.diff.specialize import Settled
from policyengine.runtime.format_values import duration
from policyengine.runtime.patterns import Glob
from policyengine.spec.approval_digest import VOLATILE, bound_words, objects_of
from policyengine.spec.match import match_pattern

Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing that can decide, at one class of endpoints: `text` is equal exactly when it says the same.

    `who` is whom it is about, where it is a door; `told` is all of it, with names and words that change no outcome.
    """

    kind: str
    text: str
    told: str
    part: k.Grant | k.Delegate | k.Effect
    block: k.AgentBlock | k.UserBlock | k.AnyoneBlock | None = None
    guard: k.Guard | None = None

    @property
    def name(self) -> str:
        """The rule as people call it."""
        if self.guard is not None:
            return f'guard "{self.guard.name}"'
        assert self.block is not None
        return self.block.label

    @property
    def confirms(self) -> bool:
        return isinstance(self.part, k.Confirm)


def conditions_of(unit: Unit) -> Iterator[k.Expr]:
    part, block = unit.part, unit.block
    when = part.condition if isinstance(part, k.Deny | k.Confirm | k.Oblige) else part.when
    if when is not None:
        yield when
    if block is not None and not isinstance(block, k.AnyoneBlock):
        if isinstance(block.who, k.Where):
            yield block.who.condition
        yield from (r.condition for r in block.requirements if isinstance(r, k.ActsFor) and r.condition is not None)


def counted(units: Iterable[Unit]) -> Counter[str]:
    """What rules come to. The same said twice is said once, but for approvals: each is asked for by itself."""
    several = tuple(units)
    once = Counter({unit.text: 1 for unit in several if not unit.confirms})
    return once + Counter(unit.text for unit in several if unit.confirms)


def units_apart(units: Iterable[Unit], others: Iterable[Unit]) -> list[Unit]:
    """Those that the others do not hold."""
    left = counted(others)
    found: list[Unit] = []
    for unit in units:
        if not left[unit.text]:
            found.append(unit)
        elif unit.confirms:
            left[unit.text] -= 1
    return found


def effect_key(effect: k.Effect, at: Class) -> tuple[str, ...]:
    """What an effect comes to when it acts."""
    match effect:
        case k.Deny():
            return ("deny",)
        case k.Confirm(_, by, within):
            bound = bound_words(effect, at.endpoint)
            return ("confirm", by.words, "any time" if within is None else duration(within), *bound)
        case k.Oblige(_, kind, arguments):
            return ("oblige", kind, *arguments)
        case _:
            assert_never(effect)


def read_beside(confirm: k.Confirm, at: Class) -> dict[str, Key]:
    """What an approval is bound to beside whole objects: the facts that rule and message read, by their words."""
    shown = [part.expression for part in confirm.message or () if isinstance(part, k.Shown)]
    objects = objects_of(confirm, at.endpoint)
    return {
        " ".join(node.span.text.split()) or str(node.path): node.path
        for expression in (*([] if confirm.condition is None else [confirm.condition]), *shown)
        for node in outermost(expression)
        if node.path not in VOLATILE and not any(is_bound(node.path, one) for one in objects)
    }


def is_bound(path: tuple[str, ...], by: k.BoundObject) -> bool:
    inside = path[: len(by.path)] == by.path
    return inside and not any(path[: len(one)] == one or one[: len(path)] == path for one in by.excepts)


def outermost(expression: k.Expr) -> Iterator[k.Fact]:
    return (node for node in k.walk(expression) if isinstance(node, k.Fact))


def places_looked_back_at(guard: k.Guard) -> Iterator[k.Place]:
    for effect in guard.effects:
        for node in k.walk(effect.condition) if effect.condition is not None else ():
            if isinstance(node, k.Happened | k.Aggregate):
                yield node.event.place
                yield from () if node.since is None else (node.since.place,)


def carriers_of(grant: k.Grant, at: Class) -> frozenset[str] | None:
    """The credential scopes that carry it there; None where it covers nothing of that."""
    found = [one.carriers for one in grant.openings if match_pattern(one.pattern, at.endpoint) is not None]
    return frozenset(name for carriers in found for name in carriers) if found else None


# ── Whom a block can be about ─────────────────────────────────────────────────────────────────


def can_be_about(unit: Unit, settled: Settled) -> bool:
    """Whether a door can be the caller's: its name fits, or something else than the name decides."""
    block = unit.block
    if block is None or isinstance(block, k.AnyoneBlock):
        return True
    name = settled.agent if isinstance(block, k.AgentBlock) else settled.user
    if not isinstance(name, str):
        return False
    match block.who:
        case k.Called(wanted):
            return name == wanted
        case k.CalledLike(glob):
            return Glob(glob).matches(name)
        case _:
            return True
