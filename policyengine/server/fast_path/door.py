"""The parts of every door on the fast path: counters, the decision of one question, and simple headers."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Protocol

from policyengine.engine import Engine
from policyengine.engine.question import QuestionLike
from policyengine.engine.record_group import RecordGroup, count_when_written
from policyengine.engine.wait_forecast import UNKNOWN_SIZE
from policyengine.http.host_check import AllowedHosts
from policyengine.runtime.decision import Decision
from policyengine.server.fast_path.exchange import FastAnswer, HeaderMap, SimpleRequest
from policyengine.server.telemetry.shared_counters import CountFunction, ServerCounters, TimingTurns, time_sampled

MAX_LENGTH_DIGITS = 6  # maximum digits of a content-length


@dataclass(frozen=True, slots=True)
class DoorCounts:
    """The functions with which a door counts its decisions: on the event loop, and in threads."""

    tally: ServerCounters
    on_loop: CountFunction
    in_threads: CountFunction
    timed: TimingTurns = field(default_factory=time_sampled)

    @classmethod
    def of(cls, tally: ServerCounters, door: str) -> DoorCounts:
        return cls(tally, tally.counter(door), tally.apart(door))


class FastDoor(Protocol):
    """A door: one kind of request that the fast path answers, byte for byte as the application would.

    `method` is the only method that it accepts; None for every method. `has_body` means that the application reads the
    body. `has_threads` means that the door may answer in a thread, for a store or for long work; otherwise the
    application answers. `holds_records` means that the record of a decision may wait for the end of the turn; otherwise
    records are written immediately.
    """

    @property
    def counts(self) -> DoorCounts: ...
    @property
    def method(self) -> str | None: ...
    @property
    def has_body(self) -> bool: ...
    @property
    def has_threads(self) -> bool: ...
    @property
    def holds_records(self) -> bool: ...

    def accepts(self, headers: HeaderMap) -> bool:
        """Return whether the headers are those of a simple request at this door."""

    def admits(self, hosts: AllowedHosts, headers: HeaderMap) -> bool:
        """Return whether `Host` and `Origin` are those of an ordinary client; called only if there are no tokens."""

    def answer(
        self,
        request: SimpleRequest,
        engine: Engine,
        count: CountFunction,
        *,
        at_once: bool,
        records: RecordGroup | None = None,
    ) -> FastAnswer | None:
        """Return the answer; None if the application must answer, in which case nothing was decided.

        A door of one decision may add its record to `records`: then the answer must wait until they are written. Raises
        WouldBlockError if `at_once` is impossible. After other errors, something may have been spent.
        """


class DecisionDoor(FastDoor, Protocol):
    """A door whose answers have one decision."""

    def respond(self, request: SimpleRequest, decision: Decision, engine: Engine) -> FastAnswer:
        """Return the answer with a decision."""


def is_simple_body(headers: HeaderMap) -> bool:
    """Return whether the body is not compressed and not very long, and the request has no idempotency key."""
    return (
        b"content-encoding" not in headers
        and b"idempotency-key" not in headers
        and len(headers.get(b"content-length", b"")) <= MAX_LENGTH_DIGITS
    )


def decide(
    engine: Engine,
    question: dict[str, object],
    counts: DoorCounts,
    count: CountFunction,
    *,
    at_once: bool,
    size: int,
    spends: bool = True,
    records: RecordGroup | None = None,
) -> Decision | None:
    """Decide, and spend unless `spends` is false. Return None if the credentials of the question must be verified,
    which may wait for an issuer. `size` is the number of bytes of the encoded question. A decision whose record waits
    in `records` is counted when they are written. Raises RequestError and WouldBlockError: then nothing was decided.
    """
    known: QuestionLike = question
    if "credentials" in question:
        cached = engine.authenticate_cached(question)
        if cached is None:
            return None
        known, size = cached, UNKNOWN_SIZE  # proved facts may be larger
    began = perf_counter_ns() if next(counts.timed) else 0
    ask = engine.decide if spends else engine.evaluate
    decision = ask(known, without_waiting=at_once, size=size, records=records)
    count_when_written(records, decision, count, began)
    return decision
