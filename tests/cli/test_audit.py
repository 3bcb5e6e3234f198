"""`audit verify`, `audit prove`, `audit check`, `audit rotate-key`: output, JSON, exit codes and errors."""

import json
import os
from pathlib import Path

import pytest

from policyengine import Engine
from tests.audit.seal.logs import checkpoint_of, folder, key_of, open_sealed, sealed_log, write_lines


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return sealed_log(Path("d.jsonl"), 5)


@pytest.fixture
def decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log with one decision; its ID."""
    monkeypatch.chdir(tmp_path)
    writer = open_sealed(Path("d.jsonl"))
    engine = Engine.from_text("anyone { may GET /v1/** }", log=writer)
    id_ = engine.decide({"request": {"method": "GET", "path": "/v1/a"}, "agent": {"id": "bot", "issuer": "acme"}}).id
    writer.close()
    return id_


def test_a_whole_log_ends_with_0(run, log):
    ended = run("audit", "verify", "d.jsonl", "--key", str(key_of(log)))
    assert (ended.code, ended.out.splitlines()[0]) == (0, "✓ d.jsonl: whole: 5 lines sealed")
    assert "kept elsewhere" not in ended.out


def test_a_changed_log_ends_with_1_and_the_place(run, log):
    log.write_bytes(log.read_bytes().replace(b"t3", b"t9"))
    ended = run("audit", "verify", "d.jsonl")
    assert (ended.code, ended.out.splitlines()[0]) == (1, "✗ d.jsonl:4: this line was changed")


def test_verify_describes_the_log_as_json(run, log):
    ended = run("audit", "verify", "d.jsonl", "--format", "json")
    told = json.loads(ended.out)
    assert told["unused_checkpoints"] == []
    [found] = told["logs"]
    assert (found["whole"], found["sealed"], found["key_given"], found["problems"]) == (True, 5, False, [])
    assert found["checkpoint"]["size"] == 5
    log.write_bytes(log.read_bytes()[:-1])
    [found] = json.loads(run("audit", "verify", "d.jsonl", "--format", "json").out)["logs"]
    assert (found["whole"], found["torn"], found["problems"][0]["kind"]) == (False, True, "removed")


def test_several_logs_are_verified_with_their_own_checkpoints(run, log):
    other = sealed_log(Path("e.jsonl"), 3)
    kept = [str(folder(each) / "checkpoint") for each in (log, other)]
    options = ["--checkpoint", kept[0], "--checkpoint", kept[1], "--key", str(key_of(log)), "--key", str(key_of(other))]
    assert run("audit", "verify", "d.jsonl", "e.jsonl", *options).code == 0
    ended = run("audit", "verify", "d.jsonl", "d.jsonl", *options)
    assert ended.code == 1
    assert f"no log is `{checkpoint_of(other).checkpoint.origin}`" in ended.out


def test_a_log_that_replaced_another_one_is_noticed_by_their_keys(run, log):
    other = sealed_log(Path("e.jsonl"), 3)
    keys = ["--key", str(key_of(log)), "--key", str(key_of(other))]
    assert run("audit", "verify", "d.jsonl", "e.jsonl", *keys).code == 0
    ended = run("audit", "verify", "d.jsonl", "d.jsonl", *keys)
    assert (ended.code, ended.out.splitlines()[-1]) == (
        1,
        f"✗ no log is `{key_of(other).name}`, of which a key was given",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("verify", "none.jsonl"), 1, "`none.jsonl`: no such file or directory"),
        (("verify", "d.jsonl", "--key", "none"), 1, "`none`: no such file or directory"),
        (("verify", "d.jsonl", "--key", "d.jsonl"), 1, "`d.jsonl` is not a public key"),
        (("verify", "d.jsonl", "--key", "a+b+c"), 1, "the key is not a public key"),
        (("verify", "d.jsonl", "--checkpoint", "d.jsonl"), 1, "`d.jsonl` is not a checkpoint"),
        (("verify", "d.jsonl", "d.jsonl", "--seal", "x"), 2, "`--seal` needs a single log"),
        (("prove", "--log", "d.jsonl"), 2, "name either a decision or a checkpoint"),
        (("prove", "X", "--log", "d.jsonl"), 1, "`d.jsonl` has no decision `X`"),
        (("prove", "X", "--log", "none.jsonl"), 1, "`none.jsonl`: no such file or directory"),
        (("prove", "--since", "d.jsonl", "--log", "d.jsonl"), 1, "`d.jsonl` is not a checkpoint"),
        (("check", "none", "--key", "d.jsonl.tlog/vkey"), 1, "`none`: no such file or directory"),
        (("rotate-key", "none.jsonl"), 1, "`none.jsonl.key`: there is no such key"),
    ],
)
def test_mistakes_are_one_message(run, log, arguments, code, message):
    ended = run("audit", *arguments)
    assert ended.code == code
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_a_log_without_a_seal_is_not_whole(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.jsonl").write_text("{}\n")
    ended = run("audit", "verify", "d.jsonl")
    assert (ended.code, "the log was never sealed" in ended.out) == (1, True)


def test_a_decision_is_proved_and_checked(run, decided):
    assert run("audit", "prove", decided, "--log", "d.jsonl", "-o", "p").code == 0
    ended = run("audit", "check", "p", "--key", "d.jsonl.tlog/vkey")
    assert ended.code == 0
    assert f"id         {decided}" in ended.out
    told = json.loads(run("audit", "check", "p", "--key", "d.jsonl.tlog/vkey", "--format", "json").out)
    assert (told["holds"], told["record"]["decision"]["id"], told["index"]) == (True, decided, 0)
    assert run("audit", "prove", decided, "--log", "d.jsonl").out == Path("p").read_text()


def test_a_proof_that_does_not_hold_ends_with_1(run, decided):
    run("audit", "prove", decided, "--log", "d.jsonl", "-o", "p")
    stranger = key_of(sealed_log(Path("e.jsonl")))
    ended = run("audit", "check", "p", "--key", str(stranger))
    assert (ended.code, "no trusted key signed the checkpoint" in ended.out) == (1, True)
    told = json.loads(run("audit", "check", "p", "--key", str(stranger), "--format", "json").out)
    assert told["holds"] is False
    ended = run("audit", "check", "p", "--key", "d.jsonl.tlog/vkey", "--witnesses", "1")
    assert (ended.code, "0 trusted witnesses cosigned the checkpoint" in ended.out) == (1, True)


def test_an_earlier_state_is_proved_and_checked(run, log):
    os.rename(folder(log) / "checkpoint", "kept")
    (folder(log) / "checkpoint").write_bytes(Path("kept").read_bytes())
    writer = open_sealed(log)
    write_lines(writer, 5, begin=5)
    writer.close()
    assert run("audit", "prove", "--since", "kept", "--log", "d.jsonl", "-o", "p").code == 0
    key = ("--key", "d.jsonl.tlog/vkey")
    ended = run("audit", "check", "p", "--checkpoint", "kept", *key)
    assert (ended.code, "begins with the 5 lines of the old checkpoint" in ended.out) == (0, True)
    assert "pass it: `--checkpoint FILE`" in run("audit", "check", "p", *key).err
    ended = run("audit", "check", "p", "--checkpoint", "d.jsonl.tlog/checkpoint", *key)
    assert (ended.code, "but the old checkpoint has 10" in ended.out) == (1, True)


def test_a_rotated_key_is_shown_and_followed(run, log):
    first = str(key_of(log))
    ended = run("audit", "rotate-key", "d.jsonl", "--format", "json")
    told = json.loads(ended.out)
    assert told["key"] != first
    assert run("audit", "verify", "d.jsonl", "--key", first).code == 0
    assert Path("d.jsonl.tlog/vkey").read_text().strip() == told["key"]


def test_a_damaged_key_cannot_be_rotated(run, log):
    Path("d.jsonl.key").write_text("x")
    ended = run("audit", "rotate-key", "d.jsonl")
    assert (ended.code, "is damaged" in ended.err) == (1, True)
