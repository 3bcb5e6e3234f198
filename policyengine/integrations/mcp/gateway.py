"""`policyengine mcp-gateway`: a proxy in front of any MCP server, over stdio or streamable HTTP on either side."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO, cast

import anyio
from starlette.requests import Request

from policyengine.http.host_check import AllowedHosts, url_host_names
from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import (
    Facts,
    FixedCaller,
    Identify,
    PolicyDecisionPoint,
    identify_caller,
    prove_credentials,
)
from policyengine.integrations.mcp.clients.http_endpoint import McpApplication, McpEndpoint
from policyengine.integrations.mcp.clients.session_callers import SessionCallers, remember_facts, remembered_facts
from policyengine.integrations.mcp.clients.sessions import Owner, session_owner
from policyengine.integrations.mcp.clients.stateless_service import ModernRequest, StatelessService
from policyengine.integrations.mcp.clients.stateless_stream import StatelessStream
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions, McpCaller
from policyengine.integrations.mcp.eras import has_envelope
from policyengine.integrations.mcp.http_exchange import find_exchange
from policyengine.integrations.mcp.pinned_tools import ToolPins
from policyengine.integrations.mcp.protocol_errors import mark_foreign_error
from policyengine.integrations.mcp.relay.direct_calls import CallDecision, DirectDecider
from policyengine.integrations.mcp.relay.line_streams import LineReader, LineWriter, has_pipes, own_streams
from policyengine.integrations.mcp.relay.relay import Relay
from policyengine.integrations.mcp.relay.requests import MessageReader, MessageWriter, RelayRequest
from policyengine.integrations.mcp.sdk import PolicyMiddleware, RequestContext
from policyengine.integrations.mcp.tasks import TaskTable
from policyengine.integrations.mcp.unambiguous_messages import StdioRequest, check_upstream_params
from policyengine.integrations.mcp.upstream.eras import UpstreamEras
from policyengine.integrations.mcp.upstream.imitations import without_own_meta
from policyengine.integrations.mcp.upstream.messages import UpstreamMessages
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.integrations.mcp.upstream.session_upstream import SessionPort, connect_session

try:
    from mcp.server.context import CallNext, HandlerResult
    from mcp.server.stdio import stdio_server
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import ServerMessageMetadata, SessionMessage
    from mcp_types import JSONRPCRequest
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A request that begins a session, in the form that the middleware expects."""

    request: Request
    request_id: None = None
    method: str = "initialize"
    params: None = None


class UpstreamPolicyMiddleware(PolicyMiddleware):
    """The middleware for a server whose parser is unknown. All sessions share one ConfirmHandler, and its bounds."""

    params = staticmethod(check_upstream_params)

    def __init__(
        self,
        decides: PolicyDecisionPoint,
        confirms: ConfirmHandler,
        *,
        server: str,
        identify: Identify[RequestContext],
        tasks: TaskTable,
        pins: ToolPins | None = None,
    ) -> None:
        super().__init__(decides, server=server, identify=identify, tasks=tasks, pins=pins)
        self._confirms = confirms
        self._direct = (
            DirectDecider(decides, server, identify, self._pinned) if isinstance(identify, FixedCaller) else None
        )
        self._callers = SessionCallers()
        self.messages = UpstreamMessages(decides, server, self._callers, self.tasks)

    async def __call__(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.method == "initialize":
            await self._identify_session(ctx)
        return await super().__call__(ctx, marking_imitations(call_next))

    async def resume(
        self, ctx: RequestContext, call_next: CallNext, decided: CallDecision, began: float | None = None
    ) -> HandlerResult:
        return await super().resume(ctx, marking_imitations(call_next), decided, began)

    async def _identify_session(self, ctx: RequestContext) -> None:
        """Remember the caller that begins the session. If it is not known, nothing is asked of the client for it."""
        with suppress(MCPError):
            known = remembered_facts(ctx.request)
            self._callers.identify(await super().facts(ctx) if known is None else known)

    def decide_directly(self, params: dict[str, Any], size: int) -> CallDecision | None:
        """Decide a call without waiting; None if this is not possible: then nothing was decided."""
        decided = None if self._direct is None else self._direct.decide(params, size)
        if decided is not None:
            self._callers.identify(decided.facts)
        return decided

    def report_directly(self, decided: CallDecision, status: int, began: float, output: Facts | None = None) -> bool:
        """Report the outcome of a call; return False if the report may wait: then nothing was reported."""
        return self._direct is not None and self._direct.report(decided, status, began, output)

    async def check_result(self, ctx: RequestContext, result: HandlerResult, facts: Facts) -> None:
        asked: object = ctx
        questions = result.get("inputRequests") if isinstance(result, dict) else None
        # A legacy server asks during the call: its questions are decided one by one, before the call is parked.
        if not (isinstance(asked, ModernRequest) and asked.has_admitted(questions)):
            await super().check_result(ctx, result, facts)

    def guard(self, ctx: RequestContext, facts: Facts) -> RequestContext:
        return ctx  # the relay decides the messages of the upstream server

    def answer(self, result: dict[str, Any]) -> dict[str, Any]:
        return result  # the relay sends it as it is

    def caller(self, ctx: RequestContext) -> McpCaller | None:
        return cast(RelayRequest, ctx).caller

    async def facts(self, ctx: RequestContext) -> Facts:
        """Return the facts about the caller. A modern request keeps them: a proof is accepted only once."""
        asked: object = ctx
        if isinstance(asked, ModernRequest):
            if asked.proved is None:
                asked.proved = await super().facts(ctx)
            return asked.proved
        found = await super().facts(ctx)
        caller = cast(RelayRequest, ctx).caller
        if caller is not None:
            caller.facts = found
            self._callers.identify(found)
        return found


def marking_imitations(call_next: CallNext) -> CallNext:
    """Return the function that asks the upstream server, without what could be taken for answers of the gateway."""

    async def call_upstream(ctx: RequestContext) -> HandlerResult:
        try:
            result = await call_next(ctx)
        except MCPError as error:
            raise mark_foreign_error(error) from None
        return without_own_meta(result) if isinstance(result, dict) else result

    return call_upstream


@dataclass(slots=True, eq=False)
class McpGateway:
    decides: PolicyDecisionPoint
    server: str
    identify: Identify[RequestContext]
    upstream: McpUpstream
    confirms: ConfirmHandler | None = None
    tasks: TaskTable = field(default_factory=TaskTable)
    pins: ToolPins | None = None
    service: StatelessService | None = field(default=None, init=False)
    _stated: tuple[Facts, Owner | None] | None = field(default=None, init=False)  # a fixed caller, and its owner

    @asynccontextmanager
    async def running(self, *, is_private: bool = False) -> AsyncIterator[StatelessService]:
        """Share the upstream server among all modern requests during the block; `is_private` says that they have one
        client."""
        async with UpstreamEras.running(self.upstream, is_private=is_private) as eras:
            policy = self._policy()
            eras.follow(policy.notice)
            self.service = service = StatelessService(policy, eras, direct=policy)
            try:
                yield service
            finally:
                self.service = None

    def _policy(self) -> UpstreamPolicyMiddleware:
        confirms = self.confirms or ConfirmHandler(self.decides, ConfirmOptions())
        return UpstreamPolicyMiddleware(
            self.decides, confirms, server=self.server, identify=self.identify, tasks=self.tasks, pins=self.pins
        )

    async def session(self, client: MessageReader, to_client: MessageWriter) -> None:
        """Serve one client until it disconnects, in the era of its first request. The upstream is started when the
        client sends its first message."""
        first = await receive_first_request(client)
        if first is None:
            return
        if self.service is not None:
            return await self._serve(first, client, to_client, self.service)
        async with self.running(is_private=True) as service:
            await self._serve(first, client, to_client, service)

    async def _serve(
        self, first: SessionMessage, client: MessageReader, to_client: MessageWriter, service: StatelessService
    ) -> None:
        if opens_modern(first):
            begun = await StatelessStream(service, to_client).run(first, client)
            if begun is None:
                return
            first = begun
        async with self._open_session(to_client, service, client) as (relay, upstream):
            await relay.run(first, client, upstream)

    @asynccontextmanager
    async def _open_session(
        self, to_client: MessageWriter, service: StatelessService, client: MessageReader | None = None
    ) -> AsyncIterator[tuple[Relay, MessageReader]]:
        """Open the upstream end of a session of a legacy client, and the relay between them."""
        to_upstream, outgoing = anyio.create_memory_object_stream[SessionMessage]()
        incoming, upstream = anyio.create_memory_object_stream[SessionMessage | Exception]()
        async with to_upstream, upstream, anyio.create_task_group() as group:
            policy, port = self._policy(), SessionPort(to_upstream)
            relay = Relay(policy, policy.messages, to_client, port, self.upstream.limit)
            port.pass_on = relay.pass_on
            if isinstance(client, LineReader) and isinstance(to_client, LineWriter):
                port.lane = relay.open_lane(policy, client, to_client, port).take_answer
            group.start_soon(connect_session, service.eras, outgoing, incoming, port)
            yield relay, upstream
            group.cancel_scope.cancel()

    @asynccontextmanager
    async def relaying(self, to_client: MessageWriter) -> AsyncIterator[Relay]:
        """Open a session of a legacy client that sends its messages over HTTP, in requests of their own."""
        assert self.service is not None
        async with self._open_session(to_client, self.service) as (relay, upstream), relay.running(upstream):
            yield relay

    async def owner(self, request: Request) -> Owner:
        """Return the owner of the session that the request begins."""
        if (exchange := find_exchange(request)) is not None:
            return exchange.owner
        facts = await identify_caller(self.identify, cast(RequestContext, SessionRequest(request)))
        if facts is None:
            return session_owner(None)
        proved = await prove_credentials(self.decides, facts)
        remember_facts(request, proved)
        return session_owner(proved)

    async def stated_owner(self, request: Request) -> Owner | None:
        """Return the owner that a request names without credentials; None if the request has credentials, which must be
        verified to find the owner."""
        facts = await identify_caller(self.identify, cast(RequestContext, SessionRequest(request)))
        if facts is None or self._stated is None or self._stated[0] is not facts:
            owner = None if facts is not None and "credentials" in facts else session_owner(facts)
            self._stated = None if facts is None else (facts, owner)
            return owner
        return self._stated[1]

    async def over_stdio(self) -> None:
        """Serve one client until it closes the pipe, then stop the upstream and end."""
        if has_pipes():
            async with self.running(is_private=True), own_streams() as (messages, answers):
                return await self.session(messages, answers)
        lines = StdioLines(open(0, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
        async with (
            self.running(is_private=True),
            stdio_server(lines) as (client, to_client),
            client,
            to_client,
        ):
            await self.session(StdioMessageReader(client, lines), to_client)


class StdioLines(anyio.AsyncFile[str]):
    """Lines of text, each of which becomes one message. A line is kept until its message is received."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file)
        self.kept: deque[str] = deque()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in super().__aiter__():
            self.kept.append(line)
            yield line


@dataclass(frozen=True, slots=True)
class StdioMessageReader:
    """Messages with their raw lines."""

    client: MessageReader
    lines: StdioLines

    async def receive(self) -> SessionMessage | Exception:
        item = await self.client.receive()
        line = self.lines.kept.popleft()
        if isinstance(item, SessionMessage):
            return SessionMessage(item.message, ServerMessageMetadata(request_context=StdioRequest(line)))
        return item


def opens_modern(first: SessionMessage) -> bool:
    """Return whether the first message of a client begins a modern connection."""
    message = first.message
    return isinstance(message, JSONRPCRequest) and message.method != "initialize" and has_envelope(message.params)


async def receive_first_request(client: MessageReader) -> SessionMessage | None:
    """Return the first request, which decides the era; messages before it are ignored. Return None at the end."""
    while True:
        try:
            item = await client.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return None
        if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest):
            return item


def http_app(gateway: McpGateway, allowed_hosts: Collection[str] = (), public_url: str | None = None) -> McpApplication:
    """Return the gateway at `/mcp`, for requests to loopback, to the host of `public_url` or to one of `allowed_hosts`.
    Raises AllowedHostError."""
    endpoint = McpEndpoint(gateway, AllowedHosts.of((*allowed_hosts, *url_host_names(public_url))))
    return McpApplication(endpoint)


def identify_by_headers(
    names: Mapping[str, str], facts: Callable[[Mapping[str, str]], Facts]
) -> Identify[RequestContext]:
    """Identify the caller by headers that a trusted process on this machine sets. A missing header means an unknown
    caller."""

    def identify(context: RequestContext) -> Facts | None:
        headers = getattr(context.request, "headers", None)
        found = {} if headers is None else {name: headers.getlist(header) for name, header in names.items()}
        if not found or any(len(values) != 1 or not values[0] for values in found.values()):
            return None
        return facts({name: values[0] for name, values in found.items()})

    return identify


def parse_caller_facts(words: Mapping[str, str]) -> Facts:
    """Return the facts that the words `agent`, `issuer`, `user` and `scopes` state; each may be missing."""
    issuer = {"issuer": words["issuer"]} if "issuer" in words else {}
    scopes = {"scopes": parse_scopes(words["scopes"])} if "scopes" in words else {}
    agent = {"agent": {"id": words["agent"], **issuer}} if "agent" in words else {}
    user = {"user": {"id": words["user"]}} if "user" in words else {}
    credential = {"credential": {**issuer, **scopes}} if issuer or scopes else {}
    return {**agent, **user, **credential}


def parse_scopes(words: str) -> Sequence[str]:
    return words.replace(",", " ").split()
