"""The fields of a record that questions can name, and where a line of the log has them.

Each source is a template with paths into the JSON of a line. A field has the value of the first source whose paths all
have values. The streaming reader and the DuckDB SQL are both derived from this table, so that they agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

PATH = re.compile(r"\{([a-z_.0-9\[\]]+)\}")
STEP = re.compile(r"([a-z_]+)|\[(\d+)\]")
Step = str | int
DIRECTORY = "directory"  # the kind of lines with entity rows, which are not records
VERSIONS = ("1", "2")  # versions of the format of lines that can be read
VERSION_PATH, TIME_PATH = "v", "time"


class FieldKind(StrEnum):
    """The type of a field; the value is its type in SQL."""

    TEXT = "VARCHAR"
    INTEGER = "BIGINT"
    NUMBER = "DOUBLE"
    TIME = "TIMESTAMP"


# The kinds of records, each with a path that every record of the kind has.
RECORD_KINDS = {
    "decision": "decision.id",
    "outcome": "outcome.decision",
    "issued": "issued.jti",
    "not_issued": "not_issued.code",
    "ended": "ended.what",
    "system": "system.event",
    "seal": "seal.event",
    DIRECTORY: "directory",
}


@dataclass(frozen=True, slots=True)
class RecordField:
    """A field of a record. `sources` is empty for a field that the query or the readers compute (`SPECIAL`)."""

    name: str
    kind: FieldKind
    meaning: str
    sources: tuple[str, ...] = ()


def _text(name: str, meaning: str, *sources: str) -> RecordField:
    return RecordField(name, FieldKind.TEXT, meaning, sources)


def _of_token(path: str) -> tuple[str, ...]:
    return tuple(f"{{{kind}.{path}}}" for kind in ("issued", "not_issued", "ended"))


def _asked(name: str) -> tuple[str, str]:
    return f"{{decision.principal.{name}}}", f"{{outcome.subject.{name}}}"


FIELDS: dict[str, RecordField] = {
    field.name: field
    for field in (
        RecordField("time", FieldKind.TIME, "the time of the record, in UTC"),
        _text("kind", f"the kind of record: {', '.join(f'`{kind}`' for kind in RECORD_KINDS if kind != DIRECTORY)}"),
        _text("id", "the ID of the decision, or the `jti` of the token",
              "{decision.id}", "{outcome.decision}", "{issued.jti}", "{ended.jti}"),
        _text("agent", "the presenting agent", *_asked("agent"), *_of_token("agent.id")),
        _text("issuer", "the issuer of the agent", *_asked("issuer"), *_of_token("agent.issuer")),
        _text("user", "the user for whom the agent acts, or who made the request without an agent",
              *_asked("user"), *_of_token("user.id")),
        _text("chain", "the user and the agents, the presenting agent last, joined with ` > `"),
        _text("agents", "the agents of the chain, without the user"),
        RecordField("depth", FieldKind.INTEGER, "the number of agents in the chain"),
        _text("client", "the client that asked for the decision, or that requested the token",
              "{client}", "{decision.client}", "{request.client.id}", "{outcome.subject.client}", *_of_token("client")),
        _text("task", "the ID of the task",
              "{task}", "{decision.task}", "{request.task.id}", "{outcome.subject.task}", *_of_token("task.id")),
        _text("model", "the attested model, or else the claimed one",
              "{model}", "{decision.model}", "{request.attestation.model}", "{request.agent.model}",
              "{outcome.subject.model}"),
        _text("endpoint", "the endpoint pattern that the request matched, or else its method and path, tool or action",
              "{endpoint}", "{decision.endpoint}", "{request.request.method} {request.request.path}",
              "TOOL {request.tool.server}/{request.tool.name}", "TOOL {request.tool.name}",
              "ACTION {request.action.name}", "{outcome.subject.endpoint}"),
        _text("target", "the method and path, the tool, or the action of the request itself",
              "{request.request.method} {request.request.path}", "TOOL {request.tool.server}/{request.tool.name}",
              "TOOL {request.tool.name}", "ACTION {request.action.name}"),
        _text("resource", "the resource, such as `invoice/42`, or else the path or the tool",
              "{resource.type}/{resource.id}", "{resource}", "{decision.resource.type}/{decision.resource.id}",
              "{decision.resource}", "{request.resource.type}/{request.resource.id}",
              "{request.request.path}", "{request.tool.server}/{request.tool.name}", "{request.tool.name}",
              "{outcome.subject.resource.type}/{outcome.subject.resource.id}", "{outcome.subject.resource}"),
        _text("outcome", "`allow`, `deny`, `confirm` or `throttle`",
              "{decision.outcome}", "{outcome.subject.outcome}"),
        _text("gate", "the gate that stopped the request", "{decision.gate}", "{outcome.subject.gate}"),
        _text("rule", "the rule that stopped the request; the first rule if several did",
              "{rule}", "{decision.reasons[0].rule}", "{outcome.subject.rule}"),
        _text("observed", "`true` if the request passed only because of observe mode", "{observed}"),
        _text("binding", "the digest of the request that a confirm asks to approve"),
        _text("spent", "the bindings of the approvals that an allow used"),
        _text("approver", "who approved the request that was allowed"),
        _text("event",
              "the event of `system` and `seal`, what ended (`ended`), or the code of the refusal (`not_issued`)",
              "{system.event}", "{seal.event}", "{ended.what}", "{not_issued.code}"),
        RecordField("status", FieldKind.INTEGER, "the HTTP status of the response", ("{outcome.status}",)),
        RecordField("latency_ms", FieldKind.NUMBER, "the duration of the request in milliseconds",
                    ("{outcome.latency_ms}",)),
        RecordField("size", FieldKind.INTEGER, "the size of the response in bytes", ("{outcome.size}",)),
        _text("usage", "the reported usage, as JSON", "{outcome.usage}"),
        _text("package", "the package of the policies",
              "{decision.package}", "{issued.package}", "{not_issued.package}"),
        _text("revision", "the revision of the policies", "{decision.revision}", "{outcome.subject.revision}",
              "{issued.revision}", "{not_issued.revision}", "{system.revision}"),
        _text("trace", "the `traceparent` of the answer", "{trace}"),
    )
}  # fmt: skip

# Fields that a question computes. A bucket has the length of the prefix of a time of fixed width, and the text that
# completes its name.
BUCKETS = {"minute": (16, "Z"), "hour": (13, ":00Z"), "day": (10, ""), "month": (7, "")}
ENDED = "ended"
COMPUTED = {
    "minute": "the minute of the time, in UTC",
    "hour": "the hour of the time, in UTC",
    "day": "the day of the time, in UTC",
    "month": "the month of the time, in UTC",
    ENDED: "how a confirm ended: `allowed` if a later decision used an approval for it, otherwise `open`",
}
MEASURES = ("latency_ms", "size", "usage")  # fields that questions can measure
ENDED_FIELDS = frozenset({"kind", "outcome", "time", "binding", "spent"})

CHAIN_SOURCES = ("decision.principal.chain", "outcome.subject.chain")
USER_SOURCES = ("decision.principal.user", "outcome.subject.user")
REMEDIES, APPROVALS, SPENDS = "decision.remedies", "request.approvals", "spends"
SPECIAL_PATHS: dict[str, tuple[str, ...]] = {
    "chain": CHAIN_SOURCES,
    "agents": (*CHAIN_SOURCES, *USER_SOURCES),
    "depth": (*CHAIN_SOURCES, *USER_SOURCES),
    "binding": (REMEDIES,),
    "spent": (APPROVALS, SPENDS),
    "approver": (APPROVALS, SPENDS),
}
WHOLE_NUMBER = r"-?[0-9]{1,18}"
DECIMAL_NUMBER = r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?"


def stored_fields(names: frozenset[str]) -> frozenset[str]:
    """Return the stored fields (`FIELDS`) that the named fields need; a computed field may need several. Raises
    KeyError."""
    found: set[str] = {"time", "kind"}
    for name in names:
        if name == ENDED:
            found |= ENDED_FIELDS
        elif name not in BUCKETS:
            found.add(FIELDS[name].name)
    return frozenset(found)


def is_field(name: str) -> bool:
    return name in FIELDS or name in COMPUTED


def field_paths(field: RecordField) -> tuple[str, ...]:
    """Return the paths in a line of the log from which a field is read."""
    if field.name in SPECIAL_PATHS:
        return SPECIAL_PATHS[field.name]
    return tuple(path for source in field.sources for path in PATH.findall(source))


def split_path(path: str) -> tuple[Step, ...]:
    """Return the steps of a path: `a.b[0]` is `("a", "b", 0)`."""
    return tuple(name or int(index) for name, index in STEP.findall(path))


def split_source(source: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of a template, each with whether it is a path."""
    for number, part in enumerate(PATH.split(source)):
        if part:
            yield number % 2 == 1, part
