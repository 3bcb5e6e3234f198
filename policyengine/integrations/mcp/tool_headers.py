"""The `Mcp-Param-*` headers of tool calls: checked against the arguments, and written again from them.

The annotations `x-mcp-header` of a tool say which arguments its client repeats in headers. The gateway knows them from
each list of tools that passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import read_meta
from policyengine.integrations.mcp.upstream.calls import UpstreamCall, ignore_notification

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.inbound import (
        MCP_PARAM_HEADER_PREFIX,
        find_invalid_x_mcp_header,
        mcp_param_headers,
        validate_mcp_param_headers,
        x_mcp_header_map,
    )
    from mcp_types import HEADER_MISMATCH
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_TOOLS = 10_000
MAX_PAGES = 20  # of a list that the gateway requests itself
PREFIX = MCP_PARAM_HEADER_PREFIX.lower()


class ToolHeaders:
    """The input schemas of tools that have such annotations, and the names of all tools that were listed."""

    def __init__(self) -> None:
        self._listed: dict[str, Mapping[str, Any] | None] = {}

    def knows(self, name: object) -> bool:
        return name in self._listed

    def learn(self, result: Mapping[str, Any]) -> None:
        """Read the annotations of a list of tools."""
        tools = result.get("tools")
        for tool in tools if isinstance(tools, list) else []:
            name = tool.get("name") if isinstance(tool, Mapping) else None
            if isinstance(name, str) and (name in self._listed or len(self._listed) < MAX_TOOLS):
                schema = tool.get("inputSchema")
                is_valid = isinstance(schema, Mapping) and find_invalid_x_mcp_header(schema) is None
                self._listed[name] = schema if is_valid and x_mcp_header_map(schema) else None

    async def refresh(self, ask: Callable[[UpstreamCall], Awaitable[dict[str, Any]]], call: UpstreamCall) -> None:
        """List the tools for the client of a call, at most MAX_PAGES pages. Raises MCPError."""
        meta = {name: value for name, value in read_meta(call.params).items() if name != "progressToken"}
        params: dict[str, Any] = {"_meta": meta}
        for _ in range(MAX_PAGES):
            listing = replace(call, method="tools/list", params=params, notify=ignore_notification)
            result = await ask(listing)
            self.learn(result)
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return
            params = {"_meta": meta, "cursor": cursor}

    def write(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Return the headers of a call."""
        schema = self._listed.get(str(params.get("name")))
        arguments = params.get("arguments")
        if schema is None or not isinstance(arguments, Mapping):
            return {}
        return mcp_param_headers(x_mcp_header_map(schema), arguments)

    def check(self, params: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Compare the headers of a client with its arguments. Raises MCPError."""
        schema = self._listed.get(str(params.get("name")))
        arguments = params.get("arguments")
        rejection = (
            None
            if schema is None
            else validate_mcp_param_headers(schema, arguments if isinstance(arguments, Mapping) else {}, headers)
        )
        if rejection is not None:
            raise MCPError(rejection.code, rejection.message, rejection.data)


def read_param_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the `Mcp-Param-*` headers. Raises MCPError if one is repeated."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(PREFIX):
            if name in found:
                raise MCPError(HEADER_MISMATCH, f"the header {name[:80]} appears more than once")
            found[name] = value
    return found
