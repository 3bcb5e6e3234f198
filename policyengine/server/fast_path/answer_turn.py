"""The answers of one turn of the event loop, which wait until the log has their records in one write."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from policyengine.engine import Engine
from policyengine.engine.record_group import RecordGroup, seal_written
from policyengine.runtime.decision import Decision
from policyengine.server.fast_path.exchange import FastAnswer, SimpleRequest

if TYPE_CHECKING:
    from policyengine.server.fast_path.door import DecisionDoor, FastDoor

LOGGER = logging.getLogger("policyengine")
MAX_WAITING = 64  # maximum answers that wait for one write to the log


class AnsweredConnection(Protocol):
    """The connection of a request with an answer that waits."""

    def send_held(self, method: str, keeps: bool, answer: FastAnswer) -> None:
        """Send the answer to a request with this method. `keeps` says whether the connection stays open."""

    def fail_held(self) -> None:
        """Close the connection, because there is no answer."""


class WaitingAnswer(Struct, gc=False):  # short-lived, and never part of a reference cycle
    """An answer that waits until the record of its decision is written."""

    turn: AnswerTurn
    door: DecisionDoor
    request: SimpleRequest
    engine: Engine
    decision: Decision
    answer: FastAnswer
    connection: AnsweredConnection | None = None
    method: str = ""
    keeps: bool = True

    def hold(self, connection: AnsweredConnection, method: str, keeps: bool) -> None:
        """Send the answer to a connection at the end of this turn of the event loop."""
        self.connection, self.method, self.keeps = connection, method, keeps
        self.turn.schedule()


class AnswerTurn:
    """The answers that wait for the end of a turn of the event loop."""

    def __init__(self) -> None:
        self.records = RecordGroup()
        self._is_due = False

    def add(self, door: FastDoor, request: SimpleRequest, engine: Engine, answer: FastAnswer) -> WaitingAnswer:
        """Let an answer wait until the record of its decision, which was added last, is written."""
        record = self.records.pending[-1]
        # Only doors whose answers have one decision add records to the group of the turn.
        waiting = WaitingAnswer(self, door, request, engine, record.decision, answer)  # type: ignore[arg-type]
        record.answer = waiting
        return waiting

    @property
    def is_full(self) -> bool:
        """Whether so many answers wait that they must be sent before another decision is made."""
        return len(self.records.pending) >= MAX_WAITING

    def schedule(self) -> None:
        """Send the answers at the end of this turn of the event loop."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Write the records, then send the answers that wait for them."""
        records = self.records.write()
        for record in records:
            waiting: WaitingAnswer | None = record.answer
            if waiting is None or waiting.connection is None:
                continue
            try:
                answer = waiting.answer
                if record.decision is not waiting.decision:
                    answer = respond(waiting.door, waiting.request, record.decision, waiting.engine)
                waiting.connection.send_held(waiting.method, waiting.keeps, answer)
            except Exception:
                LOGGER.exception("an answer could not be sent", extra={"event": "answer_failed"})
                waiting.connection.fail_held()
        seal_written(records)


def respond(door: DecisionDoor, request: SimpleRequest, decision: Decision, engine: Engine) -> FastAnswer:
    """Return the answer with a decision, and the headers that echo those of the request."""
    answer = door.respond(request, decision, engine)
    if request.trace is None and request.label is None:
        return answer
    return answer._replace(lines=answer.lines + request.echoes)
