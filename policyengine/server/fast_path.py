"""The fast path: `POST /decide` passes from the server directly to the engine. Everything else takes the slow path.

The application documents `/decide` and could answer it alone. The fast path answers byte for byte what the application
would answer, and passes on unusual requests, above all invalid ones, with their body intact. If a decision was made but
its answer failed, something may have been spent. The question is then not decided again, and the application only
reports the failure.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter_ns
from types import coroutine
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.engine import Engine
from policyengine.engine.decider import WouldBlockError
from policyengine.engine.question import QuestionLike
from policyengine.executor import run_in_turn
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.host_check import AllowedHosts
from policyengine.http.rate_limit_headers import rate_limit_headers
from policyengine.http.trace_context import enter_trace
from policyengine.reload import ReloadableEngine
from policyengine.runtime.current_caller import enter_caller
from policyengine.runtime.decision import Decision
from policyengine.runtime.fast_decode import decode_json_fast, decode_msgpack_fast
from policyengine.runtime.request import RequestError
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.content_negotiation import LONG_BODY_BYTES, MAX_BODY_BYTES, BodyFormat, read_body
from policyengine.server.middleware import LABEL
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.shared_counters import CountFunction, TimingTurns, time_sampled
from policyengine.server.telemetry.trace_headers import decide_in_trace, parse_trace, trace_response_headers

LABEL_BYTES = re.compile(LABEL.pattern.encode())
MAX_LENGTH_DIGITS = 6
SIMPLE_OPTIONS = frozenset({"obligations_supported"})
ANSWER_FAILED_KEY = "policyengine.unanswered"  # in the scope of a question that is already decided
DECODED_KEY = "policyengine.decoded"  # in the scope of a question for the slow path: its decoded body
COMMON_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
HeaderMap = dict[bytes, bytes]
HeaderLines = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class FastPathCodec:
    """How to decode questions and encode answers of one media type."""

    media_type: bytes
    read: Callable[[bytes], dict[str, Any] | None]
    write: Callable[[Decision], bytes]

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of every answer, except its length."""
        return (b"content-type", self.media_type), *COMMON_HEADERS

    @cached_property
    def lines(self) -> bytes:
        """The same headers as bytes of HTTP/1.1."""
        return b"".join(b"%b: %b\r\n" % header for header in self.headers)


JSON = FastPathCodec(BodyFormat.JSON.value[0].encode(), decode_json_fast, Decision.to_json)
MSGPACK = FastPathCodec(BodyFormat.MSGPACK.value[0].encode(), decode_msgpack_fast, Decision.to_msgpack)
CODECS = {JSON.media_type: JSON, b"application/json; charset=utf-8": JSON, MSGPACK.media_type: MSGPACK}


@dataclass(frozen=True, slots=True)
class FastPathApp:
    """An ASGI application in front of `careful`, the slow path, which gets everything that is not simple."""

    careful: ASGIApp
    reloading: ReloadableEngine
    tokens: BearerTokens | None
    hosts: AllowedHosts  # set if there are no tokens
    body_timeout: float
    count: CountFunction
    count_apart: CountFunction
    timed: TimingTurns = field(default_factory=time_sampled)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        enter_trace(None)
        if ANSWER_FAILED_KEY in scope:
            return await self.careful(scope, raise_on_receive(scope[ANSWER_FAILED_KEY]), send)
        headers = self.plain(scope)
        if headers is None:
            return await self.careful(scope, receive, send)
        try:
            body = await receive_body(scope, receive, self.body_timeout)
        except ProblemError as problem:
            return await self.careful(scope, raise_on_receive(problem), send)
        engine = self.reloading.current
        try:
            if len(body) > LONG_BODY_BYTES:
                answer = await run_in_turn(self.answer, scope, engine, headers, body, self.count_apart)
            else:
                answer = await self.soon(scope, engine, headers, body)
        except WorkRefusedError as error:
            return await self.careful(scope, raise_on_receive(ProblemError.of_refused(error)), send)
        except Exception as error:
            return await self.careful(scope, raise_on_receive(AnswerFailedError(error)), send)
        if answer is None:
            return await self.careful(scope, prepend_message(ready_message(body_message(body)), receive), send)
        limits, content = answer
        await send(
            {"type": "http.response.start", "status": 200, "headers": [*limits, *response_headers(headers, content)]}
        )
        await send({"type": "http.response.body", "body": content})

    async def soon(
        self, scope: Scope, engine: Engine, headers: HeaderMap, body: bytes
    ) -> tuple[HeaderLines, bytes] | None:
        """Answer on the event loop, in a thread if a store is needed, or in turn if the decision takes long."""
        try:
            if engine.forecast.may_wait:  # the event loop must not wait for a store
                return await run_in_threadpool(
                    self.answer, scope, engine, headers, body, self.count_apart, at_once=True
                )
            return self.answer(scope, engine, headers, body, self.count, at_once=True)
        except WouldBlockError:
            return await run_in_turn(self.answer, scope, engine, headers, body, self.count_apart)

    def now(self, scope: Scope, body: bytes) -> tuple[bytes, bytes] | None:
        """Return header lines and content for a question whose body is complete.

        Return None if the question needs more than the fast path: then call the ASGI application with the same scope.
        """
        engine = self.reloading.current
        headers = None if engine.forecast.may_wait or len(body) > LONG_BODY_BYTES else self.plain(scope)
        if headers is None:
            return None
        try:
            answer = self.answer(scope, engine, headers, body, self.count, at_once=True)
        except WouldBlockError:
            return None
        except Exception as error:
            scope[ANSWER_FAILED_KEY] = AnswerFailedError(error)
            return None
        if answer is None:
            return None
        limits, content = answer
        label = b"x-request-id: %b\r\n" % headers[b"x-request-id"] if b"x-request-id" in headers else b""
        lines = CODECS[headers[b"content-type"]].lines
        stand = b"".join([b"%b: %b\r\n" % header for header in limits]) if limits else b""
        return b"%bcontent-length: %d\r\n%b%b" % (stand, len(content), lines, label), content

    def plain(self, scope: Scope) -> HeaderMap | None:
        """Return the headers of a simple `POST /decide`, in which no header occurs twice or has an unusual value; else
        None."""
        if scope["path"] != "/decide" or scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
            return None
        headers: HeaderMap = dict(scope["headers"])
        codec = CODECS.get(headers.get(b"content-type", b""))
        if (
            codec is None
            or len(headers) != len(scope["headers"])
            or headers.get(b"accept", b"*/*") not in (b"*/*", codec.media_type)
            or b"content-encoding" in headers
            or b"idempotency-key" in headers
            or len(headers.get(b"content-length", b"")) > MAX_LENGTH_DIGITS
            or (b"x-request-id" in headers and not LABEL_BYTES.fullmatch(headers[b"x-request-id"]))
            or (self.tokens is None and not self.hosts.at_once(headers))
        ):
            return None
        if self.tokens is not None:
            caller = self.tokens.gateway(headers.get(b"authorization", b"").decode("latin-1"))
            if caller is None:
                return None
            enter_caller(caller)
        return headers

    def answer(
        self,
        scope: Scope,
        engine: Engine,
        headers: HeaderMap,
        body: bytes,
        count: CountFunction,
        *,
        at_once: bool = False,
    ) -> tuple[HeaderLines, bytes] | None:
        """Return the headers of limits and trace, and the content. Raises WouldBlockError if `at_once` is impossible.

        Return None if the slow path is needed, which finds the decoded question in the scope. After other errors,
        something may have been spent.
        """
        codec = CODECS[headers[b"content-type"]]
        question = codec.read(body) if len(body) <= MAX_BODY_BYTES else None
        if question is None:
            return None
        if "options" in question and not are_simple_options(question["options"]):
            scope[DECODED_KEY] = question
            return None
        trace = parse_trace(headers.items()) if b"traceparent" in headers else None
        asked: QuestionLike | None = engine.authenticate_cached(question) if "credentials" in question else question
        if asked is None:
            scope[DECODED_KEY] = question
            return None
        began = perf_counter_ns() if next(self.timed) else 0
        try:
            if trace is None:
                decision = engine.decide(asked, without_waiting=at_once)
            else:
                decision = decide_in_trace(trace, engine, asked, without_waiting=at_once)
        except RequestError:  # before anything was decided
            return None
        content = codec.write(decision)
        count(decision.answer, began)
        return (*(limit_headers(decision) if decision.standings else ()), *trace_response_headers(trace)), content


def limit_headers(decision: Decision) -> HeaderLines:
    return tuple((name.encode(), value.encode()) for name, value in rate_limit_headers(decision))


def response_headers(asked: HeaderMap, content: bytes) -> list[tuple[bytes, bytes]]:
    codec = CODECS[asked[b"content-type"]]
    label = [(b"x-request-id", asked[b"x-request-id"])] if b"x-request-id" in asked else []
    return [(b"content-length", b"%d" % len(content)), *codec.headers, *label]


def are_simple_options(options: object) -> bool:
    return options is None or (isinstance(options, dict) and options.keys() <= SIMPLE_OPTIONS)


# ── The body ──────────────────────────────────────────────────────────────────────────────────


async def receive_body(scope: Scope, receive: Receive, seconds: float) -> bytes:
    """Return the body. It has usually arrived already, so that no timeout is set. Raises ProblemError."""
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
    """Continue a coroutine that is waiting for `waiting`."""
    yield waiting
    return (yield from steps)


async def ready_message(message: Message) -> Message:
    return message


# ── Passing on to the application ─────────────────────────────────────────────────────────────


def body_message(body: bytes) -> Message:
    return {"type": "http.request", "body": body, "more_body": False}


def prepend_message(first: Awaitable[Message], receive: Receive) -> Receive:
    """Return a `receive` whose first message is already known."""
    waiting = [first]

    async def again() -> Message:
        return await (waiting.pop() if waiting else receive())

    return again


class AnswerFailedError(Exception):
    """A question was decided, but its answer failed."""

    def __init__(self, why: Exception) -> None:
        super().__init__(f"{type(why).__name__}: {why}")
        self.__cause__ = why


def raise_on_receive(why: ProblemError | AnswerFailedError) -> Receive:
    """Return a `receive` that raises the error."""

    async def failing() -> Message:
        raise why

    return failing
