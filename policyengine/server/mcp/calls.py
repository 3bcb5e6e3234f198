"""Reads the call of an MCP request from its body or, if the server validates headers, from its headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine.http.body_facts import JSON
from policyengine.http.gateway_headers import header_error
from policyengine.http.gateway_omissions import HeaderValues
from policyengine.http.json_members import DECODER
from policyengine.integrations.mcp.unambiguous_messages import (
    AmbiguousMessageError,
    check_upstream_params,
    get_part,
    parse_message,
)
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import quote_input
from policyengine.server.mcp.header_values import (
    METHOD_HEADER,
    NAME_HEADER,
    SESSION_HEADER,
    VALIDATING_VERSIONS,
    VERSION_HEADER,
    McpHeaders,
    missing_header,
)

# The methods with a header `Mcp-Name`, and the parameter that this header repeats.
NAME_PARAMETERS: Mapping[str, str] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
SESSION_HINT = "list it in `hands_on_…` of `[gateway]` (docs/gateways.md, “MCP servers”); clients must not send it"


@dataclass(frozen=True, slots=True)
class McpCall:
    """A method with its parameters; `is_whole` means that all parameters are known; otherwise, only the name is
    known."""

    method: str
    params: Mapping[str, object]
    is_whole: bool


def read_headers_only(headers: McpHeaders, proved: frozenset[str]) -> McpCall:
    """Return the call that the headers state. `proved` are the methods whose `Mcp-Name` the server compares with its
    body, empty if it is not known to compare any header. Raises RequestError.
    """
    if headers.version is None:
        raise missing_header(VERSION_HEADER)
    if not headers.is_validated:
        why = "is older than the headers of MCP, or unknown: the server would not compare them with the body"
        raise header_error(VERSION_HEADER, why, f"use {' or '.join(sorted(VALIDATING_VERSIONS))}")
    if headers.has_session:
        why = "is not known to be absent; it belongs to older versions of MCP, whose servers ignore the other headers"
        raise header_error(SESSION_HEADER, why, SESSION_HINT)
    if not proved:
        raise RequestError(
            "headers", "the MCP server is not proved to compare its headers with its body",
            "the log of this server says why",
        )  # fmt: skip
    if headers.method is None:
        raise missing_header(METHOD_HEADER)
    parameter = NAME_PARAMETERS.get(headers.method)
    if parameter is None:
        return McpCall(headers.method, {}, False)
    if headers.name is None:
        raise missing_header(NAME_HEADER)
    if headers.method not in proved:
        raise header_error(NAME_HEADER, f"is not compared with the body of `{headers.method}` by the MCP server")
    return McpCall(headers.method, {parameter: headers.name}, False)


def read_body(headers: McpHeaders, given: HeaderValues, content: bytes) -> McpCall:
    """Return the call in a whole body. Raises RequestError if the body is ambiguous, or differs from the headers."""
    types = given.get("content-type", ())
    if len(types) != 1 or not JSON.fullmatch(types[0]) or "content-encoding" in given:
        raise RequestError("body", "the body of an MCP request must be JSON in UTF-8, without compression")
    try:
        tree = parse_message(content, DECODER)
        method, params = tree.get("method"), tree.get("params")
        if not isinstance(method, str):
            raise RequestError("body", "the body is not an MCP request: it has no method")
        if params is not None and not isinstance(params, Mapping):
            raise RequestError("body", "the parameters of the MCP request are not an object")
        known = check_upstream_params(params or {}, content)
    except AmbiguousMessageError as error:
        raise RequestError("body", str(error)) from None
    call = McpCall(method, known, True)
    check_agreement(headers, call)
    return call


def check_agreement(headers: McpHeaders, call: McpCall) -> None:
    """Check that the headers state what the body says. Raises RequestError."""
    parameter = NAME_PARAMETERS.get(call.method)
    version = get_part(call.params.get("_meta"), VERSION_KEY)
    if headers.is_validated or (headers.version is not None and version is not None):
        compare_header(VERSION_HEADER, headers.version, version)
    if headers.is_validated or headers.method is not None:
        compare_header(METHOD_HEADER, headers.method, call.method)
    if parameter is not None and (headers.is_validated or headers.name is not None):
        compare_header(NAME_HEADER, headers.name, call.params.get(parameter))


def compare_header(name: str, header: str | None, body: object) -> None:
    if header is None:
        raise missing_header(name)
    if header != body:
        raise header_error(name, f"is `{quote_input(header)}`, but the body says something else")
