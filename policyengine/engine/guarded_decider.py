"""Fails closed: an exception inside a decision becomes a deny, and every decision is recorded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.json import encode

from policyengine.engine.decider import Decider, DecisionBasis
from policyengine.engine.recorder import DecisionRecorder
from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency import IdempotencyKeyError
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.engine.record_group import RecordGroup


class GuardedDecider:
    """A decider and its recorder. A decision is recorded after the guarded step, so that a decision that has spent
    something is not made again."""

    def __init__(self, decider: Decider, recorder: DecisionRecorder) -> None:
        self._decider, self._recorder = decider, recorder

    def decide(
        self,
        request: Request,
        decide: Callable[[Request], DecisionBasis],
        call: bytes = b"decide",
        records: RecordGroup | None = None,
    ) -> Decision:
        """Return the recorded decision of `decide`; an exception becomes a deny at gate `failure`. `call` names the
        operation in the log. With `records`, the record waits for its group. Raises IdempotencyKeyError; then nothing
        was decided."""
        try:
            basis = decide(request)
        except IdempotencyKeyError:
            raise
        except Exception as error:
            return self.record_failure(request, error, call, records)
        if self._recorder.is_idle:
            return basis.decision
        spent = b""
        if basis.spent or basis.spends:
            spent = b'"spent":%b,"spends":%b,' % (encode(sorted(basis.spent)), encode(basis.spends))
        state = basis.entities_mark + spent + basis.history
        asked = request if basis.asked is None else basis.asked
        return self._recorder.record(asked, basis.decision, call, state, basis.moment, records)

    def record_failure(
        self, request: Request | None, error: Exception, call: bytes, records: RecordGroup | None = None
    ) -> Decision:
        """Record and return a deny for the exception that is being handled. If the request could not be read, it is
        None and the log line has an empty request, because the question may contain credentials.
        """
        if isinstance(error, StoreError):
            denied = self._recorder.deny_unavailable(error)
        else:
            denied = self._recorder.deny_failure()
        mark = self._decider.compiled.entities_mark
        return self._recorder.record(request or {}, denied, call, mark, records=records)
