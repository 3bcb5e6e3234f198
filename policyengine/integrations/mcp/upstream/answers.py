"""HTTP answers of upstream servers, whatever version of MCP they speak: their status, type and size."""

from __future__ import annotations

import logging

from policyengine.integrations.mcp.upstream.connections import AnswerHead, UpstreamConnection
from policyengine.runtime.format_values import format_value

CREDENTIALS_REFUSED = "the upstream server refuses the credentials of the gateway"
SERVER_FAILED = "the upstream server failed"
JSON, EVENT_STREAM = b"application/json", b"text/event-stream"
MAX_LOGGED_PLACE = 200
_LOG = logging.getLogger("policyengine")


class AnswerError(Exception):
    """The error for an answer that is not MCP, or that is too large. The message is for the client."""


def read_kind(head: AnswerHead) -> bytes:
    """Return the content type of an answer. Raises AnswerError if it is compressed, which was not asked for."""
    kind = b""
    for name, value in head.headers:
        match name:
            case b"content-type":
                kind = value.partition(b";")[0].strip().lower()
            case b"content-encoding" if value.lower() != b"identity":
                raise AnswerError("the answer of the upstream server is compressed")
    return kind


async def read_content(connection: UpstreamConnection, most: int) -> bytes:
    """Return the rest of an answer. Raises AnswerError and UpstreamConnectionError."""
    parts: list[bytes] = []
    size = 0
    while part := await connection.receive():
        size += len(part)
        if size > most:
            raise AnswerError("the answer of the upstream server is too large")
        parts.append(part)
    return b"".join(parts)


def check_status(status: int) -> None:
    """Check the HTTP status of an answer. Raises AnswerError if the server refused the gateway, or failed."""
    if status in (401, 403):
        raise AnswerError(f"{CREDENTIALS_REFUSED} (HTTP {status})")
    if status == 429 or status >= 500:
        raise AnswerError(f"{SERVER_FAILED}: HTTP {status}")


def unexpected_status(status: int) -> AnswerError:
    """Return the error for an HTTP status that is not part of MCP, such as that of a redirect."""
    hint = "; the URL of `--upstream` may lack its path, such as `/mcp`" if status in (404, 405) else ""
    return AnswerError(f"the upstream server answered with HTTP {status}, which is not an answer of MCP{hint}")


class RedirectLog:
    """Logs where the server redirects, once. No redirect is followed: the gateway sends its credentials to the URL that
    was configured."""

    def __init__(self) -> None:
        self._is_logged = False

    def note(self, head: AnswerHead) -> None:
        place = head.value(b"location")
        if 300 <= head.status < 400 and place is not None and not self._is_logged:
            self._is_logged = True
            shown = format_value(place[:MAX_LOGGED_PLACE].decode("latin-1"))
            _LOG.warning(
                "the upstream server redirects to %s: set `--upstream` to that URL if it is the intended server", shown
            )
