"""`policyengine init`: a project that is right from the start."""

import json
from datetime import UTC, datetime

import pytest

from policyengine.cli.commands.init import FILES
from policyengine.engine import Engine
from tests.trusting import TRUSTING


def test_init_creates_a_project(run, tmp_path):
    ended = run("init", "new/project")
    assert ended.code == 0
    assert sorted(path.name for path in (tmp_path / "new" / "project").iterdir()) == sorted(FILES)
    assert "next: policyengine test new/project" in ended.out


def test_init_lists_the_created_files_as_json(run):
    assert run("init", "project", "--format", "json").json == {"created": [f"project/{name}" for name in FILES]}


@pytest.mark.parametrize("command", [["check", "--strict"], ["fmt", "--check"], ["test"]])
def test_a_new_project_passes_its_own_checks(run, project, command):
    ended = run(*command, project)
    assert (ended.code, ended.err) == (0, "")


def test_the_request_of_a_new_project_is_allowed(run, project):
    ended = run("decide", project, "--entities", project / "entities.json", "--request", project / "request.json")
    assert (ended.code, ended.out) == (0, "allow\n")


@pytest.mark.parametrize(("document", "approver"), [("9", "olga"), ("7", "alice")])
def test_only_the_document_owner_can_approve_the_confirm_of_a_new_project(project, document, approver):
    engine = Engine.load(project, entities=project / "entities.json", approvals=TRUSTING)
    asked = json.loads((project / "request.json").read_text())
    asked["credential"]["scopes"] = ["share:documents"]
    asked |= {"request": {"method": "POST", "path": f"/documents/{document}/share"}, "body": {"with": "eve@x.example"}}
    (remedy,) = engine.decide(asked).remedies
    for by, outcome in ((approver, "allow"), ("mallory", "confirm")):
        granted = {"id": by, "by": by, "granted_at": datetime.now(UTC).isoformat(), "binding": remedy.binding}
        assert engine.decide({**asked, "approvals": [granted]}).outcome == outcome


def test_init_accepts_an_existing_folder(run, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes.txt").write_text("mine")
    assert run("init", "project").code == 0


@pytest.mark.parametrize("name", FILES)
def test_init_creates_nothing_if_a_file_exists(run, tmp_path, name):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / name).write_text("mine")
    ended = run("init", "project")
    assert ended.code == 1
    assert f"`project/{name}` already exists, so nothing was created" in ended.err
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "mine")]


def test_init_does_not_overwrite_a_dangling_link(run, tmp_path):
    (tmp_path / "README.md").symlink_to(tmp_path / "nowhere")
    assert run("init", ".").code == 1


def test_init_rejects_a_file_as_project_folder(run, tmp_path):
    (tmp_path / "project").write_text("")
    ended = run("init", "project", "--format", "json")
    assert ended.code == 1
    assert ended.json["error"] == {
        "kind": "file",
        "message": "`project`: file exists",
        "hint": None,
        "file": "project",
    }


def test_the_documents_of_a_new_project_are_valid_json(project):
    assert json.loads((project / "entities.json").read_text()).keys() == {"entities"}
    assert json.loads((project / "request.json").read_text())["request"]["method"] == "GET"
