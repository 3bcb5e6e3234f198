"""`policyengine keys`: what it makes, shows and refuses."""

import json

import pytest

pytest.importorskip("joserfc")


def test_keys_can_be_created_rotated_and_listed(run, tmp_path):
    file = tmp_path / "signing.json"
    assert run("keys", "new", file).code == 0
    made = run("keys", "list", file, "--format", "json")
    assert [one["state"] for one in json.loads(made.out)["keys"]] == ["signs"]
    ended = run("keys", "rotate", file, "--algorithm", "EdDSA", "--ahead", "5m", "--format", "json")
    first, second = json.loads(ended.out)["keys"]
    assert (first["state"], second["state"], second["algorithm"]) == ("signs", "waits", "EdDSA")
    assert second["signs_from"] - second["created"] == 300
    assert first["gone_from"] - second["signs_from"] == 86_400
    shown = run("keys", "list", file)
    assert [line.split()[2] for line in shown.out.splitlines()[1:]] == ["signs", "waits"]
    private = [one["d"] for one in json.loads(file.read_text())["keys"]]
    assert not any(one in told.out + told.err for one in private for told in (made, ended, shown))


def test_an_existing_file_is_not_replaced(run, tmp_path):
    file = tmp_path / "signing.json"
    run("keys", "new", file)
    before = file.read_bytes()
    ended = run("keys", "new", file)
    assert ended.code == 1
    assert "already exists and is not replaced" in ended.err
    assert f"policyengine keys rotate {file}" in ended.err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["list", "none.json"], 1, "cannot read `none.json`: no such file or directory"),
        (["list", "none.json"], 1, "create one with `policyengine keys new FILE`"),
        (["rotate", "none.json"], 1, "no such file or directory"),
        (["rotate", "none.json"], 1, "create one with `policyengine keys new FILE`"),
        (["new", "no/folder.json"], 1, "no such file or directory"),
        (["list", "text.json"], 1, "`text.json` is not a file of signing keys"),
        (["list", "open.json"], 1, "other users of this machine can access `open.json`"),
        (["rotate", "text.json", "--ahead", "soon"], 2, "write a time like `30s`"),
        (["new", "a.json", "--algorithm", "HS256"], 2, "HS256"),
        (["make", "a.json"], 2, "make"),
    ],
)
def test_keys_reports_invalid_files_and_options(run, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    for name, mode in (("text.json", 0o600), ("open.json", 0o644)):
        (tmp_path / name).write_text("{}")
        (tmp_path / name).chmod(mode)
    ended = run("keys", *arguments)
    assert ended.code == code
    assert message in ended.err
    assert not (tmp_path / "a.json").exists()
