"""Around every exchange: the headers each answer carries, the caller's label on it, and no exception that gets out."""

from __future__ import annotations

import logging
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.http.trace_context import Trace, enter
from policyengine.server.content_negotiation import problem_answer
from policyengine.server.host_check import HostCheck
from policyengine.server.problems import DENY, NO_ANSWER, Problem
from policyengine.server.telemetry.server_log import REQUEST_ID
from policyengine.server.telemetry.trace_headers import told, trace_in

LABEL = re.compile(r"[\x21-\x7e]{1,128}")
LOGGER = logging.getLogger("policyengine")


class Frame:
    """`hosts` refuses requests by their `Host` and `Origin`; None where a token is needed instead."""

    def __init__(self, app: ASGIApp, hosts: HostCheck | None = None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        label, trace = label_of(Headers(scope=scope)), trace_in(scope["headers"])
        enter(trace)  # none too: a request that came right behind another one is begun in the other's context
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
                return await problem_answer(Request(scope), refused)(scope, receive, framed)
            await self.app(scope, receive, framed)
        except Exception:
            if started:
                raise
            said = scope["method"], label or "(no X-Request-ID)"
            LOGGER.exception("an answer failed: %s %s", *said, extra={"event": "answer_failed", "path": scope["path"]})
            failed = Problem(500, NO_ANSWER, hint=DENY)
            await problem_answer(Request(scope), failed)(scope, receive, framed)


def label_of(headers: Headers) -> str | None:
    """A label only: it is echoed and means nothing here."""
    given = headers.getlist("x-request-id")
    return given[0] if len(given) == 1 and LABEL.fullmatch(given[0]) else None


def add_headers(headers: MutableHeaders, label: str | None, trace: Trace | None) -> None:
    headers["Cache-Control"] = "no-store"
    headers["X-Content-Type-Options"] = "nosniff"
    if label is not None:
        headers["X-Request-ID"] = label
    headers.raw.extend(told(trace))
