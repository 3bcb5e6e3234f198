"""Middleware around every exchange: it adds common headers and the request label, and answers exceptions with 500."""

from __future__ import annotations

import logging
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.http.trace_context import TraceContext, enter_trace
from policyengine.server.content_negotiation import build_problem_answer
from policyengine.server.host_guard import HostCheck
from policyengine.server.problems import DENY_HINT, NO_ANSWER, ProblemError
from policyengine.server.telemetry.server_log import REQUEST_ID
from policyengine.server.telemetry.trace_headers import parse_trace, trace_response_headers

ANSWER_FAILED_KEY = (
    "policyengine.unanswered"  # key in the scope for the error of a question that was decided, but whose answer failed
)
LABEL = re.compile(r"[\x21-\x7e]{1,128}")
LOGGER = logging.getLogger("policyengine")


class ExchangeMiddleware:
    """Middleware around every exchange. `hosts` refuses requests by `Host` and `Origin`; it is None if tokens are
    required instead.
    """

    def __init__(self, app: ASGIApp, hosts: HostCheck | None = None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        label, trace = request_label(Headers(scope=scope)), parse_trace(scope["headers"])
        # Set even if it is None, because a pipelined request starts in the context of the previous one.
        enter_trace(trace)
        started = False
        REQUEST_ID.set(label)

        async def framed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                add_headers(MutableHeaders(scope=message), label, trace)
            await send(message)

        refused = None if self.hosts is None else self.hosts.problem(scope)
        try:
            if refused is not None:
                return await build_problem_answer(Request(scope), refused)(scope, receive, framed)
            if ANSWER_FAILED_KEY in scope:
                raise scope[ANSWER_FAILED_KEY]
            await self.app(scope, receive, framed)
        except Exception:
            if started:
                raise
            said = scope["method"], label or "(no X-Request-ID)"
            LOGGER.exception("failed to answer: %s %s", *said, extra={"event": "answer_failed", "path": scope["path"]})
            failed = ProblemError(500, NO_ANSWER, hint=DENY_HINT)
            await build_problem_answer(Request(scope), failed)(scope, receive, framed)


def request_label(headers: Headers) -> str | None:
    """Return `X-Request-ID`, which is echoed and logged but has no other meaning; None if it is missing, repeated or
    malformed.
    """
    given = headers.getlist("x-request-id")
    return given[0] if len(given) == 1 and LABEL.fullmatch(given[0]) else None


def add_headers(headers: MutableHeaders, label: str | None, trace: TraceContext | None) -> None:
    headers["Cache-Control"] = "no-store"
    headers["X-Content-Type-Options"] = "nosniff"
    if label is not None:
        headers["X-Request-ID"] = label
    headers.raw.extend(trace_response_headers(trace))
