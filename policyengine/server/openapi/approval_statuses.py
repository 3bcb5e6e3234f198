"""The responses of the routes of approvals, for OpenAPI only."""

from __future__ import annotations

from policyengine.server.openapi import examples, schema
from policyengine.server.openapi.statuses import JsonObject, Statuses, problem_response

WAIT_PARAMETER: JsonObject = {
    "name": "wait",
    "in": "query",
    "required": False,
    "description": "Seconds to wait, at most 30, for the state to change from `pending`.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 30, "default": 0},
}
LIST_PARAMETERS: list[JsonObject] = [
    {**WAIT_PARAMETER, "description": "Seconds to wait, at most 30, for the list to change from `version`."},
    {
        "name": "version",
        "in": "query",
        "required": False,
        "description": "The `version` of an earlier answer.",
        "schema": {"type": "string"},
    },
]
DENIAL_BODY: JsonObject = {
    "requestBody": {
        "required": False,
        "content": schema.content(schema.Denial, {"denial": {"reason": "the invoice is already paid"}}),
    }
}
UNKNOWN_APPROVAL = problem_response("There is no such approval, or it ended long ago.")
STORE_SILENT = problem_response("The store does not answer.")
UNPROVED = problem_response("The token is missing, or proves no person.")
ENDED = problem_response("The approval has ended, or was answered: `code` is `approval_ended`.")
NOT_AN_APPROVER = problem_response("The rule does not let this person answer: `code` is `not_approver`.")
NO_IDENTITY = problem_response("The server verifies no tokens of people: start it with `--identity`.")

FOUND: Statuses = {
    200: {"description": "The state.", "content": schema.content(schema.ApprovalStatus, {"pending": examples.TICKET})},
    400: problem_response("`wait` is not a number of seconds."),
    404: UNKNOWN_APPROVAL,
    503: STORE_SILENT,
}
WITHDRAWN: Statuses = {
    200: {"description": "The approval is withdrawn.", "content": schema.content(schema.ApprovalStatus, {})},
    401: problem_response("The token is missing or not accepted."),
    404: UNKNOWN_APPROVAL,
    409: ENDED,
    503: STORE_SILENT,
}
PERSON: Statuses = {401: UNPROVED, 404: UNKNOWN_APPROVAL, 501: NO_IDENTITY, 503: STORE_SILENT}
LISTED: Statuses = {
    **PERSON,
    200: {
        "description": "The approvals that wait for an answer of this person, newest first.",
        "content": schema.content(schema.Approvals, {}),
    },
    400: problem_response("`wait` is not a number of seconds."),
    403: problem_response("The token is an agent's, or names no user: `code` is `not_approver`."),
}
SHOWN: Statuses = {
    **PERSON,
    200: {
        "description": "The approval, with entity rows and the history of the requester.",
        "content": schema.content(schema.ApprovalDossier, {}),
    },
    403: NOT_AN_APPROVER,
}
ANSWERED: Statuses = {
    **PERSON,
    200: {"description": "The answer is recorded.", "content": schema.content(schema.ApprovalDetails, {})},
    400: problem_response("The body is malformed."),
    403: NOT_AN_APPROVER,
    408: problem_response("The body did not arrive in time."),
    409: ENDED,
    413: problem_response("The body is larger than 1 MiB."),
    415: problem_response("The body is neither JSON nor MessagePack."),
}
