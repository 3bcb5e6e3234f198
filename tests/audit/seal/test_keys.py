"""The key of a log: created once, for its owner only, and refused if it is damaged."""

import os
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest

from policyengine.audit import DecisionLog, DecisionLogError
from policyengine.audit.seal import rotate_key
from policyengine.audit.seal.key_notes import announce_key, follow_announcements
from policyengine.audit.seal.keys import default_origin, load_key, load_or_create_key
from policyengine.audit.seal.notes import Signer
from policyengine.audit.seal.rotate_key import rotate_log_key
from tests.audit.seal.logs import folder, open_sealed, problems, sealed_log, verified, write_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def test_a_log_creates_its_key_beside_it_for_its_owner_only(path):
    sealed_log(path)
    key = path.with_name("decisions.jsonl.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert str(load_key(key).verifier) == (folder(path) / "vkey").read_text().strip()


def test_a_key_is_created_once(path):
    first = load_or_create_key(path.with_suffix(".key"), path)
    assert load_or_create_key(path.with_suffix(".key"), path).encode() == first.encode()


def test_the_name_of_a_log_is_unique_and_has_no_space(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "my host+1")
    one, two = default_origin(Path("a b.jsonl")), default_origin(Path("a b.jsonl"))
    assert one.startswith("my-host-1/a-b.jsonl-")
    assert one != two


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it does not begin with `PRIVATE\\+KEY\\+`"),
        (b"\xff", "it is not text"),
        (b"PRIVATE+KEY+a+00000000+AAAA", "is not an Ed25519 key"),
    ],
)
def test_a_log_with_a_damaged_key_is_not_opened(path, content, why):
    key = path.with_name("decisions.jsonl.key")
    key.write_bytes(content)
    key.chmod(0o600)
    with pytest.raises(DecisionLogError, match=f"is damaged: .*{why}"):
        DecisionLog(path)


def test_a_key_that_others_can_read_is_refused(path):
    sealed_log(path)
    path.with_name("decisions.jsonl.key").chmod(0o640)
    with pytest.raises(DecisionLogError, match="other users can access the key"):
        DecisionLog(path)


def test_a_key_that_is_a_folder_is_refused(path):
    path.with_name("decisions.jsonl.key").mkdir(mode=0o700)
    with pytest.raises(DecisionLogError, match=r"the key .* cannot be read: is a directory|is not a regular file"):
        DecisionLog(path)


def test_another_key_than_that_of_the_checkpoint_is_refused(path):
    sealed_log(path)
    other = sealed_log(path.with_name("other.jsonl"))
    other.with_name("other.jsonl.key").replace(path.with_name("decisions.jsonl.key"))
    with pytest.raises(DecisionLogError, match="does not fit the key"):
        DecisionLog(path)


def test_a_missing_key_of_a_sealed_log_is_not_created_anew(path):
    sealed_log(path)
    key = path.with_name("decisions.jsonl.key")
    key.unlink()
    with pytest.raises(DecisionLogError, match=r"the key `.*` is missing, and the log is already sealed \(restore it"):
        DecisionLog(path)
    assert not key.exists()


def test_a_damaged_checkpoint_is_refused(path):
    sealed_log(path)
    (folder(path) / "checkpoint").write_text("x")
    with pytest.raises(DecisionLogError, match="does not fit the key"):
        DecisionLog(path)


def test_a_folder_that_cannot_be_created_is_one_message(path):
    folder(path).write_text("a file")
    with pytest.raises(DecisionLogError, match=r"the folder .* of the seal cannot be written: .*--log-seal off"):
        DecisionLog(path)


def test_a_configured_key_is_used_and_none_is_created(path, tmp_path):
    key = tmp_path / "other.key"
    load_or_create_key(key, path)
    log = open_sealed(path, key=key)
    write_lines(log, 3)
    log.close()
    assert problems(path) == []
    assert not path.with_name("decisions.jsonl.key").exists()


def test_the_private_key_is_not_in_the_folder_of_the_seal(path):
    sealed_log(path)
    assert not any(b"PRIVATE" in file.read_bytes() for file in folder(path).rglob("*") if file.is_file())
    assert os.stat(folder(path)).st_mode & 0o777 == 0o700


def test_a_key_that_is_a_pipe_is_refused_without_waiting(path):
    sealed_log(path)
    key = path.with_name("decisions.jsonl.key")
    key.unlink()
    os.mkfifo(key, 0o600)
    with pytest.raises(DecisionLogError, match="is not a regular file"):
        DecisionLog(path)


@pytest.mark.parametrize("name", [".state.new", ".checkpoint.new", "places"])
def test_a_pipe_in_the_folder_of_the_seal_is_not_waited_for(path, name, caplog):
    log = open_sealed(path)
    write_lines(log, 1)
    log.seal()
    (folder(path) / name).unlink(missing_ok=True)
    os.mkfifo(folder(path) / name)
    write_lines(log, 300, begin=1)
    assert not log.seal()
    assert "cannot be sealed" in caplog.text
    (folder(path) / name).unlink()
    log.close()
    assert problems(path) == []


def test_a_chain_of_many_keys_is_followed():
    keys = [Signer.generate("log") for _ in range(300)]
    notes = [announce_key(old, new.verifier) for old, new in pairwise(keys)]
    Random(1).shuffle(notes)
    followed = follow_announcements(["x", *notes, *notes], [keys[0].verifier])
    assert followed == [key.verifier for key in keys]


def test_two_processes_that_replace_a_key_do_so_one_after_the_other(path, monkeypatch):
    sealed_log(path, 3)
    first, key = load_key(path.with_name("decisions.jsonl.key")).verifier, path.with_name("decisions.jsonl.key")
    other = Thread(target=rotate_log_key, args=(path, key, None))
    announce = rotate_key.write_announcement

    def begin_both(*announcement: Any) -> None:
        if other.ident is None:
            other.start()
            other.join(0.1)
        announce(*announcement)

    monkeypatch.setattr(rotate_key, "write_announcement", begin_both)
    rotate_log_key(path, key, None)
    other.join()
    log = open_sealed(path)
    write_lines(log, 1, begin=3)
    log.close()
    result = verified(path, keys=[first])
    assert (result.size, result.problems) == (6, [])


def test_processes_that_do_not_seal_follow_a_replaced_key(path):
    log, waiting = open_sealed(path), open_sealed(path)
    write_lines(log, 1)
    log.seal()
    new = rotate_log_key(path, path.with_name("decisions.jsonl.key"), None)
    log.seal()
    assert not waiting.seal()
    assert (waiting.sealer.failures, waiting.sealer.signer.verifier) == (0, new)
    log.close()
    write_lines(waiting, 1, begin=1)
    waiting.close()
    assert problems(path) == []
