"""Idempotent decisions: a question with a key is decided and accounted once, however often it is asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from policyengine.engine.authenticate import (
    TRANSIENT_REFUSALS,
    refusal_code,
    with_recorded_facts,
    without_credentials,
)
from policyengine.engine.question import Question
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.idempotency import IdempotencyClaim
from policyengine.runtime.idempotent_decision import IdempotentDecision
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.engine.decider import Decider, DecisionBasis

Guard = Callable[[Request, Callable[[Request], "DecisionBasis"]], Decision]


class IdempotentDecider:
    """Claims keys in the decider's store. `guard` turns exceptions into denies and records; `authenticate` gives the
    request with what its credentials prove, and raises RequestError."""

    def __init__(self, decider: Decider, guard: Guard, authenticate: Callable[[Question], Request]) -> None:
        self._decider, self._guard, self._authenticate = decider, guard, authenticate

    def decide(self, question: Question, claim: IdempotencyClaim) -> IdempotentDecision:
        """A failure is not kept. Where the store cannot answer whether the key was used, it is decided as without one.
        Raises RequestError, KeyReuseError and KeyInProgressError: then nothing is decided."""
        decider = self._decider
        try:
            record = decider.store.claim(claim, decider.now())
        except StoreError:  # its circuit breaker tells the operator
            return IdempotentDecision(self._guard(self._authenticate(question), decider.decide), False)
        except Exception as error:
            return IdempotentDecision(self._guard(without_credentials(question.request), partial(_raise, error)), False)
        if record is not None:  # credentials are not verified again: a proof counts once
            before = with_recorded_facts(question.request, record)
            return IdempotentDecision(self._guard(before, lambda _: decider.restore(claim, record)), True)
        return IdempotentDecision(self._decide_first(question, claim), False)

    def _decide_first(self, question: Question, claim: IdempotencyClaim) -> Decision:
        """By a key that was not used. A failure is not kept, nor is that an issuer or a store did not answer."""
        request, keeps = None, False
        try:
            request = self._authenticate(question)
            keeps = refusal_code(request) not in TRANSIENT_REFUSALS
            decision = self._guard(request, partial(self._decider.decide, claim=claim if keeps else None))
            keeps = keeps and decision.gate is not Gate.FAILURE
        finally:  # not where another request with this key was quicker: then the claim is no longer ours
            if request is None or not keeps:
                with suppress(StoreError):
                    self._decider.store.release(claim, self._decider.now())
        return decision


def _raise(error: Exception, request: Request) -> DecisionBasis:
    raise error
