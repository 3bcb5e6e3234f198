"""Fails closed: an exception inside a decision becomes a deny, and every decision is recorded once."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.json import encode

from policyengine.clock import epoch_nanoseconds
from policyengine.engine.compiled import CompiledPolicies
from policyengine.engine.decider import Decider, DecisionBasis
from policyengine.engine.question import new_id
from policyengine.engine.recorder import DecisionRecorder
from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency import IdempotencyKeyError
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError


class GuardedDecider:
    """A decider and its recorder. Recording follows the guarded step, so that a decision that has spent something is
    not made again."""

    def __init__(self, decider: Decider, recorder: DecisionRecorder) -> None:
        self._decider, self._recorder = decider, recorder

    def decide(self, request: Request, decide: Callable[[Request], DecisionBasis], call: bytes = b"decide") -> Decision:
        """Return the recorded decision of `decide`; exceptions become a deny at gate `failure`. `call` names the
        operation in the log. Raises IdempotencyKeyError: then nothing was decided."""
        try:
            basis = decide(request)
        except IdempotencyKeyError:
            raise
        except Exception as error:
            return self.record_failure(request, error, call)
        if self._recorder.is_idle:
            return basis.decision
        spent = b""
        if basis.spent or basis.spends:
            spent = b'"spent":%b,"spends":%b,' % (encode(sorted(basis.spent)), encode(basis.spends))
        state, moment = basis.entities_mark + spent + basis.history, epoch_nanoseconds(basis.moment)
        return self._recorder.record(request, basis.decision, call, state, moment)

    def evaluate_fast(self, members: dict[str, object]) -> Decision | None:
        """Return the recorded decision of the fast path, which spends nothing, or None if the slow path is needed."""
        compiled = self._decider.compiled
        try:
            decision = compiled.evaluate(members)
        except StoreError:  # the slow path reports what is missing
            return None
        except Exception as error:
            return self.record_failure(members, error, b"evaluate")
        return None if decision is None else self.finish_fast(members, decision, b"evaluate", compiled)

    def finish_fast(
        self, members: dict[str, object], decision: Decision, call: bytes, compiled: CompiledPolicies
    ) -> Decision:
        """Return the recorded decision of the fast path, with an id of this engine."""
        stamp = decision.stamp
        moment = None if isinstance(stamp, str) else stamp[0]
        if self._decider.ids is not new_id and (moment is None or isinstance(stamp[1], int)):
            try:
                named = self._decider.ids(self._decider.clock())
            except Exception as error:
                return self.record_failure(members, error, call)
            decision = decision.with_id(named if moment is None else (moment, named))
        return self._recorder.record(members, decision, call, compiled.entities_mark, moment)

    def record_failure(self, question: dict[str, object] | Request, error: Exception, call: bytes) -> Decision:
        """Record and return a deny for the exception that is being handled."""
        if isinstance(error, StoreError):
            denied = self._recorder.deny_unavailable(error)
        else:
            denied = self._recorder.deny_failure()
        return self._recorder.record(question, denied, call, self._decider.compiled.entities_mark)
