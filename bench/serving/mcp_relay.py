"""A relay that forwards the bytes of MCP and decides nothing: raw ASGI over one pool of connections.

UPSTREAM=http://127.0.0.1:8000/mcp uvicorn bench.serving.mcp_relay:app
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import httpx2

Message: TypeAlias = dict[str, Any]
FORWARDED = ("accept", "content-type", "mcp-protocol-version", "mcp-session-id", "mcp-method", "mcp-name")
RETURNED = ("content-type", "mcp-session-id")
CLIENT = httpx2.AsyncClient(timeout=60, trust_env=False)
UPSTREAM = os.environ.get("UPSTREAM", "")


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {name.decode(): value.decode() for name, value in scope["headers"] if name.decode() in FORWARDED}
    answer = await CLIENT.request(scope["method"], UPSTREAM, content=body, headers=headers)
    back = [(name.encode(), answer.headers[name].encode()) for name in RETURNED if name in answer.headers]
    back.append((b"content-length", b"%d" % len(answer.content)))
    await send({"type": "http.response.start", "status": answer.status_code, "headers": back})
    await send({"type": "http.response.body", "body": answer.content})
