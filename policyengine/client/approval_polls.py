"""The steps of waiting for an approval over HTTP: which questions to send, and when. The HTTP clients send them."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple, TypeAlias

import msgspec

from policyengine.client.http_exchange import GATEWAY_ERRORS, MSGPACK, QuestionMapping, WireResponse
from policyengine.runtime.approval_tickets import APPROVED, PENDING, TicketState
from policyengine.runtime.decision import ApprovalTicket

MAX_POLL_SECONDS = 30  # maximum seconds for which the server holds one question back
MAX_FAILURES = 5  # consecutive questions without an answer, after which the client waits no longer
FIRST_RETRY_SECONDS = 0.2  # the pause after the first failure; each further failure doubles it
DEFAULT_PAUSE_SECONDS = 5.0
MAX_HELD_QUERIES = 50  # maximum for one client, because each occupies one of its 100 connections
APPROVAL_ID = re.compile(r"[A-Za-z0-9_-]{16,128}").fullmatch


class StatusQuery(NamedTuple):
    """A question about the state of an approval; the server may hold the answer back for up to `seconds`."""

    id: str
    seconds: int

    @property
    def path(self) -> str:
        """The path of the question at the server that decided. The status URL of the ticket is not used, because it may
        name another host, to which this client must send nothing.
        """
        return f"/approvals/{self.id}?wait={self.seconds}"


class HeldQueries:
    """Bounds the queries that the server holds back at a time, so that connections remain for decisions. Other queries
    are answered at once, and repeated after a pause.
    """

    def __init__(self, most: int = MAX_HELD_QUERIES) -> None:
        self._lock, self._held, self._most = Lock(), 0, most

    @contextmanager
    def hold(self, query: StatusQuery) -> Iterator[StatusQuery]:
        """Return the query, or the same query without a wait if there are too many."""
        with self._lock:
            is_held = self._held < self._most
            self._held += is_held
        try:
            yield query if is_held else query._replace(seconds=0)
        finally:
            with self._lock:
                self._held -= is_held


class PollPause(NamedTuple):
    """A pause before the next question."""

    seconds: float


PollStep: TypeAlias = StatusQuery | PollPause
Polls: TypeAlias = Generator[PollStep, WireResponse | None, dict[str, TicketState]]


class StatusDocument(msgspec.Struct, frozen=True):
    """The members of a status answer that the client reads."""

    state: str
    reason: str | None = None


_decode_status = msgspec.msgpack.Decoder(StatusDocument).decode


def poll_states(tickets: Sequence[ApprovalTicket], seconds: float, clock: Callable[[], float]) -> Polls:
    """Yield the steps of waiting until every approval is given, an approval has ended otherwise, or the time is over.
    The caller answers each query with a response, or with None if the server did not respond. Return the states that
    are known by then.
    """
    until, states = clock() + seconds, dict[str, TicketState]()
    for ticket in tickets:
        if ticket.state != PENDING:
            continue
        state = yield from poll_state(ticket, until, clock)
        if ticket.id is None or state is None:
            break
        states[ticket.id] = state
        if state.state != APPROVED:
            break
    return states


def poll_state(
    ticket: ApprovalTicket, until: float, clock: Callable[[], float]
) -> Generator[PollStep, WireResponse | None, TicketState | None]:
    """Yield the steps for one approval. Return its state, or None if it still waits or the server does not say."""
    if ticket.id is None or not APPROVAL_ID(ticket.id):
        return None
    failures = 0
    while (began := clock()) < until:
        query = StatusQuery(ticket.id, min(MAX_POLL_SECONDS, int(until - began)))
        answer = yield query
        state = None if answer is None else read_state(answer)
        if state is None:
            failures += 1
            if failures > MAX_FAILURES or (answer is not None and answer.status not in (500, *GATEWAY_ERRORS)):
                return None
            pause = FIRST_RETRY_SECONDS * 2 ** (failures - 1)
        elif state.state != PENDING:
            return state
        else:  # a server that is busy, or whose time is over, answers at once
            failures = 0
            pause = 0.0 if clock() - began >= query.seconds > 0 else float(ticket.poll or DEFAULT_PAUSE_SECONDS)
        if pause and (left := until - clock()) > 0:
            yield PollPause(min(pause, left))
    return None


def read_state(answer: WireResponse) -> TicketState | None:
    """Return the state in an answer; None if the answer has no state."""
    if answer.status != 200 or answer.media_type.partition(";")[0].strip() != MSGPACK:
        return None
    try:
        found = _decode_status(answer.content)
    except (msgspec.MsgspecError, ValueError):
        return None
    return TicketState(found.state, found.reason)


def with_approval_request(question: QuestionMapping) -> QuestionMapping:
    """Return the question with `request_approval` set, because only an approval that is opened can be awaited."""
    options = question.get("options")
    given = options if isinstance(options, Mapping) else {}
    return {**question, "options": {"request_approval": True, **given}}
