"""An engine that is nothing but the specification and a memory of what was spent: what every other must equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from policyengine.directory.entities import Directory
from policyengine.runtime.decision import Decision, Effects, Obligation
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics import kernel as k
from policyengine.semantics import reference

CONSUME = Obligation("consume", (), rule="approval", at="")


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

    def answer(self, request: Request, now: datetime) -> Decision:
        decision, self.effects = reference.decide(self.kernel, request, self.snapshot, request.options.at or now)
        return decision

    def evaluate(self, question: object, now: datetime) -> Decision:
        """Nothing is spent, so an allow that would spend bears the obligation `consume`."""
        decision = self.answer(read(question), now)
        more = (CONSUME,) if self.effects.spends else ()
        return msgspec.structs.replace(decision, obligations=(*decision.obligations, *more))

    def decide(self, question: object, now: datetime) -> Decision:
        """What is spent stays so. Raises RequestError also for a question that would spend at another time."""
        request = read(question)
        if not request.options.consume:
            return self.evaluate(request, now)
        if request.options.at is not None:
            raise RequestError("options.at", "a decision that spends is made now", "set `options.consume` to false")
        decision = self.answer(request, now)
        self.spent.update(self.effects.spends)
        return decision
