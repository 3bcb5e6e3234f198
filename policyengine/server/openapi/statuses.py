"""The responses of each route, for OpenAPI only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from policyengine.server.content_negotiation import PROBLEM_TYPES, BodyFormat
from policyengine.server.openapi import examples, schema
from policyengine.server.openapi.limit_headers import limit_headers

JsonObject = dict[str, Any]
Statuses = dict[int | str, JsonObject]
KEY_PARAMETER: JsonObject = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "A retry with the same key, within ten minutes and with an identical body, gets the same answer and spends "
        "nothing. Keys belong to the caller whose token was sent; without tokens the header is ignored."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[\\x21-\\x7e]+$"},
    "example": "8e03978e-40d5-43dd-bc93-6fae90b0db0d",
}
REPLAYED: JsonObject = {
    "Idempotency-Replayed": {
        "description": "`true` if the answer repeats an earlier decision with the same `Idempotency-Key`.",
        "schema": {"type": "string"},
        "example": "true",
    }
}


def problem_response(
    description: str, example: JsonObject | None = None, headers: JsonObject | None = None
) -> JsonObject:
    shape: JsonObject = {"schema": {"$ref": "#/components/schemas/Problem"}}
    shown = shape if example is None else {**shape, "example": example}
    found: JsonObject = {"description": description} | ({"headers": headers} if headers else {})
    return {**found, "content": {PROBLEM_TYPES[BodyFormat.JSON]: shown, PROBLEM_TYPES[BodyFormat.MSGPACK]: shape}}


RETRY_AFTER_HEADER = {
    "Retry-After": {
        "description": "Whole seconds to wait before a retry.",
        "schema": {"type": "string"},
        "example": "1",
    }
}
BUSY_RESPONSE = problem_response(
    "Too many long questions wait for their turn: `code` is `busy`. Deny.", headers=RETRY_AFTER_HEADER
)


def answer_statuses(model: type[BaseModel], example: JsonObject, headers: JsonObject | None = None) -> Statuses:
    """Return the responses of every route that accepts a body."""
    found: JsonObject = {"description": "The answer. A decision may be `deny`."}
    found |= {"headers": headers} if headers else {}
    return {
        200: {**found, "content": schema.content(model, {"answer": example})},
        400: problem_response("The body is malformed.", examples.BAD_MEMBER),
        401: problem_response("The token is missing or not accepted."),
        408: problem_response("The body did not arrive in time."),
        413: problem_response("The body is larger than 1 MiB."),
        415: problem_response("The body is neither JSON nor MessagePack."),
        500: problem_response("The server failed to answer: deny."),
        503: BUSY_RESPONSE,
    }


FOREIGN_RESPONSE = problem_response(
    "The `Host` is not a name of this server, or a page of another site sent the request."
)
KEY_STATUSES: Statuses = {
    409: problem_response("A question with this key is being decided: retry.", headers=RETRY_AFTER_HEADER),
    422: problem_response("The key was used for another question."),
}
CONFIRM = examples.CONFIRM
DECIDED: Statuses = answer_statuses(schema.Decision, CONFIRM, {**limit_headers(), **REPLAYED}) | KEY_STATUSES
EVALUATED: Statuses = answer_statuses(schema.Decision, CONFIRM, limit_headers())
DECIDED_MANY: Statuses = answer_statuses(schema.Decisions, {"decisions": [CONFIRM]}) | KEY_STATUSES
EXPLAINED: Statuses = answer_statuses(schema.Explanation, {"decision": CONFIRM, "walk": examples.WALK})
REPORTED: Statuses = answer_statuses(schema.Reported, {"decision": examples.REPORT["decision"], "reported": True}) | {
    404: problem_response(
        "The outcome of this decision cannot be reported: the decision is unknown or no longer kept, did not allow the "
        "request, or was requested by another caller."
    ),
    409: problem_response("The outcome is already reported: `code` is `outcome_reported`."),
    503: problem_response(
        "The store does not answer, the outcome cannot be recorded (`code` is `outcome_not_recorded`), or too many "
        "requests are waiting (`code` is `busy`): report the outcome again."
    ),
}
ALIVE: Statuses = {200: {"description": "The process is alive.", "content": schema.content(schema.Health, {})}}
READY: Statuses = {
    200: {"description": "The server is ready.", "content": schema.content(schema.Readiness, {})},
    503: problem_response(
        "The server is stopping, or its store or a database of entities cannot be used: send questions to another "
        "server."
    ),
}
MEASURED: Statuses = {
    200: {
        "description": "All metrics as text, in the format of Prometheus, or of OpenMetrics if `Accept` requests it.",
        "content": {one: {"schema": {"type": "string"}} for one in ("text/plain", "application/openmetrics-text")},
    },
    401: problem_response("The token is missing or not accepted."),
    501: problem_response("The package `prometheus-client` is not installed."),
}
