"""Decide a question with both policies, each with the production evaluator and with the specification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.analysis.diff.answer_order import OBLIGE, AnswerKey, answer_of, details_of
from policyengine.analysis.diff.model import RuleExcerpt, WitnessVerdict, unique_items
from policyengine.analysis.slices import Slices
from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.evaluator import Evaluator
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Effects, Outcome
from policyengine.runtime.limits import BudgetCharge, Charge, ConcurrencyCharge, RateCharge, charge_budget, charge_rate
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.source import Span
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.spec.trace import BlockTrace, DecisionTrace
from policyengine.time_formats import format_duration, format_rfc3339
from policyengine.typesystem import EntityRef

MAX_RULE_LENGTH = 160


class EngineDisagreementError(Exception):
    """The evaluator and the specification answer differently, which is a bug in policyengine."""


DutyKey: TypeAlias = tuple[str, ...]
SpecificationResult: TypeAlias = tuple[Decision, Effects, DecisionTrace]


@dataclass(eq=False)
class PolicyOracle:
    """One policy as an oracle."""

    kernel: k.Kernel
    of: Callable[[Decision, Iterable[DutyKey]], AnswerKey] = answer_of
    directory: EntityStore = field(default_factory=EntityStore)

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.kernel, self.directory)
        self.slices = Slices(self.evaluator)

    def decide(self, question: Mapping[str, Any], now: datetime) -> Decision:
        """Decide as a production engine does."""
        needs = Needs(Request.from_mapping(question))
        return self.evaluator.resume(needs, Snapshot(self.directory), epoch_nanoseconds(now))[0]

    def concluded(self, question: Mapping[str, Any], now: datetime) -> SpecificationResult:
        """Decide with the specification, and return its trace."""
        request, snapshot = Request.from_mapping(question), Snapshot(self.directory)
        facts = build_facts(self.slices.of(request), request, snapshot, now)
        seen = trace_request(facts, snapshot)
        return *conclude(facts, seen), seen

    def verdict(self, question: Mapping[str, Any], now: datetime, decided: AnswerKey) -> WitnessVerdict:
        """Return the verdict of the specification, which must equal the evaluator's `decided`. Raises
        EngineDisagreementError."""
        specified, effects, seen = self.concluded(question, now)
        answer = self.of(specified, pending_duties(specified, seen))
        if answer != decided:
            raise EngineDisagreementError(
                f"for {question}, the evaluator decides {decided}, but the specification decides {answer}"
            )
        full = tuple(unique_items(one.name for one in effects.limits if exceeds_capacity(one.charge)))
        return WitnessVerdict(
            specified.outcome, details_of(decided), unique_items(responsible_rules(specified, seen)), full
        )

    def answer(self, question: Mapping[str, Any], now: datetime) -> AnswerKey | None:
        """Return the answer of a production engine; None if the question is invalid. The duties after a confirm come
        from the specification."""
        try:
            decision = self.decide(question, now)
            if decision.outcome is not Outcome.CONFIRM:
                return self.of(decision, ())
            return self.of(decision, pending_duties(*self.concluded(question, now)[::2]))
        except RequestError:
            return None


def pending_duties(decision: Decision, seen: DecisionTrace) -> Iterator[DutyKey]:
    """Return the obligations that an allow will carry once it is approved."""
    if decision.outcome is not Outcome.CONFIRM:
        return
    for guard in seen.guards:
        for effect in guard.effects:
            if effect.acts and isinstance(effect.effect, k.ObligationEffect):
                yield (OBLIGE, effect.effect.kind, *effect.effect.arguments)


def exceeds_capacity(charge: Charge) -> bool:
    """Return whether the request exceeds the whole capacity of the limit."""
    match charge:
        case RateCharge():
            return not charge_rate(None, charge, 0)[0].admitted
        case BudgetCharge():
            return not charge_budget((), charge, 0, "")[0].admitted
        case ConcurrencyCharge():
            return charge.most < 1
        case _:
            assert_never(charge)


def responsible_rules(decision: Decision, seen: DecisionTrace) -> Iterator[RuleExcerpt]:
    """Return the rules that stopped or granted the request; if no rule did, the gate."""
    if decision.outcome is Outcome.ALLOW:
        yield from opening_grants((*seen.anyone, *seen.presenter, *(seen.user or ())))
        return
    for guard in seen.guards:
        for effect in guard.effects:
            kind = Outcome.DENY if isinstance(effect.effect, k.Deny) else Outcome.CONFIRM
            if effect.acts and not isinstance(effect.effect, k.ObligationEffect) and kind is decision.outcome:
                yield rule_excerpt(f'guard "{guard.guard.name}"', effect.effect.span)
    for reason in decision.reasons:
        if reason.rule is None and reason.outcome is decision.outcome:
            yield RuleExcerpt(f"gate {reason.gate}", reason.at or "", reason.message)


def opening_grants(blocks: tuple[BlockTrace, ...]) -> Iterator[RuleExcerpt]:
    for block in blocks:
        for grant in block.grants:
            if block.stands and grant.opens:
                yield rule_excerpt(block.block.label, grant.grant.span)


def rule_excerpt(name: str, span: Span) -> RuleExcerpt:
    text = " ".join(span.text.split())
    return RuleExcerpt(name, span.at, text if len(text) <= MAX_RULE_LENGTH else f"{text[: MAX_RULE_LENGTH - 1]}…")


# ── Questions in wire format ───────────────────────────────────────────────────────


def to_json_value(value: Any) -> Any:
    """Return the question as JSON for `policyengine decide`."""
    match value:
        case bool() | str() | None:
            return value
        case Mapping():
            return {str(name): to_json_value(one) for name, one in value.items()}
        case list() | tuple():
            return [to_json_value(one) for one in value]
        case EntityRef(type_, id_):
            return {"type": type_, "id": id_}
        case timedelta():
            return format_duration(value)
        case datetime():
            return format_rfc3339(value)
        case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
            return str(value)
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case _:
            return value
