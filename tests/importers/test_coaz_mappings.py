"""The actions that tools declare with `x-authzen-mapping`: claims of the server, which grant nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.importers import Api, import_policies, read_tools
from policyengine.importers.coaz_mappings import declared_actions
from policyengine.importers.model import DeclaredAction, OperationFact
from policyengine.server.authzen.adapter import AuthzenAdapter, read_evaluation
from tests.importers.bringing import assert_sound

SUBJECT = {"type": "identity", "id": "$token.sub"}
CONTEXT = {"agent": "$token.?client_id"}
# The examples of the draft.
GET_CUSTOMER = {
    "evaluation": {
        "subject": SUBJECT, "action": {"name": "get_customer"},
        "resource": {"type": "customer", "id": "$params.arguments.id"},
        "context": {**CONTEXT, "case": "$params.arguments.case"},
    }
}  # fmt: skip
COPY_OBJECT = {
    "evaluations": {
        "subject": SUBJECT,
        "context": CONTEXT,
        "evaluations": [
            {"action": {"name": "read"}, "resource": {"type": "storage_object", "id": "$params.arguments.source"}},
            {
                "action": {"name": "write"},
                "resource": {"type": "storage_object", "id": "$params.arguments.destination"},
            },
        ],
    }
}
TRANSFER = {
    "evaluation": {
        "subject": {"type": "$token.roles.exists(r, r == 'treasury') ? 'a' : 'b'", "id": "$token.sub"},
        "action": {"name": "$params.arguments.currency == 'USD' ? 'domestic_transfer' : 'international_transfer'"},
        "resource": {"type": "account", "id": "$params.arguments.from_account"},
    }
}


def tool(name: str, mapping: Any, *arguments: str) -> dict[str, Any]:
    properties = {argument: {"type": "string"} for argument in arguments}
    return {"name": name, "inputSchema": {"type": "object", "properties": properties, "x-authzen-mapping": mapping}}


def tools(folder: Path, *listed: dict[str, Any]) -> Api:
    (folder / "tools.json").write_text(json.dumps({"tools": list(listed)}))
    return read_tools(str(folder / "tools.json"), "crm")


def test_the_examples_of_the_draft_are_read(tmp_path: Path) -> None:
    api = tools(
        tmp_path, tool("get_customer", GET_CUSTOMER, "id", "case"), tool("copy_object", COPY_OBJECT),
        tool("transfer_funds", TRANSFER), {"name": "get_local_weather"},
    )  # fmt: skip
    assert {one.key: one.actions for one in api.operations} == {
        "TOOL crm/get_customer": (
            DeclaredAction("get_customer", "customer", (OperationFact("context.case", "string", True),)),
        ),
        "TOOL crm/copy_object": (DeclaredAction("read", "storage_object"), DeclaredAction("write", "storage_object")),
        "TOOL crm/transfer_funds": (),
        "TOOL crm/get_local_weather": (),
    }
    assert api.notes == (
        "`transfer_funds`: its `x-authzen-mapping` has an evaluation that you must name yourself: "
        "`action.name` is computed",
    )


def test_declared_actions_are_written_and_not_granted(tmp_path: Path) -> None:
    api = tools(tmp_path, tool("get_customer", GET_CUSTOMER, "id", "case"), tool("copy_object", COPY_OBJECT))
    import_policies(tmp_path / "crm", api, "policyengine init")
    assert_sound(tmp_path / "crm")
    text = (tmp_path / "crm" / "authzen.policy").read_text()
    assert "entity customer {}\nentity storage_object {}\n" in text
    question = read_evaluation(
        {
            "subject": {"type": "identity", "id": "alice"}, "action": {"name": "get_customer"},
            "resource": {"type": "customer", "id": "cust-12345"}, "context": {"case": "case-67890"},
        }
    )  # fmt: skip
    assert AuthzenAdapter(Engine.load(tmp_path / "crm")).answer(question)[0]["decision"] is False
    grant = 'anyone { may ACTION get_customer customer when context.case == "case-67890" }\n'
    (tmp_path / "crm" / "mine.policy").write_text(f"language 1\npackage crm\n{grant}")
    assert AuthzenAdapter(Engine.load(tmp_path / "crm")).answer(question)[0]["decision"] is True


def test_a_project_without_mappings_has_no_file_for_them(tmp_path: Path) -> None:
    import_policies(tmp_path / "crm", tools(tmp_path, {"name": "look"}), "policyengine init")
    assert not (tmp_path / "crm" / "authzen.policy").exists()


@pytest.mark.parametrize(
    ("mapping", "note"),
    [
        ([], "either `evaluation` or `evaluations`"),
        ({}, "either `evaluation` or `evaluations`"),
        ({**GET_CUSTOMER, **COPY_OBJECT}, "either `evaluation` or `evaluations`"),
        ({"search": {}}, "either `evaluation` or `evaluations`"),
        ({"evaluation": []}, "must be an object"),
        ({"evaluations": {"evaluations": []}}, "a list of 1 to 20"),
        ({"evaluations": {"evaluations": [{}] * 21}}, "a list of 1 to 20"),
        ({"evaluations": {"evaluations": [7]}}, "must be an object"),
        ({"evaluations": {"evaluations": [{"subject": SUBJECT}]}}, "its own `subject`"),
        ({"evaluation": {"action": {"name": "tools/call"}, "resource": {"type": "tool"}}}, "is not a name in policies"),
        ({"evaluation": {"action": {"name": "x"}, "resource": {"type": "user"}}}, "is not a name in policies"),
        ({"evaluation": {"action": {"name": "x\n} anyone { may ACTION y z"}, "resource": {"type": "t"}}}, "not a name"),
        ({"evaluation": {"action": {"name": "$$x"}, "resource": {"type": "t"}}}, "is not a name in policies"),
        ({"evaluation": {"action": {"name": 7}, "resource": {"type": "t"}}}, "is not a string"),
        ({"evaluation": {"resource": {"type": "t"}}}, "`action` must be an object"),
    ],
)
def test_a_mapping_that_policies_cannot_name_is_reported_and_imports_nothing(
    tmp_path: Path, mapping: Any, note: str
) -> None:
    api = tools(tmp_path, tool("x", mapping))
    assert api.operations[0].actions == ()
    assert note in api.notes[0]


def test_a_mapping_that_states_the_user_is_reported(tmp_path: Path) -> None:
    mapping = {"evaluation": {**GET_CUSTOMER["evaluation"], "subject": {"id": "$params.arguments.user"}}}
    api = tools(tmp_path, tool("x", mapping))
    assert len(api.operations[0].actions) == 1
    assert "do not trust such evaluations" in api.notes[0]


def test_context_that_is_not_an_argument_with_a_type_is_no_fact(tmp_path: Path) -> None:
    context = {
        "agent": "$params.arguments.id",
        "a": "$params.arguments.unknown",
        "b": "$size(params)",
        "c": 7,
        "d e": "$params.arguments.id",
    }
    mapping = {"evaluation": {**GET_CUSTOMER["evaluation"], "context": context}}
    assert tools(tmp_path, tool("x", mapping, "id")).operations[0].actions[0].facts == ()


def test_one_action_of_two_tools_has_only_facts_of_one_type() -> None:
    text, number = OperationFact("context.case", "string", True), OperationFact("context.case", "number", True)
    other = OperationFact("context.other", "string", True)
    found = declared_actions([DeclaredAction("a", "b", (text, other)), DeclaredAction("a", "b", (number,))])
    assert found == {"ACTION a b": DeclaredAction("a", "b", (other,))}
