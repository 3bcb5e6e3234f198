"""The MCP server behind the gateway: raw ASGI that returns the same result for every tool call, in both eras.

uvicorn bench.serving.mcp_upstream:app
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

Message: TypeAlias = dict[str, Any]
RESULTS: dict[str, object] = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "files", "version": "1"},
    },
    "server/discover": {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}},
        "ttlMs": 0,
        "cacheScope": "private",
    },
    "tools/call": {
        "resultType": "complete",
        "content": [{"type": "text", "text": "what stands there"}],
        "isError": False,
    },
}


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    status, content = answer(scope["method"], body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def answer(method: str, body: bytes) -> tuple[int, bytes]:
    """Answer a request: 405 for opening a stream, 202 for a notification."""
    if method != "POST":
        return 405, b""
    asked = msgspec.json.decode(body)
    result = RESULTS.get(asked["method"])
    if result is None:
        return 202, b""
    return 200, msgspec.json.encode({"jsonrpc": "2.0", "id": asked["id"], "result": result})
