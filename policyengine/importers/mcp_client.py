"""Lists what an MCP server offers, over streamable HTTP or by starting a command."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from policyengine.importers.documents import Value
from policyengine.importers.errors import ApiImportError
from policyengine.importers.fetch import is_url
from policyengine.importers.sanitize import printable
from policyengine.install_hints import install_command
from policyengine.tool_pins.definitions import MAX_LISTED_TOOLS

INSTALL_HINT = f"{install_command('mcp')}, or save the result of `tools/list` as JSON"
TIMEOUT_SECONDS = 30.0
MAX_PAGES = 200
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ToolListings:
    """The lists of a server's tools as it sends them, by version of the protocol, and the server's own name. A server
    may list a tool differently in each version; `notes` say which versions could not be listed."""

    name: str
    listings: Mapping[str, Sequence[dict[str, Any]]]
    notes: tuple[str, ...] = ()

    @property
    def newest(self) -> Sequence[dict[str, Any]]:
        return next(iter(self.listings.values()), ())


def list_offers(source: str) -> tuple[ToolListings, Value]:
    """Return the tools of a URL or a command, and a JSON object with the lists of the newest version: tools, resources,
    templates and prompts. Raises ApiImportError."""
    return _run(lambda: _list_offers(lambda: _target(source)), source, TIMEOUT_SECONDS)


def list_server_tools(source: str, connect: Callable[[], Any], limit: float = TIMEOUT_SECONDS) -> ToolListings:
    """List the tools over new connections; `source` appears in messages. Raises ApiImportError."""
    return _run(lambda: _list_all_versions(connect), source, limit)


def _run(listing: Callable[[], Awaitable[T]], source: str, limit: float) -> T:
    """Run a listing within a time limit. Raises ApiImportError."""
    try:
        import mcp.client.client  # noqa: F401
    except ImportError:
        raise ApiImportError(
            "connecting to a server needs the `mcp` SDK, which is not installed", hint=INSTALL_HINT
        ) from None
    try:
        return asyncio.run(asyncio.wait_for(listing(), limit))
    except TimeoutError:
        raise ApiImportError(f"the server did not complete its lists within {limit:.0f} s", f"`{source}`") from None
    except ApiImportError:
        raise
    except Exception as error:
        raise ApiImportError(
            f"listing the tools failed: {_error_text(error)}", f"`{source}`", _connection_hint(source)
        ) from None


def _target(source: str) -> Any:
    from mcp.client.stdio import StdioServerParameters

    if is_url(source):
        return source
    words = _split_command(source)
    return StdioServerParameters(command=words[0], args=words[1:])


async def _list_offers(connect: Callable[[], Any]) -> tuple[ToolListings, Value]:
    others: dict[str, Any] = {}
    listed = await _list_all_versions(connect, others)
    return listed, {"tools": list(listed.newest), **others}


async def _list_all_versions(connect: Callable[[], Any], others: dict[str, Any] | None = None) -> ToolListings:
    """List the tools in the newest version of the protocol, and in the newest one with a handshake. Add the other lists
    of the newest version to `others`."""
    from mcp.client.client import Client
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS

    async with Client(connect()) as client:
        info, version = client.server_info, client.protocol_version
        listings = {version: await _list_tool_pages(client)}
        if others is not None:
            others |= await _list_others(client)
    notes: tuple[str, ...] = ()
    if version in MODERN_PROTOCOL_VERSIONS:
        try:
            async with Client(connect(), mode="legacy") as client:
                listings[client.protocol_version] = await _list_tool_pages(client)
        except ApiImportError:
            raise
        except Exception as error:
            notes = () if _refuses_handshake(error) else (_unlisted_versions_note(version, error),)
    return ToolListings(getattr(info, "name", "") or "", listings, notes)


def _refuses_handshake(error: BaseException) -> bool:
    """Return whether the server says that it does not support the versions of the protocol with a handshake."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import UNSUPPORTED_PROTOCOL_VERSION

    cause = _first_cause(error)
    return isinstance(cause, MCPError) and cause.error.code == UNSUPPORTED_PROTOCOL_VERSION


def _unlisted_versions_note(version: str, error: BaseException) -> str:
    why = printable(_error_text(error))
    return (
        f"the tools could not be listed in versions of MCP before {version}: {why}; if the server defines them "
        "differently there, clients of these versions cannot use them until they are reviewed"
    )


async def _list_tool_pages(client: Any) -> list[dict[str, Any]]:
    """Return the definitions without interpreting them, because the models of the SDK omit unknown members."""
    from mcp_types import ListToolsRequest, PaginatedRequestParams
    from pydantic import TypeAdapter

    tools: list[dict[str, Any]] = []
    cursor = None
    for _ in range(MAX_PAGES):
        request = ListToolsRequest(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
        page = await client.session.send_request(request, TypeAdapter(dict[str, Any]))
        tools += page["tools"]
        if len(tools) > MAX_LISTED_TOOLS:
            raise ApiImportError(f"more than {MAX_LISTED_TOOLS:,} tools")
        cursor = page.get("nextCursor")
        if not cursor:
            return tools
    raise ApiImportError(f"the list of tools has more than {MAX_PAGES} pages")


async def _list_others(client: Any) -> dict[str, Any]:
    offers = client.server_capabilities.model_dump(mode="json", by_alias=True, exclude_none=True)
    lists: dict[str, Any] = {"capabilities": offers}
    if "resources" in offers:
        lists["resources"] = await _all_pages(client.list_resources, "resources")
        lists["resourceTemplates"] = await _all_pages(client.list_resource_templates, "resource_templates")
    if "prompts" in offers:
        lists["prompts"] = await _all_pages(client.list_prompts, "prompts")
    return lists


async def _all_pages(list_page: Callable[..., Awaitable[Any]], member: str) -> list[Any]:
    items: list[Any] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await list_page(cursor=cursor)
        items += [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in getattr(page, member)]
        cursor = page.next_cursor
        if not cursor:
            return items
    raise ApiImportError(f"the list of {member.replace('_', ' ')} has more than {MAX_PAGES} pages")


def _split_command(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ApiImportError(f"the command cannot be split into words: {str(error).lower()}", f"`{command}`") from None
    if not words:
        raise ApiImportError("the command is empty", hint="name a URL, a file ending in `.json`, or a command")
    return words


def _first_cause(error: BaseException) -> BaseException:
    """Return the first cause, because exception groups have no message of their own."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _error_text(error: BaseException) -> str:
    error = _first_cause(error)
    return f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0][:300]


def _connection_hint(source: str) -> str:
    if is_url(source):
        return "check that the server is running, and that the URL ends in the path of its MCP endpoint, usually `/mcp`"
    if len(source.split()) == 1:
        return "a file name must end in `.json`; any other text is run as a command that speaks MCP over stdio"
    return (
        "the command must start a server that speaks MCP over stdio, and keep running: run it by itself to see why not"
    )
