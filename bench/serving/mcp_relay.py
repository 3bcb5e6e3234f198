"""Relays that forward the bytes of MCP and decide nothing: raw ASGI over one pool of connections. `app` sends requests
with httpx2, as relays usually do; `lean_app` uses the connections of the gateway, which cost less.

UPSTREAM=http://127.0.0.1:8000/mcp uvicorn bench.serving.mcp_relay:app
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import httpx2

from policyengine.integrations.mcp.upstream.connections import UpstreamConnections, UpstreamEndpoint

Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
FORWARDED = ("accept", "content-type", "mcp-protocol-version", "mcp-session-id", "mcp-method", "mcp-name")
RETURNED = ("content-type", "mcp-session-id")
CLIENT = httpx2.AsyncClient(timeout=60, trust_env=False)
UPSTREAM = os.environ.get("UPSTREAM", "")
ENDPOINT = UpstreamEndpoint.of(UPSTREAM or "http://127.0.0.1/mcp", {}, {})
CONNECTIONS = UpstreamConnections(ENDPOINT)


async def app(scope: Message, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    headers = {name.decode(): value.decode() for name, value in scope["headers"] if name.decode() in FORWARDED}
    answer = await CLIENT.request(scope["method"], UPSTREAM, content=body, headers=headers)
    back = [(name.encode(), answer.headers[name].encode()) for name in RETURNED if name in answer.headers]
    await send_answer(send, answer.status_code, back, answer.content)


async def lean_app(scope: Message, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    headers = [(name, value) for name, value in scope["headers"] if name.decode() in FORWARDED]
    headers += [*ENDPOINT.head, (b"content-length", b"%d" % len(body))]
    connection = await CONNECTIONS.take()
    head = await connection.request(scope["method"].encode(), ENDPOINT.target, headers, body)
    content = b""
    while part := await connection.receive():
        content += part
    CONNECTIONS.give_back(connection)
    back = [(name, value) for name, value in head.headers if name.decode() in RETURNED]
    await send_answer(send, head.status, back, content)


async def read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def send_answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
