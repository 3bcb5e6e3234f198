"""Routes of identity: what ends what was issued, and nonces; tokens of our own where there are keys to sign with."""

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
    "/revoke": "A token, an agent, a user, a chain or a key counts no more, from the next decision on (RFC 7009).",
    "/introspect": "Whether a token holds, and what it says (RFC 7662).",
}
JSON = msgspec.json.Encoder(decimal_format="number")  # as tokens had it
MAX_CONCURRENT_CALLS = 8  # threads of 40
EndpointFunction = Callable[["TokenServiceContext", bytes, "FormSender"], "TokenServiceReply"]


def add_token_routes(app: FastAPI, api: DecisionApi) -> None:
    """Nothing, where no credentials are verified here."""
    identity = api.engine.identity
    if identity is None:
        return
    from policyengine.server.token_service import endpoint

    routes = TokenServiceRoutes(api)
    for path, answers in (("/revoke", endpoint.revoke), ("/introspect", endpoint.introspect)):
        add_route(app, path, "POST", partial(routes.form, answers), answers.__name__, ROUTE_DESCRIPTIONS[path])
    add_route(
        app,
        "/tasks/{task:path}/complete",  # in a name there may be a slash
        "POST",
        routes.complete,
        "complete",
        "A task is over, and so is every token for it.",
    )
    add_route(app, "/attestation/nonce", "POST", routes.nonce, "nonce", "What the next attestation has to answer.")
    if identity.issuing is None:
        return
    add_route(
        app,
        "/token",
        "POST",
        routes.token,
        "token",
        "One of our own for another (RFC 8693), if the policy lets its user hand on so much.",
    )
    add_route(app, "/jwks", "GET", routes.jwks, "jwks", "The keys of our own tokens.")
    add_route(
        app,
        "/.well-known/oauth-authorization-server",
        "GET",
        routes.metadata,
        "metadata",
        "What is issued here, and how it is asked for (RFC 8414).",
    )


def add_route(app: FastAPI, path: str, method: str, handler: Callable[..., Any], name: str, told: str) -> None:
    async def route(http: Request) -> Response:
        found: Response = await handler(http)
        return found

    app.add_api_route(
        path, route, methods=[method], name=name, description=told, response_class=Response, tags=["identity"]
    )


class TokenServiceRoutes:
    """They may wait for an issuer, a store, or whoever has the keys: in threads, so that nobody else does."""

    def __init__(self, api: DecisionApi) -> None:
        from policyengine.identity.config.issuer_factory import PolicyMemo

        self.api = api
        self._tokens, self._others = Semaphore(MAX_CONCURRENT_CALLS), Semaphore(MAX_CONCURRENT_CALLS)
        self.handing = PolicyMemo(self._policies)

    def _policies(self) -> tuple[Kernel, EntityStore]:
        """Of one engine, whichever decides when."""
        engine = self.api.engine
        return engine.kernel, engine.directory

    @property
    def issuing(self) -> TokenIssuer:
        """By the policies that decide now, whatever comes meanwhile. Raises ProblemError where these have none of
        it."""
        from policyengine.identity.issue.issuer import TokenIssuer

        engine = self.api.engine
        identity, handing = engine.identity, self.handing()
        if identity is None or not isinstance(identity.issuing, TokenIssuer):
            raise ProblemError(503, "no tokens are issued by the policies that decide now")
        return replace(identity.issuing, handing=lambda: handing, log=engine.log)

    @property
    def desk(self) -> TokenServiceContext:
        """Raises ProblemError where the policies that decide now verify nothing."""
        from policyengine.server.token_service.endpoint import TokenServiceContext

        engine = self.api.engine
        if engine.identity is None:
            raise ProblemError(503, "no credentials are verified by the policies that decide now")
        issuing = None if engine.identity.issuing is None else self.issuing
        return TokenServiceContext(engine.identity, engine.kernel.issuers.keys(), issuing, engine.log)

    async def form(self, answers: EndpointFunction, http: Request) -> Response:
        body, sender = await self._form(http), self.sender(http)
        return build_response(await self._apart(self._others, answers, self.desk, body, sender))

    async def token(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import exchange_token

        body, sender = await self._form(http), self.sender(http)
        return build_response(await self._apart(self._tokens, exchange_token, self.issuing, body, sender))

    async def nonce(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import issue_nonce

        return build_response(await self._apart(self._others, issue_nonce, self.desk, self.now()))

    async def _apart(self, places: Semaphore, work: Callable[..., TokenServiceReply], *given: Any) -> TokenServiceReply:
        """However slow an issuer or OpenBao is, threads are left to decisions, and places to who revokes: strangers can
        have a token looked at."""
        async with places:
            return await run_in_threadpool(work, *given)

    async def _form(self, http: Request) -> bytes:
        from policyengine.server.token_service.endpoint import FORM_TYPE

        given = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != FORM_TYPE:
            raise unsupported_media("a form is wanted", f"send `Content-Type: {FORM_TYPE}`")
        return await read_body(http, self.api.body_timeout)

    async def complete(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import complete_task

        task, sender = http.path_params["task"], self.sender(http, own=True)
        return build_response(await self._apart(self._tokens, complete_task, self.desk, task, sender))

    async def jwks(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import jwks_reply

        return build_response(await self._apart(self._others, jwks_reply, self.issuing, self.now()))

    async def metadata(self, http: Request) -> Response:
        from policyengine.server.token_service.endpoint import metadata_reply

        return build_response(metadata_reply(self.issuing))

    def now(self) -> int:
        return self.api.engine.decider.seconds()

    def sender(self, http: Request, *, own: bool = False) -> FormSender:
        """A gateway with a token of ours says which certificate its client has, in the header that is configured;
        nobody else is believed that. `own`: whether `Authorization` may be an agent's token."""
        from policyengine.server.token_service.endpoint import FormSender, issuer_url

        sent = http.headers.getlist("authorization")
        operator = self.operator(sent)
        trusted = operator is not None
        given: dict[str, tuple[str, ...]] = {}
        for name, value in http.headers.items():
            given[name] = (*given.get(name, ()), value)
        issuing = self.desk.issuing
        path = http.scope["raw_path"].decode("latin-1")  # as the client wrote it, and signed
        url = str(http.url) if issuing is None else f"{issuer_url(issuing)}{path}"
        certificate = self.api.gateway.client_certificate if trusted else None
        raw = read_client_credentials(
            given, method=http.method, url=url, own=own and not trusted, certificate=certificate
        )
        return FormSender(
            read_credentials(raw) or Credentials(), operator, bool(sent) and not trusted and not own, self.now()
        )

    def operator(self, sent: list[str]) -> Operator | None:
        """Whoever sends a token of ours; by name, where it has one."""
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
