"""Encodes records as OCSF events: API Activity (class 6003) with the profile Security Control."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from policyengine.audit.record_summary import RecordSummary

OCSF_VERSION = "1.4.0"  # the first version with the profile Security Control in this class
CATEGORY, CLASS = 6, 6003
CREATE, READ, UPDATE, DELETE, OTHER = 1, 2, 3, 4, 99
ACTIVITY_NAMES = {CREATE: "Create", READ: "Read", UPDATE: "Update", DELETE: "Delete"}
ACTIVITIES = {
    "POST": CREATE, "GET": READ, "HEAD": READ, "OPTIONS": READ, "TRACE": READ, "PUT": UPDATE, "PATCH": UPDATE,
    "DELETE": DELETE,
}  # fmt: skip
TOKEN_ACTIVITIES = {"issued": CREATE, "not_issued": CREATE, "ended": DELETE}
SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
SUCCESS, FAILURE = (1, "Success"), (2, "Failure")
ALLOWED, DENIED = (1, "Allowed"), (2, "Denied")
BLOCKED = (2, "Blocked")
USER, SERVICE = 1, "policyengine"
# Members that have no OCSF attribute.
UNMAPPED = ("issuer", "chain", "client", "task", "model", "credential", "gate", "event", "size", "latency_ms")


def encode_ocsf(row: RecordSummary) -> dict[str, Any]:
    """Return the event of a record."""
    activity = activity_of(row)
    operation = row.endpoint or row.event or row.kind
    name = ACTIVITY_NAMES.get(activity, operation)
    severity = severity_of(row)
    return {
        "activity_id": activity,
        "activity_name": name,
        "category_uid": CATEGORY,
        "category_name": "Application Activity",
        "class_uid": CLASS,
        "class_name": "API Activity",
        "type_uid": CLASS * 100 + activity,
        "type_name": f"API Activity: {ACTIVITY_NAMES.get(activity, 'Other')}",
        "severity_id": severity,
        "severity": SEVERITIES[severity],
        "time": row.nanoseconds // 1_000_000,
        "metadata": metadata_of(row),
        "actor": actor_of(row),
        "api": api_of(row, operation),
        "src_endpoint": source_of(row),
        **status_of(row),
        **disposition_of(row),
        **resources_of(row),
        **http_of(row),
        **without_absent({"message": row.message}),
        "unmapped": {"policyengine": unmapped_of(row)},
    }


@cache
def program_version() -> str:
    return version("agent-policyengine")


def activity_of(row: RecordSummary) -> int:
    """Return the activity that corresponds to the method; tool calls, actions and other events are `Other`."""
    if row.kind in TOKEN_ACTIVITIES:
        return TOKEN_ACTIVITIES[row.kind]
    method = row.method or (row.endpoint or "").partition(" ")[0]
    return ACTIVITIES.get(method.upper(), OTHER)


def severity_of(row: RecordSummary) -> int:
    """Return the severity: `Informational`, or higher for an event that may need attention."""
    if row.gate == "failure" or (row.event or "").endswith("_failure"):
        return 4
    if row.outcome == "deny" or row.kind == "not_issued" or (row.status or 0) >= 500:
        return 3
    return 2 if row.outcome in ("confirm", "throttle") else 1


def metadata_of(row: RecordSummary) -> dict[str, Any]:
    product = {"name": "policyengine", "vendor_name": "policyengine", "version": program_version()}
    trace = row.trace_ids
    return without_absent({
        "version": OCSF_VERSION,
        "profiles": ["security_control"],
        "product": product,
        "log_name": "decision log",
        "event_code": row.kind,
        "uid": None if row.id is None else f"{row.id}:{row.kind}",
        "correlation_uid": trace[0] if trace else row.id,
        "original_time": row.time or None,
    })  # fmt: skip


def actor_of(row: RecordSummary) -> dict[str, Any]:
    """Return the actor: the agent as the application, and its user. Events of the system have no actor."""
    group = None if row.package is None else {"name": row.package}
    policy = without_absent({"name": row.rule or row.package, "version": row.revision, "group": group})
    authorization = without_absent({"decision": row.outcome, "policy": policy if "name" in policy else None})
    user = without_absent({"uid": row.user, "name": row.user, "type_id": None if row.user is None else USER})
    return without_absent({
        "app_uid": row.agent,
        "app_name": row.agent or (None if user else SERVICE),
        "user": user or None,
        "idp": None if row.issuer is None else {"name": row.issuer, "uid": row.issuer},
        "authorizations": [authorization] if row.outcome is not None else None,
    })  # fmt: skip


def api_of(row: RecordSummary, operation: str) -> dict[str, Any]:
    target = row.target or row.endpoint or ""
    service = row.host or target.removeprefix("TOOL ").partition("/")[0]
    is_tool = target.startswith("TOOL ") and "*" not in service
    return without_absent({
        "operation": operation,
        "request": None if row.id is None else {"uid": row.id},
        "response": None if row.status is None else {"code": row.status},
        "service": {"name": service} if row.host or is_tool else None,
    })  # fmt: skip


def source_of(row: RecordSummary) -> dict[str, Any]:
    """Return the source of the request: the name of the sender and, if the log shows it, the address."""
    if row.ip is not None and not row.ip.startswith("redacted:"):
        return {"ip": row.ip, "svc_name": row.agent or SERVICE}
    return {"svc_name": row.agent or row.client or SERVICE}


def status_of(row: RecordSummary) -> dict[str, Any]:
    if row.kind == "outcome":
        if row.status is None:
            return {"status_id": 0, "status": "Unknown"}
        id, name = SUCCESS if row.status < 400 else FAILURE
        return {"status_id": id, "status": name, "status_code": str(row.status)}
    if row.outcome is None:
        failed = row.kind == "not_issued" or (row.event or "").endswith(("_failure", "_refused"))
        id, name = FAILURE if failed else SUCCESS
        return {"status_id": id, "status": name}
    id, name = SUCCESS if row.outcome == "allow" or row.observed else FAILURE
    return without_absent({"status_id": id, "status": name, "status_code": row.outcome, "status_detail": row.message})


def disposition_of(row: RecordSummary) -> dict[str, Any]:
    """Return what happened to the request: it was blocked, or it was allowed, possibly only by observe mode."""
    allowed = row.outcome in (None, "allow") and row.kind != "not_issued"
    (action, name), (disposition, caption) = (ALLOWED, ALLOWED) if allowed or row.observed else (DENIED, BLOCKED)
    return {"action_id": action, "action": name, "disposition_id": disposition, "disposition": caption}


def resources_of(row: RecordSummary) -> dict[str, Any]:
    if row.resource is None:
        return {}
    kind, slash, id = row.resource.partition("/")
    return {"resources": [{"uid": id, "name": row.resource, "type": kind} if slash else {"uid": row.resource}]}


def http_of(row: RecordSummary) -> dict[str, Any]:
    url = without_absent({"path": row.path, "hostname": row.host})
    request = without_absent({"http_method": row.method, "url": url or None})
    response = without_absent({
        "code": row.status,
        "latency": None if row.latency_ms is None else round(row.latency_ms),
        "length": row.size,
    })  # fmt: skip
    return {
        **({"http_request": request} if request else {}),
        **({"http_response": response} if row.status is not None else {}),
    }


def unmapped_of(row: RecordSummary) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in UNMAPPED}
    return {"observed": row.observed, **{name: value for name, value in values.items() if value not in (None, ())}}


def without_absent(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
