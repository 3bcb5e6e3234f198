"""The floor of `serve` and `doors`: a raw ASGI callable that decodes the same body and sends as many bytes as our
server. A question is decoded into types; for bodies of another shape, SHAPE=any decodes into dicts.

ANSWER=… uvicorn bench.serving.floor:app
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from bench.serving.shape import QuestionShape

ANSWER = b"x" * int(os.environ.get("ANSWER", "300"))
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())],
}
SHAPE: Any = dict if os.environ.get("SHAPE") == "any" else QuestionShape
decode = msgspec.json.Decoder(SHAPE).decode
Message: TypeAlias = dict[str, Any]


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    message = await receive()
    body = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    if body:
        decode(body)
    await send(START)
    await send({"type": "http.response.body", "body": ANSWER})
