"""Denials as errors of the protocol."""

from __future__ import annotations

from policyengine.install_hints import install_command
from policyengine.integrations.denial_messages import denial_data, format_denial
from policyengine.integrations.mcp.methods import ERROR_CODES
from policyengine.runtime.decision import Decision

try:
    from mcp.shared.exceptions import MCPError
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error


def denial_error(decision: Decision) -> MCPError:
    """Return the error of a denied request: the message for people, and data for programs, such as the binding of an
    approval."""
    return MCPError(ERROR_CODES[decision.outcome], format_denial(decision), denial_data(decision))


def input_denial_error(decision: Decision) -> MCPError:
    """Return the error of a request whose server asks its client for something that no policy allows."""
    return MCPError(ERROR_CODES[decision.outcome], format_input_denial(decision), denial_data(decision))


def format_input_denial(decision: Decision) -> str:
    """Return the denial of a question of the server, for readers who would take it for the denial of the call."""
    return f"the server asked its client for input, which is {format_denial(decision)}"
