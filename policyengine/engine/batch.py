"""Many decisions at once: what a shared store has to say of all of them is asked for together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from policyengine.compiler.reads import nanoseconds
from policyengine.engine.authenticate import reject_raw_credentials
from policyengine.engine.decider import Deciding, with_consume_obligation
from policyengine.engine.recorder import World, apply_settlement
from policyengine.engine.request_input import (
    AuthenticatedQuestion,
    QuestionLike,
    microseconds,
    new_id,
    parse_request,
    plain_question,
)
from policyengine.runtime.caller import outcome_key
from policyengine.runtime.decision import Answer, Decision, Effects, PrincipalTuple
from policyengine.runtime.ids import Stamp
from policyengine.runtime.limits import ChargeResult, RateCharge, to_limit_charge
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.stores.base import CommitRequest, CommitResult, StoreError

MAX_PENDING_DECISIONS = 1_024  # decisions that a store is asked for at once
NOTHING_TO_SETTLE = ChargeResult((), 0)


class Waiting(NamedTuple):
    """A decision that is made but for what its store will say: the place of its question among others, and when."""

    place: int
    question: dict[str, object] | Request
    asked: CommitRequest
    decision: Decision
    moment: int | None
    call: bytes
    world: World


class Batching(Deciding):
    """Decides many questions in their order."""

    _gathers: tuple[World, Callable[[dict[str, object]], Decision | None]] | None = None

    def decide_many(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]:
        """Each as `decide` says, in their order, also where they count together: a shared store is asked for many at
        once. What is no question is answered by its error."""
        answers: list[Decision | RequestError] = []
        waiting: list[Waiting] = []
        for place, question in enumerate(questions):
            try:
                question = self.identified(plain_question(question))
                found = self._prepared(place, question) if self.shares else None
                if found is None:  # what came before may matter
                    self._settle(waiting, answers)
                    answers.append(self.decide(question))
                else:
                    waiting.append(found)
                    answers.append(found.decision)
            except RequestError as error:
                answers.append(error)
            if len(waiting) == MAX_PENDING_DECISIONS:
                self._settle(waiting, answers)
        self._settle(waiting, answers)
        return answers

    def _gathering(self, world: World) -> Callable[[dict[str, object]], Decision | None]:
        """The quick way by this directory, on which nobody is asked; made when it is first needed."""
        known = self._gathers
        if known is None or known[0] is not world:
            known = self._gathers = world, world.evaluator.charging(self._gather).__call__
        return known[1]

    def _gather(self, answer: Answer, asker: PrincipalTuple, stamp: Stamp, charges: tuple[Any, ...]) -> Decision:
        """An allow on the quick way, before anybody asked the store."""
        self._gathered.charges = charges
        return Decision(answer, asker, stamp)

    def _prepared(self, place: int, question: QuestionLike) -> Waiting | None:
        """The decision with what it waits for; None where it rests on what the store knows. Raises RequestError."""
        world = self._world
        if isinstance(question, AuthenticatedQuestion):
            question = question.question
        try:
            quick = self._quickly(place, question, world) if type(question) is dict else None
            return quick or self._carefully(place, reject_raw_credentials(parse_request(question)), world)
        except RequestError:
            raise
        except Exception:
            return None  # to fail once more, where it is told

    def _quickly(self, place: int, question: dict[str, object], world: World) -> Waiting | None:
        if self._ids is not new_id:
            return None
        self._gathered.charges = ()
        quick = self._gathering(world)(question)
        if quick is None:
            return None
        limits = tuple(map(to_limit_charge, self._gathered.charges))
        holds = any(type(one.charge) is not RateCharge for one in limits)
        asked = CommitRequest(Effects(limits=limits), outcome_key(quick.id) if holds else "")
        return Waiting(place, question, asked, quick, None, b"decide", world)

    def _carefully(self, place: int, request: Request, world: World) -> Waiting | None:
        spends, now = request.options.consume, self._clock()
        if world.directory.lookups is not None:
            return None
        planned = world.evaluator.plan(request, now)
        if isinstance(planned, Needs) or request.options.at is not None:
            return None
        decision = planned[0].with_id(self._ids(now))
        if planned[1].excess:
            self._exceeded(decision, planned[1].excess)
        asked = CommitRequest(planned[1], outcome_key(decision.id), not spends)
        return Waiting(place, request, asked, decision, nanoseconds(now), b"decide" if spends else b"evaluate", world)

    def _settle(self, waiting: list[Waiting], answers: list[Decision | RequestError]) -> None:
        """The answers to those that wait, by what the store says of all of them."""
        asking = [one for one in waiting if one.asked.effects.limits or (one.asked.effects and not one.asked.peek)]
        told: list[CommitResult] = []
        try:
            told += (
                self._store.commit_many([one.asked for one in asking], microseconds(self._clock())) if asking else ()
            )
        except StoreError as error:
            told += [error] * len(asking)
        settling = {one.place: answer for one, answer in zip(asking, told, strict=True)}
        for pending in waiting:
            answers[pending.place] = self._settled(pending, settling.get(pending.place, NOTHING_TO_SETTLE))
        waiting.clear()

    def _settled(self, one: Waiting, answer: CommitResult) -> Decision:
        question, (effects, _, peek), decision, call = one.question, one.asked, one.decision, one.call
        if answer is None:  # another was quicker
            return self.decide(question if self.identity is None else AuthenticatedQuestion(question))
        if isinstance(answer, StoreError):
            return self._kept(question, self._unanswered(answer), call, one.world.mark)
        decision = decision if answer is NOTHING_TO_SETTLE else apply_settlement(decision, effects, answer)
        if isinstance(question, dict):
            return decision if self._as_it_is else self._finished(question, decision, call, one.world)
        made = with_consume_obligation(decision, effects) if peek else decision
        return self._kept(question, made, call, one.world.mark, one.moment)
