"""Example questions and answers for the OpenAPI document."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]

REFUND: JsonObject = {
    "request": {"method": "POST", "path": "/v1/invoices/42/refunds"},
    "agent": {"id": "invoice-bot", "issuer": "acme"},
    "user": {"id": "alice"},
    "credential": {
        "kind": "jwt",
        "issuer": "acme",
        "scopes": ["create:refunds"],
        "lifetime": "10m",
        "bound": True,
    },
    "attestation": {"verified": True, "by": "lab", "age": "5m"},
    "body": {"amount": 900, "recipient": "bob"},
}
TOOL_CALL: JsonObject = {
    "tool": {"server": "billing", "name": "refund_invoice"},
    "args": {"invoice_id": "42", "amount": 90},
    "agent": {"id": "invoice-bot", "issuer": "acme"},
    "user": {"id": "alice"},
    "credential": {"kind": "jwt", "issuer": "acme", "scopes": ["create:refunds"]},
}
ACTION: JsonObject = {
    "action": {"name": "view"},
    "resource": {"type": "invoice", "id": "42"},
    "user": {"id": "alice"},
    "credential": {"kind": "jwt", "issuer": "acme", "scopes": ["read:invoices"]},
}
CREDENTIALS_REQUEST: JsonObject = {
    "request": {"method": "GET", "path": "/v1/invoices/42", "host": "api.acme.example"},
    "credentials": {
        "authorization": "DPoP eyJ0eXAiOiJhdCtqd3QifQ.e30.c2ln",
        "dpop": "eyJ0eXAiOiJkcG9wK2p3dCJ9.e30.c2ln",
        "url": "https://api.acme.example/v1/invoices/42?full=yes",
    },
}
QUESTIONS = {"HTTP request": REFUND, "tool call": TOOL_CALL, "action on a thing": ACTION}
QUESTIONS_WITH_CREDENTIALS = {**QUESTIONS, "credentials to verify": CREDENTIALS_REQUEST}  # with `--identity`
TICKET: JsonObject = {
    "id": "f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc",
    "state": "pending",
    "expires": "2027-01-05T12:00:00Z",
    "poll": 5,
    "decision": "01K0Q6Z6W3M5Y8T2C4R7B9D1FG",
}
CONFIRM: JsonObject = {
    "outcome": "confirm",
    "allowed": False,
    "id": "01K0Q6Z6W3M5Y8T2C4R7B9D1FG",
    "revision": "sha256:5b1c0d7e0c5f7a3f3c9a6a2f4a2f0f8f8a1f7f9b5d4c3b2a1908f7e6d5c4b3a2",
    "package": "acme.payments",
    "gate": "guard",
    "reasons": [
        {
            "gate": "guard",
            "message": 'refund of 900 to "bob"',
            "rule": "large refunds need a human",
            "at": "payments.policy:47",
            "outcome": "confirm",
        }
    ],
    "remedies": [
        {
            "kind": "approval",
            "rule": "large refunds need a human",
            "by": "role finance",
            "within": "15m",
            "binding": "…",
            "bound": ["args", "body", "request.host", "request.query"],
        }
    ],
    "principal": {
        "agent": "invoice-bot",
        "issuer": "acme",
        "user": "alice",
        "chain": ["alice", "invoice-bot"],
        "cluster": "invoice-bot",
    },
    "rates": [],
    "obligations": [],
    "unknown": [],
}
WALK: JsonObject = {
    "endpoint": "POST /v1/invoices/42/refunds",
    "gates": [
        {"mark": "yes", "text": "identity", "note": 'agent "invoice-bot" of issuer "acme"'},
        {
            "mark": "no",
            "text": "guards",
            "parts": [{"mark": "no", "text": 'guard "large refunds need a human"', "at": "payments.policy:45"}],
        },
    ],
}
BAD_MEMBER: JsonObject = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "unknown member `user.roles`",
    "member": "user.roles",
    "hint": "attributes of a declared entity come from the entity store, from the credential's `claims`, "
    "or from `entities` in this request",
}
BATCH: JsonObject = {"requests": [REFUND, TOOL_CALL], "semantics": "deny_on_first_deny"}

REPORT: JsonObject = {
    "decision": "01K0Q6Z6W3M5Y8T2C4R7B9D1FG",
    "status": 200,
    "latency_ms": 12,
    "size": 512,
    "output": {"state": "paid"},
    "usage": {"input_tokens": 850, "output_tokens": 120},
}
