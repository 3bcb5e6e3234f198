"""Middleware for ASGI applications: `PolicyMiddleware(app, engine, identify=…)` decides before the application runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.http.approval_links import approval_links, approval_member
from policyengine.http.rate_limit_headers import rate_limit_headers
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.challenges import challenge_headers
from policyengine.integrations.approval_waiter import ApprovalWaiter
from policyengine.integrations.body_needs import looks_into_bodies
from policyengine.integrations.credentials import add_content_digests, has_content_digest
from policyengine.integrations.denial_messages import STATUSES, denial_data, format_denial
from policyengine.integrations.enforcement_point import (
    NO_DUTIES,
    UNKNOWN_CALLER,
    Duties,
    Facts,
    Identify,
    PolicyDecisionPoint,
    identify_caller,
    make_denial,
    report_outcome,
)
from policyengine.integrations.http_facts import (
    BODY_TOO_LARGE,
    BodyTooLargeError,
    body_facts,
    build_http_question,
    read_body,
    route_path,
    unread_body_facts,
    wait_for_disconnect,
)
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.observe import needs_challenge

DECISION = "policyengine.decision"  # key of the decision in the ASGI scope
TITLES = {401: "Unauthorized", 403: "Forbidden", 413: "Content Too Large", 429: "Too Many Requests"}
POLICY_VIOLATION = 1008  # websocket close code
BodyPredicate: TypeAlias = Callable[[str, str], bool]


class PolicyMiddleware:
    """ASGI middleware. `identify` takes the scope and returns facts about the caller that were already verified, in the
    form that `/decide` accepts: `{}` for a stranger, to whom only `anyone` grants anything, or None for an unknown
    caller, who gets a 401.

    The body is read only if the policy reads it; with a remote decision point, every body is read unless
    `looks_into_body(method, path)` returns False. WebSockets are closed unless `websockets` is true; if it is, the
    opening of each WebSocket is decided as a GET of its path. A request that people must approve waits for them, for at
    most `wait_for_approval` seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        decides: PolicyDecisionPoint,
        *,
        identify: Identify[Scope],
        duties: Duties = NO_DUTIES,
        websockets: bool = False,
        looks_into_body: BodyPredicate | None = None,
        wait_for_approval: float = 0.0,
    ) -> None:
        self._app, self._decides, self._identify, self._duties = app, decides, identify, duties
        self._waiter = ApprovalWaiter(decides, wait_for_approval)
        self._websockets, self._looks = websockets, looks_into_body or looks_into_bodies(decides)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await self._app(scope, receive, send)
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case other:
                raise ValueError(f"ASGI scopes of type `{other}` are not supported")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts = await identify_caller(self._identify, scope)
        if facts is None:
            return await send_denial(send, make_denial(UNKNOWN_CALLER, Gate.IDENTITY))
        body, content, gone = unread_body_facts(scope), None, None
        has_digest = "credentials" in facts and has_content_digest(scope)
        if has_digest or (self._waiter.waits and not body) or self._looks_into(scope):
            try:
                gone = partial(wait_for_disconnect, receive)
                content, receive = await read_body(receive)
            except BodyTooLargeError:
                return await send_problem(send, 413, {"detail": BODY_TOO_LARGE})
            facts, body = add_content_digests(facts, content), body_facts(scope, content)
        decision = await self._waiter.decide(build_http_question(scope, facts, body, content), self._duties, gone)
        if not decision.allowed:
            return await send_denial(send, decision, find_authenticator(self._decides))
        await self._run(decision, scope, receive, send)

    def _looks_into(self, scope: Scope) -> bool:
        try:
            return self._looks(scope["method"], route_path(scope))
        except Exception:  # if the check fails, decide with the body
            return True

    async def _run(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, size = perf_counter(), 500, 0
        scope[DECISION] = decision

        async def watching(message: Message) -> None:
            nonlocal status, size
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watching)
        except BaseException:
            await report_outcome(self._decides, decision, 500, began)
            raise
        await report_outcome(self._decides, decision, status, began, size=size if scope["type"] == "http" else None)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts = await identify_caller(self._identify, scope) if self._websockets else None
        if facts is not None:
            asked = build_http_question(scope, facts, {})
            decision = await self._waiter.decide(asked, self._duties)
            if decision.allowed:
                return await self._run(decision, scope, receive, send)
        await receive()  # the connect message
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────


def denial_response(
    decision: Decision, identity: CredentialAuthenticator | None = None
) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
    """Return the status, the members of the problem document, and the headers. The status is 401 if a credential may
    help, as in the adapters for gateways."""
    status = 401 if needs_challenge(decision) else STATUSES[decision.outcome]
    challenge = challenge_headers(decision, identity) if status == 401 else ()
    data = denial_data(decision)
    wait = data.get("retry_after")
    later = [("retry-after", str(wait))] if wait is not None else []
    rates = [(name, value) for name, value in rate_limit_headers(decision) if name != "retry-after"]
    links = approval_links(decision.remedies)
    members = {"detail": format_denial(decision), **data, **approval_member(decision.remedies, only_urls=True)}
    return status, members, [*challenge, *later, *rates, *links]


def problem_document(status: int, members: Facts) -> dict[str, Any]:
    return {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, **members}


def find_authenticator(decides: PolicyDecisionPoint) -> CredentialAuthenticator | None:
    """Return the authenticator of an engine in this process, which may issue nonces; None for other decision points."""
    found = getattr(decides, "identity", None)
    return found if isinstance(found, CredentialAuthenticator) else None


async def send_denial(send: Send, decision: Decision, identity: CredentialAuthenticator | None = None) -> None:
    status, members, headers = denial_response(decision, identity)
    await send_problem(send, status, members, headers)


async def send_problem(send: Send, status: int, members: Facts, headers: list[tuple[str, str]] | None = None) -> None:
    content = msgspec.json.encode(problem_document(status, members))
    always = [("content-type", "application/problem+json"), ("content-length", str(len(content)))]
    lines = [(name.encode(), value.encode("latin-1")) for name, value in (*always, *(headers or ()))]
    await send({"type": "http.response.start", "status": status, "headers": [*lines, (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": content})
