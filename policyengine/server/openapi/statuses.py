"""Which statuses each route gives, and with what, for OpenAPI only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from policyengine.server.content_negotiation import PROBLEM_TYPES, Form
from policyengine.server.openapi import examples, schema
from policyengine.server.openapi.limit_headers import limit_headers

Free = dict[str, Any]
Statuses = dict[int | str, Free]
KEY: Free = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "Who asks again by the same key, within ten minutes and with the very same body, gets the same answer, and "
        "nothing is spent again. It belongs to the gateway whose token came with it; without tokens it is passed over."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[\\x21-\\x7e]+$"},
    "example": "8e03978e-40d5-43dd-bc93-6fae90b0db0d",
}
REPLAYED: Free = {
    "Idempotency-Replayed": {
        "description": "`true` where the decision was made before and is given again, by its `Idempotency-Key`.",
        "schema": {"type": "string"},
        "example": "true",
    }
}


def problem(description: str, example: Free | None = None, headers: Free | None = None) -> Free:
    shape: Free = {"schema": {"$ref": "#/components/schemas/Problem"}}
    shown = shape if example is None else {**shape, "example": example}
    found: Free = {"description": description} | ({"headers": headers} if headers else {})
    return {**found, "content": {PROBLEM_TYPES[Form.JSON]: shown, PROBLEM_TYPES[Form.MSGPACK]: shape}}


SOON = {"Retry-After": {"description": "In whole seconds.", "schema": {"type": "string"}, "example": "1"}}
BUSY = problem("Too many questions that take long wait for their turn: `code` is `busy`. Deny.", headers=SOON)


def answered(model: type[BaseModel], example: Free, headers: Free | None = None) -> Statuses:
    """What every route that takes a body gives."""
    found: Free = {"description": "An answer was found; deny is one too."}
    found |= {"headers": headers} if headers else {}
    return {
        200: {**found, "content": schema.content(model, {"answer": example})},
        400: problem("The question is malformed.", examples.BAD_MEMBER),
        401: problem("No token, or a wrong one."),
        408: problem("The body did not arrive in time."),
        413: problem("The body is larger than 1 MiB."),
        415: problem("The body is neither JSON nor MessagePack."),
        500: problem("The server failed and gives no answer. Deny."),
        503: BUSY,
    }


FOREIGN = problem("The `Host` is no name of this server, or a page of another site asks.")
BY_KEY: Statuses = {
    409: problem("The same question is being decided, by this key: ask again.", headers=SOON),
    422: problem("The key came with another question before."),
}
CONFIRM = examples.CONFIRM
DECIDED: Statuses = answered(schema.Decision, CONFIRM, {**limit_headers(), **REPLAYED}) | BY_KEY
EVALUATED: Statuses = answered(schema.Decision, CONFIRM, limit_headers())
DECIDED_MANY: Statuses = answered(schema.Decisions, {"decisions": [CONFIRM]}) | BY_KEY
EXPLAINED: Statuses = answered(schema.Explanation, {"decision": CONFIRM, "walk": examples.WALK})
REPORTED: Statuses = answered(schema.Reported, {"decision": examples.REPORT["decision"], "reported": True}) | {
    404: problem("Nothing waits for the outcome of this decision."),
    409: problem("It was reported before: `code` is `outcome_reported`."),
    503: problem("The store does not answer, or too much waits (`code` is `busy`); report it again."),
}
ALIVE: Statuses = {200: {"description": "It is.", "content": schema.content(schema.Health, {})}}
READY: Statuses = {
    200: {"description": "It is.", "content": schema.content(schema.Readiness, {})},
    503: problem("It is stopping, or the store that its policies need fails. Send questions elsewhere."),
}
MEASURED: Statuses = {
    200: {
        "description": "All metrics, as text: of Prometheus, or of OpenMetrics where `Accept` asks for that.",
        "content": {one: {"schema": {"type": "string"}} for one in ("text/plain", "application/openmetrics-text")},
    },
    401: problem("No token, or a wrong one."),
    501: problem("The package that writes them is not installed."),
}
