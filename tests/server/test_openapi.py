"""The documentation of the exchange: valid, complete, and true to what is really read and written."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from policyengine.engine.outcomes import OutcomeNotRecordedError
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.host_check import AllowedHosts
from policyengine.runtime.credentials import CREDENTIAL_NAMES, HASHES
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.idempotency import IdempotencyKeyError, KeyReuseError
from policyengine.runtime.request import (
    APPROVAL_MEMBERS,
    CHAIN_HOP_MEMBERS,
    NON_FACT_MEMBERS,
    OPTION_MEMBERS,
    Request,
)
from policyengine.server.content_negotiation import BodyFormat
from policyengine.server.events import parse_event, record_outcome
from policyengine.server.host_guard import HostCheck
from policyengine.server.idempotency import key_problem
from policyengine.server.openapi import examples, schema
from policyengine.server.problems import ProblemCode, ProblemError
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.vocabulary import ROOTS
from tests.server.conftest import OPEN, ORDER, SHUT, TOKEN

Call = Callable[..., httpx.Response]
DOCS = Path(__file__).parents[2] / "docs"
QUESTIONS = ("/decide", "/evaluate", "/explain")


@pytest.fixture
def document(call: Call) -> dict[str, Any]:
    return call("GET", "/openapi.json").json()


def every(node: object, name: str) -> Iterator[Any]:
    match node:
        case dict():
            yield from (value for key, value in node.items() if key == name)
            for value in node.values():
                yield from every(value, name)
        case list():
            for item in node:
                yield from every(item, name)


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    assert OpenAPI.model_validate(document).openapi.startswith("3.")


def test_every_openapi_reference_resolves(document: dict[str, Any]) -> None:
    references = set(every(document, "$ref"))
    assert "#/components/schemas/Question" in references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {
        "/decide",
        "/evaluate",
        "/decide/batch",
        "/explain",
        "/events",
        "/forward-auth",
        "/forward-auth/nginx",
        "/envoy/{path}",
        "/access/v1/evaluation",
        "/access/v1/evaluations",
        "/.well-known/authzen-configuration",
        "/approvals",
        "/approvals/{id}",
        "/approvals/{id}/details",
        "/approvals/{id}/approve",
        "/approvals/{id}/deny",
        "/approvals/{id}/withdraw",
        "/healthz",
        "/readyz",
        "/metrics",
    }


@pytest.mark.parametrize("path", [*QUESTIONS, "/decide/batch"])
def test_the_openapi_document_lists_json_and_messagepack(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    for content in (operation["requestBody"]["content"], operation["responses"]["200"]["content"]):
        assert set(content) == {"application/json", "application/msgpack"}


@pytest.mark.parametrize("path", QUESTIONS)
def test_every_example_question_is_answered(call: Call, document: dict[str, Any], path: str) -> None:
    shown = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert len(shown) == 3
    for example in shown.values():
        assert call("POST", path, json=example["value"]).status_code == 200


def test_every_item_of_the_example_batch_is_valid(call: Call, document: dict[str, Any]) -> None:
    body = document["paths"]["/decide/batch"]["post"]["requestBody"]["content"]["application/json"]
    answer = call("POST", "/decide/batch", json=body["examples"]["batch"]["value"])
    assert [item.get("error") for item in answer.json()["decisions"]] == [None] * len(answer.json()["decisions"])


def test_the_example_problem_is_the_real_answer(call: Call) -> None:
    assert call("POST", "/decide", json={"user": {"roles": []}}).json() == examples.BAD_MEMBER


def refused_by_host(path: str, **headers: str) -> ProblemError:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    check = HostCheck(AllowedHosts.of(()), ServerCounters())
    problem = check.problem({"type": "http", "method": "POST", "path": path, "headers": lines, "server": None})
    assert problem is not None
    return problem


def report(told: Exception | str) -> ProblemError:
    class Reporting:
        def report_outcome(self, *args: Any, **options: Any) -> str:
            if isinstance(told, str):
                return told
            raise told

    with pytest.raises(ProblemError) as raised:
        record_outcome(cast(Any, Reporting()), parse_event(b'{"decision": "d"}', BodyFormat.JSON))
    return raised.value


SENT = [
    ProblemError.of_refused(WorkRefusedError()),
    key_problem(KeyReuseError()), key_problem(IdempotencyKeyError()),
    report("again"), report(OutcomeNotRecordedError()),
    refused_by_host("/decide", host="rebound.example"), refused_by_host("/envoy", host="127.0.0.1"),
    refused_by_host("/decide", host="127.0.0.1", origin="https://evil.example"),
    refused_by_host("/decide", host="127.0.0.1", sec_fetch_site="cross-site"),
    ProblemError(403, "", code=ProblemCode.NOT_APPROVER), ProblemError(409, "", code=ProblemCode.APPROVAL_ENDED),
]  # fmt: skip


def test_the_document_lists_every_code_that_problems_have(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert "#/components/schemas/ProblemCode" in every(schemas["Problem"]["properties"]["code"], "$ref")
    assert sorted(schemas["ProblemCode"]["enum"]) == sorted(str(one.to_dict()["code"]) for one in SENT)


def test_each_code_of_a_problem_is_documented() -> None:
    pages = "".join((DOCS / name).read_text("utf-8") for name in ("http-api.md", "socket.md"))
    assert [code.value for code in ProblemCode if f"`{code.value}`" not in pages] == []


def test_a_decision_has_the_documented_members() -> None:
    observed = Decision.of(Outcome.ALLOW, would_be=Outcome.DENY).to_dict()
    assert [*observed, "explanation"] == list(schema.Decision.model_fields)


def test_the_example_decision_is_valid() -> None:
    schema.Decision.model_validate(examples.CONFIRM)
    assert list(examples.CONFIRM) == list(Decision.of(Outcome.DENY).to_dict())


@pytest.mark.parametrize("question", [OPEN, SHUT, ORDER])
def test_a_real_explanation_matches_the_documented_model(call: Call, question: dict[str, Any]) -> None:
    said = call("POST", "/explain", json=question).json()
    read = schema.Explanation.model_validate(said)
    assert read.walk.model_dump(exclude_unset=True, mode="json") == said["walk"]
    assert read.decision.outcome == said["decision"]["outcome"]


def test_the_example_explanation_is_valid(document: dict[str, Any]) -> None:
    example = document["paths"]["/explain"]["post"]["responses"]["200"]["content"]["application/json"]["examples"]
    schema.Explanation.model_validate(example["answer"]["value"])


def members(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (schema.Question, {*ROOTS, *NON_FACT_MEMBERS}),
        (schema.FACT_MODELS["request"], ROOTS["request"]),
        (schema.FACT_MODELS["tool"], ROOTS["tool"]),
        (schema.FACT_MODELS["action"], ROOTS["action"]),
        (schema.FACT_MODELS["agent"], ROOTS["agent"]),
        (schema.FACT_MODELS["user"], ROOTS["user"]),
        (schema.FACT_MODELS["chain"], ROOTS["chain"]),
        (schema.HOP_MODEL, CHAIN_HOP_MEMBERS),
        (schema.Credentials, CREDENTIAL_NAMES),
        (schema.Digests, HASHES),
        (schema.FACT_MODELS["credential"], ROOTS["credential"]),
        (schema.FACT_MODELS["attestation"], ROOTS["attestation"]),
        (schema.FACT_MODELS["task"], ROOTS["task"]),
        (schema.FACT_MODELS["resource"], ROOTS["resource"]),
        (schema.Approval, APPROVAL_MEMBERS),
        (schema.Options, OPTION_MEMBERS),
    ],
)
def test_a_question_has_the_documented_members(model: Any, names: Any) -> None:
    assert members(model) == set(names)


def test_a_documented_entity_is_accepted_in_a_question() -> None:
    row: dict[str, Any] = {
        "type": "user",
        "id": "alice",
        "attributes": {"plan": "team"},
        "in": [{"type": "team", "id": "x"}],
    }
    row["partial"] = True
    assert members(schema.Entity) == set(row)
    question = {"tool": {"name": "x"}, "entities": [row]}
    assert len(Request.from_mapping(question).entities) == 1


def test_the_openapi_document_has_the_token_if_the_server_needs_one(call: Call) -> None:
    secured = call("GET", "/openapi.json", token=TOKEN).json()
    assert secured["paths"]["/decide"]["post"]["security"] == [{"token": []}]
    assert secured["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert "security" not in secured["paths"]["/healthz"]["get"]


def test_the_openapi_document_has_no_token_if_the_server_needs_none(document: dict[str, Any]) -> None:
    assert {name for one in every(document, "security") for needed in one for name in needed} == {"person"}


# ── The page ──────────────────────────────────────────────────────────────────────────────────


def test_the_docs_page_shows_every_route(call: Call, document: dict[str, Any]) -> None:
    page = call("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in document["paths"]:
        assert f" {path}</code>" in page.text


def test_the_docs_page_loads_no_external_resources_and_runs_no_script(call: Call) -> None:
    page = call("GET", "/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    assert set(re.findall(r"""(?:src|href)=["']([^"']*)""", page.text)) == {"/openapi.json"}


def test_the_docs_page_shows_a_curl_command_for_this_server(call: Call) -> None:
    """As a shell would read it, from the address under which the page was asked for."""
    page = call("GET", "/docs", headers={"host": "localhost:9000"})
    shown = html.unescape(re.findall(r"<pre>(curl .*?)</pre>", page.text, re.DOTALL)[0])
    words = shlex.split(shown)
    assert words[2] == "http://localhost:9000/decide"
    assert json.loads(words[words.index("-d") + 1]) == examples.REFUND
    assert "authorization" not in shown


def test_the_docs_page_shows_the_token_if_the_server_needs_one(call: Call) -> None:
    assert "authorization: Bearer $TOKEN" in call("GET", "/docs", token=TOKEN).text


def test_the_docs_page_escapes_the_host_header(call: Call) -> None:
    page = call("GET", "/docs", token=TOKEN, headers={"host": "<script>alert(1)</script>"})
    assert page.status_code == 200
    assert "<script" not in page.text
