"""The definitions of the tools of a FastMCP server, as its clients get them, for the comparison with their pins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.pinned_tools import UNREADABLE, ListingError, PinnedSession
from policyengine.tool_pins.listed_tools import ListedTool
from policyengine.tool_pins.pin_file import PinFileError

try:
    from fastmcp.server.middleware import MiddlewareContext
    from fastmcp.tools.base import Tool
    from fastmcp.utilities.versions import dedupe_with_versions
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR
except ImportError as error:
    raise ImportError(f"FastMCP is not installed; {install_command('fastmcp')}") from error


@dataclass(eq=False)
class OwnToolList:
    """A list of tools that the middleware `owner` makes for itself, while it decides a call."""

    owner: object
    tools: Sequence[Tool] = field(default_factory=tuple)


OWN_TOOL_LIST: ContextVar[OwnToolList | None] = ContextVar("own_tool_list", default=None)


async def list_pinned(pinned: PinnedSession, tools: Sequence[Any]) -> Mapping[object, ListedTool]:
    """Return the tools that may be shown, by name. Raises MCPError."""

    async def fetch(_: Mapping[str, Any]) -> object:
        return {"tools": tool_definitions(tools)}

    try:
        _, admitted = await pinned.list(fetch, {})
    except (ListingError, PinFileError) as error:
        why = UNREADABLE if isinstance(error, PinFileError) else str(error)
        raise MCPError(INTERNAL_ERROR, f"no tools are listed: {why}") from None
    return {tool.name: tool for tool in admitted}


async def list_own_tools(owner: object, context: MiddlewareContext[Any]) -> object:
    """Return the list of this server, with the changes of all middleware behind this one."""
    if context.fastmcp_context is None:
        return None
    token = OWN_TOOL_LIST.set(listing := OwnToolList(owner))
    try:
        await context.fastmcp_context.fastmcp.list_tools()
    finally:
        OWN_TOOL_LIST.reset(token)
    return {"tools": tool_definitions(listing.tools)}


def tool_definitions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return the definitions as FastMCP sends them to clients of 2026-07-28, which is one of the reviewed forms."""
    listed = [tool.to_mcp_tool(name=tool.name) for tool in dedupe_with_versions(list(tools), lambda tool: tool.name)]
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"execution"}) for tool in listed]


def names_version(message: Any) -> bool:
    """Return whether a call names a version of the tool, which may differ from the listed version."""
    meta = getattr(message, "meta", None)
    extension = meta.get("fastmcp") if isinstance(meta, Mapping) else None
    return isinstance(extension, Mapping) and extension.get("version") is not None
