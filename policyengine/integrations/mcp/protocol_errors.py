"""Denials as errors of the protocol."""

from __future__ import annotations

from policyengine.install_hints import install_command
from policyengine.integrations.denial_messages import denial_data, format_denial
from policyengine.integrations.mcp.methods import ERROR_CODES
from policyengine.integrations.mcp.upstream.imitations import describe_foreign_error
from policyengine.runtime.decision import Decision

try:
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error


class DenialError(MCPError):
    """The error of a denied request. An upstream server cannot raise it."""


def denial_error(decision: Decision) -> MCPError:
    """Return the error of a denied request: the message for people, and data for programs, such as the binding of an
    approval."""
    return DenialError(ERROR_CODES[decision.outcome], format_denial(decision), denial_data(decision))


def input_denial_error(decision: Decision) -> MCPError:
    """Return the error of a request whose server asks its client for something that no policy allows."""
    return DenialError(ERROR_CODES[decision.outcome], format_input_denial(decision), denial_data(decision))


def mark_foreign_error(error: MCPError) -> MCPError:
    """Return the error of an upstream server with another code if it could be taken for a denial of the gateway."""
    if isinstance(error, DenialError):
        return error
    found = describe_foreign_error(error.error.code, error.error.message, error.error.data)
    return error if found is None else MCPError(INTERNAL_ERROR, *found)


def format_input_denial(decision: Decision) -> str:
    """Return the denial of a question of the server, for readers who would take it for the denial of the call."""
    return f"the server asked its client for input, which is {format_denial(decision)}"
