"""Warnings of `serve` and `config check` about MCP servers behind gateways: headers of MCP that a gateway does not
forward, and policies that let no client connect."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from policyengine.cli.name_checks import all_grants
from policyengine.cli.output.terminal import Screen
from policyengine.http.gateway_omissions import GatewayAdapter

if TYPE_CHECKING:
    from policyengine import kernel as k
    from policyengine.cli.settings.file import ProjectSettings

HEADERS = ("Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Session-Id")
FORWARDS_ALL = (
    "with nginx, write `hands_on_nginx = [{}]` into `[gateway]`; with Envoy over HTTP, the same in `hands_on_envoy`; "
    'with Caddy or Traefik, write `hands_on_forward_auth = "all"`'
)


def forwarding_warnings(settings: ProjectSettings) -> Iterator[tuple[str, str]]:
    """Yield a message and a hint for each gateway that the settings describe and that does not forward the headers. If
    they describe no gateway, yield one message, because nginx and Envoy forward only what their configuration lists.
    """
    servers = [one.name for one in settings.mcp_servers.servers if one.validates_headers]
    if not servers:
        return
    refused = f"requests to the MCP server `{servers[0]}`" if len(servers) == 1 else "requests to the MCP servers"
    described = [one for one in GatewayAdapter if ("gateway", f"hands_on_{one}") in settings.values]
    if not described:
        quoted = ", ".join(f'"{name}"' for name in HEADERS)
        message = "`[gateway]` does not say which gateway forwards the headers of MCP"
        message += f": behind nginx, {refused} are refused"
        yield message, FORWARDS_ALL.format(quoted)
    for adapter in described:
        parts = settings.gateway.hands_on(adapter)
        missing = [f"`{name}`" for name in HEADERS if not parts.shows_absence(name.lower())]
        if missing:
            unless = " unless the gateway sends their bodies" if adapter.sends_bodies else ""
            message = f"`hands_on_{adapter}` does not list {', '.join(missing)}"
            message += f": behind this gateway, {refused} are refused{unless}"
            yield message, "forward these headers, and list them: see docs/gateways.md, “MCP servers”"


def connection_warnings(settings: ProjectSettings, kernel: k.Kernel) -> Iterator[tuple[str, str]]:
    """Yield a message and a hint if a server is decided by headers, and no grant lets a client connect."""
    from policyengine import kernel as k
    from policyengine.server.mcp.questions import CONNECT, LIST, SERVER_TYPE

    servers = [one.name for one in settings.mcp_servers.servers if one.validates_headers]
    doors = [opening.pattern for grant in all_grants(kernel) for opening in grant.openings]
    connects = any(isinstance(one, k.ActionPattern) and (one.verb, one.type) == (CONNECT, SERVER_TYPE) for one in doors)
    if servers and not connects:
        use = f"the MCP server `{servers[0]}`" if len(servers) == 1 else "the MCP servers"
        message = f"no grant is for `ACTION {CONNECT} {SERVER_TYPE}`: clients that begin with `server/discover` cannot"
        actions = f"ACTION {CONNECT} {SERVER_TYPE}, ACTION {LIST} {SERVER_TYPE}"
        grant = f'may {actions} when resource.id == "{servers[0]}"'
        yield f"{message} use {use}", f"write `entity {SERVER_TYPE} {{}}`, and in a block `{grant}`"


def mcp_warnings(settings: ProjectSettings, kernel: k.Kernel | None) -> Iterator[tuple[str, str]]:
    """Yield a message and a hint for each warning. Without a kernel, the policies are not checked."""
    yield from forwarding_warnings(settings)
    if kernel is not None:
        yield from connection_warnings(settings, kernel)


def print_mcp_warnings(settings: ProjectSettings, kernel: k.Kernel | None) -> None:
    screen = Screen(sys.stderr)
    for message, hint in mcp_warnings(settings, kernel):
        screen.warn(message)
        screen.line(f"  hint: {hint}")
