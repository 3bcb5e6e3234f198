"""Middleware for servers of the `mcp` SDK: `MCPServer(…, middleware=[PolicyMiddleware(engine, server="billing")])`.

It handles every request of a client: calls are decided with their arguments, lists contain only items that the caller
may use, and methods that policies do not support are denied. Notifications, and methods such as `initialize` and `ping`
(UNDECIDED_METHODS), pass without a decision.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

from starlette.requests import HTTPConnection

from policyengine.install_hints import install_command
from policyengine.integrations.credentials import presented
from policyengine.integrations.denial_messages import format_denial
from policyengine.integrations.enforcement_point import (
    NO_DUTIES,
    UNKNOWN_CALLER,
    Duties,
    Facts,
    FixedCaller,
    Identify,
    PolicyDecisionPoint,
    decide_and_meet,
    identify_caller,
    make_denial,
    prove_credentials,
    report_outcome,
)
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions, InputRound, McpCaller
from policyengine.integrations.mcp.confirm_results import confirm_result
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.elicitation import caller_identity, without_own_answers
from policyengine.integrations.mcp.http_exchange import note_denial, proved_caller
from policyengine.integrations.mcp.methods import (
    CLIENT_NOTIFICATIONS,
    DECIDED_METHODS,
    LIST_METHODS,
    METHOD_NOT_FOUND,
    UNDECIDED_METHODS,
    McpListMethod,
    build_mcp_question,
    evaluate_item,
    filter_visible,
    refuse_alias,
)
from policyengine.integrations.mcp.pinned_tools import (
    UNREADABLE,
    ListingError,
    PinnedSession,
    ToolPins,
    listing_params,
    with_tool_facts,
)
from policyengine.integrations.mcp.policy_session import PolicySession
from policyengine.integrations.mcp.protocol_errors import denial_error as denial_error
from policyengine.integrations.mcp.relay.direct_calls import CallDecision
from policyengine.integrations.mcp.schema_tools import SchemaTools
from policyengine.integrations.mcp.session_caller import SessionCaller, interim_result
from policyengine.integrations.mcp.task_requests import check_input, check_named_entities, to_wire, use_task
from policyengine.integrations.mcp.tasks import TASK_LIST, TASK_METHODS, TaskDesk, TaskTable
from policyengine.integrations.mcp.unambiguous_messages import (
    AmbiguousMessageError,
    Params,
    check_local_params,
    get_raw_message,
)
from policyengine.integrations.token_facts import get_issuers, read_token_facts
from policyengine.runtime.decision import Decision, Gate, Outcome
from policyengine.runtime.format_values import format_value
from policyengine.tool_pins.listed_tools import ListedTool
from policyengine.tool_pins.pin_file import PinFileError

try:
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, CallToolResult
    from mcp_types.methods import is_input_required
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
Result: TypeAlias = dict[str, Any]
_LOG = logging.getLogger("policyengine")


def by_token(issuers: Mapping[str, str], issuer: str | None = None) -> Identify[RequestContext]:
    """Identify the caller by the access token that the server verified: its client, subject, scopes and issuer.

    `issuers` maps URLs to issuers of the policy; `issuer` is the issuer of tokens that name none. Without a token the
    caller is unknown: over stdio and in process, use `always`.
    """

    def identify(context: RequestContext) -> Facts | None:
        scope = getattr(context.request, "scope", None)
        user = scope.get("user") if isinstance(scope, Mapping) else None
        return read_token_facts(user.access_token, issuers, issuer) if isinstance(user, AuthenticatedUser) else None

    return identify


def by_credentials(public_url: str | None = None) -> Identify[RequestContext]:
    """Identify the caller by the raw credentials of the HTTP request, for an engine that verifies them; over stdio
    there is no caller. `public_url` is the URL at which clients reach the server through a proxy that terminates TLS,
    without the path of the endpoint."""

    def identify(context: RequestContext) -> Facts | None:
        request = context.request
        if not isinstance(request, HTTPConnection):
            return None
        return proved_caller(request) or presented(request, public_url=public_url)

    return identify


def always(facts: Facts) -> Identify[Any]:
    """Identify the caller by fixed facts: the user who started this process and uses it over stdio."""
    return FixedCaller(facts)


class PolicyMiddleware:
    """MCP middleware.

    `server` is the server's name in policies: `TOOL billing/refund` is its tool `refund`. `identify` returns facts
    about the caller that the server verified, in the form that `/decide` accepts; None for an unknown caller, to whom
    everything is denied. The default is `by_token`. `also` lists further methods that pass without a decision, such as
    `logging/setLevel`. A `tools/call` that a person must approve waits for the approval for at most `wait_for_approval`
    seconds; `elicit` says how the client may ask the user of the request, and `approval_pages` is the URL of the
    console with the pages of approvals. `tasks` is the table of tasks to share with other middleware. With `pins`, the
    path of a pin file, only tools whose definition was reviewed are shown and called.
    """

    params = staticmethod(check_local_params)

    def __init__(
        self,
        decides: PolicyDecisionPoint,
        *,
        server: str,
        identify: Identify[RequestContext] | None = None,
        duties: Duties = NO_DUTIES,
        also: Collection[str] = (),
        wait_for_approval: float = 0.0,
        elicit: ElicitMode | str = ElicitMode.OFF,
        approval_pages: str | None = None,
        tasks: TaskTable | None = None,
        pins: ToolPins | Path | str | None = None,
    ) -> None:
        self._decides, self._server, self._duties = decides, server, duties
        self.tasks = TaskDesk(decides, TaskTable() if tasks is None else tasks)
        self.client_messages = ClientMessageDecider(decides, server)
        self._pins = ToolPins.of(pins)
        self._pinned = None if self._pins is None else PinnedSession(self._pins, server, decides)
        self._confirms = ConfirmHandler(decides, ConfirmOptions(wait_for_approval, ElicitMode(elicit), approval_pages))
        self._with_schema = SchemaTools()
        self._identify = identify or by_token(get_issuers(decides))
        self._passing = UNDECIDED_METHODS | frozenset(also)
        self._warned = False

    async def __call__(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.method in self._passing:
            return await call_next(ctx)
        if ctx.request_id is None:
            return await call_next(ctx) if ctx.method in CLIENT_NOTIFICATIONS else None
        if ctx.method in DECIDED_METHODS:
            return await self._called(ctx, call_next)
        if (listing := LIST_METHODS.get(ctx.method)) is not None:
            return await self._listed(ctx, call_next, listing)
        if ctx.method in ("completion/complete", "subscriptions/listen"):
            return await self._several(ctx, call_next)
        if ctx.method in TASK_METHODS or ctx.method == TASK_LIST:
            facts, params = await self.facts(ctx), self._clear_params(ctx)
            return await use_task(self.tasks, self.client_messages, ctx.method, params, facts, lambda: call_next(ctx))
        raise MCPError(
            METHOD_NOT_FOUND, f"`{ctx.method[:80]}` is denied: policies do not support this method", ctx.method[:80]
        )

    async def _called(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        params = self._clear_params(ctx)
        if (no := refuse_alias(ctx.method, params)) is not None:
            raise denial_error(no)
        facts = await self.facts(ctx)
        tool = await self._reviewed(ctx, call_next, facts)
        asked = with_tool_facts(build_mcp_question(ctx.method, params, self._server, facts), tool)
        decision = await decide_and_meet(self._decides, asked, self._duties)
        return await self.resume(ctx, call_next, CallDecision(params, facts, lambda: asked, decision))

    async def resume(
        self, ctx: RequestContext, call_next: CallNext, decided: CallDecision, began: float | None = None
    ) -> HandlerResult:
        """Go on with a decided request; `began` is the time of `perf_counter` at which the request was sent, if it was
        sent already."""
        params, facts, decision = decided.params, decided.facts, decided.decision
        asked = decided.question
        if ctx.method == "tools/call":
            caller = self.caller(ctx)
            settled = await self._confirms.settle(decision, asked, self._duties, caller)
            if isinstance(settled, InputRound):
                return interim_result(settled)
            if settled.outcome is Outcome.CONFIRM:
                structured = params.get("name") not in self._with_schema
                return self.answer(confirm_result(settled, self._confirms.options.pages, structured=structured))
            if settled is not decision and settled.allowed:  # it waited, and the tool may have changed meanwhile
                await self._reviewed(ctx, call_next, facts, settled)
            decision, ctx = settled, without_answers(ctx)
        if not decision.allowed:
            await note_denial(ctx.request, ctx.request_id, self._decides, asked, decision)
            raise denial_error(decision)
        began = perf_counter() if began is None else began
        try:
            result = await call_next(self.guard(ctx, facts))
            await self.check_result(ctx, result, facts)
        except BaseException:
            await report_outcome(self._decides, decision, 500, began)
            raise
        if ctx.method != "tools/call" or not await self.tasks.register(asked, params, decision, to_wire(result)):
            await report_outcome(self._decides, decision, *_call_outcome(result, began))
        return result

    async def check_result(self, ctx: RequestContext, result: HandlerResult, facts: Facts) -> None:
        """Check what a result asks of the client. Raises MCPError."""
        await check_input(self.client_messages, result, facts)

    def guard(self, ctx: RequestContext, facts: Facts) -> RequestContext:
        """Return the context for the server, which may ask the client only what a policy allows."""
        return replace(ctx, session=PolicySession(ctx.session, self.client_messages, facts))

    def answer(self, result: Result) -> HandlerResult:
        """Return the result of a call in the form that the SDK encodes for the version of the protocol."""
        return CallToolResult.model_validate(result, by_name=False)

    def caller(self, ctx: RequestContext) -> McpCaller | None:
        """Return the client of a call, for progress and questions to its user."""
        responses = (ctx.params or {}).get("inputResponses")
        answers = responses if isinstance(responses, Mapping) else {}
        return SessionCaller(ctx.session, ctx.request_id, ctx.request, answers)

    async def _listed(self, ctx: RequestContext, call_next: CallNext, listing: McpListMethod) -> HandlerResult:
        facts = await self.facts(ctx)
        result, tools = await self._list(ctx, call_next)
        items = result.get(listing.items) if isinstance(result, dict) else None
        if not isinstance(result, dict) or not isinstance(items, list):
            raise MCPError(INTERNAL_ERROR, "the server's list is malformed and is not returned")
        names = [one.get(listing.name) if isinstance(one, dict) else None for one in items]
        seen = await filter_visible(self._decides, listing, items, names, self._server, facts, tools)
        if items and not seen:
            await self._warn(listing, names[0], facts, tools[0] if tools else None)
        if ctx.method == "tools/list":
            self._with_schema.learn(
                name
                for name, item in zip(names, items, strict=True)
                if isinstance(name, str) and item.get("outputSchema") is not None
            )
        private = {"cacheScope": "private"} if "cacheScope" in result else {}  # another caller may see another list
        return {**result, listing.items: seen, **private}

    async def _list(
        self, ctx: RequestContext, call_next: CallNext
    ) -> tuple[HandlerResult, Sequence[ListedTool | None] | None]:
        """Return the server's list; of tools with pins, only those that may be shown, and their definitions. Raises
        MCPError."""
        if self._pinned is None or ctx.method != "tools/list":
            return await call_next(ctx), None
        if (ctx.params or {}).get("cursor") is not None:
            raise MCPError(INVALID_PARAMS, "the cursor is not known: the list has one page")

        async def fetch(params: Mapping[str, Any]) -> HandlerResult:
            return await call_next(ctx if params is first else replace(ctx, params=params))

        first = ctx.params or {}
        try:
            return await self._pinned.list(fetch, first)
        except (ListingError, PinFileError) as error:
            why = UNREADABLE if isinstance(error, PinFileError) else str(error)
            raise MCPError(INTERNAL_ERROR, f"no tools are listed: {why}") from None

    async def _reviewed(
        self, ctx: RequestContext, call_next: CallNext, facts: Facts, decision: Decision | None = None
    ) -> ListedTool | None:
        """Return the tool of a call as the server lists it; None without pins. A `decision` that allowed the call is
        reported as failed if the tool must be reviewed first. Raises MCPError."""
        if self._pinned is None or ctx.method != "tools/call":
            return None
        caller, name = self.caller(ctx), (ctx.params or {}).get("name")

        async def fetch(params: Mapping[str, Any]) -> HandlerResult:
            return await call_next(replace(ctx, method="tools/list", params=params))

        def hold() -> AbstractContextManager[None]:
            return nullcontext() if caller is None else caller.hold()

        found = await self._pinned.find(name, fetch, listing_params(ctx.params), hold, repr(caller_identity(facts)))
        if isinstance(found, ListedTool):
            return found
        if decision is not None:
            await report_outcome(self._decides, decision, 500)
        raise denial_error(found)

    async def _warn(self, listing: McpListMethod, name: object, facts: Facts, tool: ListedTool | None = None) -> None:
        """Warn once about an empty list: usually the agent or the server has a different name in the policy."""
        if self._warned or not isinstance(name, str):
            return
        self._warned = True
        why = format_denial(await evaluate_item(self._decides, listing, name, self._server, facts, tool))
        agent = facts.get("agent")
        agent_id = agent.get("id") if isinstance(agent, Mapping) else None
        _LOG.warning(
            "%s sees none of the %s of server %s: the first, %s, is %s",
            "a caller without an agent" if agent_id is None else f"agent {format_value(agent_id)}",
            listing.label, format_value(self._server), format_value(name), why,
        )  # fmt: skip

    async def _several(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        """Pass on a request that names entities without using them. Raises MCPError."""
        facts, params = await self.facts(ctx), self._clear_params(ctx)
        await check_named_entities(self._decides, self.tasks, self._server, ctx.method, params, facts)
        return await call_next(ctx)

    def _clear_params(self, ctx: RequestContext) -> Params:
        """Return the parameters as parsed; over HTTP, the raw message shows which names are repeated.

        Raises MCPError.
        """
        try:
            return self.params(ctx.params or {}, get_raw_message(ctx.request))
        except AmbiguousMessageError as error:
            raise MCPError(INVALID_REQUEST, str(error)) from None

    def notice(self, method: str) -> None:
        """Handle a notification of the server."""
        if self._pinned is not None:
            self._pinned.notice(method)

    async def facts(self, ctx: RequestContext) -> Facts:
        """Return the verified facts about the caller of a message. Raises MCPError if the caller is not identified."""
        facts = await identify_caller(self._identify, ctx)
        if facts is None:
            raise denial_error(make_denial(UNKNOWN_CALLER, Gate.IDENTITY))
        return await prove_credentials(self._decides, facts)


def without_answers(ctx: RequestContext) -> RequestContext:
    """Return the context without answers that were for this middleware, not for the tool."""
    responses = (ctx.params or {}).get("inputResponses")
    if not isinstance(responses, Mapping) or (kept := without_own_answers(responses)) == responses:
        return ctx
    params = {name: value for name, value in (ctx.params or {}).items() if name != "inputResponses"}
    return replace(ctx, params={**params, **({"inputResponses": kept} if kept else {})})


def _call_outcome(result: HandlerResult, began: float) -> tuple[int, float, Facts | None]:
    """Return the status, start and output of a call. A call that asks its caller for more input is not finished: its
    next round is decided again.
    """
    if not isinstance(result, dict):
        return 200, began, None
    if is_input_required(result):
        return 202, began, None
    structured = result.get("structuredContent")
    return 500 if result.get("isError") is True else 200, began, structured if isinstance(structured, dict) else None
