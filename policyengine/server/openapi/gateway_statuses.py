"""What the doors for gateways take and give, for OpenAPI only."""

from __future__ import annotations

from typing import Any

from policyengine.http.gateway_headers import Vouched
from policyengine.server.content_negotiation import PROBLEM_TYPES, Form
from policyengine.server.openapi.limit_headers import limit_headers

Free = dict[str, Any]
Statuses = dict[int | str, Free]
EXAMPLES = {
    "agent_id": "invoice-bot",
    "agent_issuer": "acme",
    "agent_instance": "pod-7",
    "agent_groups": "billing, night-shift",
    "user_id": "alice",
    "credential_kind": "jwt",
    "credential_issuer": "acme",
    "credential_scopes": "read:invoices write:invoices",
    "credential_issued_at": "1798794000",
    "credential_expires_at": "2027-01-01T09:10:00Z",
    "credential_lifetime": "10m",
    "credential_bound": "true",
    "request_ip": "10.1.2.3",
}


def text(example: str) -> Free:
    return {"schema": {"type": "string"}, "example": example}


def header(name: str, description: str, example: str, required: bool = False) -> Free:
    spelled = "-".join(part.capitalize() for part in name.split("-"))
    return {"name": spelled, "in": "header", "required": required, "description": description, **text(example)}


def said(name: str, description: str, example: str) -> Free:
    return {name: {"description": description, **text(example)}}


FACTS = [
    header(name, f"The fact `{key.replace('_', '.', 1)}`, from the gateway only.", EXAMPLES[key])
    for key, name in Vouched().facts.items()
]
FORWARDED: list[Free] = [
    header("x-forwarded-method", "The method of the request.", "GET", required=True),
    header(
        "x-forwarded-uri", "Its path and query, as the server behind the gateway gets them.", "/v1/invoices/42", True
    ),
    header("x-forwarded-host", "Its host.", "api.acme.example"),
    *FACTS,
]
PATH = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}, "example": "v1/invoices/42"}
EXT_AUTHZ: list[Free] = [PATH, *FACTS]

DECIDED = {
    **said("X-Decision-Id", "Which decision this is.", "01M874BN1FBKKCX6K4X7XFQD60"),
    **said("X-Decision", "Its outcome: `allow`, `confirm`, `throttle` or `deny`.", "allow"),
    **said("X-Would-Be", "The outcome it would have: with `serve --observe` only. Not for the client.", "deny"),
    **limit_headers(),
}
WHO = {
    **said("X-Auth-Subject", "The agent, for the server behind the gateway; empty where there is none.", "invoice-bot"),
    **said("X-Auth-User", "The person it acts for; empty where there is none.", "alice"),
}
AS_HEADERS = {
    **said("X-Status", "The status that the client should get.", "429"),
    **said("X-Problem", "The body that the client should get.", '{"type":"about:blank","title":"Too Many Requests"}'),
}
PROBLEM: Free = {
    "type": "about:blank",
    "title": "Approval Needed",
    "status": 403,
    "detail": 'refund of 900 to "bob"',
    "outcome": "confirm",
    "decision": "01M874BN1FBKKCX6K4X7XFQD60",
    "remedies": [
        {
            "kind": "approval",
            "by": "role finance",
            "within": "15m",
            "binding": "sha256:71e5fde2…",
            "bound": ["args", "body", "request.host", "request.query"],
        }
    ],
    "reasons": [
        {"gate": "guard", "rule": "large refunds need a human", "message": 'refund of 900 to "bob"'},
    ],
}


def problem(description: str, headers: Free) -> Free:
    shape = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": PROBLEM}
    return {"description": description, "headers": headers, "content": {PROBLEM_TYPES[Form.JSON]: shape}}


ALLOWED: Free = {"description": "It may pass.", "headers": {**DECIDED, **WHO}}
CHALLENGED = problem("Nobody says who asks; or, of the gateway, no token or a wrong one.", DECIDED)
FORWARD_AUTH: Statuses = {
    200: ALLOWED,
    400: problem("What the gateway says makes no sense: a header is missing, or there twice.", {}),
    401: CHALLENGED,
    403: problem("It may not pass, or not without an approval.", DECIDED),
    429: problem("Not now: `Retry-After` says when.", DECIDED),
    500: problem("The server failed and gives no answer.", {}),
    503: problem("Deciding failed, or too many questions that take long wait for their turn.", DECIDED),
}
EXT_AUTHZ_STATUSES: Statuses = {
    **FORWARD_AUTH,
    408: problem("The body did not arrive in time.", {}),
    413: problem("The body is larger than 1 MiB.", {}),
}
FORWARD_AUTH_NGINX: Statuses = {
    200: ALLOWED,
    401: CHALLENGED,
    403: problem("It may not pass, for whatever reason.", {**DECIDED, **AS_HEADERS}),
    500: problem("The server failed and gives no answer.", {}),
}
