"""An MCP endpoint as a resource server of OAuth: metadata with which clients find the issuers of tokens (RFC 9728),
401 for requests without a valid token, and 403 for calls that need a token with a further scope (RFC 6750).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.engine import Engine
from policyengine.engine.authenticate import TRANSIENT_REFUSALS
from policyengine.http.host_check import AllowedHosts, HostRefusal, header_values, parse_host_header, url_host_names
from policyengine.identity.challenges import ALGORITHMS, PROOF_ERRORS, REALM, quotable_description
from policyengine.identity.verified import CredentialRefusal, VerifiedCredential
from policyengine.integrations.credentials import presented
from policyengine.integrations.enforcement_point import PolicyDecisionPoint
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.integrations.mcp.clients.listening_stream import is_revoked, run_while_valid
from policyengine.integrations.mcp.http_exchange import EXCHANGE, HttpExchange, TokenChallenge
from policyengine.integrations.mcp.methods import DENIED
from policyengine.integrations.mcp.protected_resource import (
    WELL_KNOWN,
    ProtectedResource,
    ResourceAccess,
    metadata_headers,
    read_resource_access,
)
from policyengine.kernel import Kernel
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.credential_errors import RefusalCode
from policyengine.runtime.decision import Gate
from policyengine.runtime.request import RequestError

METADATA_SECONDS = 60
MAX_SCOPE_LENGTH = 2_000  # characters of all scopes in a header; beyond, clients read `scopes_supported`
NO_STORE = {"cache-control": "no-store"}
METADATA_METHODS = "GET, HEAD, OPTIONS"
MALFORMED = frozenset({RefusalCode.TWO_CREDENTIALS, RefusalCode.TOO_LARGE})
REUSABLE = frozenset({"authorization", "client_certificate"})
NO_TOKEN = "the request needs a token"
TOKEN_IN_URL = "a token in the URL is not accepted; send it in the header Authorization"
UNBOUND_TOKEN = "the token must be bound to a key"
SCOPE_MISSING = "the request needs a scope that the token does not have"
_LOG = logging.getLogger("policyengine")


class ResourceServer:
    """ASGI middleware that makes an MCP endpoint a resource server.

    `app` serves MCP at `path`, with policies of `decides`, an engine of this process that verifies credentials. Clients
    reach it at `public_url`; without it, at the `Host` of their requests, which must be a loopback name or one of
    `allowed_hosts`. `initial_scopes` are the scopes that clients request first; by default, all scopes of the policies.
    With `verifies_tokens=False`, the application serves the metadata and verifies tokens itself, and only the 403 is
    added; this needs the `public_url`. Raises AllowedHostError, and ValueError if the engine verifies no credentials.
    """

    def __init__(
        self,
        app: ASGIApp,
        decides: PolicyDecisionPoint,
        *,
        server: str,
        public_url: str | None = None,
        path: str = "/mcp",
        allowed_hosts: Collection[str] = (),
        initial_scopes: Sequence[str] = (),
        verifies_tokens: bool = True,
    ) -> None:
        self._app, self._decides, self._server = app, decides, server
        self._public_url, self._path = None if public_url is None else public_url.rstrip("/"), path
        self._hosts = AllowedHosts.of((*allowed_hosts, *url_host_names(public_url)))
        self._initial_scopes, self._verifies = tuple(initial_scopes), verifies_tokens
        self._access: tuple[Kernel, ResourceAccess] | None = None
        self._warnings = LogThrottle.every(60)
        self._messages = ClientMessageDecider(decides, server)
        if current_engine(decides).identity is None and verifies_tokens:
            raise ValueError("the engine verifies no credentials: load it with `identity=`")
        if public_url is None and not verifies_tokens:
            raise ValueError("without `public_url`, the host of each request would choose the URL of the metadata")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = routed_path(scope)
        if path.rstrip("/") == self._path:
            return await self._endpoint(scope, receive, send)
        if self._verifies and path in self._metadata_paths():
            return await self._send_metadata(scope, receive, send)
        await self._app(scope, receive, send)

    @property
    def access(self) -> ResourceAccess:
        """The conditions on tokens, by the policies in force."""
        engine = current_engine(self._decides)
        if self._access is None or self._access[0] is not engine.kernel:
            own = None if engine.identity is None or engine.identity.own is None else engine.identity.own.issuer
            self._access = engine.kernel, read_resource_access(engine.kernel, self._server, own)
        return self._access[1]

    def resource(self, scope: Scope) -> ProtectedResource:
        """Return the resource at the public URL; without it, at the host that the request names, which was checked."""
        base = self._public_url
        if base is None:
            host = header_values(scope["headers"], b"host")[0].decode("latin-1").lower()
            base = f"{scope.get('scheme', 'http')}://{host}"
        return ProtectedResource(f"{base}{self._path}", self._server)

    def _refused_host(self, scope: Scope) -> HostRefusal | None:
        server, headers = scope.get("server"), scope["headers"]
        refused = self._hosts.refusal(scope["method"], headers, server[0] if server else None)
        if refused is None and not parse_host_header(header_values(headers, b"host")[0]):
            return HostRefusal("host", "the Host header is malformed", "send one, such as `Host: 127.0.0.1`")
        return refused

    async def _refuse_host(self, refused: HostRefusal, scope: Scope, receive: Receive, send: Send) -> None:
        why = f"{refused.message}: {refused.hint}"
        told = f"a request was refused: {why}"
        event = {"event": "foreign_refused", "header": refused.header, "why": why}
        self._warnings.tell(logging.WARNING, refused.header, told, **event)
        await JSONResponse(error_document(why), 403, NO_STORE)(scope, receive, send)

    # ── Metadata ──────────────────────────────────────────────────────────────────────────────

    def _metadata_paths(self) -> tuple[str, ...]:
        prefix = "" if self._public_url is None else urlsplit(self._public_url).path
        return WELL_KNOWN, f"{WELL_KNOWN}{self._path}", f"{WELL_KNOWN}{prefix}{self._path}"

    async def _send_metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refused := self._refused_host(scope)) is not None:
            return await self._refuse_host(refused, scope, receive, send)
        if scope["method"] == "OPTIONS":
            return await Response(status_code=204, headers={"allow": METADATA_METHODS})(scope, receive, send)
        if scope["method"] not in ("GET", "HEAD"):
            return await Response(status_code=405, headers={"allow": METADATA_METHODS})(scope, receive, send)
        content = self.resource(scope).metadata(self.access)
        headers = metadata_headers(content, METADATA_SECONDS)
        known = b",".join(header_values(scope["headers"], b"if-none-match")).split(b",")
        if headers["etag"].encode() in map(bytes.strip, known):
            return await Response(status_code=304, headers=dict(headers))(scope, receive, send)
        await Response(content, headers=dict(headers))(scope, receive, send)

    # ── The endpoint ──────────────────────────────────────────────────────────────────────────

    async def _endpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._verifies:
            return await self._answer(HttpExchange(None, self.access), scope, receive, send)
        if (refused := self._refused_host(scope)) is not None:
            return await self._refuse_host(refused, scope, receive, send)
        found = await self._identify(scope)
        if isinstance(found, Response):
            return await found(scope, receive, send)
        await self._answer(HttpExchange(found, self.access), scope, receive, send)

    async def _answer(self, exchange: HttpExchange, scope: Scope, receive: Receive, send: Send) -> None:
        inner = {**scope, EXCHANGE: exchange}
        if scope["method"] == "POST":
            return await DeferredStart(exchange, self, scope, send).run(self._app, inner, receive)
        proved = (exchange.facts or {}).get("credentials")
        if scope["method"] != "GET" or not isinstance(proved, VerifiedCredential):
            return await self._app(inner, receive, send)

        async def has_ended() -> bool:
            if await is_revoked(current_engine(self._decides), proved):
                return True
            refusal = await self._messages.refuse_listener(exchange.facts or {})
            return refusal is not None and refusal.gate is Gate.HALTED

        await run_while_valid(self._app, inner, receive, send, proved, has_ended)

    async def _identify(self, scope: Scope) -> Mapping[str, object] | Response:
        """Return the facts that the credentials of the request prove, or the answer that refuses them."""
        query = scope.get("query_string", b"").decode("latin-1")
        if any(name.lower() == "access_token" for name, _ in parse_qsl(query, keep_blank_values=True)):
            return self.challenge(scope, 400, "invalid_request", TOKEN_IN_URL)
        try:
            facts = presented(scope, public_url=self._public_url)
        except RequestError as error:
            return self.challenge(scope, 400, "invalid_request", quotable(error.message))
        if not facts:
            return facts if self.access.has_public_grants else self.challenge(scope, 401, None, NO_TOKEN)
        try:
            proved = await self._prove(reusable_facts(facts))
        except RequestError as error:
            return self.challenge(scope, 400, "invalid_request", quotable(error.message))
        if isinstance(proved, CredentialRefusal):
            return self._refusal(scope, proved.refusal)
        if self.access.requires_binding and proved.facts["credential"].get("bound") is not True:
            return self.challenge(scope, 401, "invalid_token", UNBOUND_TOKEN, proof=True)
        return {**facts, "credentials": proved}

    async def _prove(self, facts: Mapping[str, object]) -> VerifiedCredential | CredentialRefusal:
        """Verify the credentials; an internal error is a refusal. Raises RequestError."""
        try:
            proved = (await current_engine(self._decides).prove_async(facts))["credentials"]
        except RequestError:
            raise
        except Exception:
            if self._warnings.admit("failure") is not None:
                _LOG.exception("a credential could not be verified, and was refused")
            proved = None
        return proved if isinstance(proved, VerifiedCredential) else refusal_of(proved)

    # ── Refusals ──────────────────────────────────────────────────────────────────────────────

    def _refusal(self, scope: Scope, code: RefusalCode) -> Response:
        """Return the answer to a credential that proves nothing: 503 if the same credential may be accepted later, 400
        if no client should send it, otherwise 401."""
        description = quotable_description(code)
        if code.value in TRANSIENT_REFUSALS:
            return JSONResponse(error_document(description), 503, {**NO_STORE, "retry-after": "5"})
        status = 400 if code in MALFORMED else 401
        answer = self.challenge(scope, status, code.error.value, description, proof=code.error in PROOF_ERRORS)
        identity = current_engine(self._decides).identity
        nonce = identity.nonce() if identity is not None and code.error in PROOF_ERRORS else None
        if nonce is not None:
            answer.headers["dpop-nonce"] = nonce
        return answer

    def challenge(
        self, scope: Scope, status: int, error: str | None, description: str, *, proof: bool = False
    ) -> Response:
        """Return a refusal with the challenge for the first token of a client."""
        headers = {"www-authenticate": self.challenge_header(scope, error, description, None, proof=proof)}
        return JSONResponse(error_document(description), status, {**NO_STORE, **headers})

    def challenge_header(
        self,
        scope: Scope,
        error: str | None,
        description: str,
        scopes: Sequence[str] | None,
        *,
        proof: bool = False,
    ) -> str:
        """Return `WWW-Authenticate`. `scopes` are the scopes to request; None stands for the initial scopes. A client
        without a token gets no error (RFC 6750, 3.1). The scheme is DPoP if `proof` is true, if the client used DPoP,
        or if every grant requires a bound token; otherwise it is Bearer."""
        access = self.access
        proof = proof or access.requires_binding or uses_dpop(scope)
        known = self._initial_scopes or access.scopes if scopes is None else tuple(scopes)
        wanted = " ".join(known)
        members = [
            REALM,
            *(() if error is None else (f'error="{error}"', f'error_description="{description}"')),
            *((f'scope="{wanted}"',) if 0 < len(wanted) <= MAX_SCOPE_LENGTH else ()),
            *((f'algs="{ALGORITHMS}"',) if proof else ()),
            f'resource_metadata="{self.resource(scope).metadata_url}"',
        ]
        return f"{'DPoP' if proof else 'Bearer'} {', '.join(members)}"

    def token_challenge(self, challenge: TokenChallenge, scope: Scope) -> str:
        """Return `WWW-Authenticate` for a denial that another token would lift."""
        if challenge.status == 401:
            return self.challenge_header(scope, None, NO_TOKEN, None)
        return self.challenge_header(scope, "insufficient_scope", SCOPE_MISSING, challenge.scopes)


class DeferredStart:
    """Sends an answer, but holds its status and headers until the first bytes of its body. If the middleware has noted
    a challenge by then, the client gets the challenge instead; later, the answer has begun, and the denial is part of
    it.
    """

    def __init__(self, exchange: HttpExchange, server: ResourceServer, scope: Scope, send: Send) -> None:
        self._exchange, self._server, self._scope, self._send = exchange, server, scope, send
        self._start: Message | None = None
        self._is_replaced = False

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        await app(scope, receive, self._deferred)
        await self._begin()

    async def _deferred(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._is_replaced or (self._start is not None and is_empty_part(message)):
            return
        if self._start is not None and self._exchange.challenge is not None:
            return await self._challenge(self._exchange.challenge)
        await self._begin()
        await self._send(message)

    async def _begin(self) -> None:
        start, self._start = self._start, None
        if start is not None:
            await self._send(start)

    async def _challenge(self, challenge: TokenChallenge) -> None:
        start, self._start, self._is_replaced = self._start, None, True
        kept = [(name, value) for name, value in (start or {}).get("headers", ()) if name.lower() == b"mcp-session-id"]
        document = {"jsonrpc": "2.0", "id": challenge.request_id, "error": challenge.error}
        header = self._server.token_challenge(challenge, self._scope)
        answer = JSONResponse(document, challenge.status, {**NO_STORE, "www-authenticate": header})
        answer.raw_headers += kept
        await answer(self._scope, no_messages, self._send)


def refusal_of(proved: object) -> CredentialRefusal:
    return proved if isinstance(proved, CredentialRefusal) else CredentialRefusal(RefusalCode.FAILURE)


def reusable_facts(facts: Mapping[str, Any]) -> Mapping[str, object]:
    """Return credentials without the method and URL of their request, unless they contain a proof for these: without
    them, a cached token is found at once.
    """
    kept = {name: value for name, value in facts["credentials"].items() if name not in ("method", "url")}
    return {**facts, "credentials": kept} if kept.keys() <= REUSABLE else facts


async def no_messages() -> Message:
    return {"type": "http.disconnect"}


def uses_dpop(scope: Scope) -> bool:
    return any(value[:5].lower() == b"dpop " for value in header_values(scope["headers"], b"authorization"))


def routed_path(scope: Scope) -> str:
    """Return the decoded path, by which applications route, without the prefix under which this application is
    mounted. A path such as `/%6dcp` must not pass by the check of tokens."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] or "/" if root and (path == root or path.startswith(f"{root}/")) else path


def is_empty_part(message: Message) -> bool:
    return not message.get("body") and bool(message.get("more_body"))


def current_engine(decides: object) -> Engine:
    """Return the engine that decides now. Raises TypeError for a decision point in another process, which verifies no
    credentials here."""
    engine = decides if isinstance(decides, Engine) else getattr(decides, "engine", None)
    if not isinstance(engine, Engine):
        raise TypeError("a resource server needs an engine of this process, which verifies credentials")
    return engine


def error_document(message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": DENIED, "message": message}}


def quotable(text: str) -> str:
    """Return a text with only those characters that RFC 6750 allows in a description."""
    return "".join(one if " " <= one <= "~" and one not in '"\\' else "'" for one in text)
