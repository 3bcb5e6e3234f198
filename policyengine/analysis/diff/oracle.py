"""Decides a question with both policies, each with the evaluator as production does; the specification traces the
decision.
"""

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
from policyengine.explain.agreement import EngineDisagreementError, check_agreement
from policyengine.runtime.decision import Decision, Effects, Outcome
from policyengine.runtime.limits import BudgetCharge, Charge, ConcurrencyCharge, RateCharge, charge_budget, charge_rate
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.source import Span
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import trace_request
from policyengine.spec.trace import BlockTrace, DecisionTrace
from policyengine.testcases.scenario import learned_facts_in
from policyengine.time_formats import format_duration, format_rfc3339
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import LEARNED_ROOTS

MAX_RULE_LENGTH = 160


DutyKey: TypeAlias = tuple[str, ...]
TracedDecision: TypeAlias = tuple[Decision, Effects, DecisionTrace]


@dataclass(eq=False)
class PolicyOracle:
    """One policy that decides the questions of the comparison."""

    kernel: k.Kernel
    of: Callable[[Decision, Iterable[DutyKey]], AnswerKey] = answer_of
    directory: EntityStore = field(default_factory=EntityStore)

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.kernel, self.directory)
        self.slices = Slices(self.evaluator)

    def answer(self, question: Mapping[str, Any], now: datetime) -> AnswerKey | None:
        """Return the answer of a production engine; None if the question is invalid."""
        try:
            request, snapshot = self._asked(question)
            return self._answer(request, snapshot, now, self._decide(request, snapshot, now)[0])
        except RequestError:
            return None

    def verdict(self, question: Mapping[str, Any], now: datetime) -> WitnessVerdict:
        """Return the answer of a production engine with the rules that led to it. Raises EngineDisagreementError."""
        decision, effects, seen = self.traced(question, now)
        answer = self._answer(*self._asked(question), now, decision)
        if answer != self.of(decision, pending_duties(decision, seen)):
            raise EngineDisagreementError(
                f"for {question}, the evaluator and the specification require different obligations after an approval: "
                "please report this bug"
            )
        full = tuple(unique_items(one.name for one in effects.limits if exceeds_capacity(one.charge)))
        rules = unique_items(responsible_rules(decision, seen))
        return WitnessVerdict(decision.outcome, details_of(answer), rules, full)

    def traced(self, question: Mapping[str, Any], now: datetime) -> TracedDecision:
        """Return the decision of a production engine with its trace. Raises EngineDisagreementError."""
        request, snapshot = self._asked(question)
        decision, effects = self._decide(request, snapshot, now)
        facts = build_facts(self.slices.of(request), request, snapshot, now)
        seen = trace_request(facts, snapshot)
        check_agreement(facts, seen, decision, effects)
        return decision, effects, seen

    def _asked(self, question: Mapping[str, Any]) -> tuple[Request, Snapshot]:
        """Return the request and the learned facts of a question of a witness. Raises RequestError."""
        request = {name: one for name, one in question.items() if name not in LEARNED_ROOTS}
        learned = {name: known_number(one) for name, one in learned_facts_in(question).items()}
        return Request.from_mapping(request), Snapshot(self.directory, behavior=learned)

    def _decide(self, request: Request, snapshot: Snapshot, now: datetime) -> tuple[Decision, Effects]:
        return self.evaluator.resume(Needs(request), snapshot, epoch_nanoseconds(now))

    def _answer(self, request: Request, snapshot: Snapshot, now: datetime, decision: Decision) -> AnswerKey:
        duties: Iterable[k.ObligationEffect] = ()
        if decision.outcome is Outcome.CONFIRM:
            duties = self.evaluator.due_obligations(request, snapshot, epoch_nanoseconds(now))
        return self.of(decision, map(duty_key, duties))


def known_number(value: object) -> object:
    """Return a learned fact of a JSON question in the form in which engines pass it."""
    return Decimal(str(value)) if isinstance(value, float) else value


def duty_key(duty: k.ObligationEffect) -> DutyKey:
    return (OBLIGE, duty.kind, *duty.arguments)


def pending_duties(decision: Decision, seen: DecisionTrace) -> Iterator[DutyKey]:
    """Yield the obligations that an allow will carry once it is approved, according to the trace."""
    if decision.outcome is not Outcome.CONFIRM:
        return
    for guard in seen.guards:
        for effect in guard.effects:
            if effect.acts and isinstance(effect.effect, k.ObligationEffect):
                yield duty_key(effect.effect)


def exceeds_capacity(charge: Charge) -> bool:
    """Return whether the charge of the request exceeds the whole capacity of the limit."""
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
    """Yield the rules that granted or stopped the request, and the gates that stopped it without a rule."""
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
    """Return a question, or a value in it, as JSON data for `policyengine decide`."""
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
