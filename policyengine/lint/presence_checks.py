"""Facts that are known only if the gateway forwards them: presence checks (`is present`, `is absent` and `else`), and
conditions that read the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.lint.dead_rules import all_blocks
from policyengine.source import Span

Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Absence:
    """One presence check: `path` is the fact, `rule` names the rule (`guard "roles"`), `span` is the check."""

    path: Path
    rule: str
    span: Span

    @property
    def words(self) -> str:
        text = " ".join(self.span.text.split())
        return text[1:-1] if text[:1] == "(" and text[-1:] == ")" else text


@dataclass(frozen=True, slots=True)
class FactUse:
    """A fact whose value a rule reads. `rule` names the rule, `span` is the first place that reads the fact."""

    path: Path
    rule: str
    span: Span


def fact_uses_over_http(kernel: k.Kernel) -> tuple[FactUse, ...]:
    """Return the facts whose values the conditions of rules over HTTP read, each once per rule, in source order; empty
    if no grant opens an HTTP endpoint. Presence checks and messages do not count.
    """
    if not opens_http(kernel):
        return ()
    uses: dict[tuple[Path, str], FactUse] = {}
    for rule, part in rules_over_http(kernel):
        for fact in facts_used(part):
            uses.setdefault((fact.path, rule), FactUse(fact.path, rule, fact.span))
    return tuple(sorted(uses.values(), key=lambda use: (use.span.source.name, use.span.start)))


def absences_over_http(kernel: k.Kernel) -> tuple[Absence, ...]:
    """Return the presence checks of all rules that can apply to an HTTP request, in source order; empty if no grant
    opens an HTTP endpoint.
    """
    if not opens_http(kernel):
        return ()
    found = [
        Absence(path, rule, span) for rule, part in rules_over_http(kernel) for path, span in presence_checks(part)
    ]
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (one.span.source.name, one.span.start)))


def rules_over_http(kernel: k.Kernel) -> Iterator[tuple[str, object]]:
    """Yield the rules that can apply to an HTTP request, with their names. Blocks select the caller, so they always
    apply."""
    yield from ((f'guard "{guard.name}"', guard.effects) for guard in kernel.guards if reaches_http(guard.place))
    for limit in kernel.limits:
        if reaches_http(limit.place):
            yield f'{"budget" if isinstance(limit, k.Budget) else "rate"} "{limit.name}"', limit
    for block in all_blocks(kernel):
        yield from (("`may`", grant.when) for grant in block.grants if is_over_http(grant))
        yield "caller", tuple(getattr(block, name, None) for name in ("who", "requirements", "delegates"))


def opens_http(kernel: k.Kernel) -> bool:
    return any(is_over_http(grant) for block in all_blocks(kernel) for grant in block.grants)


def reaches_http(place: k.Place) -> bool:
    return place.patterns is None or any(isinstance(one, k.HttpPattern) for one in place.patterns)


def is_over_http(grant: k.Grant) -> bool:
    return any(isinstance(one.pattern, k.HttpPattern) for one in grant.openings)


def presence_checks(part: object) -> Iterator[tuple[Path, Span]]:
    """Yield each fact whose presence a part of the kernel checks, or for which it sets a default, with the span."""
    if isinstance(part, k.IsPresent | k.Default):
        fact = base_fact(part.operand)
        if fact is not None:
            yield fact.path, part.span
    if isinstance(part, tuple):
        for item in part:
            yield from presence_checks(item)
    elif is_dataclass(part) and not isinstance(part, type):
        for field in fields(part):
            if field.name not in ("span", "type"):
                yield from presence_checks(getattr(part, field.name))


def facts_used(part: object) -> Iterator[k.Fact]:
    """Yield each fact whose value a part of the kernel reads."""
    match part:
        case k.Fact():
            yield part
        case k.IsPresent() | k.MessageFact():
            return
        case k.Default(operand, fallback) if base_fact(operand) is not None:
            yield from facts_used(fallback)
        case tuple():
            for item in part:
                yield from facts_used(item)
        case _ if is_dataclass(part) and not isinstance(part, type):
            for field in fields(part):
                if field.name not in ("span", "type"):
                    yield from facts_used(getattr(part, field.name))


def base_fact(operand: k.Expr) -> k.Fact | None:
    """Return the fact that the operand is, or to which it belongs; None if there is no such fact."""
    while isinstance(operand, k.Attribute | k.Member | k.Default):
        operand = operand.operand if isinstance(operand, k.Default) else operand.base
    return operand if isinstance(operand, k.Fact) else None
