"""Subscriptions of a modern client in a session with a legacy server: what the server offers, and what passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.notifications import LIST_CHANGES, RESOURCE_UPDATED
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.legacy_session import LegacySession

try:
    from mcp.shared.exceptions import MCPError
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error


async def subscribe(session: LegacySession, call: UpstreamCall) -> dict[str, Any]:
    """Subscribe to the resources that a client names. Return the wanted notifications that the server offers."""
    wanted = call.params.get("notifications")
    named = wanted if isinstance(wanted, Mapping) else {}
    kinds = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}
    honored: dict[str, Any] = {
        name: True for name, kind in kinds.items() if named.get(name) is True and session.offers(kind, "listChanged")
    }
    uris = named.get("resourceSubscriptions")
    subscribed = []
    for uri in uris if isinstance(uris, list) and session.offers("resources", "subscribe") else []:
        try:
            await session.ask("resources/subscribe", {"uri": uri})
        except MCPError:
            continue
        subscribed.append(uri)
    return {**honored, "resourceSubscriptions": subscribed} if subscribed else honored


def wants(honored: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> bool:
    if method == RESOURCE_UPDATED:
        return params.get("uri") in honored.get("resourceSubscriptions", ())
    return honored.get(LIST_CHANGES.get(method, "")) is True
