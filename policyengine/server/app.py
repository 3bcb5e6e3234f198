"""The ASGI application: all routes with their handlers and documentation, behind the fast path."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from policyengine import __version__
from policyengine.engine import Engine
from policyengine.executor import Requester, enter_requester
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.host_check import AllowedHosts, url_host_names
from policyengine.reload import ReloadableEngine
from policyengine.runtime.current_caller import current_caller
from policyengine.runtime.idempotency import IdempotencyKeyError
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.gateways import GatewayAdapters
from policyengine.server.authzen import schema as authzen_schema
from policyengine.server.authzen.adapter import TranslatorCache
from policyengine.server.authzen.untranslatable import DenialReporter
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.connections.http_connection import peer_address
from policyengine.server.content_negotiation import MAX_BODY_SECONDS
from policyengine.server.fast_path.answer_turn import WaitingAnswer
from policyengine.server.fast_path.app import FastPathApp, ScopeEntries
from policyengine.server.fast_path.exchange import FastAnswer
from policyengine.server.fast_path.table import build_doors
from policyengine.server.halt_routes import add_halt_routes
from policyengine.server.handlers import DecisionApi, handle_problem
from policyengine.server.host_guard import HostCheck
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.mcp.servers import NO_MCP_SERVERS
from policyengine.server.middleware import ExchangeMiddleware
from policyengine.server.openapi import halts, schema, statuses
from policyengine.server.problems import ProblemError
from policyengine.server.routes import add_routes
from policyengine.server.shutdown import Drain
from policyengine.server.telemetry.process_metrics import rule_names
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.server.token_service.routes import add_token_routes


class DecisionApp(FastAPI):
    """The application. Its OpenAPI document includes the body models, because no route parses bodies with them."""

    hot: FastPathApp
    api: DecisionApi

    @property
    def drain(self) -> Drain:
        return self.api.drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        enter_requester(Requester(partial(caller_name, scope), partial(is_disconnected, receive)))
        if self.bare:
            await self.hot(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def now(
        self, method: str, url: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> FastAnswer | WaitingAnswer | ScopeEntries:
        """Return the answer to a simple request that has arrived completely. For any other request, return entries for
        the scope with which to call the application.
        """
        return self.hot.now(method, url, headers, body) if self.bare else {}

    def flush(self) -> None:
        """Send the answers that wait for the end of this turn of the event loop."""
        self.hot.turn.flush()

    @property
    def bare(self) -> bool:
        """Whether only the middleware of this project is installed. Other middleware must see every answer, so it
        disables the fast path.
        """
        return len(self.user_middleware) == 1

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes
            )
            document.setdefault("components", {})["schemas"] = schema.components(
                (*authzen_schema.MODELS, *halts.MODELS)
            )
            if self.api.tokens is None:
                document_refused_hosts(document)
            document["components"]["securitySchemes"] = SECURITY_SCHEMES
            self.openapi_schema = document
        return self.openapi_schema


SECURITY_SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer"},
    "person": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of a person, from an issuer of the policies.",
    },
}


def caller_name(scope: Scope) -> str:
    """Return the name under which the work of a caller is queued: the client of the token file or, without a token, the
    address of the connection.
    """
    return current_caller() or peer_address(scope.get("client"))


def is_disconnected(receive: Receive) -> bool:
    """Return whether the connection is closed. Only uvicorn's exchanges know this before a message reports it."""
    return getattr(getattr(receive, "__self__", None), "disconnected", False) is True


def document_refused_hosts(document: dict[str, Any]) -> None:
    """Add a 403 response to every operation that does not document one itself."""
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"].setdefault("403", statuses.FOREIGN_RESPONSE)


def create_app(
    engine: Engine | ReloadableEngine,
    *,
    token: str | Collection[str] | None = None,
    body_timeout: float = MAX_BODY_SECONDS,
    gateway: GatewayHeaders | None = None,
    public_url: str | None = None,
    authzen_consume: Collection[str] = (),
    allowed_hosts: Collection[str] = (),
    operators: Collection[str] = (),
) -> FastAPI:
    """Return the decision API as an ASGI application.

    With `token` (several tokens while one replaces another), every question needs one of these tokens. Without it,
    every client is answered if `Host` is a loopback name, the address that the connection arrived at, the host of
    `public_url` or one of `allowed_hosts` (`*.example.com`: all subdomains, `*`: any), and the request was not sent by
    a page of another site (`docs/http-api.md`).

    A body has `body_timeout` seconds to arrive. `gateway` names the headers in which gateways identify the caller
    (`docs/gateways.md`). `public_url` is the URL in the AuthZEN metadata; without it, the URL of the metadata request
    is used. `authzen_consume` names the callers whose AuthZEN evaluations spend unless `context.consume` is false
    (`docs/authzen.md`). `operators` names the tokens that may halt requests (`docs/halt.md`). The policies of a
    `ReloadableEngine` can be replaced at any time. Raises BearerTokenError for a token that is too short, and
    AllowedHostError.
    """
    return build_app(
        engine, token=token, body_timeout=body_timeout, gateway=gateway, public_url=public_url,
        authzen_consume=authzen_consume, allowed_hosts=allowed_hosts, operators=operators,
    )  # fmt: skip


def build_app(
    engine: Engine | ReloadableEngine,
    *,
    token: str | Collection[str] | None = None,
    body_timeout: float = MAX_BODY_SECONDS,
    gateway: GatewayHeaders | None = None,
    tally: ServerCounters | None = None,
    drain: Drain | None = None,
    public_url: str | None = None,
    authzen_consume: Collection[str] = (),
    allowed_hosts: Collection[str] = (),
    operators: Collection[str] = (),
    mcp: McpQuestions | None = None,
) -> DecisionApp:
    """Return the application of one of several workers. The worker counts in `tally`, and is not ready while it shuts
    down. `mcp` builds the questions of MCP servers behind gateways.
    """
    reloading = engine if isinstance(engine, ReloadableEngine) else ReloadableEngine(engine)
    tally = ServerCounters(rules=rule_names(reloading.current)) if tally is None else tally
    tokens = None if token is None else BearerTokens.of(token)
    consume = frozenset(authzen_consume)
    hosts = HostCheck(AllowedHosts.of((*allowed_hosts, *url_host_names(public_url))), tally)
    names = gateway or GatewayHeaders()
    told = (
        names,
        GatewayAdapters.of(names, body_timeout, own=tokens is None, mcp=mcp),
        tally,
        drain or Drain(),
        public_url,
        TranslatorCache(NO_MCP_SERVERS if mcp is None else mcp.table),
        DenialReporter(tally),
        hosts,
        consume,
    )
    api = DecisionApi(reloading, tokens, body_timeout, *told)
    app = DecisionApp(
        title="policyengine",
        description="Decides what AI agents may do. A deny is an answer (200); treat any other status as a deny.",
        version=__version__,
        docs_url=None,  # FastAPI's pages load scripts from a third-party server
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(ExchangeMiddleware, hosts=hosts if tokens is None else None)],
        exception_handlers=dict.fromkeys(
            (ProblemError, RequestError, IdempotencyKeyError, WorkRefusedError, HTTPException), handle_problem
        ),
    )
    add_routes(app, api)
    add_token_routes(app, api)
    if operators:
        add_halt_routes(app, api, operators)
    careful = super(DecisionApp, app).__call__
    app.hot = FastPathApp(careful, reloading, tokens, hosts.allowed, body_timeout, build_doors(api))
    app.api = api
    return app


def status_app(api: DecisionApi) -> Starlette:
    """Return the application on the metrics port: metrics and health without a token, but no decisions. It answers only
    requests to its own host names and addresses, even if questions need a token.
    """
    app = Starlette(
        routes=[
            Route("/metrics", api.metrics_for_anybody),
            Route("/healthz", api.healthz),
            Route("/readyz", api.readyz),
        ],
        middleware=[Middleware(ExchangeMiddleware, hosts=api.hosts)],
        exception_handlers=dict.fromkeys((ProblemError, HTTPException), handle_problem),
    )
    app.api = api  # type: ignore[attr-defined]  # as `handle_problem` finds it
    return app
