"""The MCP server behind the gateway: its URL or command line, and the connections to it."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.bounded_transport import BoundedTransport
from policyengine.integrations.mcp.line_streams import command_streams
from policyengine.integrations.mcp.linked_command import link_command

try:
    import httpx2
    from mcp.client.stdio import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Streams: TypeAlias = AbstractAsyncContextManager[tuple[Any, Any]]
CONNECT_SECONDS = 5.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024  # of one answer, with the notifications before it


@dataclass(frozen=True, slots=True)
class McpUpstream:
    """The upstream server: a URL or a command line. `headers` and `environment` are all that the gateway passes to it.
    `limit` is the number of seconds to wait for an answer.
    """

    target: str
    headers: Mapping[str, str]
    environment: Mapping[str, str]
    limit: float

    @property
    def is_url(self) -> bool:
        return self.target.startswith(("http://", "https://"))

    def connect(self) -> Streams:
        """Open a new session."""
        return self._url() if self.is_url else self._command()

    def _command(self) -> Streams:
        command, *arguments = link_command(shlex.split(self.target))
        if os.name == "posix":
            return command_streams([command, *arguments], self.environment)
        return stdio_client(StdioServerParameters(command=command, args=arguments, env=dict(self.environment)))

    @asynccontextmanager
    async def _url(self) -> AsyncIterator[tuple[Any, Any]]:
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=self.limit)
        async with (
            httpx2.AsyncClient(
                headers=dict(self.headers),
                timeout=timeout,
                trust_env=False,
                transport=BoundedTransport(MAX_ANSWER_BYTES),
            ) as http,
            streamable_http_client(self.target, http_client=http) as streams,
        ):
            yield streams


async def pump_messages(source: Any, sink: Any) -> None:
    """Pass messages on until one of the two ends is closed."""
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            await sink.send(await source.receive())


def describe_error(error: BaseException) -> str:
    """Return the message of an error, or of the first error in a group; the name of its class if it has no message."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, anyio.EndOfStream):
        return "the server closed the connection"
    return str(error) or type(error).__name__
