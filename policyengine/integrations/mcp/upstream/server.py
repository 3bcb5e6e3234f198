"""The MCP server behind the gateway: its URL or command line, and the connections to it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.sessions import MAX_SESSIONS
from policyengine.integrations.mcp.relay.line_streams import EndingCommands, command_streams
from policyengine.integrations.mcp.upstream.http_session import HttpSession
from policyengine.integrations.mcp.upstream.linked_command import link_command
from policyengine.integrations.mcp.upstream_protocols import UpstreamProtocol

try:
    from mcp.client.stdio import StdioServerParameters, stdio_client
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Streams: TypeAlias = AbstractAsyncContextManager[tuple[Any, Any]]
CONNECT_SECONDS = 5.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024  # of one answer, with the notifications before it


@dataclass(frozen=True, slots=True)
class McpUpstream:
    """The upstream server: a URL or a command line. `headers` and `environment` are all that the gateway passes to it.
    `limit` is the number of seconds to wait for an answer, `protocol` the versions in which the server is used, and
    `max_sessions` the number of sessions of all callers.
    """

    target: str
    headers: Mapping[str, str]
    environment: Mapping[str, str]
    limit: float
    protocol: UpstreamProtocol = UpstreamProtocol.AUTO
    max_sessions: int = MAX_SESSIONS
    ending: EndingCommands = field(default_factory=EndingCommands, compare=False)  # of sessions that are over

    @property
    def is_url(self) -> bool:
        return self.target.startswith(("http://", "https://"))

    def connect(self) -> Streams:
        """Open a new session."""
        if self.is_url:
            return HttpSession.open(self.target, self.headers, self.limit, MAX_ANSWER_BYTES)
        return self._command()

    def _command(self) -> Streams:
        command, *arguments = link_command(shlex.split(self.target))
        if os.name == "posix":
            return command_streams([command, *arguments], self.environment, self.ending, self.max_sessions)
        return stdio_client(StdioServerParameters(command=command, args=arguments, env=dict(self.environment)))


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
