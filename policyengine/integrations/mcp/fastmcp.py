"""Middleware for FastMCP servers: `FastMCP("billing", middleware=[PolicyMiddleware(engine, server="billing")])`.

It works as `mcp.sdk` does, with the hooks and errors of FastMCP: a denied call is a tool error, which a model can read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast

from policyengine.install_hints import install_command
from policyengine.integrations.credentials import presented
from policyengine.integrations.denial_messages import format_denial
from policyengine.integrations.enforcement_point import (
    NO_DUTIES,
    UNKNOWN_CALLER,
    Duties,
    Facts,
    Identify,
    PolicyDecisionPoint,
    decide_and_meet,
    identify_caller,
    make_denial,
    prove_credentials,
    report_outcome,
)
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions, InputRound
from policyengine.integrations.mcp.confirm_results import confirm_result
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.fastmcp_requests import (
    call_outcome,
    caller_of,
    interim_result_of,
    mapping_of,
    message_params,
    read_params,
)
from policyengine.integrations.mcp.fastmcp_tools import OWN_TOOL_LIST, list_own_tools, list_pinned, names_version
from policyengine.integrations.mcp.http_exchange import note_denial, proved_caller
from policyengine.integrations.mcp.methods import (
    CLIENT_NOTIFICATIONS,
    DECIDED_METHODS,
    LIST_METHODS,
    METHOD_NOT_FOUND,
    UNDECIDED_METHODS,
    build_mcp_question,
    evaluate_use,
    filter_visible,
    refuse_alias,
)
from policyengine.integrations.mcp.pinned_tools import PinnedSession, ToolPins, with_tool_facts
from policyengine.integrations.mcp.policy_session import PolicySession
from policyengine.integrations.mcp.protocol_errors import denial_error
from policyengine.integrations.mcp.schema_tools import SchemaTools
from policyengine.integrations.mcp.session_caller import interim_result
from policyengine.integrations.mcp.task_requests import check_input, check_named_entities, to_wire, use_task
from policyengine.integrations.mcp.tasks import TASK_LIST, TASK_METHODS, TaskDesk, TaskTable
from policyengine.integrations.token_facts import get_issuers, read_token_facts
from policyengine.runtime.decision import Decision, Gate, Outcome
from policyengine.tool_pins.listed_tools import ListedTool

try:
    from fastmcp.exceptions import AuthorizationError
    from fastmcp.prompts.base import PromptResult
    from fastmcp.resources.base import ResourceResult
    from fastmcp.server.dependencies import bind_request_context, get_access_token, get_http_request
    from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
    from fastmcp.tools.base import InputRequiredToolResult, ToolResult
    from mcp.shared.exceptions import MCPError
    from mcp_types import TextContent
except ImportError as error:
    raise ImportError(f"FastMCP is not installed; {install_command('fastmcp')}") from error

Item = TypeVar("Item")
Came = TypeVar("Came")


class McpDeniedError(AuthorizationError):
    """A denied call: its message for the caller, and the decision for this process."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(format_denial(decision))
        self.decision = decision


def by_token(issuers: Mapping[str, str], issuer: str | None = None) -> Identify[Any]:
    """Identify the caller by the access token that the server verified: its client, subject, scopes and issuer.
    `issuers` maps URLs to issuers of the policy; `issuer` is the issuer of tokens that name none.
    """

    def identify(context: object) -> Facts | None:
        token = get_access_token()
        return None if token is None else read_token_facts(token, issuers, issuer)

    return identify


def by_credentials(public_url: str | None = None) -> Identify[Any]:
    """Identify the caller by the raw credentials of the HTTP request, for an engine that verifies them; over stdio
    there is no caller. `public_url` is the URL at which clients reach the server through a proxy that terminates TLS,
    without the path of the endpoint."""

    def identify(context: object) -> Facts | None:
        try:
            request = get_http_request()
            return proved_caller(request) or presented(request, public_url=public_url)
        except RuntimeError:  # no HTTP request
            return None

    return identify


def always(facts: Facts) -> Identify[Any]:
    """Identify the caller by fixed facts: the user who started this process and uses it over stdio."""
    return lambda context: facts


class PolicyMiddleware(Middleware):
    """MCP middleware.

    `server` is the server's name in policies: `TOOL billing/refund` is its tool `refund`. `identify` returns facts
    about the caller that the server verified, in the form that `/decide` accepts; None for an unknown caller, to whom
    everything is denied. The default is `by_token`. `also` lists further methods that pass without a decision, such as
    `logging/setLevel`. A `tools/call` that a person must approve waits for the approval for at most `wait_for_approval`
    seconds; `elicit` says how the client may ask the user of the request, and `approval_pages` is the URL of the
    console with the pages of approvals. `tasks` is the table of tasks to share with other middleware. With `pins`, the
    path of a pin file, only tools whose definition was reviewed are shown and called.
    """

    def __init__(
        self,
        decides: PolicyDecisionPoint,
        *,
        server: str,
        identify: Identify[MiddlewareContext[Any]] | None = None,
        duties: Duties = NO_DUTIES,
        also: Collection[str] = (),
        wait_for_approval: float = 0.0,
        elicit: ElicitMode | str = ElicitMode.OFF,
        approval_pages: str | None = None,
        tasks: TaskTable | None = None,
        pins: ToolPins | Path | str | None = None,
    ) -> None:
        self._decides, self._server, self._duties = decides, server, duties
        self._tasks = TaskDesk(decides, TaskTable() if tasks is None else tasks)
        self._client = ClientMessageDecider(decides, server)
        self._pins = ToolPins.of(pins)
        self._pinned = None if self._pins is None else PinnedSession(self._pins, server, decides)
        self._confirms = ConfirmHandler(decides, ConfirmOptions(wait_for_approval, ElicitMode(elicit), approval_pages))
        self._with_schema = SchemaTools()
        self._identify = identify or by_token(get_issuers(decides))
        self._passing = UNDECIDED_METHODS | frozenset(also)

    # ── Checks of every request ───────────────────────────────────────────────────────────────

    async def on_notification(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        passes = context.method in CLIENT_NOTIFICATIONS or context.method in self._passing
        return await call_next(context) if passes else None

    async def on_request(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        method, params = context.method or "", context.message
        if method in self._passing or method in LIST_METHODS:
            return await call_next(context)
        if method == "resources/subscribe":
            return await self._subscribed(context, call_next)
        if method in DECIDED_METHODS:  # its hook decides it, with the final name and arguments
            return await call_next(context)
        if method in ("completion/complete", "subscriptions/listen"):
            facts, clear = await self._facts(context, denial_error), read_params(mapping_of(params))
            await check_named_entities(self._decides, self._tasks, self._server, method, clear, facts)
            return await call_next(context)
        if method in TASK_METHODS or method == TASK_LIST:
            facts, clear = await self._facts(context, denial_error), read_params(mapping_of(params))
            return await use_task(self._tasks, self._client, method, clear, facts, lambda: call_next(context))
        raise MCPError(METHOD_NOT_FOUND, f"`{method[:80]}` is denied: policies do not support this method", method[:80])

    async def _subscribed(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        params = mapping_of(context.message)
        return await self._called(context, "resources/subscribe", params, lambda: call_next(context), denial_error)

    # ── Calls ─────────────────────────────────────────────────────────────────────────────────

    async def on_call_tool(self, context: MiddlewareContext[Any], call_next: CallNext[Any, ToolResult]) -> ToolResult:
        params = {"name": context.message.name, "arguments": context.message.arguments}
        return await self._called(context, "tools/call", params, lambda: call_next(context), McpDeniedError)

    async def _reviewed(self, context: MiddlewareContext[Any], decision: Decision | None = None) -> ListedTool | None:
        """Return the tool of a call as this server lists it; None without pins. A `decision` that allowed the call is
        reported as failed if the tool must be reviewed first. Raises McpDeniedError."""
        if self._pinned is None:
            return None
        if names_version(context.message):
            found: ListedTool | Decision = make_denial("only the listed version of a tool is reviewed", Gate.DEFAULT)
        else:
            found = await self._pinned.find(
                context.message.name, lambda _: list_own_tools(self, context), {}, nullcontext
            )
        if isinstance(found, ListedTool):
            return found
        if decision is not None:
            await report_outcome(self._decides, decision, 500)
        raise McpDeniedError(found)

    async def check_resource_access(self, context: MiddlewareContext[Any]) -> None:
        """Decide for FastMCP whether to describe a resource without reading it. Raises MCPError if the decision is not
        an allow.
        """
        facts = await self._facts(context, denial_error)
        decision = await evaluate_use(
            self._decides, "resources/read", {"uri": str(context.message.uri)}, self._server, facts
        )
        if not decision.allowed:
            raise denial_error(decision)

    async def on_read_resource(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, ResourceResult]
    ) -> ResourceResult:
        params = {"uri": str(context.message.uri)}
        return await self._called(context, "resources/read", params, lambda: call_next(context), denial_error)

    async def on_get_prompt(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, PromptResult]
    ) -> PromptResult:
        params = {"name": context.message.name, "arguments": context.message.arguments}
        return await self._called(context, "prompts/get", params, lambda: call_next(context), denial_error)

    async def _called(
        self,
        context: MiddlewareContext[Any],
        method: str,
        params: Mapping[str, Any],
        go_on: Callable[[], Awaitable[Came]],
        error: Callable[[Decision], Exception],
    ) -> Came:
        facts, clear = await self._facts(context, error), read_params(params)
        if (no := refuse_alias(method, clear)) is not None:
            raise error(no)
        tool = await self._reviewed(context) if method == "tools/call" else None
        question = with_tool_facts(build_mcp_question(method, clear, self._server, facts), tool)
        decision = await decide_and_meet(self._decides, question, self._duties)
        if method == "tools/call":
            settled = await self._confirms.settle(decision, question, self._duties, caller_of(context))
            if isinstance(settled, InputRound):
                return cast(Came, InputRequiredToolResult(interim_result(settled)))
            if settled.outcome is Outcome.CONFIRM:
                return cast(Came, self._confirm_result(settled, params.get("name")))
            if settled is not decision and settled.allowed:  # it waited, and the tool may have changed meanwhile
                await self._reviewed(context, settled)
            decision = settled
        if not decision.allowed:
            if (caller := caller_of(context)) is not None:
                await note_denial(caller.request, caller.request_id, self._decides, question, decision)
            raise error(decision)
        began = perf_counter()
        try:
            with self._guarded(context, facts):
                result = await go_on()
            await check_input(self._client, interim_result_of(result), facts)
        except BaseException:
            await report_outcome(self._decides, decision, 500, began)
            raise
        created = None if isinstance(result, ToolResult) else to_wire(result)  # an extension may create a task
        if not await self._tasks.register(question, message_params(context), decision, created):
            await report_outcome(self._decides, decision, *call_outcome(result, began))
        return result

    def _guarded(self, context: MiddlewareContext[Any], facts: Facts) -> AbstractContextManager[object]:
        """While the server handles a call, let it ask the client only what a policy allows."""
        server = context.fastmcp_context
        known = None if server is None else server.request_context
        if known is None:  # a call outside of a request has no client
            return nullcontext()
        call = known._srctx
        return bind_request_context(replace(call, session=PolicySession(known.session, self._client, facts)))

    def _confirm_result(self, decision: Decision, name: object) -> ToolResult:
        found = confirm_result(decision, self._confirms.options.pages, structured=name not in self._with_schema)
        texts = [TextContent(type="text", text=one["text"]) for one in found["content"]]
        return ToolResult(texts, found.get("structuredContent"), found["_meta"], is_error=True)

    # ── Lists ─────────────────────────────────────────────────────────────────────────────────

    async def on_list_tools(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]
    ) -> Sequence[Any]:
        if (own := OWN_TOOL_LIST.get()) is not None and own.owner is self:
            own.tools = await call_next(context)
            return own.tools
        listed = await self._listed("tools/list", context, call_next, lambda tool: tool.name)
        self._with_schema.learn(tool.name for tool in listed if tool.output_schema is not None)
        return listed

    async def on_list_resources(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]
    ) -> Sequence[Any]:
        return await self._listed("resources/list", context, call_next, lambda resource: str(resource.uri))

    async def on_list_resource_templates(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]
    ) -> Sequence[Any]:
        return await self._listed("resources/templates/list", context, call_next, lambda one: one.uri_template)

    async def on_list_prompts(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]
    ) -> Sequence[Any]:
        return await self._listed("prompts/list", context, call_next, lambda prompt: prompt.name)

    async def _listed(
        self,
        method: str,
        context: MiddlewareContext[Any],
        call_next: CallNext[Any, Sequence[Item]],
        named: Callable[[Item], object],
    ) -> Sequence[Item]:
        facts = await self._facts(context, denial_error)
        items = list(await call_next(context))
        tools: Sequence[ListedTool | None] | None = None
        if method == "tools/list" and self._pinned is not None:
            admitted = await list_pinned(self._pinned, items)
            items = [item for item in items if named(item) in admitted]
            tools = [admitted[named(item)] for item in items]
        names = [named(item) for item in items]
        return await filter_visible(self._decides, LIST_METHODS[method], items, names, self._server, facts, tools)

    async def _facts(self, context: MiddlewareContext[Any], error: Callable[[Decision], Exception]) -> Facts:
        facts = await identify_caller(self._identify, context)
        if facts is None:
            raise error(make_denial(UNKNOWN_CALLER, Gate.IDENTITY))
        return await prove_credentials(self._decides, facts)
