"""Replays a recorded decision with a policy: decides the same question with the same entities, history and time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any

from policyengine.audit.logged_history import LoggedHistories
from policyengine.audit.reader import DecisionRecord
from policyengine.audit.redaction import REDACTED
from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.sizes import AnySizes
from policyengine.explain.agreement import check_agreement
from policyengine.explain.explanation import Explanation, explain
from policyengine.kernel import Kernel
from policyengine.runtime.apply_limits import apply_limits
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.entities import EntityData
from policyengine.runtime.halts import ArmedHalt, HaltSet
from policyengine.runtime.limits import LimitCharge, LimitState
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Approval, RequestError
from policyengine.runtime.snapshot import Entities, LearnedFacts, Membership, Snapshot
from policyengine.runtime.values import Cause, Unknown
from policyengine.spec.evaluate import build_facts
from policyengine.spec.facts import Facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.spec.trace import DecisionTrace
from policyengine.time_formats import parse_duration
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import ORDER_STEP

MICROSECOND = timedelta(microseconds=1)


class ReplayError(Exception):
    """The error for a record whose request is malformed, or that lacks something on which its decision depended."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The decision of a policy on a recorded question. `read` contains the entities that the policy looked up. `unsure`
    contains redacted facts that may have mattered: with their real values, the policy could decide otherwise.
    """

    record: DecisionRecord
    decision: Decision
    facts: Facts
    seen: DecisionTrace
    read: frozenset[EntityRef]
    unsure: tuple[str, ...] = ()

    @property
    def explanation(self) -> Explanation:
        """The explanation of the decision."""
        return explain(self.decision, self.facts, self.seen)

    @property
    def same(self) -> bool:
        """Whether the decision equals the recorded decision in its outcome and in the rules, gates and outcomes of its
        reasons.
        """
        then = self.record.decision
        reasons = {(one["gate"], one.get("rule"), one["outcome"]) for one in then.get("reasons", ())}
        now = {(str(one.gate), one.rule, str(one.outcome)) for one in self.decision.reasons}
        return (then["outcome"], reasons) == (str(self.decision.outcome), now)


def replay_decision(record: DecisionRecord, kernel: Kernel) -> ReplayResult:
    """Decide a recorded question with the specification and the recorded facts, entities, time, approvals and history,
    and find the redacted facts that may have mattered. Raises ReplayError.
    """
    again = decide_from_record(record, kernel)
    if not record.redacted:
        return again
    without = decide_from_record(replace(record, request=hide_redacted(record)), kernel)
    return replace(
        again, unsure=tuple(sorted({one.fact for one in unknown_causes(without.seen) if one.why == REDACTED.why}))
    )


def unknown_causes(seen: object) -> Iterator[Cause]:
    """Yield the causes of all unknown values in a trace."""
    match seen:
        case Unknown():
            yield from seen.causes
        case tuple():
            for part in seen:
                yield from unknown_causes(part)
        case _ if type(seen).__module__ == DecisionTrace.__module__:
            for member in fields(seen):  # type: ignore[arg-type]  # they are dataclasses
                yield from unknown_causes(getattr(seen, member.name))


def hide_redacted(record: DecisionRecord) -> dict[str, object]:
    """Return the request with redacted facts unknown, because a fingerprint is not a value."""
    marks = {f"redacted:{one.fingerprint}" for one in record.redacted}

    def without(value: object) -> object:
        match value:
            case Mapping():
                return {name: without(one) for name, one in value.items()}
            case list() | tuple():
                return tuple(map(without, value))
            case str() if value in marks:
                return REDACTED
            case _:
                return value

    return {name: without(value) for name, value in record.request.items()}


def decide_from_record(record: DecisionRecord, kernel: Kernel) -> ReplayResult:
    """Decide a recorded question with the specification. Raises ReplayError."""
    if record.directory is None:
        raise ReplayError("the log does not contain the entities that this decision used")
    try:
        request = record.question
    except RequestError as error:
        raise ReplayError(f"its request is malformed: {error}") from None
    entities = TracingEntities(record.directory)
    snapshot = Snapshot(
        entities, record.spent, behavior=recorded_behavior(record, kernel), halts=recorded_halts(record)
    )
    facts = build_facts(kernel, request, snapshot, record.time)
    past = LoggedHistories(record.history, facts)
    facts = replace(facts, history=past)
    seen = trace_request(facts, snapshot)
    if record.redacted and record.spends:
        facts = replace(
            facts.looked_at_anew, request=replace(request, approvals=tuple(recorded_approvals(record, seen)))
        )
        seen = trace_request(facts, snapshot)
    if past.lacking and seen.identified:  # an unidentified caller reads no history
        raise ReplayError("the log does not contain the history that this decision used")
    decision = settle_from_record(*conclude(facts, seen), record)
    return ReplayResult(record, decision, facts, seen, frozenset(entities.asked))


def confirm_replay(again: ReplayResult, kernel: Kernel) -> ReplayResult:
    """Decide again with the evaluator, which decides in production, and return the result with its decision. Raises
    EngineDisagreementError if it differs from the specification.
    """
    record, entities = again.record, again.record.directory
    assert entities is not None
    behavior, halts = recorded_behavior(record, kernel), recorded_halts(record)
    snapshot = Snapshot(entities, record.spent, again.facts.history, behavior, halts)
    needs, moment = Needs(again.facts.request), epoch_nanoseconds(record.time)
    decision, effects = Evaluator(kernel, entities, sizes=AnySizes()).resume(needs, snapshot, moment)
    check_agreement(again.facts, again.seen, decision, effects)
    return replace(again, decision=settle_from_record(decision, effects, record))


def recorded_behavior(record: DecisionRecord, kernel: Kernel) -> LearnedFacts | None:
    """Return the learned facts that the recorded decision read, or None if it read none. Its step in the declared order
    of calls means nothing to other policies."""
    if record.behavior is None or record.revision == kernel.revision:
        return None if record.behavior is None else record.behavior.facts
    return {name: fact for name, fact in record.behavior.facts.items() if name != ORDER_STEP[-1]}


def recorded_halts(record: DecisionRecord) -> HaltSet | None:
    """Return the halt that covered the recorded request, so that the replay is halted, too."""
    return None if record.halt is None else HaltSet((ArmedHalt(record.halt),))


def settle_from_record(decision: Decision, effects: Effects, record: DecisionRecord) -> Decision:
    """Return the decision with the recorded states of its limits."""
    if effects.limits:
        decision = apply_limits(decision, effects.limits, tuple(recorded_limit_states(record.decision, effects.limits)))
    return decision.with_id(record.id)


def recorded_approvals(record: DecisionRecord, seen: DecisionTrace) -> Iterator[Approval]:
    """Yield the recorded approvals. A spent approval counts for every guard that required one, because the facts to
    which it was bound are now redacted. Every such guard had an approval: otherwise no approval would have been spent.
    """
    effects = (one for guard in seen.guards for one in guard.effects if one.triggered and one.approval is not None)
    bindings = [one.approval.binding for one in effects if one.approval is not None]
    for approval in record.question.approvals:
        if approval.id not in record.spends:
            yield approval
            continue
        for number, binding in enumerate(bindings):
            yield replace(approval, id=f"{approval.id}/{number}" if number else approval.id, binding=binding)


def recorded_limit_states(decision: Mapping[str, Any], limits: Sequence[LimitCharge]) -> Iterator[LimitState]:
    """Yield the states of the limits from the recorded decision; a limit that did not exist at that time admits the
    request.
    """
    states: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for state in decision.get("rates", ()):
        states[state["rule"]].append(state)
    full = [(one.get("rule"), one["message"]) for one in decision.get("reasons", ()) if one["outcome"] == "throttle"]
    waits = {one.get("rule"): one.get("within") for one in decision.get("remedies", ()) if one["kind"] == "wait"}
    ranks: Counter[str] = Counter()
    for limit in limits:
        of_rule, rank = states[limit.name], ranks[limit.name]
        ranks[limit.name] += 1
        told = [message for rule, message in full if rule == limit.name]
        stopped = any(message.startswith(f"`{limit.words}`:") for message in told) or (bool(told) and len(of_rule) == 1)
        wait = parse_duration(waits.get(limit.name) or "")
        yield parse_limit_state(
            of_rule[rank] if rank < len(of_rule) else {},
            admitted=not stopped,
            retry=None if wait is None else wait // MICROSECOND,
        )


def parse_limit_state(state: Mapping[str, Any], *, admitted: bool, retry: int | None) -> LimitState:
    limit, remaining, reset = (state.get(name, 0) for name in ("limit", "remaining", "reset_ms"))
    return LimitState(
        admitted, limit, remaining, reset * 1_000, 0 if admitted else retry, float(state.get("factor", 1))
    )


@dataclass(slots=True)
class TracingEntities:
    """An entity store that records which entities are read."""

    entities: Entities
    asked: set[EntityRef] = field(default_factory=set)

    def __contains__(self, ref: EntityRef) -> bool:
        self.asked.add(ref)
        return ref in self.entities

    def has_row(self, ref: EntityRef) -> bool | None:
        self.asked.add(ref)
        return self.entities.has_row(ref)

    def attribute(self, ref: EntityRef, name: str) -> object:
        self.asked.add(ref)
        return self.entities.attribute(ref, name)

    def parents(self, ref: EntityRef) -> Membership:
        self.asked.add(ref)
        return self.entities.parents(ref)

    def ancestors(self, ref: EntityRef) -> Membership:
        found = self.entities.ancestors(ref)
        self.asked.update((ref, *found.refs))
        return found

    def largest(self, name: str) -> int:
        return self.entities.largest(name)

    @property
    def deepest(self) -> int:
        return self.entities.deepest

    def with_rows(self, rows: Sequence[EntityData]) -> Entities:
        return TracingEntities(self.entities.with_rows(rows), self.asked) if rows else self
