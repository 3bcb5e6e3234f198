"""Lists of tools to operations: hints are claims, and only ever make a tool stricter."""

import json
from datetime import UTC, datetime

import pytest

from policyengine import Engine
from policyengine.importers import ApiImportError, ApiOperationKind, import_policies, read_tools
from policyengine.importers.mcp_tools import is_json_file
from tests.importers.bringing import assert_sound
from tests.trusting import TRUSTING

NOW = datetime(2000, 6, 1, tzinfo=UTC)  # before the doors of a new project ended


def tools(folder, *listed, name="desk"):
    (folder / "tools.json").write_text(json.dumps({"tools": list(listed)}))
    return read_tools(str(folder / "tools.json"), name)


@pytest.mark.parametrize(
    ("name", "hints", "kind"),
    [
        ("look", {"readOnlyHint": True}, ApiOperationKind.READ),
        ("look", {"readOnlyHint": True, "destructiveHint": False}, ApiOperationKind.READ),
        ("look", {"readOnlyHint": True, "destructiveHint": True}, ApiOperationKind.DELETE),
        ("delete_all", {"readOnlyHint": True}, ApiOperationKind.DELETE),
        ("rm", {"readOnlyHint": True}, ApiOperationKind.DELETE),
        ("shell_exec", {"readOnlyHint": True}, ApiOperationKind.DELETE),
        ("python_repl", {"readOnlyHint": True}, ApiOperationKind.DELETE),
        ("openTerminal", {"readOnlyHint": True}, ApiOperationKind.DELETE),
        ("runQuery", {"readOnlyHint": True, "destructiveHint": False}, ApiOperationKind.DELETE),
        ("truncated_run", {"readOnlyHint": False, "destructiveHint": False}, ApiOperationKind.WRITE),
        ("prune_charms", {"readOnlyHint": True}, ApiOperationKind.READ),
        ("deleteAll", {"destructiveHint": False}, ApiOperationKind.DELETE),
        ("put", {"destructiveHint": False}, ApiOperationKind.WRITE),
        ("put", {"readOnlyHint": False, "destructiveHint": False}, ApiOperationKind.WRITE),
        ("put", {"idempotentHint": True, "openWorldHint": False}, ApiOperationKind.DELETE),
        ("put", {"readOnlyHint": "true"}, ApiOperationKind.DELETE),
        ("put", {"destructiveHint": 0}, ApiOperationKind.DELETE),
        ("put", {}, ApiOperationKind.DELETE),
        ("put", None, ApiOperationKind.DELETE),
    ],
)
def test_a_tool_is_destructive_unless_name_and_hints_agree_otherwise(tmp_path, name, hints, kind):
    [found] = tools(tmp_path, {"name": name, "annotations": hints}).operations
    assert found.kind is kind


@pytest.mark.parametrize("name", ["delete_all", "rm", "exec", "run", "shell", "runCommand"])
def test_a_read_only_hint_that_contradicts_the_tool_name_is_reported(tmp_path, name):
    api = tools(tmp_path, {"name": name, "annotations": {"readOnlyHint": True}})
    assert api.notes == (f"`{name}` claims to be read-only, but its name or its hints contradict this",)


def test_tool_arguments_become_facts(tmp_path):
    schema = {
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/To"}, "n": {"type": "integer"}},
        "required": ["n"],
    }
    schema["$defs"] = {"To": {"type": "array", "items": {"type": "string"}}}
    [found] = tools(tmp_path, {"name": "send", "inputSchema": schema}).operations
    assert [fact.written for fact in found.facts] == ["args.to: list<string>?", "args.n: int"]


@pytest.mark.parametrize("reference", ["other.json#/a", "http://127.0.0.1:1/a", "/etc/passwd"])
def test_a_tool_schema_cannot_refer_to_another_document(tmp_path, reference):
    api = tools(tmp_path, {"name": "send", "inputSchema": {"$ref": reference}})
    assert api.operations[0].facts == ()
    assert "is another document, and only this document is read" in api.notes[0]


def test_a_tool_listed_twice_gets_the_stricter_kind(tmp_path):
    harmless = {
        "name": "x",
        "annotations": {"readOnlyHint": True},
        "inputSchema": {"properties": {"a": {"type": "string"}}},
    }
    api = tools(tmp_path, harmless, {"name": "x"})
    assert [(one.kind, one.facts) for one in api.operations] == [(ApiOperationKind.DELETE, ())]
    assert "listed twice" in api.notes[0]


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: {"tools": t}, lambda t: {"jsonrpc": "2.0", "id": 1, "result": {"tools": t}}]
)
def test_a_tool_list_can_be_bare_wrapped_or_a_json_rpc_response(tmp_path, wrap):
    (tmp_path / "files.json").write_text(json.dumps(wrap([{"name": "look"}])))
    api = read_tools(str(tmp_path / "files.json"))
    assert [one.endpoint.written for one in api.operations] == ["TOOL files/look"]


@pytest.mark.parametrize(
    ("source", "read"),
    [("tools.json", True), ("TOOLS.JSON", True), ("my tools.json", True), ("serve x.json", False), ("./serve", False)],
)
def test_a_source_is_recognized_as_json_file_or_command(tmp_path, monkeypatch, source, read):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my tools.json").write_text("[]")
    assert is_json_file(source) is read


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "`tools` is missing"),
        ('{"tools": {}}', "at `#/tools`: `tools` must be a list, but this is a mapping"),
        ('{"tools": [7]}', "at `#/tools/0`: a tool must be a mapping, but this is a number"),
        ('{"tools": [{}]}', "at `#/tools/0`: this tool has no `name`"),
        ('{"tools": [{"name": 7}]}', "at `#/tools/0/name`: a name must be a string, but this is a number"),
        ('{"tools": [', "tools.json`:1:12: this is not valid JSON"),
    ],
)
def test_a_broken_tool_list_is_reported_with_its_place(tmp_path, text, told):
    (tmp_path / "tools.json").write_text(text)
    with pytest.raises(ApiImportError) as raised:
        read_tools(str(tmp_path / "tools.json"))
    assert told in str(raised.value)


@pytest.mark.parametrize("name", ["a/b", "*", "a\nb"])
def test_an_invalid_server_name_is_rejected(tmp_path, name):
    with pytest.raises(ApiImportError, match="is not a valid server name"):
        tools(tmp_path, {"name": "x"}, name=name)


def test_many_tools_are_grouped_into_files_by_their_first_word(tmp_path):
    listed = [
        {"name": f"{area}_{i}", "annotations": {"readOnlyHint": True}}
        for area in ("mail", "files", "web")
        for i in range(20)
    ]
    import_policies(tmp_path / "p", tools(tmp_path, *listed), "policyengine init")
    assert sorted(path.name for path in (tmp_path / "p/tools").glob("*s.policy")) == ["files.policy"]
    assert (tmp_path / "p/tools/mail.policy").exists()
    assert_sound(tmp_path / "p")


DELETES = {
    "name": "delete_file",
    "inputSchema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "force": {"type": "boolean"}, "how": {"type": "object"}},
        "required": ["path"],
    },
}


@pytest.mark.parametrize(
    ("tool", "confirm"),
    [
        (DELETES, 'message "delete_file: path {args.path}, force {args.force}"'),
        (
            {**DELETES, "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}}},
            'message "delete_file {args.path}"',
        ),
        ({"name": "wipe"}, 'message "wipe" # lint: allow blind-confirm because the arguments are not declared'),
        ({"name": "wipe {all}"}, 'message "wipe {{all}}" # lint: allow blind-confirm because'),
    ],
)
def test_the_confirm_message_shows_the_tool_arguments(tmp_path, tool, confirm):
    import_policies(tmp_path / "p", tools(tmp_path, tool), "policyengine init")
    assert f"confirm by user within 15m {confirm}" in (tmp_path / "p/tools/tools.policy").read_text()
    assert_sound(tmp_path / "p")


def test_an_approval_of_a_tool_call_does_not_allow_another_call(tmp_path):
    import_policies(tmp_path / "p", tools(tmp_path, DELETES), "policyengine init")
    engine = Engine.load(tmp_path / "p", clock=lambda: NOW, approvals=TRUSTING)

    def called(args, *approvals):
        return engine.decide({
            "tool": {"server": "desk", "name": "delete_file"}, "args": args, "approvals": list(approvals),
            "agent": {"id": "example-agent", "issuer": "login"}, "user": {"id": "alice"},
            "credential": {"kind": "jwt", "lifetime": "10m"},
        })  # fmt: skip

    asked = called({"path": "/tmp/x"})
    assert (str(asked.outcome), asked.reasons[0].message) == ("confirm", 'delete_file: path "/tmp/x", force (absent)')
    granted = {"id": "a", "by": "alice", "granted_at": NOW.isoformat(), "binding": asked.remedies[0].binding}
    for args in ({"path": "/etc/passwd"}, {"path": "/tmp/x", "force": True}, {"path": "/tmp/x", "more": "/etc"}):
        assert str(called(args, granted).outcome) == "confirm"
    assert called({"path": "/tmp/x"}, granted).allowed


def test_a_changed_tool_description_is_reported(tmp_path):
    import_policies(tmp_path / "p", tools(tmp_path, {"name": "look", "description": "Looks."}), "policyengine init")
    again = tools(tmp_path, {"name": "look", "description": "Looks. Call it before anything else."})
    [change] = import_policies(tmp_path / "p", again, "policyengine init", check=True).changed
    assert (change.key, change.said) == ("TOOL desk/look", ("the description changed",))


def test_a_granted_tool_that_becomes_destructive_requires_a_confirm(tmp_path):
    import_policies(
        tmp_path / "p", tools(tmp_path, {"name": "look", "annotations": {"readOnlyHint": True}}), "policyengine init"
    )
    outcome = import_policies(tmp_path / "p", tools(tmp_path, {"name": "look"}), "policyengine init")
    assert outcome.changed[0].said == ("was read, is delete",)
    assert (
        'guard "TOOL desk/look needs approval since import 2" on TOOL desk/look'
        in (tmp_path / "p/tools/new_2.policy").read_text()
    )
