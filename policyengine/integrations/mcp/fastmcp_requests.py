"""Requests and results of FastMCP as the middleware reads them: the client, the parameters, the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.policy_session import without_policy
from policyengine.integrations.mcp.session_caller import SessionCaller
from policyengine.integrations.mcp.unambiguous_messages import (
    AmbiguousMessageError,
    Params,
    check_local_params,
    get_raw_message,
)

try:
    from fastmcp.prompts.base import InputRequiredPromptResult, PromptResult
    from fastmcp.resources.base import InputRequiredResourceResult, ResourceResult
    from fastmcp.server.dependencies import get_http_request
    from fastmcp.server.middleware import MiddlewareContext
    from fastmcp.tools.base import InputRequiredToolResult, ToolResult
    from mcp.shared.exceptions import MCPError
    from mcp_types import INVALID_REQUEST
except ImportError as error:
    raise ImportError(f"FastMCP is not installed; {install_command('fastmcp')}") from error

INTERIM_RESULTS = (InputRequiredToolResult, InputRequiredResourceResult, InputRequiredPromptResult)


def caller_of(context: MiddlewareContext[Any]) -> SessionCaller | None:
    """Return the client of a call; None outside of a request, such as in a background task."""
    server = context.fastmcp_context
    known = None if server is None else server.request_context
    if server is None or known is None:
        return None
    answers = {
        key: answer.model_dump(by_alias=True, exclude_none=True)
        for key, answer in (server.input_responses or {}).items()
    }
    return SessionCaller(without_policy(known.session), known.request_id, known.request, answers)


def mapping_of(params: object) -> Mapping[str, Any]:
    return params if isinstance(params, Mapping) else {}


def message_params(context: MiddlewareContext[Any]) -> Mapping[str, Any]:
    """Return the parameters of the request that carried a message, with its `_meta`."""
    server = context.fastmcp_context
    known = None if server is None else server.request_context
    return {} if known is None else {"_meta": mapping_of(known.meta)}


def interim_result_of(result: object) -> object:
    """Return the result that asks the client for input, or what an extension returned in place of a result."""
    if isinstance(result, INTERIM_RESULTS):
        return result.input_required
    return None if isinstance(result, ToolResult | ResourceResult | PromptResult) else result


def read_params(params: Params) -> Params:
    """Return the parameters as parsed; over HTTP, the raw message shows which names are repeated. Raises MCPError."""
    try:
        return check_local_params(params, get_raw_message(get_http_request()))
    except RuntimeError:  # not over HTTP
        return params
    except AmbiguousMessageError as error:
        raise MCPError(INVALID_REQUEST, str(error)) from None


def call_outcome(result: object, began: float) -> tuple[int, float, Facts | None]:
    """Return the status, start and output of a call. A call that asks its caller for more input is not finished: its
    next round is decided again.
    """
    if isinstance(result, INTERIM_RESULTS):
        return 202, began, None
    if not isinstance(result, ToolResult):
        return 200, began, None
    return 500 if result.is_error else 200, began, result.structured_content
