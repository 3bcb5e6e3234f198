"""The routes of identity: revocation, introspection and nonces, and token issuance if there are signing keys."""

from __future__ import annotations

from asyncio import Semaphore
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from policyengine.http.client_credentials import read_client_credentials
from policyengine.runtime.credentials import Credentials, read_credentials
from policyengine.server.content_negotiation import read_body, unsupported_media
from policyengine.server.problems import ProblemError

if TYPE_CHECKING:
    from policyengine.entities.store import EntityStore
    from policyengine.identity.audit_events import Operator
    from policyengine.identity.issue.issuer import TokenIssuer
    from policyengine.kernel import Kernel
    from policyengine.server.handlers import DecisionApi
    from policyengine.server.token_service.endpoint import FormSender, TokenServiceContext, TokenServiceReply

ROUTE_DESCRIPTIONS = {
    "/revoke": "Revoke a token, an agent, a user, a chain or a key, from the next decision on (RFC 7009).",
    "/introspect": "Report whether a token is valid, and its claims (RFC 7662).",
}
JSON = msgspec.json.Encoder(decimal_format="number")  # writes decimals as tokens do
MAX_CONCURRENT_CALLS = 8  # maximum threads for each kind of work, of the 40 threads for requests
EndpointFunction = Callable[["TokenServiceContext", bytes, "FormSender"], "TokenServiceReply"]


def add_token_routes(app: FastAPI, api: DecisionApi) -> None:
    """Add the routes, if the engine verifies credentials."""
    identity = api.engine.identity
    if identity is None:
        return
    from policyengine.server.token_service import endpoint

    routes = TokenServiceRoutes(api)
    for path, answers in (("/revoke", endpoint.revoke), ("/introspect", endpoint.introspect)):
        add_route(app, path, "POST", partial(routes.form, answers), answers.__name__, ROUTE_DESCRIPTIONS[path])
    add_route(
        app,
        "/tasks/{task:path}/complete",  # names may contain a slash
        "POST",
        routes.complete,
        "complete",
        "Complete a task, and revoke every token for it.",
    )
    add_route(app, "/attestation/nonce", "POST", routes.nonce, "nonce", "Return a nonce for the next attestation.")
    if identity.issuing is None:
        return
    add_route(
        app,
        "/token",
        "POST",
        routes.token,
        "token",
        "Exchange a token for one of this issuer (RFC 8693), if the policy permits the delegation.",
    )
    add_route(app, "/jwks", "GET", routes.jwks, "jwks", "Return the public keys of this issuer.")
    add_route(
        app,
        "/.well-known/oauth-authorization-server",
        "GET",
        routes.metadata,
        "metadata",
        "Return the authorization server metadata (RFC 8414).",
    )


def add_route(app: FastAPI, path: str, method: str, handler: Callable[..., Any], name: str, told: str) -> None:
    async def route(http: Request) -> Response:
        found: Response = await handler(http)
        return found

    app.add_api_route(
        path, route, methods=[method], name=name, description=told, response_class=Response, tags=["identity"]
    )


class TokenServiceRoutes:
    """The handlers. They may wait for an issuer, a store or a key service, so they run in threads."""

    def __init__(self, api: DecisionApi) -> None:
        from policyengine.identity.config.issuer_factory import PolicyMemo

        self.api = api
        self._tokens, self._others = Semaphore(MAX_CONCURRENT_CALLS), Semaphore(MAX_CONCURRENT_CALLS)
        self.handing = PolicyMemo(self._policies)

    def _policies(self) -> tuple[Kernel, EntityStore]:
        """Return the kernel and the entity store of the current engine, read together because a reload may replace the
        engine.
        """
        engine = self.api.engine
        return engine.kernel, engine.directory

    @property
    def issuing(self) -> TokenIssuer:
        """The token issuer with the current policies, even if a reload happens in the meantime. Raises ProblemError if
        these policies issue no tokens."""
        from policyengine.identity.issue.issuer import TokenIssuer

        engine = self.api.engine
        identity, handing = engine.identity, self.handing()
        if identity is None or not isinstance(identity.issuing, TokenIssuer):
            raise ProblemError(503, "the current policies issue no tokens")
        return replace(identity.issuing, handing=lambda: handing, log=engine.log)

    @property
    def desk(self) -> TokenServiceContext:
        """The context of the current policies. Raises ProblemError if these policies verify no credentials."""
        from policyengine.server.token_service.endpoint import TokenServiceContext

        engine = self.api.engine
        if engine.identity is None:
            raise ProblemError(503, "the current policies verify no credentials")
        issuing = None if engine.identity.issuing is None else self.issuing
        return TokenServiceContext(engine.identity, engine.kernel.issuers.keys(), issuing, engine.log)

    async def form(self, answers: EndpointFunction, http: Request) -> Response:
        body, sender = await self._form(http), self.sender(http)
        return build_response(await self._run_limited(self._others, answers, self.desk, body, sender))

    async def token(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import exchange_token

        body, sender = await self._form(http), self.sender(http)
        return build_response(await self._run_limited(self._tokens, exchange_token, self.issuing, body, sender))

    async def nonce(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import issue_nonce

        return build_response(await self._run_limited(self._others, issue_nonce, self.desk, self.now()))

    async def _run_limited(
        self, places: Semaphore, work: Callable[..., TokenServiceReply], *given: Any
    ) -> TokenServiceReply:
        """Run in a thread. Each kind of work has a limit, so that slow issuers or OpenBao leave threads for decisions
        and revocation: every client can ask to verify a token.
        """
        async with places:
            return await run_in_threadpool(work, *given)

    async def _form(self, http: Request) -> bytes:
        from policyengine.server.token_service.endpoint import FORM_TYPE

        given = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != FORM_TYPE:
            raise unsupported_media("a form is required", f"send `Content-Type: {FORM_TYPE}`")
        return await read_body(http, self.api.body_timeout)

    async def complete(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import complete_task

        task, sender = http.path_params["task"], self.sender(http, own=True)
        return build_response(await self._run_limited(self._tokens, complete_task, self.desk, task, sender))

    async def jwks(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import jwks_reply

        return build_response(await self._run_limited(self._others, jwks_reply, self.issuing, self.now()))

    async def metadata(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import metadata_reply

        return build_response(metadata_reply(self.issuing))

    def now(self) -> int:
        return self.api.engine.decider.seconds()

    def sender(self, http: Request, *, own: bool = False) -> FormSender:
        """Return the sender of a form. Only a gateway with a token of the token file may vouch for its client's
        certificate, in the configured header. `own` means that `Authorization` may contain an agent's token. Raises
        RequestError.
        """
        from policyengine.server.token_service.endpoint import FormSender, issuer_url

        sent = http.headers.getlist("authorization")
        operator = self.operator(sent)
        trusted = operator is not None
        given: dict[str, tuple[str, ...]] = {}
        for name, value in http.headers.items():
            given[name] = (*given.get(name, ()), value)
        issuing = self.desk.issuing
        path = http.scope["raw_path"].decode("latin-1")  # the URL as the client wrote and signed it
        url = str(http.url) if issuing is None else f"{issuer_url(issuing)}{path}"
        certificate = self.api.gateway.client_certificate if trusted else None
        raw = read_client_credentials(
            given, method=http.method, url=url, own=own and not trusted, certificate=certificate
        )
        return FormSender(
            read_credentials(raw) or Credentials(), operator, bool(sent) and not trusted and not own, self.now()
        )

    def operator(self, sent: list[str]) -> Operator | None:
        """Return the operator whose token was sent, with its name if it has one; None if no valid token was sent."""
        from policyengine.identity.audit_events import Operator

        tokens = self.api.tokens
        known = tokens.gateway(sent[0]) if tokens is not None and len(sent) == 1 else None
        kind, _, name = (known or "").partition(" ")
        return None if known is None else Operator(name if kind == "name" else None)


def build_response(reply: TokenServiceReply) -> Response:
    headers = {**reply.headers, "Content-Type": "application/json"}
    if reply.status == 401:
        headers.setdefault("www-authenticate", 'Bearer realm="policyengine"')
    return Response(JSON.encode(dict(reply.body)), reply.status, headers=headers)
