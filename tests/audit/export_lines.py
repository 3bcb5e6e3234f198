"""Lines of every kind, with facts that a spreadsheet or a SIEM could misread."""

from __future__ import annotations

import json
from typing import Any

LINES: list[dict[str, Any]] = [
    {"v": 1, "directory": "sha256:00", "entities": [{"type": "user", "id": "alice"}]},
    {
        "v": 2, "time": "2027-01-15T08:00:00.000001Z", "call": "decide",
        "trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "decision": {
            "id": "D1", "outcome": "deny", "gate": "guard", "package": "acme.shop", "revision": "sha256:1",
            "reasons": [{"rule": "=no nights", "message": "+it is, \"night\"", "gate": "guard", "outcome": "deny"}],
            "principal": {"agent": "bot", "issuer": "acme", "user": "alice", "chain": ["alice", "planner", "bot"]},
        },
        "request": {
            "request": {"method": "POST", "path": "/pay", "host": "api.example", "ip": "10.1.2.3"},
            "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}, "task": {"id": "t-1"},
            "credential": {"fingerprint": "sha256:9", "client": "web"}, "attestation": {"model": "m-1"},
            "resource": {"type": "invoice", "id": "42"}, "body": {"amount": 123456789012345678901234567890.5},
        },
    },
    {
        "v": 1, "time": "2027-01-15T08:00:01Z", "call": "evaluate", "observed": True,
        "decision": {"id": "D2", "outcome": "confirm", "reasons": [], "package": "acme.shop", "revision": "sha256:1"},
        "request": {"tool": {"server": "billing", "name": "refund"}, "agent": {"id": 7}, "user": None},
    },
    {"v": 1, "time": "2027-01-15T08:00:02Z", "call": "decide", "request": {"action": {"name": "view"}},
     "decision": {"id": "D3", "outcome": "deny", "gate": "failure", "reasons": [{"message": "no store"}]}},
    {"v": 2, "time": "2027-01-15T08:00:03Z", "outcome": {
        "decision": "D1", "status": 503, "latency_ms": 12.5, "size": 3120,
        "subject": {"agent": "bot", "user": "alice", "chain": ["alice", "bot"], "endpoint": "POST /pay",
                    "resource": {"type": "invoice", "id": "42"}, "outcome": "allow", "rule": "r"}}},
    {"v": 2, "time": "2027-01-15T08:00:03Z", "outcome": {"decision": "D2"}},
    {"v": 1, "time": "2027-01-15T08:00:04Z", "issued": {
        "client": "web", "jti": "J1", "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"},
        "chain": {"hops": [{"agent": "planner"}]}, "credential": {"fingerprint": "sha256:7"}}},
    {"v": 1, "time": "2027-01-15T08:00:05Z", "not_issued": {"client": "web", "code": "chain_too_long"}},
    {"v": 1, "time": "2027-01-15T08:00:06Z", "ended": {"what": "agent", "agent": {"id": "bot"}}},
    {"v": 2, "time": "2027-01-15T08:00:07Z", "system": {"event": "started", "revision": "sha256:1"}},
    {"v": 2, "time": "2027-01-15T08:00:08Z", "system": {"event": "store_failure"}},
    {"v": 2, "time": "2027-01-15T08:00:09Z", "seal": {"event": "late_lines", "digests": []}},
]  # fmt: skip


def encoded() -> list[bytes]:
    return [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in LINES]
