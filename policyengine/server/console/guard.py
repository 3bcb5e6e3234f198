"""The middleware of the console: it refuses requests for other hosts and from other sites, and adds the headers that
protect every page.
"""

from __future__ import annotations

import logging
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.http.host_check import AllowedHosts, HostRefusal, header_values
from policyengine.server.console.cookies import MAX_COOKIE_BYTES

# Without `unsafe-inline`, no attribute and no text of a page can run or style anything.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'",
        "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)  # fmt: skip
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # `no-referrer` would make browsers send `Origin: null` with forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
HSTS = "max-age=31536000"
METHODS = frozenset({"GET", "HEAD", "POST"})
LOGGER = logging.getLogger("policyengine")


class ConsoleGuard:
    """Middleware around every request of the console. `secure` says whether browsers use HTTPS."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, secure: bool) -> None:
        self.app, self.hosts, self.secure = app, hosts, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def framed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.add_headers(MutableHeaders(scope=message))
            await send(message)

        refused = self.refusal(scope)
        try:
            await (self.app if refused is None else refused)(scope, receive, framed)
        except Exception:
            if started:
                raise
            path = quote(scope["path"])
            LOGGER.exception("the console failed to answer", extra={"event": "answer_failed", "path": path})
            await PlainTextResponse("the console failed to answer\n", 500)(scope, receive, framed)

    def refusal(self, scope: Scope) -> PlainTextResponse | None:
        """Return the refusal of a request that cannot come from a page of the console; None for other requests."""
        if scope["method"] not in METHODS:
            return PlainTextResponse("method not allowed\n", 405, {"Allow": ", ".join(sorted(METHODS))})
        if sum(map(len, header_values(scope["headers"], b"cookie"))) > MAX_COOKIE_BYTES:
            return PlainTextResponse("the cookies are too large\n", 431)
        found = self.host_refusal(scope)
        return None if found is None else PlainTextResponse(f"{found.message}\n", 403)

    def host_refusal(self, scope: Scope) -> HostRefusal | None:
        server = scope.get("server")
        return self.hosts.refusal(scope["method"], scope["headers"], server[0] if server else None)

    def add_headers(self, headers: MutableHeaders) -> None:
        headers.update(HEADERS)
        headers.setdefault("Cache-Control", "no-store")
        if self.secure:
            headers["Strict-Transport-Security"] = HSTS
