"""The models of bodies, for OpenAPI only: `Request` parses bodies; these models validate nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue, models_json_schema
from pydantic_core import CoreSchema, core_schema

from policyengine.approvals.model import ApprovalState
from policyengine.explain.lines import Mark
from policyengine.runtime.decision import (
    ApprovalTicket,
    Gate,
    Obligation,
    Outcome,
    Principal,
    RateState,
    Reason,
    Remedy,
    UnknownFact,
)
from policyengine.server.content_negotiation import BodyFormat
from policyengine.server.decide_requests import MAX_BATCH_ITEMS, BatchSemantics
from policyengine.server.problems import ProblemCode
from policyengine.typesystem import ListType, RecordType, RefType, Scalar, SetType, Type
from policyengine.vocabulary import FACTS, HOP_MEMBERS, REQUEST_MEMBERS, ROOTS, FactOrigin

JsonObject = dict[str, Any]


class StrictModel(BaseModel):
    """The base of the models that refuse unknown members."""

    model_config = ConfigDict(extra="forbid")


# ── The question ──────────────────────────────────────────────────────────────────────────────


REQUEST_DOCS = {
    "request": "The HTTP request to decide. Header names are case-insensitive.",
    "tool": "The tool to call; its arguments are in `args`.",
    "action": "The action on `resource`.",
    "agent": "The agent that presents the credential.",
    "user": "The user that the agent acts for.",
    "chain": "The agents between the user and the presenter, in order from the user.",
    "credential": "The credential as the gateway verified it.",
    "task": (
        "The tools (`server/name` or `name`) and the resources (type and id) that a bounded task is limited to."
    ),
}  # fmt: skip


def json_type(type_: Type | None) -> Any:
    """Return the Python type that documents a fact in JSON; None documents an object with arbitrary members."""
    match type_:
        case None:
            return JsonObject
        case Scalar.BOOL:
            return bool
        case Scalar.INT:
            return int
        case Scalar.NUMBER:
            return float
        case SetType(element) | ListType(element):
            return list[json_type(element)]  # type: ignore[misc]  # made here, for OpenAPI only
        case RefType():
            return RESOURCE_MODEL
        case RecordType():
            return HOP_MODEL
        case _:
            return str


def optional_member(type_: Type | None, doc: str | None = None) -> Any:
    return Annotated[json_type(type_) | None, Field(description=doc)], None


def facts_model(root: str) -> type[BaseModel]:
    """Return the model of the members of one root, with one field per row of the vocabulary."""
    members: dict[str, Any] = {}
    for fact in FACTS:
        if fact.path[0] == root and fact.is_member:
            required = fact.origin is FactOrigin.ENDPOINT and not fact.optional
            members[fact.path[1]] = (json_type(fact.type), ...) if required else optional_member(fact.type, fact.doc)
    for member in REQUEST_MEMBERS:
        if member.path[0] == root:
            required = member.required
            members[member.path[1]] = (json_type(member.type), ...) if required else optional_member(member.type)
    name = "HttpFacts" if root == "request" else f"{root.capitalize()}Facts"
    return create_model(name, __base__=StrictModel, __doc__=REQUEST_DOCS.get(root), **members)


HOP_MODEL = create_model(
    "Hop", __base__=StrictModel, **{name: optional_member(type_) for name, type_ in HOP_MEMBERS.items()}
)
RESOURCE_MODEL = facts_model("resource")
FACT_MODELS: dict[str, type[BaseModel]] = {
    root: RESOURCE_MODEL if root == "resource" else facts_model(root)
    for root, members in ROOTS.items()
    if members is not None
}


class Digests(StrictModel):
    """Digests of the whole body as received, in base64, computed by a party that saw it."""

    sha_256: Annotated[str | None, Field(alias="sha-256")] = None
    sha_512: Annotated[str | None, Field(alias="sha-512")] = None


class Credentials(StrictModel):
    """The credentials that the request carried, each as in its header, if the server verifies them (`serve
    --identity`): the verified facts replace the claimed ones. The caller vouches that a certificate is that of the
    connection. `method` and `url` belong to the request that carried the credentials, if that is not `request`."""

    authorization: Annotated[str | None, Field(description="`Bearer …` or `DPoP …`")] = None
    dpop: Annotated[str | None, Field(description="DPoP proof (RFC 9449)")] = None
    txn_token: str | None = None
    api_key: str | None = None
    client_certificate: Annotated[
        str | None,
        Field(description="the value of `Client-Cert` (RFC 9440) or of Envoy's `X-Forwarded-Client-Cert`, or PEM"),
    ] = None
    attestation: str | None = None
    signature: Annotated[
        str | None, Field(description="message signature (RFC 9421), with `signature_input` and `signature_agent`")
    ] = None
    signature_input: str | None = None
    signature_agent: str | None = None
    content_digest: Annotated[str | None, Field(description="digest of the body (RFC 9530)")] = None
    method: str | None = None
    url: Annotated[str | None, Field(description="the absolute URL, with its query as sent")] = None
    digests: Digests | None = None


class Approval(StrictModel):
    """An approval by a person, as the gateway knows it."""

    id: str
    by: str
    issuer: Annotated[str | None, Field(description="the issuer that vouches for the person")] = None
    granted_at: str | None = None
    binding: str | None = None


class EntityName(StrictModel):
    type: str
    id: str


class Entity(StrictModel):
    """An entity that is used for this question only."""

    type: str
    id: str
    attributes: JsonObject | None = None
    in_: Annotated[list[EntityName] | None, Field(alias="in")] = None
    partial: Annotated[
        bool | None, Field(description="whether attributes and groups that are not listed here are unknown")
    ] = None


class Options(StrictModel):
    """`consume` defaults to true for `/decide` and to false for the items of a batch."""

    consume: bool | None = None
    explain: bool | None = None
    obligations_supported: list[str] | None = None
    at: str | None = None
    request_approval: Annotated[bool | None, Field(description="whether a confirm asks people for an approval")] = None


QUESTION_MEMBERS: dict[str, Any] = {root: (FACT_MODELS.get(root, JsonObject) | None, None) for root in ROOTS}
QUESTION_FACTS: Any = create_model("QuestionFacts", __base__=StrictModel, **QUESTION_MEMBERS)


class Question(QUESTION_FACTS):  # type: ignore[misc]  # its roots are those of the vocabulary
    """A question about exactly one endpoint: `request` with method and path, `tool`, or `action`. All other members are
    facts.
    """

    credentials: Credentials | None = None
    approvals: list[Approval] | None = None
    entities: list[Entity] | None = None
    pending: list[str] | None = None
    options: Options | None = None


class Batch(StrictModel):
    """Up to 1,000 questions, decided in order. A question spends only if its own `options.consume` is true."""

    requests: Annotated[list[Question], Field(max_length=MAX_BATCH_ITEMS)]
    semantics: BatchSemantics = BatchSemantics.EXECUTE_ALL


class Event(StrictModel):
    """The outcome of the request of a decision. `output` holds the parts of its response that policies may read."""

    decision: str
    status: int | None = None
    latency_ms: float | None = None
    size: Annotated[int | None, Field(description="the size of the response in bytes")] = None
    output: JsonObject | None = None
    usage: Annotated[
        dict[str, float] | None, Field(description="amounts that the request consumed, such as `input_tokens`")
    ] = None
    refund: Annotated[bool, Field(description="whether to refund what the request added to budgets")] = False


# ── The answer ────────────────────────────────────────────────────────────────────────────────


class Problem(BaseModel):
    """A problem of RFC 9457. `member` is the invalid member of the question."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    code: ProblemCode | None = None
    member: str | None = None
    hint: str | None = None


class Line(BaseModel):
    """One line of an explanation: what was considered, its result, and its parts."""

    mark: Mark
    text: str
    note: str | None = None
    at: str | None = None
    parts: list[Line] | None = None


class Walk(BaseModel):
    """The explanation, gate by gate. It reveals every fact and rule, so callers should not see it."""

    endpoint: str
    gates: list[Line]


REFERENCE = "#/components/schemas/{name}"
STRUCTS = (ApprovalTicket, Reason, Remedy, Principal, RateState, Obligation, UnknownFact)


class StructSchema:
    """Documents and reads the msgspec structs of a decision, with msgspec itself."""

    def __init__(self, type: Any) -> None:
        self.type = type

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(lambda raw: msgspec.convert(raw, self.type))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        (documented,), _ = msgspec.json.schema_components((self.type,), ref_template=REFERENCE)
        return {"allOf": [documented]}  # pydantic resolves a bare reference among its own models


class Decision(BaseModel):
    outcome: Outcome
    allowed: bool
    would_be: Annotated[Outcome | None, Field(description="the outcome without `serve --observe`")] = None
    id: str
    revision: str
    package: str
    gate: Gate | None
    reasons: Annotated[list[Reason], StructSchema(list[Reason])]
    remedies: Annotated[list[Remedy], StructSchema(list[Remedy])]
    principal: Annotated[Principal, StructSchema(Principal)]
    rates: Annotated[list[RateState], StructSchema(list[RateState])]
    obligations: Annotated[list[Obligation], StructSchema(list[Obligation])]
    unknown: Annotated[list[UnknownFact], StructSchema(list[UnknownFact])]
    explanation: Annotated[Walk | None, Field(description="present with `options.explain`")] = None


class Item(Decision):
    """An item of a batch; `error` is the reason why an invalid item is denied."""

    error: Problem | None = None


class Decisions(BaseModel):
    """Decisions in the order of the questions; fewer if `semantics` ended the batch early."""

    decisions: list[Item]


class Explanation(BaseModel):
    decision: Decision
    walk: Walk


class Reported(BaseModel):
    """`recorded` is false, with a `warning`, if the outcome took effect but could not be written to the decision
    log."""

    decision: str
    reported: Literal[True]
    recorded: Literal[False] | None = None
    warning: str | None = None


class Denial(StrictModel):
    """The denial of an approval."""

    reason: Annotated[str | None, Field(description="for the requester")] = None


class ApprovalStatus(BaseModel):
    """The state of an approval, for its requester. `poll` is the number of seconds to wait between two questions."""

    id: str
    state: ApprovalState
    expires: str
    poll: int
    decision: str
    reason: str | None = None


class ApprovalAnswer(BaseModel):
    """The answer of a person, and the issuer that vouches for the person. `channel` is `mcp` if an MCP client asked its
    user."""

    by: str
    issuer: str | None = None
    at: str
    reason: str | None = None
    channel: str | None = None


class ApprovalDetails(ApprovalStatus):
    """An approval for the people who may answer it. `question` is the request, without secrets."""

    rule: str
    message: str
    by: Annotated[str, Field(description="the approvers, as the rule names them")]
    count: Annotated[int, Field(description="the number of people who must approve")]
    within: Annotated[str, Field(description="how long the approval counts")]
    opened: str
    endpoint: str
    requester: JsonObject
    question: JsonObject
    approved: list[ApprovalAnswer]
    denied: ApprovalAnswer | None = None


class DirectoryRow(BaseModel):
    """A row of the entity store. `known` is false for an entity without a row, and null if the source of the row did
    not answer. `in` are the groups of the entity.
    """

    type: str
    id: str
    known: bool | None
    attributes: JsonObject | None = None
    more_attributes: Annotated[int | None, Field(description="the number of attributes that are left out")] = None
    in_: Annotated[list[str] | None, Field(alias="in")] = None


class PastDecision(BaseModel):
    time: str
    id: str
    outcome: Outcome
    agent: str | None = None
    user: str | None = None
    endpoint: str | None = None
    rule: str | None = None
    gate: Gate | None = None


class PastApproval(BaseModel):
    """An earlier approval, with its last answer in the log."""

    id: str
    state: ApprovalState
    rule: str
    endpoint: str
    time: str
    by: str | None = None


class RequesterHistory(BaseModel):
    """The acts of the requester since a time, from the decision log: the numbers of decisions by outcome and of
    approvals by state, and the latest of both. `unread` says why there is no history.
    """

    since: str | None = None
    decisions: dict[str, int] | None = None
    latest: list[PastDecision] | None = None
    approvals: dict[str, int] | None = None
    latest_approvals: list[PastApproval] | None = None
    unread: str | None = None


class ApprovalDossier(ApprovalDetails):
    """An approval, with the current entity rows of the people and things in it, and the history of the requester."""

    directory: list[DirectoryRow]
    history: RequesterHistory


class Approvals(BaseModel):
    approvals: list[ApprovalDetails]
    version: str = Field(description="Changes with the list; `wait` waits until then.")


class Health(BaseModel):
    status: Literal["ok"]


class Reloads(BaseModel):
    done: int
    refused: int
    why: str | None = Field(description="The reason of the last refused reload, while earlier policies still decide.")
    at: str | None = Field(description="The time of the last refused reload, as in RFC 3339.")
    widens: int | None = Field(
        description="The number of changes of the last reload that allow more than before; null while it is not known."
    )
    proved: bool | None = Field(
        description="Whether it is proved that there are no other such changes; null while it is not known."
    )


class Observing(BaseModel):
    """Observe mode: which requests pass although policies would stop them, and until when."""

    until: str
    packages: list[str] | None = None
    endpoints: list[str] | None = None


class HaltNumbers(BaseModel):
    """The halts in effect; `unreadable` means that halts cannot be read, so that the latest known halts stay in
    effect."""

    in_effect: int
    everything: bool
    unreadable: Literal[True] | None = None


class Readiness(BaseModel):
    status: Literal["ready"]
    revision: str
    packages: list[str]
    reloads: Reloads
    halts: Annotated[
        HaltNumbers | None, Field(description="present while a halt is in effect, or halts cannot be read")
    ] = None
    observing: Annotated[
        Observing | None, Field(description="present with `serve --observe`, until observe mode ends")
    ] = None
    clock_skew_ms: Annotated[
        int | None,
        Field(
            description="how far the clock of the store is ahead of the server's clock, if the store has its own clock"
        ),
    ] = None


MODELS = (
    Question, Batch, Event, Decision, Decisions, Explanation, Reported, Problem, Health, Readiness, Denial,
    ApprovalStatus, ApprovalDetails, ApprovalDossier, Approvals,
)  # fmt: skip

# ── Fragments of the OpenAPI document ─────────────────────────────────────────────────────────


def components(more: Sequence[type[BaseModel]] = ()) -> JsonObject:
    models: list[type[BaseModel]] = [*MODELS, *more]
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template=REFERENCE.replace("name", "model")
    )
    _, structs = msgspec.json.schema_components(STRUCTS, ref_template=REFERENCE)
    return {**structs, **document["$defs"]}


def content(model: type[BaseModel], examples: JsonObject) -> JsonObject:
    """Return the schema for both formats, with the examples as JSON."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    shown = {name: {"value": value} for name, value in examples.items()}
    return {
        BodyFormat.JSON.value[0]: {"schema": schema, "examples": shown},
        BodyFormat.MSGPACK.value[0]: {"schema": schema},
    }


def request_body(model: type[BaseModel], examples: JsonObject) -> JsonObject:
    return {"requestBody": {"required": True, "content": content(model, examples)}}
