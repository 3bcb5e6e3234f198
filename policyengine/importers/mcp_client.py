"""Lists what an MCP server offers, over streamable HTTP or by starting a command."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from typing import Any

from policyengine.importers.documents import Value
from policyengine.importers.errors import ApiImportError
from policyengine.importers.fetch import is_url
from policyengine.install_hints import install_command

INSTALL_HINT = f"{install_command('mcp')}, or save the result of `tools/list` as JSON"
TIMEOUT_SECONDS = 30.0
MAX_PAGES = 200


def list_offers(source: str) -> tuple[Value, str]:
    """Return the tools, resources, templates and prompts as JSON values, and the server's own name. Raises
    ApiImportError."""
    try:
        from mcp.client.client import Client
        from mcp.client.stdio import StdioServerParameters
    except ImportError:
        raise ApiImportError(
            "connecting to a server needs the `mcp` SDK, which is not installed", hint=INSTALL_HINT
        ) from None
    target: Any = source
    if not is_url(source):
        words = _split_command(source)
        target = StdioServerParameters(command=words[0], args=words[1:])
    try:
        return asyncio.run(asyncio.wait_for(_list_all(Client(target)), TIMEOUT_SECONDS))
    except TimeoutError:
        raise ApiImportError(f"no complete response within {TIMEOUT_SECONDS:.0f} s", f"`{source}`") from None
    except ApiImportError:
        raise
    except Exception as error:
        raise ApiImportError(
            f"listing the tools failed: {_error_text(error)}", f"`{source}`", _connection_hint(source)
        ) from None


async def _list_all(client: Any) -> tuple[Value, str]:
    async with client:
        offers = client.server_capabilities.model_dump(mode="json", by_alias=True, exclude_none=True)
        lists: dict[str, Any] = {"tools": await _all_pages(client.list_tools, "tools")}
        if "resources" in offers:
            lists["resources"] = await _all_pages(client.list_resources, "resources")
            lists["resourceTemplates"] = await _all_pages(client.list_resource_templates, "resource_templates")
        if "prompts" in offers:
            lists["prompts"] = await _all_pages(client.list_prompts, "prompts")
        info = getattr(client, "server_info", None)
        return {**lists, "capabilities": offers}, getattr(info, "name", "") or ""


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
        raise ApiImportError(f"this is not a command: {str(error).lower()}", f"`{command}`") from None
    if not words:
        raise ApiImportError("the command is empty", hint="name a URL, a file ending in `.json`, or a command")
    return words


def _error_text(error: BaseException) -> str:
    """Return the text of the first cause, because exception groups have no message of their own."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0][:300]


def _connection_hint(source: str) -> str:
    if is_url(source):
        return "is the server running, and does the URL end in the path of its MCP endpoint, usually `/mcp`?"
    return (
        "the name of a file must end in `.json`; anything else is run as a command that speaks MCP on stdin and stdout"
    )
