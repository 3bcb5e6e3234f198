"""The recorder: passes every decision once through the log, observe mode and the failure counter."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from time import time_ns
from typing import TYPE_CHECKING

from msgspec.json import encode

from policyengine import __version__
from policyengine.engine.failure_counter import FailureCounter
from policyengine.engine.observe_mode import Observer
from policyengine.engine.question import new_id
from policyengine.engine.record_subject import SubjectReader
from policyengine.kernel import Kernel
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog
    from policyengine.audit.recent_decisions import DecisionSubject
    from policyengine.engine.record_group import RecordGroup

_LOG = logging.getLogger("policyengine")
UNRECORDED = "the decision could not be recorded; the operator's log says why"
FAILED = "the engine failed while deciding; the operator's log says why"


class DecisionRecorder:
    """The decision log, the observe mode and the failure counter of one engine."""

    def __init__(self, kernel: Kernel, log: DecisionLog | None) -> None:
        self._package, self._revision, self._packages = kernel.package, kernel.revision, kernel.packages
        self.log = log
        self.observer: Observer | None = None
        self.failures = FailureCounter()
        self.subjects: SubjectReader | None = None  # set by the engine, if there is a log
        self._throttle = LogThrottle()

    @property
    def is_idle(self) -> bool:
        """Whether decisions are returned unchanged, because there is no log and observe mode is off."""
        return self.log is None and self.observer is None

    def record(
        self,
        question: dict[str, object] | Request,
        decision: Decision,
        call: bytes,
        state: bytes,
        moment: int | None = None,
        records: RecordGroup | None = None,
    ) -> Decision:
        """Log a decision and apply observe mode; return the answer. If logging fails, the answer is a denial, unless
        the operator chose otherwise. `state` holds the log members of the state on which the decision depends. `moment`
        is the time of the decision in nanoseconds; a failed decision has none, and is logged with the current time.
        With `records`, the record is added to this group, and the answer must wait until the group is written.
        """
        log, given = self.log, decision
        now = time_ns() if moment is None else moment
        if self.observer is not None:
            try:
                given = self.observer.given(decision, question)
            except Exception:
                decision = given = self.deny_failure()
        if log is not None:
            subject = self._read_subject(question, decision, now)
            state = (b'"observed":true,' if given.observed else b"") + encode_subject(subject) + state
            line = log.encode_decision(decision, now, call, state, question)
            if isinstance(line, bool):
                return given if line else self.deny_unrecorded()
            if not given.allowed:
                subject = None
            if records is not None:
                records.add(self, given, line, subject)
                return given
            if log.write_decisions((line,)):
                log.wrote(len(line))
            elif not log.lets_pass:
                return self.deny_unrecorded()
            if subject is not None:
                log.recent.add(subject)
        return given

    def deny_unrecorded(self) -> Decision:
        """Return a denial for a decision that could not be recorded."""
        return self._deny(UNRECORDED)

    def _read_subject(
        self, question: dict[str, object] | Request, decision: Decision, now: int
    ) -> DecisionSubject | None:
        if self.subjects is None or not isinstance(question, Request):
            return None
        return self.subjects.read(question, decision, now)

    def write_system(self, event: str, **details: object) -> bool:
        """Write an event of the server to the log, if there is a log; `docs/log-format.md` lists the events. Return
        False if the event must be on record and is not: if it was not written, and the log's `on_failure` is to deny.
        """
        if self.log is None:
            return True
        written = self.log.system.write(event, revision=self._revision, **details)
        return written or self.log.on_failure == "continue"

    def write_start(self, **details: object) -> None:
        """Write that a process of a server has started, with its process id and the version of the program."""
        if self.log is not None:
            self.write_system("started", packages=list(self._packages), **process_details(), **details)

    def write_store_state(self, fails: bool, operation: str, why: str) -> None:
        """Write that the store fails or works again."""
        self.write_system("store_failure" if fails else "store_recovered", operation=operation, why=why)

    def write_directory_state(self, fails: bool, why: str) -> None:
        """Write that the entities cannot be read or can be read again."""
        self.write_system("directory_failure" if fails else "directory_recovered", why=why)

    def write_observe_end(self, until: str) -> None:
        """Write that every decision is enforced from now on."""
        self.write_system("observe", state="ended", until=until)

    def deny_failure(self) -> Decision:
        """Return a denial for the exception that is being handled, and count and log the failure. The id does not
        depend on the engine's clock, because the clock may have failed."""
        self.failures.add()
        denied = self._deny(FAILED)
        members = {"event": "decision_failed", "decision": denied.id}
        _LOG.exception("a decision failed and was denied", extra=members)
        return denied

    def deny_unavailable(self, error: StoreError) -> Decision:
        """Return a denial for a store that does not answer. The store's circuit breaker logs the failure."""
        self.failures.add()
        _LOG.debug("a decision was denied: %s", error)
        return self._deny(f"the state in the store is unknown: {error.reason}")

    def count_excess(self, decision: Decision, excess: str) -> None:
        """Count and log a denial for too many steps."""
        self.failures.add()
        text = f"a decision was denied: {excess}"
        self._throttle.tell(logging.WARNING, "exceeded", text, event="decision_exceeded", decision=decision.id)

    def _deny(self, why: str) -> Decision:
        return Decision.of(
            Outcome.DENY, Gate.FAILURE, (Reason(Gate.FAILURE, why),),
            package=self._package, revision=self._revision, id=new_id(datetime.now(UTC)),
        )  # fmt: skip


def encode_subject(subject: DecisionSubject | None) -> bytes:
    """Return the log members of the endpoint pattern, the client that sent the request, and the resource. A text that
    cannot be written is left out, with the members after it."""
    written = b""
    if subject is None:
        return written
    endpoint, client, resource = subject.endpoint, subject.client, subject.resource
    try:
        if isinstance(endpoint, str):
            written = b'"endpoint":%b,' % encode(endpoint)
        if client is not None:
            written += b'"client":%b,' % encode(client)
        if resource is not None:
            written += b'"resource":{"type":%b,"id":%b},' % (encode(resource[0]), encode(resource[1]))
    except UnicodeEncodeError:
        pass
    return written


def process_details() -> dict[str, object]:
    """Return the details that identify this process: its process id, and the version of the program."""
    return {"pid": os.getpid(), "version": __version__}
