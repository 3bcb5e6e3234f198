"""The requests of `doors`: a policy, its questions, and how to write and read it for each adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.serving.door_load import HttpAnswer

POLICY = """
language 1
package doors

entity user { roles: set<string> }
facts on GET /scored/{id} { context.risk: int }
facts on TOOL files/scored { context.risk: int }
issuer acme { records chains   scopes none }
scope chained { GET /chained/{id} }
user any {
  may chained, GET /open/{id}, GET /confirmed/{id}, GET /scored/{id}
  may TOOL files/open, TOOL files/confirmed, TOOL files/scored
}
agent "reader" {
  issued by acme
  acts for any user
  may chained, GET /open/{id}, GET /confirmed/{id}, GET /scored/{id}
  may TOOL files/open, TOOL files/confirmed, TOOL files/scored
}
agent "planner" { issued by acme   acts for any user   may chained   may delegate chained to agent "searcher" }
agent "searcher" { issued by acme   acts for any user   may chained   may delegate chained to agent "reader" }
delegation { depth <= 4   no cycles }
guard "a person looks first" on GET /confirmed/{id} {
  confirm by role finance within 15m bound to (request.query) message "may {user.id} see it?"
}
guard "a person looks first at files" on TOOL files/confirmed {
  confirm by role finance within 15m bound to (args) message "may {user.id} see it?"
}
guard "small risks" on GET /scored/{id}, TOOL files/scored { require context.risk < 50 }
"""
BATCH_SIZE = 16
HOST = b"Host: 127.0.0.1\r\n"
CALLER = {"x-agent-id": "reader", "x-agent-issuer": "acme", "x-agent-user": "alice"}
CLIENT = "10.1.2.3"
SESSION_HEADER = "mcp-session-id"


@dataclass(frozen=True, slots=True)
class DoorQuestion:
    """A question. `word` is the first segment of its path and the name of its tool; `hops` are the agents before the
    presenter."""

    word: str
    title: str
    outcome: str
    hops: tuple[str, ...] = ()


ALLOW = DoorQuestion("open", "allow", "allow")
CHAIN = DoorQuestion("chained", "chain of two hops", "allow", ("planner", "searcher"))
CONFIRM = DoorQuestion("confirmed", "confirm", "confirm")
UNKNOWN = DoorQuestion("scored", "fact unknown", "deny")
QUESTIONS = (ALLOW, CHAIN, CONFIRM, UNKNOWN)
WITHOUT_CHAIN = (ALLOW, CONFIRM, UNKNOWN)


class Port(StrEnum):
    """The port of an adapter, and its path."""

    HTTP = "http"
    GRPC = "grpc"
    MCP = "mcp"


@dataclass(frozen=True, slots=True)
class WayIn:
    """An adapter under test. `write` builds the message of the question with a number, `read` returns the outcomes in
    an answer. `mark` occurs in an answer for each decision of an outcome; for gRPC it is the status. `size` is the
    number of decisions in a message, `time_factor` multiplies the measuring time."""

    title: str
    write: Callable[[DoorQuestion, int], Any]
    read: Callable[[Any], list[str]]
    mark: Callable[[str], Any]
    questions: tuple[DoorQuestion, ...] = QUESTIONS
    port: Port = Port.HTTP
    size: int = 1
    time_factor: float = 1.0

    def right_answer(self, outcome: str) -> Callable[[Any], bool]:
        """Return a fast check that an answer has the outcome for each of its decisions."""
        mark, size = self.mark(outcome), self.size
        if self.port is Port.GRPC:
            return lambda answer: bool(answer.status.code == mark)
        return lambda data: bool(data.count(mark) >= size)


def http_request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return f"{method} {path} HTTP/1.1\r\n".encode() + HOST + lines + length + b"\r\n" + body


def json_request(path: str, document: object, headers: Mapping[str, str] | None = None) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    return http_request("POST", path, {"Content-Type": "application/json", **(headers or {})}, body)


# ── Our own API ───────────────────────────────────────────────────────────────────────────────


def question(asked: DoorQuestion, number: int) -> dict[str, Any]:
    hops = [{"agent": agent, "issuer": "acme"} for agent in asked.hops]
    return {
        "request": {"method": "GET", "path": f"/{asked.word}/{number}"},
        "agent": {"id": "reader", "issuer": "acme"},
        "user": {"id": "alice"},
        "credential": {"issuer": "acme"},
        **({"chain": {"hops": hops}} if hops else {}),
    }


def write_decide(asked: DoorQuestion, number: int) -> bytes:
    return json_request("/decide", question(asked, number))


def write_evaluate(asked: DoorQuestion, number: int) -> bytes:
    return json_request("/evaluate", question(asked, number))


def write_batch(asked: DoorQuestion, number: int) -> bytes:
    questions = [question(asked, number * BATCH_SIZE + place) for place in range(BATCH_SIZE)]
    return json_request("/decide/batch", {"requests": questions})


def read_decision(answer: HttpAnswer) -> list[str]:
    return [json.loads(answer.body)["outcome"]]


def read_batch(answer: HttpAnswer) -> list[str]:
    return [one["outcome"] for one in json.loads(answer.body)["decisions"]]


def decision_mark(outcome: str) -> bytes:
    return f'"outcome":"{outcome}"'.encode()


# ── AuthZEN ───────────────────────────────────────────────────────────────────────────────────

AUTHZEN_OUTCOMES = {"denied": "deny", "approval_required": "confirm", "throttled": "throttle"}


def evaluation(asked: DoorQuestion, number: int) -> dict[str, Any]:
    """Return an AuthZEN evaluation, the current actor outermost."""
    actor: dict[str, Any] | None = None
    for agent in (*asked.hops, "reader"):
        actor = {"sub": agent, "iss": "acme", **({} if actor is None else {"act": actor})}
    return {
        "subject": {"type": "user", "id": "alice", "properties": {"iss": "acme", "act": actor}},
        "action": {"name": "GET"},
        "resource": _resource(asked, number),
    }


def _resource(asked: DoorQuestion, number: int) -> dict[str, str]:
    return {"type": "route", "id": f"/{asked.word}/{number}"}


def write_evaluation(asked: DoorQuestion, number: int) -> bytes:
    return json_request("/access/v1/evaluation", evaluation(asked, number))


def write_evaluations(asked: DoorQuestion, number: int) -> bytes:
    """Return AuthZEN evaluations: subject and action for all, one resource each."""
    whole = evaluation(asked, number)
    items = [{"resource": _resource(asked, number * BATCH_SIZE + place)} for place in range(BATCH_SIZE)]
    return json_request("/access/v1/evaluations", {**whole, "evaluations": items})


def read_evaluation(answer: HttpAnswer) -> list[str]:
    return [_authzen_outcome(json.loads(answer.body))]


def read_evaluations(answer: HttpAnswer) -> list[str]:
    return [_authzen_outcome(one) for one in json.loads(answer.body)["evaluations"]]


def _authzen_outcome(document: Mapping[str, Any]) -> str:
    if document["decision"] is True:
        return "allow"
    reason = document["context"]["reason"]
    return AUTHZEN_OUTCOMES.get(reason, reason)


def evaluation_mark(outcome: str) -> bytes:
    return b'"decision":true' if outcome == "allow" else b'"decision":false'


# ── Gateways ──────────────────────────────────────────────────────────────────────────────────


def write_forward_auth(asked: DoorQuestion, number: int) -> bytes:
    target = {
        "X-Forwarded-Method": "GET",
        "X-Forwarded-Uri": f"/{asked.word}/{number}",
        "X-Forwarded-Host": "api.example",
        "X-Forwarded-For": CLIENT,
    }
    return http_request("GET", "/forward-auth", {**target, **CALLER})


def write_envoy(asked: DoorQuestion, number: int) -> bytes:
    return http_request("GET", f"/envoy/{asked.word}/{number}", {"X-Forwarded-For": CLIENT, **CALLER})


def read_verdict(answer: HttpAnswer) -> list[str]:
    """Return the outcome; it must agree with the status."""
    outcome = answer.headers.get("x-decision", answer.body.decode())
    return [outcome if (answer.status == 200) == (outcome == "allow") else f"{outcome} with status {answer.status}"]


def verdict_mark(outcome: str) -> bytes:
    return f"x-decision: {outcome}".encode()


def write_envoy_grpc(asked: DoorQuestion, number: int) -> Any:
    from envoy.service.auth.v3 import external_auth_pb2

    message = external_auth_pb2.CheckRequest()
    message.attributes.source.address.socket_address.address = CLIENT
    http = message.attributes.request.http
    http.method, http.path, http.host = "GET", f"/{asked.word}/{number}", "api.example"
    http.headers.update({":method": "GET", ":path": http.path, **CALLER})
    return message


def read_check(answer: Any) -> list[str]:
    """Return the outcome; it must agree with the status."""
    outcome, code = answer.dynamic_metadata["x_decision"], answer.status.code
    return [outcome if (code == 0) == (outcome == "allow") else f"{outcome} with status {code}"]


def check_mark(outcome: str) -> int:
    return 0 if outcome == "allow" else 7


# ── MCP ───────────────────────────────────────────────────────────────────────────────────────

MCP_HEADERS = {"Accept": "application/json, text/event-stream"}
MCP_VERSION = "2025-06-18"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": MCP_VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def mcp_request(message: object, session: str | None = None) -> bytes:
    of_session = {} if session is None else {SESSION_HEADER: session, "mcp-protocol-version": MCP_VERSION}
    return json_request("/mcp", message, {**MCP_HEADERS, **of_session})


def write_call(asked: DoorQuestion, number: int) -> dict[str, Any]:
    """Return the message; each session sends it with its own header."""
    params = {"name": asked.word, "arguments": {"path": f"notes/{number}"}}
    return {"jsonrpc": "2.0", "id": number + 1, "method": "tools/call", "params": params}


def read_call(answer: HttpAnswer) -> list[str]:
    """Read the outcome from an answer in JSON, or from the only event of a stream."""
    lines = (line for line in answer.body.splitlines() if line.startswith((b"data: {", b"{")))
    message = json.loads(next(lines).removeprefix(b"data: "))
    result = message.get("result")
    if result is None:
        return [message["error"]["data"]["outcome"]]
    return [result["structuredContent"]["outcome"] if result.get("isError") else "allow"]  # a confirm is a result, too


def call_mark(outcome: str) -> bytes:
    return b'"result":' if outcome == "allow" else f'"outcome":"{outcome}"'.encode()


WAYS_IN = (
    WayIn("/decide", write_decide, read_decision, decision_mark),
    WayIn("/evaluate", write_evaluate, read_decision, decision_mark),
    WayIn(f"/decide/batch, {BATCH_SIZE}", write_batch, read_batch, decision_mark, size=BATCH_SIZE),
    WayIn("forward-auth", write_forward_auth, read_verdict, verdict_mark, WITHOUT_CHAIN),
    WayIn("ext_authz, HTTP", write_envoy, read_verdict, verdict_mark, WITHOUT_CHAIN),
    WayIn("ext_authz, gRPC", write_envoy_grpc, read_check, check_mark, WITHOUT_CHAIN, Port.GRPC),
    WayIn("AuthZEN evaluation", write_evaluation, read_evaluation, evaluation_mark),
    WayIn(f"AuthZEN evaluations, {BATCH_SIZE}", write_evaluations, read_evaluations, evaluation_mark, size=BATCH_SIZE),
    WayIn("MCP gateway", write_call, read_call, call_mark, WITHOUT_CHAIN, Port.MCP, time_factor=3.0),
)
