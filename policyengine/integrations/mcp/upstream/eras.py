"""Which era of MCP the upstream server speaks: found by `server/discover`, and kept for a while."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import (
    MODERN_VERSION,
    SUPPORTED_VERSIONS,
    Envelope,
    era_error,
)
from policyengine.integrations.mcp.notifications import Notice
from policyengine.integrations.mcp.relay.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.upstream.answers import CREDENTIALS_REFUSED, SERVER_FAILED
from policyengine.integrations.mcp.upstream.calls import StatelessUpstream, UpstreamCall
from policyengine.integrations.mcp.upstream.http_upstream import HttpUpstream
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.integrations.mcp.upstream.session_pool import GATEWAY_INFO, SessionPool
from policyengine.integrations.mcp.upstream.stream_upstream import NO_ANSWER, StreamUpstream
from policyengine.integrations.mcp.upstream_protocols import UpstreamProtocol

try:
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR, UNSUPPORTED_PROTOCOL_VERSION
    from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

DISCOVER_SECONDS = 10.0
REDISCOVER_SECONDS = 300.0  # how long the gateway relies on what it found
OWN_ENVELOPE = Envelope(MODERN_VERSION, GATEWAY_INFO, {})
_LOG = logging.getLogger("policyengine")


class ModernUpstream:
    """A modern server: its exchange, and the result of `server/discover`."""

    def __init__(self, exchange: HttpUpstream | StreamUpstream, discovery: Mapping[str, Any]) -> None:
        self.transport, self._discovery = exchange, discovery

    async def discover(self) -> dict[str, Any]:
        """Return the result, with the versions that the gateway speaks, and marked as private to one client."""
        return {
            **self._discovery,
            "supportedVersions": list(SUPPORTED_VERSIONS),
            "cacheScope": "private",
        }

    async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
        return await self.transport.exchange(call)


class UpstreamEras:
    """The upstream server as modern callers reach it: by modern requests if it speaks them, otherwise in sessions."""

    def __init__(self, upstream: McpUpstream, group: TaskGroup, *, is_private: bool = False) -> None:
        self.upstream = upstream
        self._only_modern: ModernUpstream | None = None  # a server that begins no sessions
        self._only_until = 0.0
        self._transport: HttpUpstream | StreamUpstream = (
            HttpUpstream(upstream) if upstream.is_url else StreamUpstream(upstream, group, is_private=is_private)
        )
        self._pool = SessionPool(upstream, group)
        group.start_soon(self._pool.watch)
        self._lock = anyio.Lock()
        self._found: StatelessUpstream | None = None
        self._until = 0.0
        self.discover_seconds = DISCOVER_SECONDS

    @classmethod
    @asynccontextmanager
    async def running(cls, upstream: McpUpstream, *, is_private: bool = False) -> AsyncIterator[UpstreamEras]:
        async with anyio.create_task_group() as group:
            eras = cls(upstream, group, is_private=is_private)
            try:
                yield eras
            finally:
                with anyio.CancelScope(shield=True):
                    await eras._transport.close()
                    await eras._pool.close()
                group.cancel_scope.cancel()

    def follow(self, notice: Notice) -> None:
        """Pass the methods of the notifications in sessions of modern callers to `notice`."""
        self._pool.notice = notice

    @property
    def known_modern(self) -> ModernUpstream | None:
        """The server if it refused a session not long ago, because it is a modern one."""
        return self._only_modern if anyio.current_time() < self._only_until else None

    async def find_only_modern(self) -> ModernUpstream | None:
        """Return a server that has refused `initialize` if it is a modern one. Errors are not raised."""
        try:
            self._only_modern = await self.find_modern()
        except MCPError:
            return None
        self._only_until = anyio.current_time() + REDISCOVER_SECONDS
        return self._only_modern

    @property
    def known(self) -> StatelessUpstream | None:
        """The upstream server for modern requests, if it was found not long ago."""
        return self._found if anyio.current_time() < self._until else None

    @property
    def has_sessions(self) -> bool:
        """Whether sessions with the server may begin."""
        return self.upstream.protocol is not UpstreamProtocol.MODERN

    async def find_pinned(self) -> ModernUpstream:
        """Return a server that is used only by modern requests. Raises MCPError."""
        found = await self.find()
        assert isinstance(found, ModernUpstream)
        return found

    async def find(self) -> StatelessUpstream:
        """Return the upstream server for modern requests. Raises MCPError."""
        if (known := self.known) is not None:
            return known
        async with self._lock:
            if self._found is None or anyio.current_time() >= self._until:
                modern = await self.find_modern()
                if modern is None and not self.has_sessions:
                    raise era_error(
                        "no_common_version",
                        f"the upstream server does not speak {MODERN_VERSION}",
                        "the gateway has `--upstream-protocol modern`: `auto` also allows earlier versions",
                        INTERNAL_ERROR,
                    )
                self._found = self._pool if modern is None else modern
                self._until = anyio.current_time() + REDISCOVER_SECONDS
            return self._found

    async def find_modern(self) -> ModernUpstream | None:
        """Ask for the discovery; return None if the server is a legacy one. Raises MCPError if the server cannot be
        reached, or speaks neither era of the gateway: an outage says nothing about the era. Neither does the silence of
        a server that was a modern one before: a call of another client may occupy it."""
        if self.upstream.protocol is UpstreamProtocol.LEGACY:
            return None
        call = UpstreamCall("server/discover", OWN_ENVELOPE.stamp({}))
        result: dict[str, Any] = {}
        known = self._found if isinstance(self._found, ModernUpstream) else self._only_modern
        try:
            with anyio.move_on_after(self.discover_seconds) as waiting:
                result = await self._transport.exchange(call)
            if waiting.cancelled_caught and known is not None:
                return known
        except MCPError as error:
            if is_outage(error, self.upstream):
                raise
            if known is not None and error.message.startswith((UPSTREAM_GONE, NO_ANSWER)):
                return known
            if has_no_common_version(error):
                raise era_error(
                    "no_common_version",
                    "the upstream server speaks no version of MCP that the gateway speaks",
                    f"the gateway speaks {', '.join(SUPPORTED_VERSIONS)}",
                    INTERNAL_ERROR,
                ) from None
        versions = result.get("supportedVersions")
        if isinstance(versions, list) and any(one in MODERN_PROTOCOL_VERSIONS for one in versions):
            return ModernUpstream(self._transport, result)
        if isinstance(self._transport, StreamUpstream):
            await self._transport.close()  # each session has a process of its own
        return None


def is_outage(error: MCPError, upstream: McpUpstream) -> bool:
    """Return whether an error says that the server cannot be reached, has failed, or refuses the credentials of the
    gateway. A process that ends when it gets a request of the other era is a legacy server."""
    return upstream.is_url and error.message.startswith((UPSTREAM_GONE, CREDENTIALS_REFUSED, SERVER_FAILED))


def has_no_common_version(error: MCPError) -> bool:
    """Return whether a server refuses the version, and names no version of the gateway."""
    data = error.error.data
    versions = data.get("supported") if isinstance(data, Mapping) else None
    known = {*MODERN_PROTOCOL_VERSIONS, *HANDSHAKE_PROTOCOL_VERSIONS}
    return error.code == UNSUPPORTED_PROTOCOL_VERSION and isinstance(versions, list) and known.isdisjoint(versions)
