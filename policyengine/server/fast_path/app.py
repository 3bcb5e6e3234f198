"""The ASGI application in front of the main application: it answers simple requests itself, and passes on all others.

The main application documents every path and could answer alone. The fast path answers byte for byte what the
application would answer, and passes on unusual requests, above all invalid ones, with their body intact. If a decision
was made but its answer failed, something may have been spent. The question is then not decided again, and the
application only reports the failure.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Generator, Mapping
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, TypeAlias

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.engine import Engine
from policyengine.engine.decider import WouldBlockError
from policyengine.engine.record_group import RecordGroup
from policyengine.executor import run_in_turn
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.host_check import AllowedHosts
from policyengine.http.trace_context import enter_trace, trace_scope
from policyengine.reload import ReloadableEngine
from policyengine.runtime.current_caller import enter_caller
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.content_negotiation import LONG_BODY_BYTES, MAX_BODY_BYTES, read_body
from policyengine.server.fast_path.answer_turn import AnswerTurn, WaitingAnswer
from policyengine.server.fast_path.door import FastDoor
from policyengine.server.fast_path.exchange import (
    DECODED_KEY,
    FastAnswer,
    HeaderMap,
    RawHeaderLines,
    SimpleRequest,
)
from policyengine.server.middleware import ANSWER_FAILED_KEY, LABEL
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.server_log import REQUEST_ID
from policyengine.server.telemetry.shared_counters import CountFunction
from policyengine.server.telemetry.trace_headers import parse_trace

LABEL_BYTES = re.compile(LABEL.pattern.encode()).fullmatch
SAFE_URL = re.compile(rb"/[!-\"$-~]*").fullmatch  # a URL that every parser splits at the first `?`
ESCAPED_LINE_BREAK = re.compile(rb"%0a", re.IGNORECASE).search  # routes do not match paths with line breaks
ScopeEntries: TypeAlias = dict[str, Any]  # entries that save work for the application that answers instead


@dataclass(frozen=True, slots=True)
class DoorTable:
    """The doors of single paths, and the doors of all paths with a prefix."""

    exact: Mapping[bytes, FastDoor]
    prefixed: Mapping[bytes, FastDoor]

    def find(self, path: bytes) -> FastDoor | None:
        """Return the door at a path whose escapes are not decoded; None if the path has no door."""
        door = self.exact.get(path)
        if door is not None:
            return door
        for prefix, found in self.prefixed.items():
            if path.startswith(prefix) and not ESCAPED_LINE_BREAK(path):
                return found
        return None


@dataclass(frozen=True, slots=True)
class FastPathApp:
    """An ASGI application in front of the application `careful`, which gets every request that is not simple."""

    careful: ASGIApp
    reloading: ReloadableEngine
    tokens: BearerTokens | None
    hosts: AllowedHosts  # used only if there are no tokens
    body_timeout: float
    doors: DoorTable
    turn: AnswerTurn = field(default_factory=AnswerTurn)

    # ── For the server's own protocol ─────────────────────────────────────────────────────────

    def now(
        self, method: str, url: bytes, lines: RawHeaderLines, body: bytes
    ) -> FastAnswer | WaitingAnswer | ScopeEntries:
        """Return the answer to a request that has arrived completely and can be answered in this turn of the event
        loop; with a log, the answer waits for the end of the turn. For any other request, return entries for the scope
        with which to call the ASGI application.
        """
        door, path, query = self.doors.exact.get(url), url, b""
        if door is None:
            path, _, query = url.partition(b"?")
            door = self.doors.find(path)
            if door is None or not SAFE_URL(url):
                return {}
        engine = self.reloading.current
        if engine.forecast.may_wait or len(body) > LONG_BODY_BYTES:
            return {}
        request = SimpleRequest(method, path, query, lines, body)
        if not self.enter(door, request):
            return {}
        turn = self.turn
        if turn.is_full or not door.holds_records:  # so that the log keeps the order of the decisions
            turn.flush()
        records, many = turn.records, len(turn.records.pending)
        try:
            answer = self.answer(door, request, engine, door.counts.on_loop, at_once=True, records=records)
        except WouldBlockError:
            return {}
        except Exception as error:
            turn.flush()  # the decision may have been made
            return {ANSWER_FAILED_KEY: AnswerFailedError(error)}
        if answer is None:
            return entries_for_application(request)
        return answer if len(records.pending) == many else turn.add(door, request, engine, answer)

    # ── For every server ──────────────────────────────────────────────────────────────────────

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        enter_trace(None)
        entered = None if ANSWER_FAILED_KEY in scope else self.enter_scope(scope)
        if entered is None:
            return await self.careful(scope, receive, send)
        door, request = entered
        try:
            request.body = await receive_body(scope, receive, self.body_timeout) if door.has_body else b""
        except ProblemError as problem:
            return await self.careful(scope, raise_on_receive(problem), send)
        engine = self.reloading.current
        waits = engine.forecast.may_wait or len(request.body) > LONG_BODY_BYTES
        if len(request.body) > MAX_BODY_BYTES or (waits and not door.has_threads):
            return await self.careful(scope, receive_again(door, request, receive), send)
        try:
            answer = await self.answer_in_task(door, request, engine)
        except WorkRefusedError:  # nothing was decided
            answer = None
        except Exception as error:
            scope[ANSWER_FAILED_KEY] = AnswerFailedError(error)
            return await self.careful(scope, receive, send)
        if answer is None:
            scope.update(entries_for_application(request))
            return await self.careful(scope, receive_again(door, request, receive), send)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.content})

    async def answer_in_task(self, door: FastDoor, request: SimpleRequest, engine: Engine) -> FastAnswer | None:
        """Answer on the event loop; in a thread if the answer needs a store; in turn if the body is long or the
        decision may take a long time. Return None if the application must answer. Raises WorkRefusedError.
        """
        in_threads = door.counts.in_threads
        if len(request.body) > LONG_BODY_BYTES:
            return await run_in_turn(self.answer, door, request, engine, in_threads, at_once=False)
        try:
            if engine.forecast.may_wait:  # the event loop must not wait for a store
                return await run_in_threadpool(self.answer, door, request, engine, in_threads, at_once=True)
            return self.answer(door, request, engine, door.counts.on_loop, at_once=True)
        except WouldBlockError:
            if not door.has_threads:
                return None
            return await run_in_turn(self.answer, door, request, engine, in_threads, at_once=False)

    # ── Both ──────────────────────────────────────────────────────────────────────────────────

    def enter_scope(self, scope: Scope) -> tuple[FastDoor, SimpleRequest] | None:
        """Return the request of a scope, without its body, and its door; None if the request is not simple."""
        if scope["type"] != "http" or scope.get("root_path"):
            return None
        path: bytes | None = scope.get("raw_path")
        door = None if path is None else self.doors.find(path)
        if door is None:
            return None
        request = SimpleRequest(scope["method"], path or b"", scope.get("query_string", b""), scope["headers"])
        return (door, request) if self.enter(door, request) else None

    def enter(self, door: FastDoor, request: SimpleRequest) -> bool:
        """Enter the caller of a request, its label and its trace; return False if the request is not simple, or not
        admitted.
        """
        headers = request.headers
        if (
            (door.method is not None and request.method != door.method)
            or len(headers) != len(request.lines)
            or not door.accepts(headers)
            or not self.admits(door, headers)
        ):
            return False
        label = request.label = headers.get(b"x-request-id")
        if label is not None and not LABEL_BYTES(label):
            return False
        if b"traceparent" in headers:
            request.trace = parse_trace(request.lines)
        REQUEST_ID.set(None if label is None else label.decode("ascii"))
        return True

    def admits(self, door: FastDoor, headers: HeaderMap) -> bool:
        """Return whether the caller may ask, and enter the caller."""
        if self.tokens is None:
            return door.admits(self.hosts, headers)
        caller = self.tokens.gateway(headers.get(b"authorization", b"").decode("latin-1"))
        if caller is None:
            return False
        enter_caller(caller)
        return True

    def answer(
        self,
        door: FastDoor,
        request: SimpleRequest,
        engine: Engine,
        count: CountFunction,
        *,
        at_once: bool,
        records: RecordGroup | None = None,
    ) -> FastAnswer | None:
        """Return the answer; None if the application must answer. Raises the errors of `FastDoor.answer`."""
        if request.trace is None:
            answer = door.answer(request, engine, count, at_once=at_once, records=records)
            if answer is None or request.label is None:
                return answer
        else:
            with trace_scope(request.trace):
                answer = door.answer(request, engine, count, at_once=at_once, records=records)
        return None if answer is None else answer._replace(lines=answer.lines + request.echoes)


def entries_for_application(request: SimpleRequest) -> ScopeEntries:
    """Return the results that the application need not compute again."""
    return {} if request.decoded is None else {DECODED_KEY: request.decoded}


# ── The body ──────────────────────────────────────────────────────────────────────────────────


async def receive_body(scope: Scope, receive: Receive, seconds: float) -> bytes:
    """Return the body. No timeout is set if it has already arrived, which is usual. Raises ProblemError."""
    steps = receive().__await__()
    try:
        waiting = next(steps)
    except StopIteration as done:
        message: Message = done.value
        if message["type"] == "http.request" and not message.get("more_body", False):
            return message.get("body", b"")  # type: ignore[no-any-return]
        first = ready_message(message)
    else:
        first = resume_receive(waiting, steps)
    return await read_body(Request(scope, prepend_message(first, receive)), seconds)


@coroutine
def resume_receive(waiting: object, steps: Generator[Any, Any, Message]) -> Generator[Any, Any, Message]:
    """Continue a coroutine that waits for `waiting`."""
    yield waiting
    return (yield from steps)


async def ready_message(message: Message) -> Message:
    return message


# ── Passing on to the application ─────────────────────────────────────────────────────────────


def receive_again(door: FastDoor, request: SimpleRequest, receive: Receive) -> Receive:
    """Return a `receive` that begins with the body, if it was received."""
    if not door.has_body:
        return receive
    return prepend_message(ready_message(body_message(request.body)), receive)


def body_message(body: bytes) -> Message:
    return {"type": "http.request", "body": body, "more_body": False}


def prepend_message(first: Awaitable[Message], receive: Receive) -> Receive:
    """Return a `receive` whose first message is already known."""
    waiting = [first]

    async def again() -> Message:
        return await (waiting.pop() if waiting else receive())

    return again


class AnswerFailedError(Exception):
    """The error for a question that was decided, but whose answer failed."""

    def __init__(self, why: Exception) -> None:
        super().__init__(f"{type(why).__name__}: {why}")
        self.__cause__ = why


def raise_on_receive(problem: ProblemError) -> Receive:
    """Return a `receive` that raises the problem."""

    async def failing() -> Message:
        raise problem

    return failing
