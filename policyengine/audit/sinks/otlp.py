"""Sends records as OpenTelemetry logs: OTLP over HTTP, in its JSON encoding.

This module encodes the records itself, because the exporters of OpenTelemetry keep a queue in memory, which loses
records in a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from time import time_ns
from typing import Any

import msgspec

from policyengine.audit.record_summary import RecordSummary
from policyengine.audit.sinks.http import HttpTransport
from policyengine.audit.sinks.targets import SinkTarget
from policyengine.audit.sinks.transport import SinkLine
from policyengine.http.poster import PostResponse

SEVERITIES = {"info": 9, "notice": 10, "warning": 13, "error": 17}
SEVERITY_TEXTS = {"info": "INFO", "notice": "INFO2", "warning": "WARN", "error": "ERROR"}
SCOPE = "policyengine.audit"
# Members with an attribute in the semantic conventions; the other members have attributes of this project.
CONVENTIONS = {
    "user": "user.id", "method": "http.request.method", "path": "url.path", "host": "server.address",
    "ip": "client.address", "status": "http.response.status_code", "model": "gen_ai.request.model",
}  # fmt: skip
OTHERS = (
    "outcome", "gate", "rule", "agent", "issuer", "chain", "client", "task", "endpoint", "target", "resource",
    "latency_ms", "size", "credential", "package", "revision", "event",
)  # fmt: skip


ATTRIBUTES = (*CONVENTIONS.items(), *((name, f"policyengine.{name}") for name in OTHERS))


class OtlpTransport(HttpTransport):
    """Posts batches to a collector."""

    def __init__(self, target: SinkTarget, clock: Callable[[], int] = time_ns) -> None:
        """Parse the URL and load the certificates. `clock` returns nanoseconds since 1970. Raises FetchError,
        CertificatesError."""
        super().__init__(target)
        self.content_type = "application/json"
        self._service, self._clock = target.service, clock

    def encode(self, lines: Sequence[SinkLine]) -> bytes:
        observed = str(self._clock())
        scope = {"name": SCOPE, "version": version("agent-policyengine")}
        records = [encode_log_record(line, observed) for line in lines]
        resource = {"attributes": [attribute("service.name", self._service)]}
        logs = {"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": records}]}
        return msgspec.json.encode({"resourceLogs": [logs]})

    def count_rejected(self, response: PostResponse, lines: int) -> int:
        """Return `rejectedLogRecords` of a partial success; a client must not send these records again."""
        try:
            partial = msgspec.json.decode(response.body)["partialSuccess"]
            rejected = int(partial.get("rejectedLogRecords") or 0)
        except (msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError):
            return 0
        return min(max(0, rejected), lines)


def encode_log_record(line: SinkLine, observed: str) -> dict[str, Any]:
    """Return a LogRecord. Its body is the line itself."""
    row, trace = line.summary, line.summary.trace_ids
    return {
        "timeUnixNano": str(row.nanoseconds),
        "observedTimeUnixNano": observed,
        "severityNumber": SEVERITIES[line.severity],
        "severityText": SEVERITY_TEXTS[line.severity],
        "eventName": f"policyengine.{row.kind}",
        "body": {"stringValue": line.raw.decode("utf-8", "replace")},
        "attributes": list(record_attributes(row)),
        **({"traceId": trace[0], "spanId": trace[1]} if trace else {}),
    }


def record_attributes(row: RecordSummary) -> Iterator[dict[str, Any]]:
    """Yield the attributes of a record; `log.record.uid` identifies it, so that duplicates can be removed."""
    if row.id is not None:
        yield attribute("policyengine.id", row.id)
        yield attribute("log.record.uid", f"{row.id}:{row.kind}")
    for member, name in ATTRIBUTES:
        value = getattr(row, member)
        if value not in (None, ()):
            yield attribute(name, value)
    if row.observed:
        yield attribute("policyengine.observed", True)


def attribute(name: str, value: object) -> dict[str, Any]:
    return {"key": name, "value": any_value(value)}


def any_value(value: object) -> dict[str, Any]:
    """Return an AnyValue. 64-bit integers are strings in the JSON encoding."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case tuple() | list():
            return {"arrayValue": {"values": [any_value(each) for each in value]}}
        case _:
            return {"stringValue": str(value)}
