"""`policyengine init --openapi` and `--mcp`, as a shell sees them."""

import json
import sys

import pytest

SPEC = {
    "openapi": "3.0.3",
    "info": {"title": "Pets"},
    "paths": {"/pets": {"get": {"tags": ["pets"]}}, "/pets/{petId}": {"delete": {"tags": ["pets"]}}},
}
MADE = (
    *("api/pets.policy", "api/pets_test.policy", "entities.policy", "doors.policy", "doors_test.policy"),
    *(".policyroot", "README.md", "request.json", "imported.json", "policyengine.toml"),
)


@pytest.fixture
def specification(tmp_path):
    (tmp_path / "api.json").write_text(json.dumps(SPEC))
    return tmp_path / "api.json"


def more(specification):
    specification.write_text(
        json.dumps({**SPEC, "paths": {**SPEC["paths"], "/pets/export": {"get": {"tags": ["pets"]}}}})
    )


@pytest.mark.usefixtures("specification")
def test_init_lists_the_created_files(run):
    ended = run("init", "pets", "--openapi", "api.json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[: len(MADE)] == [f"created pets/{name}" for name in MADE]
    assert "2 endpoints, and nothing is allowed yet\nnext: policyengine test pets, then pets/README.md" in ended.out


@pytest.mark.usefixtures("specification")
@pytest.mark.parametrize("command", [["check", "--strict"], ["fmt", "--check"], ["test"]])
def test_an_imported_project_passes_its_own_checks(run, command):
    run("init", "pets", "--openapi", "api.json")
    ended = run(*command, "pets")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.usefixtures("specification")
def test_lint_reports_nothing_for_an_imported_project(run, monkeypatch, tmp_path):
    run("init", "pets", "--openapi", "api.json")
    monkeypatch.chdir(tmp_path / "pets")
    assert run("lint", ".").out.startswith("no mistakes")


@pytest.mark.usefixtures("specification")
def test_an_imported_project_denies_its_request_until_a_grant_is_opened(run, tmp_path):
    run("init", "pets", "--openapi", "api.json")
    assert run("decide", "pets", "--request", "pets/request.json").code == 10
    doors = tmp_path / "pets/doors.policy"
    doors.write_text("\n".join(line for line in doors.read_text().splitlines() if "valid until" not in line))
    assert run("decide", "pets", "--request", "pets/request.json").out == "allow\n"


def test_init_check_exits_with_1_if_the_project_differs_from_the_specification(run, specification):
    run("init", "pets", "--openapi", "api.json")
    assert run("init", "pets", "--openapi", "api.json", "--check").out == "no differences\n"
    more(specification)
    ended = run("init", "pets", "--openapi", "api.json", "--check")
    assert (ended.code, ended.out) == (1, "new GET /pets/export\n")


def test_init_reports_differences_as_json(run, specification):
    run("init", "pets", "--openapi", "api.json")
    more(specification)
    found = run("init", "pets", "--openapi", "api.json", "--format", "json").json
    assert found == {
        "created": ["pets/api/pets_new_2.policy", "pets/api/pets_new_2_test.policy", "pets/api/new_2.policy"],
        "endpoints": 3,
        "new": ["GET /pets/export"],
        "changed": [],
        "removed": [],
        "notes": [],
    }


def test_a_broken_specification_is_reported_with_its_place(run, tmp_path):
    (tmp_path / "api.yaml").write_text("openapi: 3.0.0\npaths:\n  /x:\n    get: 7\n")
    ended = run("init", "pets", "--openapi", "api.yaml", "--format", "json")
    assert ended.code == 1
    assert ended.json["error"] == {
        "kind": "import",
        "message": "`api.yaml`:4 at `#/paths/~1x/get`: an operation must be a mapping, but this is a number",
        "hint": None,
        "place": "api.yaml:4 at #/paths/~1x/get",
    }
    assert not (tmp_path / "pets").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--check"], "need `--openapi` or `--mcp`"),
        (["--name", "x"], "need `--openapi` or `--mcp`"),
        (["--openapi", "a", "--mcp", "b"], "cannot be combined"),
        (["--openapi", "a", "--name", "b"], "`--name` is for `--mcp`"),
        (["--mcp", "a", "--base-path", "/b"], "`--base-path` is for `--openapi`"),
    ],
)
def test_incompatible_import_options_are_rejected(run, options, told):
    ended = run("init", "pets", *options)
    assert ended.code == 2
    assert told in ended.err


def test_importing_yaml_without_its_package_reports_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "api.yaml").write_text("openapi: 3.0.0\n")
    ended = run("init", "pets", "--openapi", "api.yaml")
    assert ended.code == 1
    assert "in a checkout of policyengine: `pip install -c constraints.txt '.[openapi]'`" in ended.err


def test_importing_from_a_server_without_the_mcp_sdk_reports_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.client.client", None)
    ended = run("init", "tools", "--mcp", "http://127.0.0.1:9/mcp")
    assert ended.code == 1
    assert "in a checkout of policyengine: `pip install -c constraints.txt '.[mcp]'`" in ended.err


def test_a_later_import_keeps_the_server_name_of_the_first_one(run, tmp_path):
    (tmp_path / "tools.json").write_text('{"tools": [{"name": "look"}]}')
    run("init", "desk", "--mcp", "tools.json", "--name", "desk")
    assert run("init", "desk", "--mcp", "tools.json", "--check").out == "no differences\n"
    assert "TOOL desk/look" in (tmp_path / "desk/tools/tools.policy").read_text()


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_a_later_import_under_another_server_name_is_refused_before_the_server_is_asked(run, tmp_path, options):
    (tmp_path / "tools.json").write_text('{"tools": [{"name": "look"}]}')
    run("init", "desk", "--mcp", "tools.json", "--name", "desk")
    files = {file: file.read_bytes() for file in (tmp_path / "desk").rglob("*") if file.is_file()}
    ended = run("init", "desk", "--mcp", "no-such-server", "--name", "other", *options)
    assert (ended.code, ended.out) == (1, "")
    assert "error: `desk`: the server `desk` was imported here, but `--name` says `other`" in ended.err
    assert "omit `--name` to update `desk`, or import `other` into another folder" in ended.err
    assert {file: file.read_bytes() for file in (tmp_path / "desk").rglob("*") if file.is_file()} == files
    assert run("init", "desk", "--mcp", "tools.json", "--name", "desk").code == 0
