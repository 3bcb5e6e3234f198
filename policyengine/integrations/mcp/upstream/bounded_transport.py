"""HTTP connections of the SDK's client to an upstream server, whose JSON answers have a limit: the SDK reads them
whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.upstream.server import CONNECT_SECONDS, MAX_ANSWER_BYTES, McpUpstream

try:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

EVENT_STREAM = "text/event-stream"  # the SDK limits each event


class BoundedStream(httpx2.AsyncByteStream):
    """A body of at most `limit` bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > self._limit:
                raise httpx2.ReadError("the answer of the upstream server is too large")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class BoundedTransport(httpx2.AsyncBaseTransport):
    """A transport whose answers have at most `limit` bytes, unless they are event streams. Compressed answers are not
    accepted, because their size says nothing."""

    def __init__(self, limit: int) -> None:
        self._inner, self._limit = httpx2.AsyncHTTPTransport(trust_env=False), limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        if "content-encoding" in response.headers:
            await response.aclose()
            raise httpx2.ReadError("the answer of the upstream server is compressed")
        if not response.headers.get("content-type", "").lower().startswith(EVENT_STREAM):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = BoundedStream(response.stream, self._limit)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def bounded_streams(upstream: McpUpstream) -> AsyncIterator[tuple[Any, Any]]:
    """Connect as the SDK's client does, which speaks every version of MCP."""
    timeout = httpx2.Timeout(CONNECT_SECONDS, read=upstream.limit)
    async with (
        httpx2.AsyncClient(
            headers=dict(upstream.headers),
            timeout=timeout,
            trust_env=False,
            transport=BoundedTransport(MAX_ANSWER_BYTES),
        ) as http,
        streamable_http_client(upstream.target, http_client=http) as streams,
    ):
        yield streams
