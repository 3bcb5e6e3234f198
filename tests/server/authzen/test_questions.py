"""What a question of AuthZEN asks here: by a map, and as is usual without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.compiler.bundle.file import write_bundle
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request, RequestError
from policyengine.server.authzen.adapter import AuthzenAdapter, AuthzenRequest, read_evaluation
from policyengine.server.authzen.evaluations import UnmappedError
from policyengine.server.authzen.translator import QuestionTranslator
from policyengine.typesystem import EntityRef
from tests.depth import examples, scaled
from tests.pages import EXAMPLES
from tests.server.authzen.asking import Free, example

DOORS = """language 1
package shop
entity user { roles: set<string>   tenant: string? }
entity todo { owner: string? }
facts { args.amount: number   body.amount: number   context.place: string }
issuer acme { url "https://login.acme.example"   records chains   scopes none }
issuer other { url "https://login.other.example"   scopes none }
anyone {
  may GET /todos/{id}, GET /health, POST /orders, TOOL billing/refund, TOOL search, ACTION read todo, ACTION read user
}
"""


def translated(text: str, question: Mapping[str, object]) -> Free:
    return QuestionTranslator(Engine.from_text(DOORS + text).kernel).question(read_evaluation(question))


def asked(
    action: str = "read", type_: str = "todo", id_: str = "7", subject: Free | None = None, **more: Any
) -> dict[str, Any]:
    """`properties` are those of the action."""
    properties = {"properties": more.pop("properties")} if "properties" in more else {}
    return {
        "subject": subject or {"type": "user", "id": "alice"},
        "action": {"name": action, **properties},
        "resource": {"type": type_, "id": id_, **more.pop("resource", {})},
        **more,
    }


LOOKS: Free = {"options": {"consume": False}}
USER: Free = {"user": {"id": "alice"}, **LOOKS}

# ── Without a map ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (asked(), {"action": {"name": "read"}, "resource": {"type": "todo", "id": "7"}}),
        (asked("GET", "route", "/todos/7"), {"request": {"method": "GET", "path": "/todos/7"}}),
        (
            asked("POST", "route", "/orders", properties={"amount": 7}),
            {"request": {"method": "POST", "path": "/orders"}, "body": {"amount": 7}},
        ),
        (
            asked("tools/call", "tool", "billing/refund", properties={"amount": 7}),
            {"tool": {"server": "billing", "name": "refund"}, "args": {"amount": 7}},
        ),
        (asked("tools/call", "tool", "search"), {"tool": {"name": "search"}, "pending": ["args"]}),
        (
            asked("tasks/list", "mcp_server", "x"),
            {"action": {"name": "tasks/list"}, "resource": {"type": "mcp_server", "id": "x"}},
        ),
        (
            asked(properties={"soft": True}),
            {"action": {"name": "read"}, "resource": {"type": "todo", "id": "7"}, "args": {"soft": True}},
        ),
    ],
)
def test_a_question_without_a_map_follows_the_usual_action_and_resource_names(question: Free, expected: Free) -> None:
    assert translated("", question) == {**expected, **USER}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"type": "user", "id": "alice"}, {"user": {"id": "alice"}}),
        ({"type": "identity", "id": "alice"}, {"user": {"id": "alice"}}),
        ({"type": "agent", "id": "bot"}, {"agent": {"id": "bot"}}),
        ({"type": "client", "id": "bot"}, {"agent": {"id": "bot"}}),
        ({"type": "spaceship", "id": "bot"}, {}),
        (
            {"type": "user", "id": "alice", "properties": {"iss": "https://login.acme.example/"}},
            {"user": {"id": "alice"}, "credential": {"issuer": "acme"}},
        ),
        (
            {"type": "user", "id": "alice", "properties": {"iss": "https://elsewhere.example"}},
            {"user": {"id": "alice"}, "credential": {"issuer": "https://elsewhere.example"}},
        ),
        (
            {"type": "user", "id": "alice", "properties": {"iss": 7}},
            {"user": {"id": "alice"}, "credential": {"issuer": 7}},
        ),
        ({"type": "user", "id": "alice", "properties": {"roles": ["admin"], "id": "bob"}}, {"user": {"id": "alice"}}),
    ],
)
def test_a_subject_without_a_map_follows_the_usual_subject_types(subject: Free, expected: Free) -> None:
    rest = {"action": {"name": "read"}, "resource": {"type": "todo", "id": "7"}}
    assert translated("", asked(subject=subject)) == {**rest, **expected, **LOOKS}


def test_properties_are_not_facts_without_a_map() -> None:
    question = asked(subject={"type": "user", "id": "alice", "properties": {"roles": ["admin"]}})
    assert "entities" not in translated(
        "", {**question, "resource": {"type": "todo", "id": "7", "properties": {"owner": "x"}}}
    )


def test_the_context_becomes_context_facts_and_supported_obligations() -> None:
    found = translated("", asked(context={"place": "office", "supported_obligations": ["step-up", "custom", "odd", 7]}))
    assert found["context"]["place"] == "office"
    assert found["options"] == {
        "consume": False,
        "obligations_supported": ["step_up", "audit", "redact", "warn", "header"],
    }


@pytest.mark.parametrize("given_", [[], "step-up", {"step-up": True}, 7])
def test_a_malformed_obligation_list_supports_no_obligations(given_: object) -> None:
    found = translated("", asked(context={"supported_obligations": given_}))
    assert found["options"]["obligations_supported"] == []


# ── Agents that act for somebody ──────────────────────────────────────────────────────────────


def through(act: object, **more: Any) -> Free:
    subject = {"type": "user", "id": "alice", "properties": {"iss": "https://login.acme.example", "act": act}}
    return translated("", asked(subject=subject, **more))


def test_the_act_property_of_a_subject_is_the_agent() -> None:
    found = through({"iss": "https://login.acme.example", "sub": "bot", "sub_profile": "ai_agent"})
    assert (found["user"], found["agent"]) == ({"id": "alice"}, {"id": "bot", "issuer": "acme"})
    assert "chain" not in found


def test_nested_actors_become_a_chain_that_starts_next_to_the_user() -> None:
    inner = {"sub": "planner", "act": {"sub": "assistant", "iss": "https://login.other.example"}}
    found = through({"sub": "bot", "iss": "acme", "act": inner})
    assert found["agent"] == {"id": "bot", "issuer": "acme"}
    assert found["chain"] == {
        "hops": [{"agent": "assistant", "issuer": "other"}, {"agent": "planner", "issuer": "acme"}]
    }


def test_context_agent_is_the_agent() -> None:
    assert translated("", asked(context={"agent": "bot"}))["agent"] == {"id": "bot"}


@pytest.mark.parametrize(
    ("act", "context"),
    [
        ("bot", {}),
        (7, {}),
        ([{"sub": "bot"}], {}),
        ({}, {}),
        ({"sub": 7}, {}),
        ({"sub": "bot", "act": "planner"}, {}),
        ({"sub": "bot"}, {"agent": "another"}),
    ],
)
def test_a_malformed_act_property_is_unmapped(act: object, context: Free) -> None:
    with pytest.raises(UnmappedError, match="act"):
        through(act, context=context)


def test_an_agent_cannot_act_for_an_agent() -> None:
    with pytest.raises(UnmappedError, match="an agent cannot act for an agent"):
        translated("", asked(subject={"type": "agent", "id": "bot", "properties": {"act": {"sub": "other"}}}))


# ── By a map ──────────────────────────────────────────────────────────────────────────────────


def test_a_map_sets_the_kind_and_issuer_of_a_subject() -> None:
    text = 'map authzen { subject "person" => user from acme   subject "robot" => agent }'
    assert translated(text, asked(subject={"type": "person", "id": "alice"}))["credential"] == {"issuer": "acme"}
    assert translated(text, asked(subject={"type": "robot", "id": "bot"}))["agent"] == {"id": "bot"}
    assert not {"user", "agent"} & translated(text, asked()).keys()  # `user` is what is usual: the map says another


def test_the_issuer_of_a_map_overrides_the_issuer_of_a_question() -> None:
    subject = {"type": "user", "id": "alice", "properties": {"iss": "https://login.other.example"}}
    assert translated('map authzen { subject "user" => user from acme }', asked(subject=subject))["credential"] == {
        "issuer": "acme"
    }


MAP = """map authzen {
  resource "task" => todo
  action "see" on "task" => GET /todos/{resource.id}
  action "see" => ACTION read todo
  action "refund" => TOOL billing/refund with args.amount = action.properties.amount, context.place = context.where
  action "call" => TOOL billing/*
  action "order" => POST /orders with body.amount = context.amount
}
"""


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (asked("see", "task", "7"), {"request": {"method": "GET", "path": "/todos/7"}}),
        (asked("see", "task", "a b/c"), {"request": {"method": "GET", "path": "/todos/a%20b%2Fc"}}),
        (
            asked("refund", properties={"amount": 9}),
            {"tool": {"server": "billing", "name": "refund"}, "args": {"amount": 9}},
        ),
        (asked("call", "tool", "billing/refund"), {"tool": {"server": "billing", "name": "refund"}}),
        (
            asked("order", context={"amount": 9}),
            {"request": {"method": "POST", "path": "/orders"}, "body": {"amount": 9}, "context": {"amount": 9}},
        ),
        (
            asked("refund", context={"where": "office"}),
            {"tool": {"server": "billing", "name": "refund"}, "context": {"where": "office", "place": "office"}},
        ),
    ],
)
def test_a_map_translates_an_action_to_its_endpoint(question: Free, expected: Free) -> None:
    assert translated(MAP, question) == {**expected, **USER}


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (asked("read", "task"), "no `map authzen` defines `read` on `task`"),
        (asked("see", "spaceship"), "no `map authzen` defines the resource type `spaceship`"),
        (asked("call", "tool", "mail/send"), "`mail/send` is not a tool of `billing/*`"),
    ],
)
def test_the_error_names_what_the_map_does_not_define(question: Free, why: str) -> None:
    with pytest.raises(UnmappedError, match=f"^{why}$".replace("*", r"\*")):
        translated(MAP, question)


def test_a_mapped_action_applies_only_to_resources_of_its_entity() -> None:
    text = 'map authzen { action "see" => ACTION read todo   action "look" on "page" => ACTION read todo }'
    assert translated(text, asked("see"))["resource"] == {"type": "todo", "id": "7"}
    assert translated(text, asked("look", "page"))["resource"] == {"type": "todo", "id": "7"}
    with pytest.raises(UnmappedError, match="`user` is not of the type `todo`"):
        translated(text, asked("see", "user"))


@pytest.mark.parametrize("id_", ["", 7, None, True, ["7"]])
def test_a_path_parameter_that_is_not_a_string_is_unmapped(id_: object) -> None:
    text = 'map authzen { action "see" => GET /todos/{context.id} }'
    with pytest.raises(UnmappedError, match=r"`context\.id` must be a non-empty string"):
        translated(text, asked("see", context={"id": id_}))


FACTS = """map authzen {
  fact user.roles = subject.properties.roles
  fact user.tenant = resource.properties.tenant
  fact todo.owner = resource.properties.owner
  fact agent.issuer = context.issuer
  fact credential.scopes = context.scopes
  fact args.amount = resource.properties.amount
}
"""


def test_a_map_takes_facts_and_attributes_from_its_sources() -> None:
    question = asked(
        subject={"type": "user", "id": "alice", "properties": {"roles": ["clerk"]}},
        context={"issuer": "acme", "scopes": ["x"], "agent": "bot"},
        resource={"properties": {"owner": "bob", "amount": 7, "tenant": "north"}},
    )
    found = translated(FACTS, question)
    assert (found["agent"], found["credential"]) == ({"id": "bot", "issuer": "acme"}, {"scopes": ("x",)})
    assert found["args"] == {"amount": 7}
    assert sorted(found["entities"], key=lambda row: row["type"], reverse=True) == [
        {"type": "user", "id": "alice", "attributes": {"roles": ("clerk",)}, "partial": True},
        {"type": "todo", "id": "7", "attributes": {"owner": "bob"}, "partial": True},
    ]


def test_an_absent_source_adds_no_fact() -> None:
    assert translated(FACTS, asked()).keys() == {"user", "action", "resource", "options"}


def test_an_attribute_of_a_user_is_not_one_of_an_agent() -> None:
    found = translated(FACTS, asked(subject={"type": "agent", "id": "alice", "properties": {"roles": ["clerk"]}}))
    assert "entities" not in found


def test_an_attribute_with_two_different_values_is_unknown() -> None:
    text = (
        "map authzen { fact user.tenant = subject.properties.tenant   fact user.tenant = resource.properties.tenant }"
    )
    question = asked(
        "read",
        "user",
        "alice",
        {"type": "user", "id": "alice", "properties": {"tenant": "north"}},
        resource={"properties": {"tenant": "south"}},
    )
    request = Request.from_mapping(translated(text, question))
    assert request.entities[0].attributes["tenant"].why == "given two different values"  # type: ignore[attr-defined]


MEMBERS = """language 1
package teams
entity team
entity user { level: int } in team
issuer acme { scopes none }
user where user not in team "suspended" { may ACTION read team }
user where user.level > 3 { may ACTION write team }
map authzen { subject "user" => user from acme   fact user.level = subject.properties.level }
"""


CLAIMED = """language 1
package todos
entity user { }
entity todo { owner: string?   private: bool?   watchers: set<string>? }
issuer acme { scopes none }
user any {
  may ACTION read todo when resource.owner == user.id
  may ACTION show todo when resource.owner == user.id and not (resource.private else false)
  may ACTION join todo when "bot" not in (resource.watchers else [])
  may ACTION find todo when resource is known
  may ACTION make todo when not resource is known
}
map authzen { subject "user" => user from acme   fact todo.owner = resource.properties.owner }
"""


@pytest.mark.parametrize(
    ("rows", "properties", "opened"),
    [
        ([], {"owner": "alice"}, {"read"}),
        ([], {"owner": "bob"}, set()),
        ([], {}, {"make"}),
        ([], {"owner": None}, {"make"}),
        ([{}], {"owner": "alice"}, {"join", "find"}),  # the row stands, and has no owner
        ([{"owner": "alice"}], {"owner": "bob"}, {"read", "show", "join", "find"}),
        ([{"owner": "alice", "private": True}], {}, {"read", "join", "find"}),
    ],
)
def test_a_map_adds_only_its_attributes_and_does_not_make_an_entity_known(
    rows: list[dict[str, object]], properties: dict[str, object], opened: set[str]
) -> None:
    """It makes nothing known to be there, either: that is for the directory to say."""
    directory = EntityStore(EntityData(EntityRef("todo", "7"), row) for row in rows)
    authzen = AuthzenAdapter(Engine.from_text(CLAIMED, directory=directory))
    subject = {"type": "user", "id": "alice"}

    def ask(verb: str) -> bool:
        question = asked(verb, subject=subject, resource={"properties": properties})
        return authzen.decided(read_evaluation(question)).decision.allowed

    assert {verb for verb in ("read", "show", "join", "find", "make") if ask(verb)} == opened


def test_a_mapped_attribute_does_not_imply_that_the_entity_has_no_parents() -> None:
    """The map lets a question tell a level, and no more: that nobody is suspended would be something else."""
    engine = Engine.from_text(MEMBERS)
    subject = {"type": "user", "id": "alice", "properties": {"level": 7}}

    def decided(action: str) -> bool:
        return AuthzenAdapter(engine).decided(read_evaluation(asked(action, "team", "x", subject))).decision.allowed

    assert (decided("write"), decided("read")) == (True, False)


# ── Bundles ───────────────────────────────────────────────────────────────────────────────────


def test_a_bundle_contains_the_maps_of_its_policy(tmp_path: Path) -> None:
    engine = Engine.from_text(DOORS + MAP + FACTS.replace("map", "map", 1))
    file = tmp_path / "shop.policybundle"
    file.write_bytes(write_bundle(engine.kernel, "0.1.0"))
    again = Engine.from_bundle(file)
    assert tuple(again.kernel.maps) == engine.kernel.maps
    assert again.revision == engine.revision


def test_a_different_map_gives_a_different_revision() -> None:
    revisions = [Engine.from_text(DOORS + text).revision for text in ("", MAP, MAP.replace("/todos/{", "/{"), FACTS)]
    assert len(set(revisions)) == 4


def test_the_order_of_map_items_does_not_change_the_revision() -> None:
    lines = MAP.splitlines()
    turned = "\n".join([lines[0], *reversed(lines[1:-1]), lines[-1]])
    assert Engine.from_text(DOORS + turned).revision == Engine.from_text(DOORS + MAP).revision


# ── Laws ──────────────────────────────────────────────────────────────────────────────────────

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5)
VALUES = LEAVES | st.sampled_from(["admin", "archived", "active", "bot", "acme", "https://login.acme.example"])
TREES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
PROPERTIES = st.dictionaries(
    st.sampled_from(["role", "roles", "status", "soft", "act", "iss", "owner", "amount", "tenant", "sub"]),
    TREES,
    max_size=3,
)
IDS = st.sampled_from(
    ["alice", "bob", "carol", "record-1", "record-2", "7", "/todos/7", "a/b", "..", "billing/refund", "billing/"]
) | st.text(min_size=1, max_size=4)
ENTITIES = st.builds(
    lambda type_, id_, properties: {"type": type_, "id": id_, "properties": properties},
    st.sampled_from(["user", "agent", "record", "todo", "task", "tool", "route", "spaceship"]),
    IDS,
    PROPERTIES,
)
ACTIONS = st.builds(
    lambda name, properties: {"name": name, "properties": properties},
    st.sampled_from(["read", "write", "delete", "see", "call", "refund", "order", "GET", "tools/call", "x"]),
    PROPERTIES,
)
CONTEXTS = st.dictionaries(
    st.sampled_from(["agent", "issuer", "scopes", "amount", "where", "supported_obligations"]), TREES, max_size=3
)
QUESTIONS = st.builds(
    lambda subject, action, resource, context: {
        "subject": subject,
        "action": action,
        "resource": resource,
        "context": context,
    },
    ENTITIES,
    ACTIONS,
    ENTITIES,
    CONTEXTS,
)
ENGINES = {
    "certification": example("authzen"),
    "usual": Engine.from_text(DOORS),
    "mapped": Engine.from_text(DOORS + MAP),
    "facts": Engine.from_text(DOORS + FACTS),
}
each_engine = pytest.mark.parametrize("name", ENGINES)


@each_engine
@scaled
@settings(max_examples=examples(15, 1_000))
@given(question=QUESTIONS)
def test_an_evaluation_equals_the_decision_of_the_engine_for_the_translated_question(name: str, question: Free) -> None:
    engine, authzen = ENGINES[name], AuthzenAdapter(ENGINES[name])
    try:
        evaluation = read_evaluation(question)
    except RequestError:
        return
    found, code, _ = authzen.decided(evaluation)
    try:
        expected = engine.evaluate(Request.from_mapping(authzen.translator.question(evaluation)))
    except (UnmappedError, RequestError):
        assert (found.allowed, code in ("unmapped", "invalid")) == (False, True)
        return
    assert (found.answer, found.principal) == (expected.answer, expected.principal)


def answered(authzen: AuthzenAdapter, question: Free) -> Any:
    return json.loads(asyncio.run(authzen.one(AuthzenRequest(question), None)).body)


@each_engine
@scaled
@settings(max_examples=examples(6, 300))
@given(questions=st.lists(QUESTIONS, min_size=1, max_size=4))
def test_random_evaluations_are_answered_like_single_questions_and_repeatably(name: str, questions: list[Free]) -> None:
    authzen = AuthzenAdapter(ENGINES[name])
    many = asyncio.run(authzen.many(AuthzenRequest({}, tuple(questions)), None)).body
    for question, item in zip(questions, json.loads(many)["evaluations"], strict=True):
        try:
            assert answered(authzen, question) == item
        except RequestError:
            assert (item["decision"], item["context"]["reason"]) == (False, "invalid")
    assert asyncio.run(authzen.many(AuthzenRequest({}, tuple(questions)), None)).body == many


@given(tree=TREES)
def test_any_evaluation_is_read_or_rejected_with_a_request_error(tree: object) -> None:
    with suppress(RequestError):
        assert read_evaluation({"subject": tree, "action": {"name": "read"}, "resource": tree}).action.name == "read"


def test_only_the_authzen_and_todo_examples_have_maps() -> None:
    mapped = {folder.name for folder in EXAMPLES.iterdir() if folder.is_dir() and Engine.load(folder).kernel.maps}
    assert mapped == {"authzen", "todo"}
