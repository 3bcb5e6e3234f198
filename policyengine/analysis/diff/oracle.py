"""Both policies asked the same question, by the evaluator that production asks and by the specification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.analysis.diff.answers import OBLIGE, Answer, answer_of, details_of
from policyengine.analysis.diff.model import Rule, Verdict, unique
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.reads import nanoseconds
from policyengine.entities.store import Directory
from policyengine.runtime.decision import Decision, Effects, Outcome
from policyengine.runtime.format_values import duration
from policyengine.runtime.limits import Add, Charge, Hold, Take, add, take
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.source import Span
from policyengine.spec.evaluate import facts_of
from policyengine.spec.reference import conclude, walk
from policyengine.spec.trace import BlockSeen, Walk
from policyengine.typesystem import EntityRef

LONGEST_RULE = 160


class Disagreement(Exception):
    """The evaluator and the specification answer differently, which is a mistake in policyengine."""


Duty: TypeAlias = tuple[str, ...]
Concluded: TypeAlias = tuple[Decision, Effects, Walk]


@dataclass(eq=False)
class Asked:
    """One policy that can be asked. `now` is the clock of the next question."""

    kernel: k.Kernel
    of: Callable[[Decision, Iterable[Duty]], Answer] = answer_of
    directory: Directory = field(default_factory=Directory)
    now: int = 0

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.kernel, self.directory, now=lambda: self.now)

    def decide(self, question: Mapping[str, Any], now: datetime) -> Decision:
        """As production decides."""
        self.now = nanoseconds(now)
        quick = self.evaluator.quick(dict(question))
        if quick is not None:
            return quick
        request = Request.from_mapping(question)
        return self.evaluator.resume(Needs(request, frozenset()), Snapshot(self.directory), now)[0]

    def concluded(self, question: Mapping[str, Any], now: datetime) -> Concluded:
        """As the specification decides, with what it saw."""
        request, snapshot = Request.from_mapping(question), Snapshot(self.directory)
        facts = facts_of(self.evaluator.slices.of(request), request, snapshot, now)
        seen = walk(facts, snapshot)
        return *conclude(facts, seen), seen

    def verdict(self, question: Mapping[str, Any], now: datetime, decided: Answer) -> Verdict:
        """As the specification decides, which must be as the evaluator `decided`. Raises Disagreement."""
        specified, effects, seen = self.concluded(question, now)
        answer = self.of(specified, pending_duties(specified, seen))
        if answer != decided:
            raise Disagreement(f"to {question} the evaluator says {decided}, the specification {answer}")
        full = tuple(unique(one.name for one in effects.limits if never_fits(one.charge)))
        return Verdict(specified.outcome, details_of(decided), unique(responsible(specified, seen)), full)

    def answer(self, question: Mapping[str, Any], now: datetime) -> Answer | None:
        """What production says; None where it is no question. What follows a confirm only the specification tells."""
        try:
            decision = self.decide(question, now)
            if decision.outcome is not Outcome.CONFIRM:
                return self.of(decision, ())
            return self.of(decision, pending_duties(*self.concluded(question, now)[::2]))
        except RequestError:
            return None


def pending_duties(decision: Decision, seen: Walk) -> Iterator[Duty]:
    """The obligations that an allow will carry once its approvals are there."""
    if decision.outcome is not Outcome.CONFIRM:
        return
    for guard in seen.guards:
        for one in guard.effects:
            if one.acts and isinstance(one.effect, k.Oblige):
                yield (OBLIGE, one.effect.kind, *one.effect.arguments)


def never_fits(charge: Charge) -> bool:
    """Whether the limit has no room for the request even where nothing was asked before."""
    match charge:
        case Take():
            return not take(None, charge, 0)[0].admitted
        case Add():
            return not add((), charge, 0, "")[0].admitted
        case Hold():
            return charge.most < 1
        case _:
            assert_never(charge)


def responsible(decision: Decision, seen: Walk) -> Iterator[Rule]:
    """The rules that stopped the request, or those that opened the door; whoever is not let in is told which gate."""
    if decision.outcome is Outcome.ALLOW:
        yield from openers((*seen.anyone, *seen.presenter, *(seen.user or ())))
        return
    for guard in seen.guards:
        for one in guard.effects:
            kind = Outcome.DENY if isinstance(one.effect, k.Deny) else Outcome.CONFIRM
            if one.acts and not isinstance(one.effect, k.Oblige) and kind is decision.outcome:
                yield rule(f'guard "{guard.guard.name}"', one.effect.span)
    for reason in decision.reasons:
        if reason.rule is None and reason.outcome is decision.outcome:
            yield Rule(f"gate {reason.gate}", reason.at or "", reason.message)


def openers(blocks: tuple[BlockSeen, ...]) -> Iterator[Rule]:
    for block in blocks:
        for grant in block.grants:
            if block.stands and grant.opens:
                yield rule(block.block.label, grant.grant.span)


def rule(name: str, span: Span) -> Rule:
    text = " ".join(span.text.split())
    return Rule(name, span.at, text if len(text) <= LONGEST_RULE else f"{text[: LONGEST_RULE - 1]}…")


# ── A question as it goes over the wire ───────────────────────────────────────────────────────


def as_json(value: Any) -> Any:
    """The question as JSON has it: `policyengine decide` takes it as it is."""
    match value:
        case bool() | str() | None:
            return value
        case Mapping():
            return {str(name): as_json(one) for name, one in value.items()}
        case list() | tuple():
            return [as_json(one) for one in value]
        case EntityRef(type_, id_):
            return {"type": type_, "id": id_}
        case timedelta():
            return duration(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
            return str(value)
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case _:
            return value
