"""The models of AuthZEN bodies, for OpenAPI only: `adapter.py` parses the bodies."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from policyengine.server.authzen.adapter import LANGUAGE
from policyengine.server.content_negotiation import PROBLEM_TYPES, BodyFormat
from policyengine.server.decide_requests import MAX_BATCH_ITEMS, BatchSemantics
from policyengine.server.openapi.statuses import BUSY_RESPONSE, KEY_STATUSES, Statuses, problem_response

JsonObject = dict[str, Any]
JSON = BodyFormat.JSON.value[0]


class AuthzenSubject(BaseModel):
    """The caller. Unknown members are ignored in every AuthZEN object."""

    type: str
    id: str
    properties: JsonObject | None = None


class AuthzenAction(BaseModel):
    name: str
    properties: JsonObject | None = None


class AuthzenResource(BaseModel):
    type: str
    id: str
    properties: JsonObject | None = None


class AuthzenContext(BaseModel):
    """Facts about the circumstances, and the options that this server supports."""

    consume: Annotated[
        bool | None, Field(description="whether to charge the rates, budgets and approvals that the answer depends on")
    ] = None
    agent: Annotated[str | None, Field(description="the agent that acts for the subject")] = None
    supported_obligations: list[str] | None = None


class AuthzenEvaluation(BaseModel):
    subject: AuthzenSubject
    action: AuthzenAction
    resource: AuthzenResource
    context: AuthzenContext | None = None


class AuthzenItem(BaseModel):
    """An item, whose members replace the shared members as a whole."""

    subject: AuthzenSubject | None = None
    action: AuthzenAction | None = None
    resource: AuthzenResource | None = None
    context: AuthzenContext | None = None


class AuthzenOptions(BaseModel):
    evaluations_semantic: BatchSemantics = BatchSemantics.EXECUTE_ALL


class AuthzenEvaluations(AuthzenItem):
    """The members other than `evaluations` are defaults for its items; without items, they are the question itself."""

    evaluations: Annotated[list[AuthzenItem] | None, Field(max_length=MAX_BATCH_ITEMS)] = None
    options: AuthzenOptions | None = None


class AuthzenObligation(BaseModel):
    id: str
    type: str
    properties: JsonObject


class AuthzenReason(BaseModel):
    """`reason` is `denied`, `approval_required`, `throttled`, `unmapped`, `invalid`, `consume_unset` or `failed`."""

    id: str | None = None
    reason: str | None = None
    reason_user: dict[str, str] | None = None
    reason_admin: dict[str, str] | None = None
    obligations: list[AuthzenObligation] | None = None
    would_be: Annotated[str | None, Field(description="in observe mode: the outcome if the policies were enforced")] = (
        None
    )
    evaluation_id: Annotated[
        str | None, Field(description="id of a decision that spent, to report its outcome at `/events`")
    ] = None
    error: Annotated[JsonObject | None, Field(description="why this item is invalid")] = None


class AuthzenDecision(BaseModel):
    decision: bool
    context: AuthzenReason | None = None


class AuthzenDecisions(BaseModel):
    """Decisions in the order of the questions; fewer if `evaluations_semantic` ended the batch early."""

    evaluations: list[AuthzenDecision]


class AuthzenConfiguration(BaseModel):
    policy_decision_point: str
    access_evaluation_endpoint: str
    access_evaluations_endpoint: str
    supported_obligations: list[str]


MODELS = (AuthzenEvaluation, AuthzenEvaluations, AuthzenDecision, AuthzenDecisions, AuthzenConfiguration)

ALICE: JsonObject = {"type": "user", "id": "alice"}
ASKED: JsonObject = {"subject": ALICE, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}}
ASKED_MANY: JsonObject = {
    "subject": ALICE,
    "action": {"name": "read"},
    "evaluations": [
        {"resource": {"type": "record", "id": "record-1"}},
        {"resource": {"type": "record", "id": "record-2"}},
    ],
    "options": {"evaluations_semantic": "deny_on_first_deny"},
}
DENIED: JsonObject = {
    "decision": False,
    "context": {
        "id": "0",
        "reason": "denied",
        "reason_user": {LANGUAGE: "no block grants this to the caller"},
        "reason_admin": {LANGUAGE: "default: no block grants this to the caller"},
    },
}


def example_content(model: type[BaseModel], example: JsonObject) -> JsonObject:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}}


def request_body(model: type[BaseModel], example: JsonObject) -> JsonObject:
    return {"requestBody": {"required": True, "content": example_content(model, example)}}


def response_statuses(model: type[BaseModel], example: JsonObject) -> Statuses:
    bad: JsonObject = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        200: {"description": "The decision, which may be `false`.", "content": example_content(model, example)},
        400: {
            "description": "The body is malformed or is not JSON.",
            "content": {PROBLEM_TYPES[BodyFormat.JSON]: bad},
        },
        401: problem_response("The token is missing or not accepted."),
        408: problem_response("The body did not arrive in time."),
        413: problem_response("The body is larger than 1 MiB."),
        500: problem_response("The server failed to answer: deny."),
        503: BUSY_RESPONSE,
        **KEY_STATUSES,
    }


EVALUATION = request_body(AuthzenEvaluation, ASKED)
EVALUATIONS = request_body(AuthzenEvaluations, ASKED_MANY)
EVALUATED: Statuses = response_statuses(AuthzenDecision, DENIED)
EVALUATED_MANY: Statuses = response_statuses(AuthzenDecisions, {"evaluations": [{"decision": True}, DENIED]})
CONFIGURED: Statuses = {
    200: {
        "description": "The endpoints of this server.",
        "content": example_content(
            AuthzenConfiguration,
            {
                "policy_decision_point": "https://pdp.example.com",
                "access_evaluation_endpoint": "https://pdp.example.com/access/v1/evaluation",
                "access_evaluations_endpoint": "https://pdp.example.com/access/v1/evaluations",
                "supported_obligations": ["step-up", "notification", "custom"],
            },
        ),
    }
}
