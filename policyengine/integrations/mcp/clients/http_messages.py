"""Messages of MCP clients in HTTP requests: which kinds of answers a client accepts, and the message in a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import Scope

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.http_refusals import HttpRefusal
from policyengine.integrations.mcp.relay.line_streams import parse_message_line

try:
    import pydantic_core
    from mcp_types import INVALID_REQUEST, PARSE_ERROR
    from mcp_types.jsonrpc import JSONRPCMessage, JSONRPCNotification
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

ACCEPTED = b"application/json, text/event-stream"  # as the SDKs write it
JSON_TYPE, EVENT_TYPE = "application/json", "text/event-stream"
NOT_ACCEPTABLE = HttpRefusal(406, f"accept both `{JSON_TYPE}` and `{EVENT_TYPE}`", INVALID_REQUEST)
NOT_JSON_TYPE = HttpRefusal(415, f"the content type must be `{JSON_TYPE}`", INVALID_REQUEST)
NOT_JSON = HttpRefusal(400, "the body is not JSON", PARSE_ERROR)
NOT_A_MESSAGE = HttpRefusal(400, "the body must be one JSON-RPC message", INVALID_REQUEST)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header of a name."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def head_refusal(scope: Scope) -> HttpRefusal | None:
    """Return the refusal of a POST whose client accepts too little, or sends something other than JSON; None if there
    is no reason to refuse it."""
    accepted = content = b""
    for name, value in scope["headers"]:
        if name == b"accept":
            accepted = b"%b, %b" % (accepted, value) if accepted else value
        elif name == b"content-type":
            content = content or value
    if accepted != ACCEPTED:
        kinds = read_kinds(accepted)
        if kinds.isdisjoint((JSON_TYPE, "application/*", "*/*")) or kinds.isdisjoint((EVENT_TYPE, "text/*", "*/*")):
            return NOT_ACCEPTABLE
    return None if content == b"application/json" or read_kinds(content) == {JSON_TYPE} else NOT_JSON_TYPE


def accepts_events(scope: Scope) -> bool:
    """Return whether a client accepts event streams."""
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return not read_kinds(accepted).isdisjoint((EVENT_TYPE, "text/*", "*/*"))


def read_kinds(value: bytes) -> set[str]:
    """Return the media types in a header, without their parameters."""
    return {part.partition(";")[0].strip().lower() for part in value.decode("latin-1").split(",")}


def read_message(body: bytes) -> JSONRPCMessage | HttpRefusal:
    """Return the message in the body of a legacy request, or the refusal of the request."""
    try:
        message = parse_message_line(body)
    except ValueError:
        return NOT_JSON if decode_body(body) is None else NOT_A_MESSAGE
    if isinstance(message, JSONRPCNotification):
        members = decode_body(body)  # a notification has no ID, not even one that is not valid
        if not isinstance(members, Mapping) or "id" in members:
            return NOT_A_MESSAGE
    return message


def decode_body(body: bytes) -> Any:
    """Return the JSON of a body; None if the body is not JSON, or nested too deep."""
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
