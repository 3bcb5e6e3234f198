"""Evaluations in the form of COAZ, AuthZEN's binding for MCP: tools, resources and prompts without a map of actions."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from policyengine.engine import Engine
from policyengine.server.app import build_app
from policyengine.server.authzen.adapter import AuthzenAdapter, AuthzenRequest, TranslatorCache, read_evaluation
from policyengine.server.authzen.evaluations import UnmappedError
from policyengine.server.authzen.translator import QuestionTranslator
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.mcp.servers import McpServer, McpServerTable
from tests.server.authzen.asking import ONE, Free, decision

POLICY = """
language 1
package notes
entity user { roles: set<string> }
entity mcp_server {}
entity mcp_resource {}
entity mcp_prompt {}
facts on TOOL notes/write { args.path: string? }
facts on ACTION read mcp_resource { context.server: string }
issuer acme { url "https://auth.example.com"   scopes none }
users unrestricted
agent "http://agentprovider.com/agent-app-id" {
  issued by acme
  acts for any user
  may TOOL notes/get_customer, TOOL notes/write, TOOL notes/ask
  may ACTION connect mcp_server, ACTION list mcp_server when resource.id == "notes"
  may ACTION read mcp_resource when context.server == "notes" and resource.id like "notes://open/*"
  may ACTION get mcp_prompt when resource.id == "greet"
}
guard "not to etc" on TOOL notes/write { deny when (args.path else "") == "/etc" }
guard "ask" on TOOL notes/ask { confirm by role finance within 15m }
map authzen { subject "identity" => user from acme }
"""
ENGINE = Engine.from_text(POLICY)
AGENT = "http://agentprovider.com/agent-app-id"


def coaz(method: str, type_: str, id_: str, **more: Any) -> Free:
    """An evaluation as the default mappings of the draft make it."""
    context = {"agent": AGENT, **more.pop("context", {})}
    resource = {"type": type_, "id": id_, **more.pop("resource", {})}
    action = {"name": method, **more.pop("action", {})}
    return {
        "subject": {"type": "identity", "id": "alice@example.com"}, "action": action, "resource": resource,
        "context": context, **more,
    }  # fmt: skip


def answer(question: Free, names: McpServerTable | None = None, engine: Engine = ENGINE) -> Free:
    adapter = AuthzenAdapter(engine, TranslatorCache(names or McpServerTable()))
    return adapter.answer(read_evaluation(question))[0]


def translated(question: Free, text: str = POLICY, names: McpServerTable | None = None) -> Free:
    return QuestionTranslator(Engine.from_text(text).kernel, names or McpServerTable()).question(
        read_evaluation(question)
    )


def granting(grants: str) -> str:
    return f"language 1\npackage p\nanyone {{ may {grants} }}\n"


def tool(id_: str, grants: str, names: McpServerTable | None = None, **more: Any) -> object:
    return translated(coaz("tools/call", "tool", id_, **more), granting(grants), names)["tool"]


# ── The default mappings of the draft ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "allowed"),
    [
        (coaz("initialize", "mcp_server", "https://mcp.example.com", context={"protocol_version": "2025-11-25"}), True),
        (coaz("tools/list", "mcp_server", "https://mcp.example.com"), True),
        (coaz("tools/call", "tool", "get_customer"), True),
        (coaz("tools/call", "tool", "delete_customer"), False),
        (coaz("resources/list", "mcp_server", "https://mcp.example.com"), True),
        (coaz("resources/read", "resource", "notes://open/a"), True),
        (coaz("resources/read", "resource", "NOTES://open/a"), True),
        (coaz("resources/read", "resource", "notes://secret/a"), False),
        (coaz("resources/subscribe", "resource", "notes://open/a"), True),
        (coaz("resources/unsubscribe", "resource", "notes://secret/a"), False),
        (coaz("prompts/list", "mcp_server", "https://mcp.example.com"), True),
        (coaz("prompts/get", "prompt", "greet"), True),
        (coaz("prompts/get", "prompt", "other"), False),
        (coaz("completion/complete", "prompt", "greet"), True),
        (coaz("completion/complete", "prompt", "other"), False),
        (coaz("completion/complete", "resource", "notes://open/a"), True),
        (coaz("logging/setLevel", "mcp_server", "https://mcp.example.com", context={"level": "debug"}), False),
        (coaz("tasks/get", "task", "7"), False),
        (coaz("tasks/list", "mcp_server", "https://mcp.example.com"), False),
        (coaz("sampling/createMessage", "mcp_server", "notes"), False),
        (coaz("tools/invented", "tool", "get_customer"), False),
        (coaz("ping", "mcp_server", "https://mcp.example.com"), True),
        (coaz("notifications/initialized", "mcp_server", "https://mcp.example.com"), True),
    ],
)
def test_the_default_mappings_of_coaz_are_decided_without_a_map_of_actions(question: Free, allowed: bool) -> None:
    assert answer({**question, "context": {**question["context"], "consume": False}})["decision"] is allowed


def test_the_agent_of_coaz_has_the_issuer_of_the_token_that_names_the_user() -> None:
    found = translated(coaz("tools/call", "tool", "get_customer"))
    assert found["agent"] == {"id": AGENT, "issuer": "acme"}
    assert found["user"] == {"id": "alice@example.com"}
    other = {**coaz("read", "document", "7")}
    assert translated(other)["agent"] == {"id": AGENT}  # not in the form of COAZ
    assert translated(coaz("read", "resource", "7"))["agent"] == {"id": AGENT}


def test_an_evaluation_without_an_agent_is_not_the_agent() -> None:
    question = coaz("tools/call", "tool", "get_customer")
    del question["context"]["agent"]
    assert answer(question)["decision"] is False


def test_unsent_arguments_are_unknown_and_not_absent() -> None:
    assert answer(coaz("tools/call", "tool", "write"))["decision"] is False
    sent = {"properties": {"path": "drafts/a"}}
    assert answer(coaz("tools/call", "tool", "write", action=sent))["decision"] is True
    assert answer(coaz("tools/call", "tool", "write", action={"properties": {"path": "/etc"}}))["decision"] is False


def test_a_confirm_without_arguments_opens_no_approval() -> None:
    found = answer(coaz("tools/call", "tool", "ask", context={"consume": True}))
    assert (found["decision"], found["context"]["reason"]) == (False, "denied")


def test_a_map_of_facts_states_some_arguments_and_the_others_stay_unknown() -> None:
    text = POLICY.replace("user from acme }", "user from acme   fact args.path = context.path }")
    found = translated(coaz("tools/call", "tool", "write", context={"path": "drafts/a"}), text)
    assert (found["args"], found["pending"]) == ({"path": "drafts/a"}, ["args.*"])
    assert answer(coaz("tools/call", "tool", "write", context={"path": "drafts/a"}), engine=Engine.from_text(text))[
        "decision"
    ]


def test_a_completion_spends_nothing() -> None:
    found = translated(coaz("completion/complete", "prompt", "greet", context={"consume": True}))
    assert found["options"] == {"consume": False}


# ── Which server ──────────────────────────────────────────────────────────────────────────────

ONE_SERVER, TWO_SERVERS = "TOOL notes/read, TOOL notes/w*", "TOOL notes/read, TOOL bank/pay"


@pytest.mark.parametrize(
    ("id_", "grants", "expected"),
    [
        ("read", ONE_SERVER, {"server": "notes", "name": "read"}),
        ("notes/read", ONE_SERVER, {"server": "notes", "name": "read"}),
        ("bank/pay", TWO_SERVERS, {"server": "bank", "name": "pay"}),
        ("read", "TOOL read", {"name": "read"}),
        ("read", "TOOL read, TOOL notes/read", {"name": "read"}),
        ("read", "TOOL */read, TOOL notes/x", {"server": "notes", "name": "read"}),
        ("read", "GET /x", {"name": "read"}),
    ],
)
def test_the_server_of_a_tool_is_the_one_that_the_policies_name(id_: str, grants: str, expected: Free) -> None:
    assert tool(id_, grants) == expected


def test_a_tool_of_one_of_several_servers_is_denied_with_the_reason() -> None:
    with pytest.raises(UnmappedError, match=r"set `\[authzen\] mcp_server`.*`bank`, `notes`"):
        tool("pay", TWO_SERVERS)
    found = answer(coaz("tools/call", "tool", "pay"), engine=Engine.from_text(granting(TWO_SERVERS)))
    assert (found["decision"], found["context"]["reason"]) == (False, "unmapped")


def test_a_guard_names_a_server_too() -> None:
    text = 'TOOL notes/read } guard "bank" on TOOL bank/* { deny '
    with pytest.raises(UnmappedError, match="`bank`, `notes`"):
        tool("pay", text)


@pytest.mark.parametrize("stated", [{"context": {"server": "bank"}}, {"resource": {"properties": {"server": "bank"}}}])
def test_an_evaluation_can_name_the_server(stated: Free) -> None:
    assert tool("pay", TWO_SERVERS, **stated) == {"server": "bank", "name": "pay"}
    assert tool("bank/pay", TWO_SERVERS, **stated) == {"server": "bank", "name": "pay"}
    assert tool("notes/read", TWO_SERVERS, **stated) == {"server": "bank", "name": "notes/read"}


@pytest.mark.parametrize(
    "stated",
    [
        {"context": {"server": "bank"}, "resource": {"properties": {"server": "notes"}}},
        {"context": {"server": 7}}, {"context": {"server": ""}}, {"context": {"server": "a/b"}},
        {"context": {"server": ["bank"]}},
    ],
)  # fmt: skip
def test_an_evaluation_that_names_no_one_server_is_unmapped(stated: Free) -> None:
    with pytest.raises(UnmappedError, match="does not name one MCP server"):
        tool("pay", TWO_SERVERS, **stated)


def test_with_a_configured_server_an_id_is_a_name_of_its_tools() -> None:
    """Otherwise a server could name its tool like the tool of another server, such as `bank/pay`."""
    names = McpServerTable((), "notes")
    assert tool("pay", TWO_SERVERS, names) == {"server": "notes", "name": "pay"}
    assert tool("bank/pay", TWO_SERVERS, names) == {"server": "notes", "name": "bank/pay"}
    with pytest.raises(UnmappedError, match="not for `notes`"):
        tool("pay", TWO_SERVERS, names, context={"server": "bank"})


def test_the_public_url_of_a_server_is_its_name() -> None:
    names = McpServerTable((McpServer("bank", (), resource="https://bank.example/mcp"),))
    listed = translated(coaz("tools/list", "mcp_server", "https://bank.example/mcp/"), names=names)
    assert listed["resource"] == {"type": "mcp_server", "id": "bank"}
    assert listed["context"] == {"agent": AGENT, "server": "bank"}
    with pytest.raises(UnmappedError, match=r"no `\[mcp-servers\.NAME\]` has the `resource`"):
        translated(coaz("tools/list", "mcp_server", "https://other.example"), names=names)


@pytest.mark.parametrize("uri", ["x", "notes://open/../secret", "notes://open/%2e%2e/a", "file://host/etc"])
def test_a_malformed_uri_is_unmapped(uri: str) -> None:
    with pytest.raises(UnmappedError, match="is not a URI"):
        translated(coaz("resources/read", "resource", uri))


def test_a_map_of_actions_replaces_the_default_mappings() -> None:
    text = POLICY.replace("user from acme }", 'user from acme   action "see" => ACTION get mcp_prompt }')
    for method in ("tools/call", "ping"):
        assert answer(coaz(method, "tool", "get_customer"), engine=Engine.from_text(text))["decision"] is False


# ── The draft's own examples, and the server ──────────────────────────────────────────────────


DRAFT = """
language 1
package crm
entity user { roles: set<string> }
entity customer {}
entity storage_object {}
entity account {}
facts on ACTION get_customer customer { context.case: string }
issuer acme { scopes none }
users unrestricted
agent "http://agentprovider.com/agent-app-id" {
  issued by acme
  acts for any user
  may ACTION get_customer customer when context.case == "case-67890"
  may ACTION read storage_object
  may ACTION write storage_object when resource.id like "/bucket/archive/*"
}
map authzen { subject "identity" => user from acme   fact agent.issuer = context.issuer }
"""


def test_the_examples_of_declared_mappings_in_the_draft_are_decided() -> None:
    engine = Engine.from_text(DRAFT)
    agent = {"agent": AGENT, "issuer": "acme"}
    subject = {"type": "identity", "id": "alice@example.com"}
    single = {
        "subject": subject, "action": {"name": "get_customer"}, "resource": {"type": "customer", "id": "cust-12345"},
        "context": {**agent, "case": "case-67890"},
    }  # fmt: skip
    assert answer(single, engine=engine)["decision"] is True
    assert answer({**single, "context": {**agent, "case": "other"}}, engine=engine)["decision"] is False
    items = tuple(
        {"action": {"name": verb}, "resource": {"type": "storage_object", "id": f"/bucket/{place}/q1.pdf"}}
        for verb, place in (("read", "reports"), ("write", "archive"), ("write", "reports"))
    )
    request = AuthzenRequest({"subject": subject, "context": agent}, items)
    answers = AuthzenAdapter(engine).answer_items(request)
    assert [one["decision"] for one in answers] == [True, True, False]


def test_the_server_answers_coaz_with_its_settings() -> None:
    app = build_app(
        Engine.from_text(granting(TWO_SERVERS)), mcp=McpQuestions(McpServerTable((), "bank"), lambda name: frozenset())
    )
    transport = httpx.ASGITransport(app)

    async def ask(id_: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(ONE, json=coaz("tools/call", "tool", id_))

    assert [decision(asyncio.run(ask(id_))) for id_ in ("pay", "read", "notes/read")] == [True, False, False]
