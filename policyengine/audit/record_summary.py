"""The members of a log line that other systems index, as one flat row. Sinks and exports use these rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from policyengine.audit.files import BYTE_ORDER_MARK
from policyengine.time_formats import parse_time

KINDS = ("decision", "outcome", "issued", "not_issued", "ended", "system", "seal", "directory")
TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
TIME = re.compile(r"[0-9-]{10}T[0-9:]{8}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9:]{5})")  # allows neither spaces nor line ends
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TRIES = 8  # maximum places on a line at which a record is searched for
DECODER = msgspec.json.Decoder()
LINE_STARTS = re.compile(rb'\{"v":\s?[0-9]{1,3},')


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """The row of a log line. `kind` is one of KINDS, `time` the time as written, `id` the ID of the decision or the
    `jti` of the token. `target` is the method and path, the tool or the action of the request; `endpoint` is the
    endpoint pattern that the request matched or, without one, the same as `target`. `event` names what happened to a
    token or in the system. Members that the line lacks are None."""

    kind: str
    time: str
    id: str | None = None
    outcome: str | None = None
    gate: str | None = None
    rule: str | None = None
    message: str | None = None
    observed: bool = False
    agent: str | None = None
    issuer: str | None = None
    user: str | None = None
    chain: tuple[str, ...] = ()
    client: str | None = None
    task: str | None = None
    model: str | None = None
    method: str | None = None
    path: str | None = None
    host: str | None = None
    ip: str | None = None
    endpoint: str | None = None
    target: str | None = None
    resource: str | None = None
    status: int | None = None
    latency_ms: float | None = None
    size: int | None = None
    credential: str | None = None
    package: str | None = None
    revision: str | None = None
    event: str | None = None
    trace: str | None = None

    @property
    def nanoseconds(self) -> int:
        """The time in nanoseconds since 1970; 0 if it is malformed."""
        moment = parse_time(self.time) if TIME.fullmatch(self.time) else None
        return 0 if moment is None else (moment - EPOCH) // timedelta(microseconds=1) * 1_000

    @property
    def trace_ids(self) -> tuple[str, str] | None:
        """The trace ID and span ID of the answer, in hexadecimal; None without a valid trace."""
        found = TRACE.fullmatch(self.trace or "")
        return (found[1], found[2]) if found else None


def find_record(line: bytes) -> tuple[bytes, dict[str, Any]] | None:
    """Return the record on a line and its decoded members, or None for a line without a record. If a killed process
    left the beginning of a record on the line, return the complete record after it."""
    line = line.strip().removeprefix(BYTE_ORDER_MARK)
    tree = decode_record(line)
    if tree is not None:
        return line, tree
    starts = [found.start() for found in LINE_STARTS.finditer(line, 1)]
    for start in reversed(starts[-MAX_TRIES:]):
        tree = decode_record(line[start:])
        if tree is not None:
            return line[start:], tree
    return None


def decode_record(line: bytes) -> dict[str, Any] | None:
    """Decode a record; None if the line is not a record."""
    try:
        tree = DECODER.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) and type(tree.get("v")) is int and kind_of(tree) is not None else None


def kind_of(tree: Mapping[str, Any]) -> str | None:
    """Return the kind of a line, or None if it is not a record. A decision also has `directory`, the digest of its
    entities.
    """
    return next((kind for kind in KINDS if kind in tree), None)


def summarize(tree: Mapping[str, Any]) -> RecordSummary:
    """Return the row of a decoded line. A member of an unexpected type counts as absent."""
    kind = kind_of(tree) or "system"
    time, trace = text(tree.get("time")) or "", text(tree.get("trace"))
    match kind:
        case "decision":
            row = summarize_decision(mapping(tree.get("decision")), mapping(tree.get("request")))
            row["observed"] = tree.get("observed") is True
            row["endpoint"] = text(tree.get("endpoint")) or row["target"]
            row["client"] = text(tree.get("client")) or row["client"]
            row["resource"] = resource_of(mapping(tree.get("resource"))) or row["resource"]
        case "outcome":
            row = summarize_outcome(mapping(tree.get("outcome")))
        case "issued" | "not_issued" | "ended":
            row = summarize_token(kind, mapping(tree.get(kind)))
        case _:
            facts = mapping(tree.get(kind))
            row = {"event": text(facts.get("event")), "revision": text(facts.get("revision"))}
    return RecordSummary(kind, time, trace=trace, **row)


def summarize_decision(decision: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    reasons = decision.get("reasons")
    reason = mapping(reasons[0]) if isinstance(reasons, list | tuple) and reasons else {}
    principal, http = mapping(decision.get("principal")), mapping(request.get("request"))
    credential, resource = mapping(request.get("credential")), mapping(request.get("resource"))
    return {
        **{name: text(decision.get(name)) for name in ("id", "outcome", "gate", "package", "revision")},
        "rule": text(reason.get("rule")),
        "message": text(reason.get("message")),
        **summarize_caller(request),
        **{name: found for name in ("agent", "issuer", "user") if (found := text(principal.get(name))) is not None},
        "chain": texts(principal.get("chain")),
        "client": text(credential.get("client")) or text(credential.get("client_id")),
        "credential": text(credential.get("fingerprint")),
        **{name: text(http.get(name)) for name in ("method", "path", "host", "ip")},
        "target": target_of(request),
        "resource": resource_of(resource),
    }


def summarize_caller(request: Mapping[str, Any]) -> dict[str, Any]:
    agent = mapping(request.get("agent"))
    return {
        "agent": text(agent.get("id")),
        "issuer": text(agent.get("issuer")),
        "user": text(mapping(request.get("user")).get("id")),
        "task": text(mapping(request.get("task")).get("id")),
        "model": text(mapping(request.get("attestation")).get("model")),
    }


def summarize_outcome(outcome: Mapping[str, Any]) -> dict[str, Any]:
    subject = mapping(outcome.get("subject"))
    names = "agent issuer user client task model endpoint outcome gate rule revision".split()
    latency = outcome.get("latency_ms")
    resource = subject.get("resource")
    return {
        "id": text(outcome.get("decision")),
        **{name: text(subject.get(name)) for name in names},
        "chain": texts(subject.get("chain")),
        "resource": resource_of(mapping(resource)) or text(resource),
        "status": whole(outcome.get("status")),
        "latency_ms": float(latency) if isinstance(latency, int | float) and latency is not True else None,
        "size": whole(outcome.get("size")),
    }


def summarize_token(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    hops = mapping(facts.get("chain")).get("hops")
    agents = [text(mapping(hop).get("agent")) for hop in hops] if isinstance(hops, list | tuple) else []
    what = text(facts.get("what")) or text(facts.get("code")) or "token"
    return {
        **summarize_caller(facts),
        "id": text(facts.get("jti")),
        "chain": tuple(agent for agent in agents if agent is not None),
        "client": text(facts.get("client")),
        "credential": text(mapping(facts.get("credential")).get("fingerprint")),
        "package": text(facts.get("package")),
        "revision": text(facts.get("revision")),
        "event": f"{kind} {what}",
    }


def target_of(request: Mapping[str, Any]) -> str | None:
    """Return the target of a request as policies write it (`GET /invoices`, `TOOL billing/refund`, `ACTION view`), or
    None if the request names none.
    """
    tool, action = mapping(request.get("tool")), mapping(request.get("action"))
    http = mapping(request.get("request"))
    if name := text(tool.get("name")):
        server = text(tool.get("server"))
        return f"TOOL {server}/{name}" if server else f"TOOL {name}"
    if name := text(action.get("name")):
        return f"ACTION {name}"
    method, path = text(http.get("method")), text(http.get("path"))
    return None if method is None and path is None else f"{method or ''} {path or ''}".strip()


def resource_of(resource: Mapping[str, Any]) -> str | None:
    kind, id = text(resource.get("type")), text(resource.get("id"))
    return None if id is None else f"{kind}/{id}" if kind else id


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list | tuple) else ()


def whole(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None
