"""Idempotent decisions: a question with a key is decided and charged once, even if it is sent several times."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from policyengine.engine.authenticate import (
    TRANSIENT_REFUSALS,
    refusal_code,
    with_recorded_facts,
    without_credentials,
)
from policyengine.engine.question import Question
from policyengine.runtime.decision import Decision, Gate, Outcome
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.idempotent_decision import IdempotentDecision, decode_draft
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.engine.decider import Decider, DecisionBasis

_LOG = logging.getLogger("policyengine")
Guard = Callable[[Request, Callable[[Request], "DecisionBasis"]], Decision]


class IdempotentDecider:
    """Claims keys in the decider's store. `guard` turns exceptions into denials and records decisions; `authenticate`
    returns the request with the facts that its credentials prove, and raises RequestError."""

    def __init__(self, decider: Decider, guard: Guard, authenticate: Callable[[Question], Request]) -> None:
        self._decider, self._guard, self._authenticate = decider, guard, authenticate

    def decide(self, question: Question, claim: IdempotencyClaim) -> IdempotentDecision:
        """Decide, or return the earlier decision of the key. A failure is not stored, and a confirm only as long as it
        waits for people. If the store does not report whether the key was used, the question is decided without the
        key. Raises RequestError, KeyReuseError and KeyInProgressError, before anything is decided."""
        decider = self._decider
        try:
            record = decider.store.claim(claim, decider.now())
            if record is not None and self._is_answered(question, claim, record):
                record = decider.store.claim(claim._replace(replaces=record.draft or b""), decider.now())
        except StoreError:  # the circuit breaker logs it
            return IdempotentDecision(self._guard(self._authenticate(question), decider.decide), False)
        except Exception as error:
            return IdempotentDecision(self._guard(without_credentials(question.request), partial(_raise, error)), False)
        if record is not None:  # credentials are not verified again, because a proof is accepted only once
            before = with_recorded_facts(question.request, record)
            decision = self._guard(before, lambda asked: decider.restore_unless_halted(asked, claim, record))
            return IdempotentDecision(decision, decision.gate is not Gate.HALTED)
        return IdempotentDecision(self._decide_first(question, claim), False)

    def _is_answered(self, question: Question, claim: IdempotencyClaim, record: IdempotencyRecord) -> bool:
        """Return whether the record is a confirm that no longer waits for people, because they approved, or because the
        approval has ended or was never opened. Deciding again spends nothing that the confirm has spent.
        """
        if record.draft is None or record.digest != claim.digest:
            return False
        draft = decode_draft(record.draft)
        if draft.outcome is not Outcome.CONFIRM:
            return False
        bindings = [remedy.binding for remedy in draft.remedies if remedy.binding is not None]
        return not self._decider.desk.holds(bindings, requests_approval=question.request.options.request_approval)

    def _decide_first(self, question: Question, claim: IdempotencyClaim) -> Decision:
        """Decide with an unused key. Failures and halts are not stored, and neither are decisions for which an issuer
        or store did not answer."""
        request, keeps = None, False
        try:
            request = self._authenticate(question)
            keeps = refusal_code(request) not in TRANSIENT_REFUSALS
            decision = self._guard(request, partial(self._decider.decide, claim=claim if keeps else None))
            keeps = keeps and decision.gate not in (Gate.FAILURE, Gate.HALTED)
        finally:  # if another request with this key was faster, it owns the claim
            if request is None or not keeps:
                self._release(claim)
        return decision

    def _release(self, claim: IdempotencyClaim) -> None:
        """Release the claim; otherwise it ends after some time."""
        try:
            self._decider.store.release(claim, self._decider.now())
        except StoreError:  # the circuit breaker logs it
            pass
        except Exception:
            _LOG.exception("the claim to an idempotency key could not be released")


def _raise(error: Exception, request: Request) -> DecisionBasis:
    raise error
