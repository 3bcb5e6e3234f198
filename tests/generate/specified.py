"""An engine that consists of the specification and the spent state: every other engine must equal it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import NamedTuple

from msgspec import structs

from policyengine import kernel as k
from policyengine.engine.authenticate import reject_raw_credentials
from policyengine.engine.question import parse_request
from policyengine.entities.store import EntityStore
from policyengine.runtime.apply_limits import apply_limits
from policyengine.runtime.decision import (
    Decision,
    Effects,
    Gate,
    Obligation,
    Outcome,
    Principal,
    RateState,
    Reason,
    Remedy,
    UnknownFact,
)
from policyengine.runtime.history import History, HistoryList, WindowKey
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import LearnedFacts, Snapshot
from policyengine.spec import reference
from policyengine.spec.evaluate import build_facts
from policyengine.spec.required_history import history_conditions, history_windows
from policyengine.stores.memory.store import MemoryStore

CONSUME = Obligation("consume", (), rule="approval", at="")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMBERS = count()
ANY_TIME = 2**62  # microseconds: generated questions are asked at any time, one after another


class Said(NamedTuple):
    """A decision without its ID, which always differs."""

    outcome: Outcome
    gate: Gate | None
    reasons: tuple[Reason, ...]
    remedies: tuple[Remedy, ...]
    obligations: tuple[Obligation, ...]
    rates: tuple[RateState, ...]
    unknown: tuple[UnknownFact, ...]
    principal: Principal
    package: str
    revision: str


def said(decision: Decision) -> Said:
    return Said(*(getattr(decision, name) for name in Said._fields))


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def asked_here(question: object) -> Request:
    """Parse a question. Raw credentials are refused, because nothing verifies them here. Raises RequestError."""
    return reject_raw_credentials(parse_request(question))  # type: ignore[arg-type]


@dataclass(slots=True)
class Specified:
    """`effects` are those of the last answer, spent or not; `unsettled` is the answer before its limits; `number` is
    its name in the store; `past` is the history that it could read."""

    kernel: k.Kernel
    directory: EntityStore
    spent: set[str] = field(default_factory=set)
    effects: Effects = field(default_factory=Effects)
    store: MemoryStore = field(default_factory=lambda: MemoryStore(history_complete=True, max_skew=ANY_TIME))
    unsettled: Said | None = None
    number: str = ""
    past: Mapping[WindowKey, History] = field(default_factory=dict)
    asked: tuple[k.HistoryCondition | k.Aggregate, ...] | None = None

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.directory, frozenset(self.spent))

    def remembered(
        self, request: Request, at: datetime, now: datetime, behavior: LearnedFacts | None = None
    ) -> Mapping[WindowKey, History]:
        """Return everything that a rule may read, as of now."""
        if not self.kernel.watches:
            return {}
        rules = (self.kernel.agents, self.kernel.users, self.kernel.anyones, self.kernel.guards, self.kernel.limits)
        self.asked = tuple(history_conditions(rules)) if self.asked is None else self.asked
        wanted = history_windows(
            self.asked, build_facts(self.kernel, request, replace(self.snapshot, behavior=behavior), at)
        )
        found = self.store.fetch(wanted, micros(now))
        return {key: HistoryList(tuple(one.events), one.complete_after, one.now) for key, one in found.items()}

    def answer(self, request: Request, now: datetime, *, peek: bool) -> Said:
        at = request.options.at or now
        self.past, self.number = self.remembered(request, at, now), f"{next(NUMBERS)}"
        decision, self.effects = reference.decide(self.kernel, request, replace(self.snapshot, history=self.past), at)
        self.unsettled = said(decision)
        if self.effects.limits or self.effects.records:
            stood = self.store.commit(structs.replace(self.effects, spends=()), self.number, micros(at), peek=peek)
            assert stood is not None
            decision = apply_limits(decision, self.effects.limits, stood.standings)
        return said(decision)

    def evaluate(self, question: object, now: datetime) -> Said:
        """Decide without spending; an allow that would spend has the obligation `consume`."""
        found = self.answer(asked_here(question), now, peek=True)
        if found.outcome is not Outcome.ALLOW or not self.effects:
            return found
        remembered = self.effects.limits[0].name if self.effects.limits else "history"
        rule = CONSUME.rule if self.effects.spends else remembered
        return found._replace(obligations=(*found.obligations, Obligation("consume", (), rule, at="")))

    def decide(self, question: object, now: datetime) -> Said:
        """Decide and spend. Raises RequestError also for a question that would spend at another time."""
        request = asked_here(question)
        if not request.options.consume:
            return self.evaluate(request, now)
        if request.options.at is not None:
            raise RequestError(
                "options.at",
                "a decision for a chosen time cannot spend approvals or limits",
                "set `options.consume` to false",
            )
        found = self.answer(request, now, peek=False)
        if found.outcome is Outcome.ALLOW:
            self.spent.update(self.effects.spends)
        return found
