"""A token for one tool opens no other, wherever the question is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.engine import Engine
from policyengine.server import create_app
from tests.identity.proving import Doors
from tests.server.authzen.asking import ONE, caller
from tests.server.conftest import client_of

TASK = {"id": "t-1", "tools": ["billing/list"], "entities": [{"type": "invoice", "id": "42"}]}


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    return Doors(tmp_path)


def tool(name: str) -> dict[str, Any]:
    return {"tool": {"server": "billing", "name": name}}


def viewed(id_: str) -> dict[str, Any]:
    return {"action": {"name": "view"}, "resource": {"type": "invoice", "id": id_}}


ASKED = [(tool("list"), None), (tool("show"), "task"), (viewed("42"), None), (viewed("43"), "task")]


@pytest.mark.parametrize("path", ["/decide", "/evaluate"])
def test_a_task_token_allows_only_the_tools_and_entities_of_the_task(doors: Doors, path: str) -> None:
    raw = doors.token(task=TASK)

    async def run() -> list[httpx.Response]:
        async with client_of(doors.engine) as client:
            brought = {"credentials": {"authorization": f"Bearer {raw}"}}
            return [await client.post(path, json={**where, **brought}) for where, _ in ASKED * 2]

    answers = [answer.json() for answer in asyncio.run(run())]
    assert [answer.get("gate") for answer in answers] == [gate for _, gate in ASKED * 2]
    assert answers[1]["remedies"] == [{"kind": "task", "need": "a task whose `tools` include this tool"}]


@pytest.mark.parametrize("entities", [["42"], "42", [{"type": "invoice"}], [{"type": "invoice", "id": 42}], {}])
def test_a_token_with_malformed_task_entities_is_refused(doors: Doors, entities: object) -> None:
    raw = doors.token(task={**TASK, "entities": entities})
    denied = doors.engine.decide({**viewed("42"), "credentials": {"authorization": f"Bearer {raw}"}})
    assert (denied.gate, denied.reasons[0].code) == ("identity", "claim_type")


AUTHZEN = """
language 1
package acme.tools
entity invoice { }
issuer login { scopes none }
user any { may TOOL billing/*, ACTION view invoice }
map authzen {
  subject "user" => user from login
  resource "invoice" => invoice
  action "list" => TOOL billing/list
  action "show" => TOOL billing/show
  action "view" => ACTION view invoice
  fact task.tools = context.tools
  fact task.entities = context.entities
}
"""


def test_authzen_questions_are_limited_by_the_mapped_task() -> None:
    call = caller(Engine.from_text(AUTHZEN))

    def allowed(action: str, id_: str, context: dict[str, Any]) -> bool:
        subject, thing = {"type": "user", "id": "alice"}, {"type": "invoice", "id": id_}
        asked = {"subject": subject, "action": {"name": action}, "resource": thing, "context": context}
        answer = call("POST", ONE, json=asked)
        assert answer.status_code == 200, answer.text
        found: bool = answer.json()["decision"]
        return found

    context = {"tools": TASK["tools"], "entities": TASK["entities"]}
    asked = [("list", "42"), ("show", "42"), ("view", "42"), ("view", "43")]
    assert [allowed(*one, {}) for one in asked] == [True] * 4
    assert [allowed(*one, context) for one in asked] == [True, False, True, False]


def test_the_openapi_document_describes_task_facts() -> None:
    described = create_app(Engine.from_text("anyone { may GET /x }")).openapi()["components"]["schemas"]["TaskFacts"]
    assert described["properties"]["entities"]["anyOf"][0]["items"]["$ref"].endswith("/ResourceFacts")
