"""Warnings of `serve` and `config check` about MCP servers behind gateways that do not forward the headers of MCP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from policyengine.cli.output.terminal import Screen
from policyengine.http.gateway_omissions import GatewayAdapter

if TYPE_CHECKING:
    from policyengine.cli.settings.file import ProjectSettings

HEADERS = ("Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Session-Id")
FORWARDS_ALL = (
    "with nginx, write `hands_on_nginx = [{}]` into `[gateway]`; with Envoy over HTTP, the same in `hands_on_envoy`; "
    'with Caddy or Traefik, write `hands_on_forward_auth = "all"`'
)


def forwarding_warnings(settings: ProjectSettings) -> Iterator[tuple[str, str]]:
    """Yield a message and a hint for each gateway that the settings describe and that does not forward the headers; one
    if they describe none, because nginx and Envoy forward only what their configuration lists.
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


def print_forwarding_warnings(settings: ProjectSettings) -> None:
    screen = Screen(sys.stderr)
    for message, hint in forwarding_warnings(settings):
        screen.warn(message)
        screen.line(f"  hint: {hint}")
