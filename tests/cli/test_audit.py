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
    assert f"none of the logs is `{checkpoint_of(other).checkpoint.origin}`" in ended.out


def test_a_log_that_replaced_another_one_is_noticed_by_their_keys(run, log):
    other = sealed_log(Path("e.jsonl"), 3)
    keys = ["--key", str(key_of(log)), "--key", str(key_of(other))]
    assert run("audit", "verify", "d.jsonl", "e.jsonl", *keys).code == 0
    ended = run("audit", "verify", "d.jsonl", "d.jsonl", *keys)
    assert (ended.code, ended.out.splitlines()[-1]) == (
        1,
        f"✗ none of the logs is `{key_of(other).name}`, to which a key of `--key` belongs",
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
    assert [line.split() for line in ended.out.splitlines()[3:]] == [
        ["time", ended.out.splitlines()[3].split()[1]], ["id", decided], ["outcome", "allow"], ["gate", "-"],
        ["revision", ended.out.splitlines()[7].split()[1]], ["package", "main"], ["agent", "bot"],
        ["endpoint", "GET", "/v1/a"],
    ]  # fmt: skip
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
    ended = run("audit", "prove", "--since", "kept", "--log", "d.jsonl", "-o", "p")
    command = "policyengine audit check p --checkpoint kept --key KEY"
    assert (ended.code, ended.out) == (0, f"wrote p: check it with `{command}`\n")
    key = ("--key", "d.jsonl.tlog/vkey")
    ended = run("audit", "check", "p", "--checkpoint", "kept", *key)
    assert (ended.code, "begins with the 5 lines of the old checkpoint" in ended.out) == (0, True)
    assert "pass the old checkpoint: `--checkpoint FILE`" in run("audit", "check", "p", *key).err
    ended = run("audit", "check", "p", "--checkpoint", "d.jsonl.tlog/checkpoint", *key)
    assert (ended.code, "but the old checkpoint covers 10" in ended.out) == (1, True)
    run("audit", "rotate-key", "d.jsonl")
    ended = run("audit", "check", "p", "--checkpoint", "kept", "--key", "d.jsonl.tlog/vkey")
    assert (ended.code, "the checkpoint `kept`: no trusted key signed" in ended.out) == (1, True)


def test_a_key_that_cannot_be_written_is_named(run, log, monkeypatch):
    real = os.open

    def refuse(file, *arguments, **options):
        if str(file).startswith(".d.jsonl.key."):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    ended = run("audit", "rotate-key", "d.jsonl")
    assert (ended.code, ended.err) == (1, "error: `d.jsonl.key`: permission denied\n")


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


def test_a_proof_does_not_replace_a_file_of_the_log(run, decided):
    before = Path("d.jsonl").read_bytes()
    ended = run("audit", "prove", decided, "--log", "d.jsonl", "-o", "d.jsonl")
    assert (ended.code, ended.err) == (
        2, "error: `d.jsonl` belongs to the log `d.jsonl` and is not replaced\nhint: name another file\n",
    )  # fmt: skip
    assert Path("d.jsonl").read_bytes() == before


def test_a_report_is_for_its_owner_or_for_the_standard_output(run, decided):
    assert run("audit", "report", "d.jsonl", "-o", "r.html").code == 0
    assert Path("r.html").stat().st_mode & 0o777 == 0o600
    ended = run("audit", "report", "d.jsonl", "-o", "-")
    assert (ended.code, ended.out, Path("-").exists()) == (0, Path("r.html").read_text(), False)


def test_a_report_does_not_replace_the_log_or_a_device(run, decided):
    before = Path("d.jsonl").read_bytes()
    assert run("audit", "report", "d.jsonl", "-o", "d.jsonl").code == 2
    assert Path("d.jsonl").read_bytes() == before
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run("audit", "report", "d.jsonl", "-o", "pipe").code == 0
    assert (os.read(reader, 15), Path("pipe").is_fifo()) == (b"<!doctype html>", True)
    os.close(reader)


def test_an_old_checkpoint_of_another_log_is_not_a_fault_of_the_log(run, log):
    other = folder(sealed_log(Path("e.jsonl"))) / "checkpoint"
    ended = run("audit", "prove", "--since", str(other), "--log", "d.jsonl")
    assert (ended.code, "the old checkpoint belongs to another log" in ended.err, "hint" in ended.err) == (
        1,
        True,
        False,
    )


def test_a_rotated_file_is_verified_with_its_log(run, log):
    log.rename("d.jsonl.1")
    write_lines(writer := open_sealed(log), 2, begin=5)
    writer.close()
    ended = run("audit", "verify", "d.jsonl.1")
    assert (ended.code, ended.out) == (
        1, "✗ `d.jsonl.1` is a rotated file of `d.jsonl`: verify `d.jsonl`, which includes it\n",
    )  # fmt: skip
    Path("d.jsonl.1").unlink()
    ended = run("audit", "verify", "d.jsonl")
    assert ended.out.splitlines()[0].startswith("✗ d.jsonl: the first 5 lines are missing, and no signed line")
    assert (ended.code, "`--log-keep` deleted\n" in ended.out) == (1, False)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("d.jsonl.key", "error: `d.jsonl.key` is not a public key: `<name>+<8 hexadecimal digits>+<base64>`"),
        ("a+00000000+AQ==", "error: the key is not a public key: the public key `a` is damaged"),
    ],
)
def test_a_wrong_key_is_described_once(run, log, key, message):
    ended = run("audit", "verify", "d.jsonl", "--key", key)
    assert (ended.code, ended.err[: len(message)]) == (1, message)
