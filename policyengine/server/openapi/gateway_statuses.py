"""Parameters and responses of the gateway routes, for OpenAPI only."""

from __future__ import annotations

from typing import Any

from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.server.content_negotiation import PROBLEM_TYPES, BodyFormat
from policyengine.server.openapi.limit_headers import limit_headers

JsonObject = dict[str, Any]
Statuses = dict[int | str, JsonObject]
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


def string_schema(example: str) -> JsonObject:
    return {"schema": {"type": "string"}, "example": example}


def request_header(name: str, description: str, example: str, required: bool = False) -> JsonObject:
    spelled = "-".join(part.capitalize() for part in name.split("-"))
    return {"name": spelled, "in": "header", "required": required, "description": description, **string_schema(example)}


def response_header(name: str, description: str, example: str) -> JsonObject:
    return {name: {"description": description, **string_schema(example)}}


FACT_HEADERS = [
    request_header(name, f"The value of `{key.replace('_', '.', 1)}`, which only the gateway may set.", EXAMPLES[key])
    for key, name in GatewayHeaders().facts.items()
]
FORWARDED_HEADERS: list[JsonObject] = [
    request_header("x-forwarded-method", "The method of the request.", "GET", required=True),
    request_header(
        "x-forwarded-uri",
        "The path and query of the request, as the server behind the gateway receives them.",
        "/v1/invoices/42",
        True,
    ),
    request_header("x-forwarded-host", "The host of the request.", "api.acme.example"),
    *FACT_HEADERS,
]
PATH = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}, "example": "v1/invoices/42"}
EXT_AUTHZ: list[JsonObject] = [PATH, *FACT_HEADERS]

DECISION_HEADERS = {
    **response_header("X-Decision-Id", "The id of the decision.", "01M874BN1FBKKCX6K4X7XFQD60"),
    **response_header("X-Decision", "The outcome of the decision: `allow`, `confirm`, `throttle` or `deny`.", "allow"),
    **response_header("X-Would-Be", "The outcome without `serve --observe`. It is not for the client.", "deny"),
    **limit_headers(),
}
IDENTITY_HEADERS = {
    **response_header(
        "X-Auth-Subject", "The agent, for the server behind the gateway; empty without an agent.", "invoice-bot"
    ),
    **response_header("X-Auth-User", "The user that the agent acts for; empty without a user.", "alice"),
}
NGINX_HEADERS = {
    **response_header("X-Status", "The status that the client should get.", "429"),
    **response_header(
        "X-Problem", "The body that the client should get.", '{"type":"about:blank","title":"Too Many Requests"}'
    ),
}
STATUS_URL = "https://pdp.example.com/approvals/f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc"
APPROVAL: JsonObject = {
    "id": "f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc",
    "state": "pending",
    "status": STATUS_URL,
    "expires": "2027-01-05T12:00:00Z",
    "poll": 5,
}
LINK_HEADERS = response_header(
    "Link", "Where the state of the approval is, if `url` of `[approvals]` is set.", f'<{STATUS_URL}>; rel="status"'
)
PROBLEM: JsonObject = {
    "type": "about:blank",
    "title": "Approval Needed",
    "status": 403,
    "detail": 'refund of 900 to "bob"',
    "outcome": "confirm",
    "decision": "01M874BN1FBKKCX6K4X7XFQD60",
    "approval": APPROVAL,
    "remedies": [
        {
            "kind": "approval",
            "by": "role finance",
            "within": "15m",
            "binding": "sha256:71e5fde2…",
            "bound": ["args", "body", "request.host", "request.query"],
            "approval": APPROVAL,
        }
    ],
    "reasons": [
        {"gate": "guard", "rule": "large refunds need a human", "message": 'refund of 900 to "bob"'},
    ],
}


def gateway_problem(description: str, headers: JsonObject) -> JsonObject:
    shape = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": PROBLEM}
    return {"description": description, "headers": headers, "content": {PROBLEM_TYPES[BodyFormat.JSON]: shape}}


ALLOWED: JsonObject = {"description": "The request may pass.", "headers": {**DECISION_HEADERS, **IDENTITY_HEADERS}}
CHALLENGED = gateway_problem(
    "The request proves no identity that the policy accepts, or the gateway's token is missing or not accepted.",
    DECISION_HEADERS,
)
FORWARD_AUTH: Statuses = {
    200: ALLOWED,
    400: gateway_problem("The gateway's headers are malformed: one is missing, or occurs twice.", {}),
    401: CHALLENGED,
    403: gateway_problem("The request may not pass, or not without an approval.", {**DECISION_HEADERS, **LINK_HEADERS}),
    429: gateway_problem("The request is throttled: `Retry-After` says for how long.", DECISION_HEADERS),
    500: gateway_problem("The server failed to answer.", {}),
    503: gateway_problem("The decision failed, or too many long questions wait for their turn.", DECISION_HEADERS),
}
EXT_AUTHZ_STATUSES: Statuses = {
    **FORWARD_AUTH,
    408: gateway_problem("The body did not arrive in time.", {}),
    413: gateway_problem("The body is larger than 1 MiB.", {}),
}
FORWARD_AUTH_NGINX: Statuses = {
    200: ALLOWED,
    401: CHALLENGED,
    403: gateway_problem(
        "The request may not pass, for any reason.", {**DECISION_HEADERS, **LINK_HEADERS, **NGINX_HEADERS}
    ),
    500: gateway_problem("The server failed to answer.", {}),
}
