"""What somebody who can write to the log, but not sign, once got past verification."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policyengine.audit import DecisionLogError, Rotation
from policyengine.audit.files import log_files
from policyengine.audit.rotation import rename_aside, rotated_files, tidy
from policyengine.audit.seal import late_files, sealer
from policyengine.audit.seal.key_notes import KEY_NOTE_START, announced_key
from policyengine.audit.seal.keys import load_key
from policyengine.audit.seal.notes import COSIGNATURE, Note, Signature, Signer, Verifier
from tests.audit.seal.logs import (
    checkpoint_of,
    folder,
    key_of,
    open_sealed,
    problems,
    sealed_log,
    verified,
    write_lines,
)

FORGED = b'{"v":2,"time":"2027-01-15T08:00:00.000000Z","issued":{"jti":"forged"}}\n'


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))
    monkeypatch.setattr(late_files, "INCOMPLETE_SECONDS", 0.0)
    return tmp_path / "d.jsonl"


def rotated(path: Path):
    """An open log with two rotated files of three lines."""
    log = open_sealed(path)
    for begin in (0, 3):
        write_lines(log, 3, begin=begin)
        log.seal()
        rename_aside(path, os.stat(path).st_mtime)
        log.reopen()
    write_lines(log, 3, begin=6)
    log.seal()
    return log


def append_statement(path: Path, statement: dict[str, object]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps({"v": 2, "time": "2027-01-15T08:00:00.000000Z", "seal": statement}).encode() + b"\n")


def test_an_unsigned_statement_does_not_excuse_deleted_files(path):
    log, kept = rotated(path), checkpoint_of(path)
    first = log_files(path)[0]
    lines = first.read_bytes().splitlines()
    digest = sha256(b"".join(sha256(line).digest() for line in lines)).hexdigest()
    append_statement(path, {"event": "file_deleted", "lines": len(lines), "digest": digest, "last": digest})
    log.seal()
    log.close()
    first.unlink()
    assert "no signed line says that `--log-keep` deleted" in problems(path, kept)[0]


@pytest.mark.parametrize("planted", ["copies of the oldest files", "files after the others"])
def test_planted_files_do_not_have_old_files_deleted(path, planted):
    log, kept, key = rotated(path), checkpoint_of(path), key_of(path)
    log.rotation = Rotation(size=1, keep=2)
    genuine = rotated_files(path)
    for number, file in enumerate(genuine):
        if planted == "copies of the oldest files":
            shutil.copy(file, path.with_name(f"{path.name}.2000010{number + 1}T000000.000000Z"))
        else:
            path.with_name(f"{path.name}.9999010{number + 1}T000000.000000Z").write_bytes(FORGED)
    tidy(path, log.rotation, log._delete)
    assert set(genuine) <= set(rotated_files(path))
    log.seal()
    log.close()
    for file in (*set(rotated_files(path)).difference(genuine), genuine[0]):
        file.unlink()
    assert "the first 3 lines are missing" in problems(path, kept, keys=[key])[0]


def test_an_unsigned_statement_does_not_admit_lines_at_the_end_of_an_old_file(path):
    log = rotated(path)
    append_statement(path, {"event": "late_lines", "size": 3, "digests": [sha256(FORGED[:-1]).hexdigest()]})
    log.close()
    first = log_files(path)[0]
    first.write_bytes(first.read_bytes() + FORGED)
    assert problems(path) == [f"{first.name}:4: this line was added"]


@pytest.mark.parametrize("keep", [0, 1])
def test_a_flood_of_lines_does_not_have_files_deleted_before_they_are_sealed(path, keep):
    """Their lines would be gone without a signed line that says so."""
    log = open_sealed(path)
    write_lines(log, 1)
    log.seal()
    for number in range(1, 5):
        rename_aside(path, 1_800_000_000.0 + number)
        log.reopen()
        write_lines(log, 3, begin=3 * number)
    log.rotation = Rotation(size=1, keep=keep)
    tidy(path, log.rotation, log._delete)
    assert len(rotated_files(path)) == 3 + keep  # the first file was sealed
    log.seal()
    tidy(path, log.rotation, log._delete)
    log.close()
    result = verified(path)
    assert (len(rotated_files(path)), result.problems, result.deleted) == (keep, [], 13 - 3 * (1 + keep))


@pytest.mark.parametrize("kept", [2, 1], ids=["all files", "the first file was deleted"])
@pytest.mark.parametrize("lines", [1, 5])
def test_lines_in_a_file_before_the_first_are_noticed(path, kept, lines):
    """They once counted as late lines of a file without sealed lines, and were not compared."""
    log = rotated(path)
    log.rotation = Rotation(size=1, keep=kept)
    tidy(path, log.rotation, log._delete)
    log.seal()
    log.close()
    checkpoint = checkpoint_of(path)
    assert problems(path, checkpoint) == []
    planted = path.with_name(f"{path.name}.20000101T000000.000000Z")
    planted.write_bytes(FORGED * lines)
    assert problems(path, checkpoint)[0].startswith(f"{planted.name}:1: ")


def test_late_lines_of_a_file_without_sealed_lines_are_compared(path):
    log = open_sealed(path)
    log.seal()
    aside = rename_aside(path, 1_700_000_000.0)
    log.reopen()
    write_lines(log, 1)
    log.seal()
    aside.write_bytes(FORGED)
    log.seal()
    log.close()
    assert (verified(path).problems, verified(path).late) == ([], 1)
    aside.write_bytes(FORGED.replace(b"forged", b"others"))
    assert problems(path) == [f"{aside.name}:1: this line was added"]


@pytest.mark.parametrize("change", ["removed", "doubled", "swapped"])
def test_late_lines_cannot_be_changed_unnoticed(path, change):
    log = rotated(path)
    first = log_files(path)[0]
    whole = first.read_bytes()
    late = [FORGED.replace(b"forged", b"late-%d" % number) for number in range(2)]
    first.write_bytes(whole)
    with first.open("ab") as file:
        file.write(b"".join(late))
    log.seal()
    log.close()
    assert verified(path).problems == []
    changed = {"removed": late[:1], "doubled": [*late, late[1]], "swapped": late[::-1]}[change]
    first.write_bytes(whole + b"".join(changed))
    assert problems(path) != []


def test_a_copied_statement_states_nothing_new(path, monkeypatch):
    monkeypatch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))
    log = open_sealed(path)
    write_lines(log, 1)
    log.seal()
    aside = rename_aside(path, 1_700_000_000.0)
    log.reopen()
    write_lines(log, 1, begin=1)
    log.seal()
    with aside.open("ab") as file:
        file.write(FORGED)
    log.seal()
    [statement] = [line for line in path.read_bytes().splitlines(keepends=True) if b"late_lines" in line]
    with path.open("ab") as file:
        file.write(statement)
    log.close()
    assert problems(path) == []


def test_a_witness_cannot_name_a_key_of_the_log(path):
    witness, new = Ed25519PrivateKey.generate(), Signer.generate("log.example")
    key = Verifier("log.example", COSIGNATURE, witness.public_key().public_bytes_raw())
    text = f"{KEY_NOTE_START}{new.verifier}\n{key}\n"
    raw = (7).to_bytes(8) + witness.sign(b"cosignature/v1\ntime 7\n" + text.encode())
    assert announced_key(f"{text}\n{Signature(key.name, key.id, raw)}", [key]) is None


def test_a_key_cannot_name_keys_of_another_log(path):
    signer, other = Signer.generate("log.example"), Signer.generate("other.example")
    assert (
        announced_key(signer.sign(f"{KEY_NOTE_START}{other.verifier}\n{signer.verifier}\n"), [signer.verifier]) is None
    )


def test_a_signature_counts_once(path):
    signer = Signer.generate("log.example")
    note = Note.parse(signer.sign("text\n"))
    assert Note(note.text, note.signatures * 2).verified_by([signer.verifier]) == [signer.verifier]


def test_a_given_witness_must_have_cosigned(path):
    sealed_log(path)
    key = Verifier("w.example", COSIGNATURE, Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    assert problems(path, keys=[key_of(path), key]) == [
        "the witness `w.example` cosigned no checkpoint in `d.jsonl.tlog/cosigned`"
    ]


@pytest.mark.parametrize("name", ["99991231T235959.999999Z", "20261399T000000.000000Z"])
def test_an_impossible_name_of_a_rotated_file_denies_nothing(path, name):
    path.with_name(f"d.jsonl.{name}").touch()
    log = open_sealed(path, Rotation(size=300))
    for begin in range(6):
        write_lines(log, 1, begin=begin)
        log.reopen()
    log.close()
    assert verified(path).problems == []


@pytest.mark.parametrize("kind", ["a link to nothing", "a folder", "a pipe"])
def test_what_is_not_a_file_stops_neither_sealing_nor_verifying(path, kind):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    planted = path.with_name(f"{path.name}.20200101T000000.000000Z")
    match kind:
        case "a folder":
            planted.mkdir()
        case "a pipe":
            os.mkfifo(planted)
        case _:
            planted.symlink_to("missing")
    rename_aside(path, 1_700_000_000.0)
    log.reopen()
    write_lines(log, 3, begin=3)
    assert log.seal()
    log.close()
    assert problems(path) == []


def test_the_text_of_a_damaged_key_is_not_in_the_error(path):
    sealed_log(path)
    key = path.with_name("d.jsonl.key")
    secret = key.read_text().strip().split("+", 4)[4]
    key.write_text(key.read_text().strip() + "\nmore\n")
    with pytest.raises(DecisionLogError) as caught:
        open_sealed(path)
    assert secret not in str(caught.value)


def test_a_server_does_not_sign_with_a_key_that_its_own_did_not_name(path, caplog):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    key = path.with_name("d.jsonl.key")
    stranger = Signer.generate(load_key(key).name)
    key.write_text(f"{stranger.encode()}\n")
    write_lines(log, 1, begin=3)
    assert not log.seal()
    assert "which the previous key of the log did not announce" in caplog.text
    assert checkpoint_of(path).size == 3
    log.close()


def test_a_seal_that_was_removed_is_begun_anew_only_by_another_server_and_reported(path, caplog):
    log, waiting = open_sealed(path), open_sealed(path)
    write_lines(log, 3)
    log.seal()
    assert not waiting.seal()
    shutil.rmtree(folder(path))
    folder(path).mkdir(0o700)
    write_lines(log, 1, begin=3)
    assert not log.seal()
    assert not waiting.seal()
    assert "was replaced by a version that is older" in caplog.text
    log.close()
    waiting.close()
    assert "log_seal_begins" not in [record.event for record in caplog.records]
    sealed_log(path, 1)
    assert "log_seal_begins" in [record.event for record in caplog.records]


def test_a_folder_that_was_put_back_is_not_continued_by_the_process_that_signed_later(path, caplog):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    old = (folder(path) / "checkpoint").read_bytes()
    write_lines(log, 3, begin=3)
    log.seal()
    (folder(path) / "checkpoint").write_bytes(old)
    log.sealer._report_failure(OSError(28, "No space left on device"))
    assert not log.seal()
    assert "was replaced by a version that is older" in caplog.text or "cannot be sealed" in caplog.text
    assert checkpoint_of(path).size == 3
    log.close()
