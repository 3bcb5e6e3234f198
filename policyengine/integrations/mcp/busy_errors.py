"""The errors of requests for which the gateway has no room, with their statuses over HTTP."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import Field

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import era_error

try:
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR, ErrorData
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

CALLER_BUSY, SESSIONS_BUSY = "caller_busy", "sessions_busy"
STATUSES = {CALLER_BUSY: HTTPStatus.TOO_MANY_REQUESTS, SESSIONS_BUSY: HTTPStatus.SERVICE_UNAVAILABLE}


class BusyErrorData(ErrorData):
    """An error with a status over HTTP. Only the gateway makes it: no member of a message sets the status, so an error
    of an upstream server has none."""

    status: int = Field(exclude=True)


def busy_error(kind: str, message: str, hint: str) -> MCPError:
    """Return the error of this kind."""
    found = era_error(kind, message, hint, INTERNAL_ERROR)
    found.error = BusyErrorData(**found.error.model_dump(), status=STATUSES[kind])
    return found
