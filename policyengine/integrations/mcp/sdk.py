"""Middleware for servers of the `mcp` SDK: `MCPServer(…, middleware=[PolicyMiddleware(engine, server="billing")])`.

It stands before every request of a client. Calls are decided with their arguments, lists show what their caller may
use, and what no policy can speak of is closed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from time import perf_counter
from typing import Any, TypeAlias

from starlette.requests import HTTPConnection

from policyengine.extras import install_command
from policyengine.integrations.credentials import presented
from policyengine.integrations.denial_messages import as_data, in_words
from policyengine.integrations.enforcement_point import (
    NOBODY,
    NONE,
    Decides,
    Duties,
    Facts,
    Identify,
    decided,
    evaluated,
    identified,
    proved,
    refusal,
    reported,
)
from policyengine.integrations.mcp.messages import AmbiguousMessage, Params, message_of, params_here
from policyengine.integrations.mcp.methods import (
    CODES,
    DECIDED,
    LISTS,
    METHOD_NOT_FOUND,
    NOTIFICATIONS,
    PASSING,
    Listing,
    barred,
    completed,
    listened,
    looked_at,
    may_see,
    question,
    visible,
)
from policyengine.integrations.token_facts import facts_of_token, issuers_of
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.format_values import shown

try:
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
    from mcp_types.methods import is_input_required
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Asked: TypeAlias = ServerRequestContext[Any, Any]
Result: TypeAlias = dict[str, Any]
_LOG = logging.getLogger("policyengine")


def by_token(issuers: Mapping[str, str], issuer: str | None = None) -> Identify[Asked]:
    """Who asks, by the access token that the server verified: its client, its subject, its scopes, its issuer.

    `issuers` says how the policy calls the issuer of a URL, `issuer` how it calls the one of tokens that name none.
    Without a token nobody asks: so it is over stdio and in process, where `always` says who it is.
    """

    def identify(context: Asked) -> Facts | None:
        scope = getattr(context.request, "scope", None)
        user = scope.get("user") if isinstance(scope, Mapping) else None
        return facts_of_token(user.access_token, issuers, issuer) if isinstance(user, AuthenticatedUser) else None

    return identify


def by_credentials() -> Identify[Asked]:
    """Who asks, by the raw credentials of the HTTP request, for an engine that verifies them; over stdio nobody."""

    def identify(context: Asked) -> Facts | None:
        request = context.request
        return presented(request) if isinstance(request, HTTPConnection) else None

    return identify


def always(facts: Facts) -> Identify[Any]:
    """Who asks, where it is always the same: the one who started this process, and talks to it over stdio."""
    return lambda context: facts


class PolicyMiddleware:
    """`server` is how policies call this server: `TOOL billing/refund` is its tool `refund`.

    `identify` tells who asks, from what the server verified: facts as `/decide` takes them, or None for nobody, who is
    let through to nothing. `also` names further methods that pass undecided, like `logging/setLevel`.
    """

    params = staticmethod(params_here)

    def __init__(
        self,
        decides: Decides,
        *,
        server: str,
        identify: Identify[Asked] | None = None,
        duties: Duties = NONE,
        also: Collection[str] = (),
    ) -> None:
        self._decides, self._server, self._duties = decides, server, duties
        self._identify = identify or by_token(issuers_of(decides))
        self._passing = PASSING | frozenset(also)
        self._warned = False

    async def __call__(self, ctx: Asked, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None:
            return await call_next(ctx) if ctx.method.startswith(NOTIFICATIONS) else None
        if ctx.method in self._passing:
            return await call_next(ctx)
        if ctx.method in DECIDED:
            return await self._called(ctx, call_next)
        if (listing := LISTS.get(ctx.method)) is not None:
            return await self._listed(ctx, call_next, listing)
        if ctx.method in ("completion/complete", "subscriptions/listen"):
            return await self._several(ctx, call_next)
        raise MCPError(METHOD_NOT_FOUND, f"`{ctx.method[:80]}` is closed: no policy speaks of it", ctx.method[:80])

    async def _called(self, ctx: Asked, call_next: CallNext) -> HandlerResult:
        params = self._clear_params(ctx)
        if (no := barred(ctx.method, params)) is not None:
            raise refused(no)
        asked = question(ctx.method, params, self._server, await self._facts(ctx))
        decision = await decided(self._decides, asked, self._duties)
        if not decision.allowed:
            raise refused(decision)
        began = perf_counter()
        try:
            result = await call_next(ctx)
        except BaseException:
            await reported(self._decides, decision, 500, began)
            raise
        await reported(self._decides, decision, *outcome(result, began))
        return result

    async def _listed(self, ctx: Asked, call_next: CallNext, listing: Listing) -> HandlerResult:
        facts = await self._facts(ctx)
        result = await call_next(ctx)
        items = result.get(listing.items) if isinstance(result, dict) else None
        if not isinstance(result, dict) or not isinstance(items, list):
            raise MCPError(INTERNAL_ERROR, "the list could not be read, and is not shown")
        names = [one.get(listing.name) if isinstance(one, dict) else None for one in items]
        seen = await visible(self._decides, listing, items, names, self._server, facts)
        if items and not seen:
            await self._warn(listing, names[0], facts)
        private = {"cacheScope": "private"} if "cacheScope" in result else {}  # another caller may see another list
        return {**result, listing.items: seen, **private}

    async def _warn(self, listing: Listing, name: object, facts: Facts) -> None:
        """Once: where nothing at all is shown, mostly the agent or the server has another name in the policy."""
        if self._warned or not isinstance(name, str):
            return
        self._warned = True
        why = in_words(await looked_at(self._decides, listing, name, self._server, facts))
        agent = facts.get("agent")
        who = agent.get("id") if isinstance(agent, Mapping) else None
        _LOG.warning(
            "agent %s sees none of the %s of server %s: the first, %s, is %s",
            shown(who), listing.items, shown(self._server), shown(name), why,
        )  # fmt: skip

    async def _several(self, ctx: Asked, call_next: CallNext) -> HandlerResult:
        """What names things without using them: whoever may not have them may not ask."""
        facts, params = await self._facts(ctx), self._clear_params(ctx)
        if ctx.method == "completion/complete":
            named = completed(params)
            if named is None or not await may_see(self._decides, *named, self._server, facts):
                raise refused(refusal("nothing opens this to the caller", Gate.DEFAULT))
        else:
            for uri in listened(params):
                decision = await self._listened(uri, facts)
                if not decision.allowed:
                    raise refused(decision)
        return await call_next(ctx)

    async def _listened(self, uri: object, facts: Facts) -> Decision:
        method, params = "resources/subscribe", {"uri": uri}
        if (no := barred(method, params)) is not None:
            return no
        return await evaluated(self._decides, question(method, params, self._server, facts))

    def _clear_params(self, ctx: Asked) -> Params:
        """As the server has parsed them; over HTTP the message is there to say which names were repeated."""
        try:
            return self.params(ctx.params or {}, message_of(ctx.request))
        except AmbiguousMessage as error:
            raise MCPError(INVALID_REQUEST, str(error)) from None

    async def _facts(self, ctx: Asked) -> Facts:
        facts = await identified(self._identify, ctx)
        if facts is None:
            raise refused(refusal(NOBODY, Gate.IDENTITY))
        return await proved(self._decides, facts)


def refused(decision: Decision) -> MCPError:
    """In words as its message; what programs need, like the binding of an approval, as its data."""
    return MCPError(CODES[decision.outcome], in_words(decision), as_data(decision))


def outcome(result: HandlerResult, began: float) -> tuple[int, float, Facts | None]:
    """How a call came out. One that asks its caller for more first has not come to anything: its next round is decided
    anew."""
    if not isinstance(result, dict):
        return 200, began, None
    if is_input_required(result):
        return 202, began, None
    structured = result.get("structuredContent")
    return 500 if result.get("isError") is True else 200, began, structured if isinstance(structured, dict) else None
