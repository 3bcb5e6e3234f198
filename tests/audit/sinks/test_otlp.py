"""Logs of OpenTelemetry, decoded with the messages that the OpenTelemetry project publishes."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit.sinks.otlp import OtlpTransport
from policyengine.audit.sinks.targets import parse_sink
from policyengine.audit.sinks.transport import LinesRefusedError, SinkError, read_sink_line
from tests.audit.sinks.lines import decision
from tests.audit.sinks.receivers import Receiver, http_receiver

CHECKOUT = Path(__file__).parents[3]
WARN, ERROR = 13, 17  # SeverityNumber
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OUTCOME = (
    b'{"v":2,"time":"2027-01-15T08:00:01.5Z","outcome":{"decision":"D1","status":503,"latency_ms":12.5,"size":3120,'
    b'"subject":{"agent":"bot","user":"alice","chain":["alice","bot"],"endpoint":"GET /x","outcome":"allow"}}}'
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        found.body = b"{}"
        yield found


@pytest.fixture
def transport(receiver: Receiver) -> Iterator[OtlpTransport]:
    url = f"otlp+http://127.0.0.1:{receiver.port}#service=pdp"
    found = OtlpTransport(parse_sink(url), lambda: 1_800_000_000_000_000_000)
    yield found
    found.close()


def send(transport: OtlpTransport, *raw: bytes) -> int:
    return transport.send([line for each in raw if (line := read_sink_line(each.rstrip(b"\n"))) is not None])


def decode(body: bytes) -> Any:
    """Decode a request strictly, by the schema of OpenTelemetry."""
    python = CHECKOUT / ".venv-tools" / "bin" / "python"
    command = [str(python), str(Path(__file__).with_name("decode_otlp.py"))]
    if not python.exists():
        pytest.skip("opentelemetry-proto is missing: make tools")
    return json.loads(subprocess.run(command, input=body, stdout=subprocess.PIPE, check=True, timeout=60).stdout)


def records(receiver: Receiver) -> list[dict[str, Any]]:
    [request] = receiver.requests
    [logs] = decode(request.body)["resource_logs"]
    [scope] = logs["scope_logs"]
    found: list[dict[str, Any]] = scope["log_records"]
    return found


def plain(value: dict[str, Any]) -> Any:
    [(kind, found)] = value.items()
    if kind == "array_value":
        return [plain(each) for each in found["values"]]
    return int(found) if kind == "int_value" else found


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: plain(each["value"]) for each in holder["attributes"]}


def test_a_batch_is_one_request_to_the_collector(receiver, transport):
    send(transport, decision(1), decision(2))
    [request] = receiver.requests
    assert (request.path, request.headers["content-type"]) == ("/v1/logs", "application/json")
    [logs] = decode(request.body)["resource_logs"]
    assert attributes(logs["resource"]) == {"service.name": "pdp"}
    assert logs["scope_logs"][0]["scope"]["name"] == "policyengine.audit"


def test_the_body_of_a_record_is_the_line_of_the_log(receiver, transport):
    send(transport, decision(1, note="ü"))
    [record] = records(receiver)
    assert record["body"]["string_value"].encode() == decision(1, note="ü").rstrip(b"\n")
    assert int(record["time_unix_nano"]) == 1_800_000_000_000_001_000
    assert int(record["observed_time_unix_nano"]) == 1_800_000_000 * 10**9
    assert record["event_name"] == "policyengine.decision"


def test_a_decision_has_attributes(receiver, transport):
    request = {
        "request": {"method": "GET", "path": "/x", "host": "api", "ip": "10.1.2.3"},
        "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}, "resource": {"type": "invoice", "id": "42"},
    }  # fmt: skip
    told = {
        "id": "D1", "outcome": "deny", "gate": "guard", "package": "shop", "revision": "sha256:1",
        "reasons": [{"rule": "no nights", "message": "it is night"}],
        "principal": {"agent": "bot", "chain": ["alice", "bot"]},
    }  # fmt: skip
    send(transport, decision(1, decision=told, request=request, trace=TRACE, observed=True))
    [record] = records(receiver)
    assert attributes(record) == {
        "policyengine.id": "D1", "log.record.uid": "D1:decision", "policyengine.outcome": "deny",
        "policyengine.gate": "guard", "policyengine.rule": "no nights", "policyengine.agent": "bot",
        "policyengine.issuer": "acme", "user.id": "alice", "policyengine.chain": ["alice", "bot"],
        "http.request.method": "GET", "url.path": "/x", "server.address": "api", "client.address": "10.1.2.3",
        "policyengine.endpoint": "GET /x", "policyengine.target": "GET /x",
        "policyengine.resource": "invoice/42", "policyengine.package": "shop",
        "policyengine.revision": "sha256:1", "policyengine.observed": True,
    }  # fmt: skip
    assert record["severity_number"] == WARN
    assert tuple(base64.b64decode(record[name]).hex() for name in ("trace_id", "span_id")) == tuple(
        TRACE.split("-")[1:3]
    )


def test_an_outcome_has_its_numbers(receiver, transport):
    send(transport, OUTCOME)
    [record] = records(receiver)
    found = attributes(record)
    assert (found["http.response.status_code"], found["policyengine.latency_ms"], found["policyengine.size"]) == (
        503, 12.5, 3120,
    )  # fmt: skip
    assert record["severity_number"] == ERROR
    assert "trace_id" not in record
    assert int(record["time_unix_nano"]) % 10**9 == 500_000_000


@pytest.mark.parametrize(
    ("body", "dropped"),
    [(b"{}", 0), (b'{"partialSuccess":{}}', 0), (b'{"partialSuccess":{"rejectedLogRecords":"1"}}', 1),
     (b'{"partialSuccess":{"rejectedLogRecords":99,"errorMessage":"x"}}', 2), (b"\n\x00", 0), (b"[]", 0),
     (b'{"partialSuccess":{"rejectedLogRecords":-1}}', 0)],
)  # fmt: skip
def test_a_partial_success_counts_what_was_rejected(receiver, transport, body, dropped):
    receiver.body, receiver.statuses = body, [200]
    assert send(transport, decision(1), decision(2)) == dropped


@pytest.mark.parametrize(("status", "error"), [(400, LinesRefusedError), (429, SinkError), (503, SinkError)])
def test_failures_are_told_from_refusals(receiver, transport, status, error):
    receiver.statuses = [status]
    with pytest.raises(error):
        send(transport, decision(1))
