"""Answers of the gateway's HTTP endpoint without a result: one place sends them, with their status and headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Send

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.response_stream import HeaderLines

try:
    from mcp_types import INTERNAL_ERROR, RequestId
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

ENCODE = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class HttpRefusal:
    """A refused HTTP request: the status, and a JSON-RPC error with the ID of the request if it is known."""

    status: int
    message: str
    code: int = INTERNAL_ERROR
    id: RequestId | None = None
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def encode_document(document: object) -> bytes:
    return ENCODE(document).encode()


async def send_refusal(refusal: HttpRefusal, send: Send) -> None:
    await send_json(refusal_document(refusal), send, refusal.status, refusal.headers)


def refusal_document(refusal: HttpRefusal) -> dict[str, Any]:
    error = {"code": refusal.code, "message": refusal.message}
    if refusal.data is not None:
        error["data"] = refusal.data
    return {"jsonrpc": "2.0", "id": refusal.id, "error": error}


async def send_empty(status: int, send: Send, headers: HeaderLines = ()) -> None:
    raw = [(b"content-length", b"0"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b""})


async def send_json(document: object, send: Send, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    body = encode_document(document)
    raw = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if headers:
        raw += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
