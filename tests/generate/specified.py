"""An engine that is nothing but the specification and a memory of what was spent: what every other must equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from policyengine.directory.entities import Directory
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
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics import kernel as k
from policyengine.semantics import reference

CONSUME = Obligation("consume", (), rule="approval", at="")


class Said(NamedTuple):
    """All that a decision says but for its id, which differs from one to the next."""

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


def read(question: object) -> Request:
    """What engines take: a mapping, JSON, or a request already."""
    match question:
        case Request():
            return question
        case str() | bytes():
            return Request.from_json(question)
        case Mapping():
            return Request.from_mapping(question)
        case _:
            raise RequestError("", f"a question is a mapping or JSON, not {type(question).__name__}")


@dataclass(slots=True)
class Specified:
    """`effects` are those of the last answer, spent or not."""

    kernel: k.Kernel
    directory: Directory
    spent: set[str] = field(default_factory=set)
    effects: Effects = field(default_factory=Effects)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.directory, frozenset(self.spent))

    def answer(self, request: Request, now: datetime) -> Said:
        decision, self.effects = reference.decide(self.kernel, request, self.snapshot, request.options.at or now)
        return said(decision)

    def evaluate(self, question: object, now: datetime) -> Said:
        """Nothing is spent, so an allow that would spend bears the obligation `consume`."""
        found = self.answer(read(question), now)
        more = (CONSUME,) if self.effects.spends else ()
        return found._replace(obligations=(*found.obligations, *more))

    def decide(self, question: object, now: datetime) -> Said:
        """What is spent stays so. Raises RequestError also for a question that would spend at another time."""
        request = read(question)
        if not request.options.consume:
            return self.evaluate(request, now)
        if request.options.at is not None:
            raise RequestError("options.at", "a decision that spends is made now", "set `options.consume` to false")
        found = self.answer(request, now)
        self.spent.update(self.effects.spends)
        return found
