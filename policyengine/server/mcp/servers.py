"""The MCP servers behind gateways, and which request is for which of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from policyengine.http.gateway_questions import RequestTarget
from policyengine.http.host_check import is_listed, parse_host_header
from policyengine.runtime.paths import CanonicalPath, canonical_path
from policyengine.runtime.request import RequestError

POST = "POST"


@dataclass(frozen=True, slots=True)
class McpServer:
    """An MCP server: its name in policies, the paths and hosts at which the gateway serves it, and its own URL.

    Without `hosts`, the paths belong to the server at every host. `validates_headers` means that the server is expected
    to refuse requests whose headers and body differ; it is probed at `url`, with the bearer token in `token_file`.
    `resource` is its public URL, the audience of its tokens.
    """

    name: str
    paths: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    validates_headers: bool = False
    url: str | None = None
    token_file: Path | None = None
    ca: Path | None = None
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class McpServerPath:
    """One path of an MCP server as it is compared: decoded, in one case, and without a slash at its end."""

    prefix: str
    hosts: frozenset[str]
    server: McpServer

    def covers(self, path: str) -> bool:
        return path == self.prefix or path.startswith(self.prefix.rstrip("/") + "/")


@dataclass(frozen=True)
class McpServerTable:
    """All MCP servers behind gateways, and the name of the `default` server of AuthZEN evaluations."""

    servers: tuple[McpServer, ...] = ()
    default: str | None = None

    @cached_property
    def by_url(self) -> dict[str, str]:
        """The names of the servers by their public URLs."""
        return {one.resource.rstrip("/"): one.name for one in self.servers if one.resource is not None}

    @cached_property
    def endpoints(self) -> tuple[McpServerPath, ...]:
        """The endpoints: longer paths first and, for the same path, endpoints with certain hosts first."""
        found = [
            McpServerPath(fold_path(path) or path, frozenset(server.hosts), server)
            for server in self.servers
            for path in server.paths
        ]
        return tuple(sorted(found, key=lambda one: (-len(one.prefix), not one.hosts)))

    def find(self, target: RequestTarget) -> McpServer | None:
        """Return the server that receives MCP messages with this request; None for every other request, and for a path
        without a canonical spelling, which is denied for that reason. Raises RequestError if only the host, which the
        gateway does not send, distinguishes the servers.
        """
        if not self.servers or target.method != POST:
            return None
        path = fold_path(target.uri.partition("?")[0])
        if path is None:
            return None
        host = None if target.host is None else parse_host_header(target.host.encode("latin-1", "replace"))
        for endpoint in self.endpoints:
            if not endpoint.covers(path):
                continue
            if endpoint.hosts and host is None:
                name = endpoint.server.name
                raise RequestError(
                    "request.host", f"the gateway does not say whether the request is for the MCP server `{name}`"
                )
            if not endpoint.hosts or is_listed(host or "", endpoint.hosts):
                return endpoint.server
        return None


def fold_path(path: str) -> str | None:
    """Return the path as it is compared, because some servers ignore the case of paths; None without a canonical
    spelling.
    """
    found = canonical_path(path)
    return found.path.casefold() if isinstance(found, CanonicalPath) else None


NO_MCP_SERVERS = McpServerTable()


def find_shared_path(servers: Iterable[McpServer]) -> tuple[McpServer, McpServer, str] | None:
    """Return two servers with the same path at the same host, and this path; None if every request has one server."""
    known: dict[tuple[str, str], McpServer] = {}
    for server in servers:
        for path in server.paths:
            for host in server.hosts or ("",):
                other = known.setdefault((fold_path(path) or path, host), server)
                if other is not server:
                    return other, server, path
    return None
