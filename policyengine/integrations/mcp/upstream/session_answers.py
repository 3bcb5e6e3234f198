"""Answers of a legacy upstream server over HTTP: which message answers a request, and when a stream is opened again."""

from __future__ import annotations

from typing import TypeAlias

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.relay.line_streams import parse_message_line
from policyengine.integrations.mcp.upstream.answers import AnswerError

try:
    from mcp_types import (
        INTERNAL_ERROR,
        ErrorData,
        JSONRPCError,
        JSONRPCMessage,
        JSONRPCResponse,
        RequestId,
    )
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Answer: TypeAlias = JSONRPCResponse | JSONRPCError
MIN_RETRY_SECONDS, RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 1.0, 60.0
MAX_DOUBLINGS = 10


class SessionEndedError(Exception):
    """The error for a request in a session that the server no longer knows."""


def parse_answer(content: bytes) -> JSONRPCMessage:
    """Return the message in an answer. Raises AnswerError."""
    try:
        return parse_message_line(content)
    except ValueError:
        raise AnswerError("the upstream server sent something that is not a message") from None


def parse_signal(content: bytes) -> JSONRPCMessage | None:
    """Return the message in a text that is not the answer to a request; None if the text is not a message."""
    try:
        return parse_message_line(content)
    except ValueError:
        return None


def parse_error(content: bytes) -> JSONRPCError | None:
    """Return the error message of the protocol in a body; None if the body is not such a message."""
    message = parse_signal(content)
    return message if isinstance(message, JSONRPCError) else None


def match_answer(message: JSONRPCMessage, id: RequestId) -> Answer:
    """Return the message if it answers the request. An error may lack the ID. Raises AnswerError."""
    if isinstance(message, JSONRPCResponse) and same_id(message.id, id):
        return message
    if isinstance(message, JSONRPCError) and (message.id is None or same_id(message.id, id)):
        return JSONRPCError(jsonrpc="2.0", id=id, error=message.error)
    raise AnswerError("the upstream server sent something that is not an answer to the request")


def same_id(found: RequestId | None, id: RequestId) -> bool:
    return type(found) is type(id) and found == id


def error_answer(id: RequestId, message: str, code: int = INTERNAL_ERROR) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=id, error=ErrorData(code=code, message=message))


def is_temporary(status: int) -> bool:
    return status == 429 or status >= 500


def retry_seconds(wanted: float | None, failures: int) -> float:
    """Return the number of seconds before a stream is opened again: the pause that the server wants, within bounds, and
    longer after failures."""
    seconds = RETRY_SECONDS if wanted is None else max(wanted, MIN_RETRY_SECONDS)
    return min(seconds * float(1 << min(failures, MAX_DOUBLINGS)), MAX_RETRY_SECONDS)
