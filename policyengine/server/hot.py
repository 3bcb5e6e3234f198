"""`POST /decide` as gateways send it, from the server to the engine with nothing between; all else the careful way.

The application documents `/decide` and can answer it alone. What is answered here is what it would answer, to the byte:
whatever is out of the ordinary, a mistake above all, is handed to it with not a byte of it lost.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from types import coroutine
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.engine import Engine
from policyengine.runtime.decision import Decision
from policyengine.runtime.quick import json_question, msgpack_question
from policyengine.server.frame import LABEL
from policyengine.server.media import LARGEST_BODY, Form, read_body
from policyengine.server.problems import Problem
from policyengine.server.tokens import Tokens

FORMS = {
    b"application/json": Form.JSON,
    b"application/json; charset=utf-8": Form.JSON,
    b"application/msgpack": Form.MSGPACK,
}
TYPES = {form: form.value[0].encode() for form in Form}
READERS = {Form.JSON: json_question, Form.MSGPACK: msgpack_question}
WRITERS = {Form.JSON: Decision.to_json, Form.MSGPACK: Decision.to_msgpack}
BYTES_OF_LABEL = re.compile(LABEL.pattern.encode())
DIGITS_OF_A_SMALL_BODY = 6
PLAIN_OPTIONS = frozenset({"obligations_supported"})
HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Plain(NamedTuple):
    """What the headers of an ordinary question say."""

    form: Form
    label: bytes | None


@dataclass(frozen=True, slots=True)
class HotPath:
    """An ASGI application in front of `careful`, which gets everything that is not plain."""

    careful: ASGIApp
    engine: Engine
    tokens: Tokens | None
    body_timeout: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = plain_of(scope, self.tokens)
        if plain is None:
            return await self.careful(scope, receive, send)
        try:
            body = await body_of(scope, receive, self.body_timeout)
        except Problem as problem:
            return await self.careful(scope, raising(problem), send)
        content = answer_to(self.engine, body, plain.form)
        if content is None:
            return await self.careful(scope, preceded(ready(whole(body)), receive), send)
        await send({"type": "http.response.start", "status": 200, "headers": headers_of(plain, content)})
        await send({"type": "http.response.body", "body": content})


# ── The question ──────────────────────────────────────────────────────────────────────────────


def plain_of(scope: Scope, tokens: Tokens | None) -> Plain | None:
    """None unless this is an ordinary `POST /decide`: no header twice, and of each that counts the usual value."""
    if scope["type"] != "http" or scope["path"] != "/decide" or scope["method"] != "POST" or scope.get("root_path"):
        return None
    headers = dict(scope["headers"])
    form = FORMS.get(headers.get(b"content-type", b""))
    if form is None or len(headers) != len(scope["headers"]) or b"content-encoding" in headers:
        return None
    if headers.get(b"accept", b"*/*") not in (b"*/*", TYPES[form]):
        return None
    if len(headers.get(b"content-length", b"")) > DIGITS_OF_A_SMALL_BODY:
        return None
    label = headers.get(b"x-request-id")
    if label is not None and not BYTES_OF_LABEL.fullmatch(label):
        return None
    if tokens is not None and not tokens.accept(headers.get(b"authorization", b"").decode("latin-1")):
        return None
    return Plain(form, label)


async def body_of(scope: Scope, receive: Receive, seconds: float) -> bytes:
    """The body. That it is there already is the rule, and then no time is set for it to arrive. Raises Problem."""
    steps = receive().__await__()
    try:
        waiting = next(steps)
    except StopIteration as done:
        message: Message = done.value
        if message["type"] == "http.request" and not message.get("more_body", False):
            return message.get("body", b"")  # type: ignore[no-any-return]
        first = ready(message)
    else:
        first = resumed(waiting, steps)
    return await read_body(Request(scope, preceded(first, receive)), seconds)


@coroutine
def resumed(waiting: object, steps: Generator[Any, Any, Message]) -> Generator[Any, Any, Message]:
    """The rest of what waited for `waiting` when it was begun."""
    yield waiting
    return (yield from steps)


async def ready(message: Message) -> Message:
    return message


# ── The answer ────────────────────────────────────────────────────────────────────────────────


def answer_to(engine: Engine, body: bytes, form: Form) -> bytes | None:
    """None where a careful look is needed: at what is no question, and at what fails, so that it is told and logged."""
    question = READERS[form](body) if len(body) <= LARGEST_BODY else None
    if question is None or not plain_options(question.get("options")):
        return None
    try:
        return WRITERS[form](engine.decide(question))
    except Exception:
        return None


def plain_options(options: object) -> bool:
    return options is None or (isinstance(options, dict) and options.keys() <= PLAIN_OPTIONS)


def headers_of(plain: Plain, content: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-length", b"%d" % len(content)), (b"content-type", TYPES[plain.form]), *HEADERS]
    if plain.label is not None:
        headers.append((b"x-request-id", plain.label))
    return headers


# ── Handing over ──────────────────────────────────────────────────────────────────────────────


def whole(body: bytes) -> Message:
    return {"type": "http.request", "body": body, "more_body": False}


def preceded(first: Awaitable[Message], receive: Receive) -> Receive:
    """`receive` once more, from the message on that was already asked for."""
    waiting = [first]

    async def again() -> Message:
        return await (waiting.pop() if waiting else receive())

    return again


def raising(problem: Problem) -> Receive:
    """Whoever asks for the body gets the problem that there was with it."""

    async def failing() -> Message:
        raise problem

    return failing
