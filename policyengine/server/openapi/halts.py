"""The models and responses of the routes for halts, for OpenAPI only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from policyengine.server.openapi import schema
from policyengine.server.openapi.statuses import Statuses, problem_response

HALT_EXAMPLE = {
    "id": "3f9a1c20b7de",
    "agent": "invoice-bot",
    "reason": "it repeats refunds",
    "since": "2026-03-02T10:00:00Z",
    "until": "2026-03-02T12:00:00Z",
    "by": "ops",
}
LIFTING_EXAMPLE = {"id": "3f9a1c20b7de", "reason": "it was fixed", "at": "2026-03-02T10:30:00Z", "by": "ops"}


class HaltScopeModel(BaseModel):
    """Which requests a halt covers: all requests, or those that match all other members."""

    everything: Literal[True] | None = None
    agent: Annotated[str | None, Field(description="an agent anywhere in the chain; `*` is any text")] = None
    issuer: Annotated[str | None, Field(description="an issuer, by its name in the policies or its URL")] = None
    user: str | None = None
    chain_root: Annotated[str | None, Field(description="the first agent of the chain")] = None
    task: str | None = None
    tool: Annotated[str | None, Field(description="a tool, as `server/name`; `*` is any text")] = None
    place: Annotated[str | None, Field(description="endpoints, written as after `on` in a guard")] = None
    package: Annotated[str | None, Field(description="every endpoint that the package opens for a caller")] = None


class NewHalt(HaltScopeModel):
    """A halt to set. It needs a reason, and an end as a duration (`for`) or a time (`until`)."""

    model_config = ConfigDict(extra="forbid")
    reason: Annotated[str, Field(description="the reason, which callers see", max_length=500)]
    for_: Annotated[str | None, Field(alias="for", description="how long it lasts: `2h`")] = None
    until: Annotated[str | None, Field(description="when it ends: `2026-03-02T12:00:00Z`")] = None


class SetHalt(HaltScopeModel):
    """A halt in effect."""

    id: str
    reason: str
    since: str
    until: str
    by: Annotated[str | None, Field(description="the operator, if known")] = None


class LiftedHalt(BaseModel):
    """The lifting of a halt."""

    id: str
    reason: str
    at: str
    by: str | None = None


class HaltAnswer(BaseModel):
    halt: SetHalt


class HaltList(BaseModel):
    """The halts in effect. `unreadable` names the sources that cannot be read: their latest known halts stay in
    effect."""

    halts: list[SetHalt]
    lifted: list[LiftedHalt]
    unreadable: list[str]


class LiftAnswer(BaseModel):
    lifted: LiftedHalt


MODELS = (NewHalt, HaltAnswer, HaltList, LiftAnswer)
HALT_BODY: dict[str, Any] = schema.request_body(
    NewHalt, {"halt": {"agent": "invoice-bot", "reason": "it repeats refunds", "for": "2h"}}
)
REASON_PARAMETER: dict[str, Any] = {
    "parameters": [
        {
            "name": "reason",
            "in": "query",
            "required": True,
            "description": "Why the halt is lifted.",
            "schema": {"type": "string", "maxLength": 500},
        },
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
    ]
}
REFUSED: Statuses = {
    401: problem_response("The token is missing or not accepted."),
    403: problem_response("The caller is not an operator: `[halt] operators` does not name its token."),
}
UNANSWERED: Statuses = {503: problem_response("The store did not accept the change, or did not answer.")}
HALTED: Statuses = {
    201: {
        "description": "The halt is in effect in this process, and elsewhere within a second.",
        "content": schema.content(HaltAnswer, {"halt": {"halt": HALT_EXAMPLE}}),
    },
    400: problem_response("The halt covers nothing, names something unknown, or has no valid end."),
    408: problem_response("The body did not arrive in time."),
    413: problem_response("The body is too large."),
    415: problem_response("The body is neither JSON nor MessagePack."),
    **REFUSED,
    409: problem_response("There is no room for another halt."),
    **UNANSWERED,
}
LISTED: Statuses = {
    200: {
        "description": "The halts in effect, and the latest liftings.",
        "content": schema.content(HaltList, {"halts": {"halts": [HALT_EXAMPLE], "lifted": [], "unreadable": []}}),
    },
    **REFUSED,
}
LIFTED: Statuses = {
    200: {
        "description": "The halt is lifted in this process, and elsewhere within a second.",
        "content": schema.content(LiftAnswer, {"lifted": {"lifted": LIFTING_EXAMPLE}}),
    },
    400: problem_response("The reason is missing, or the halt is in the halt file."),
    **REFUSED,
    404: problem_response("There is no halt with this id."),
    **UNANSWERED,
}
