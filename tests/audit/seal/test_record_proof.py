"""The record of a decision is proved by the seal of its log, together with the line of the entities that it used."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policyengine import Engine
from policyengine.audit import DecisionLog, DecisionRecord, Rotation, read_records
from policyengine.audit.files import log_files
from policyengine.audit.query.pack import pack_log
from policyengine.audit.seal import sealer
from policyengine.audit.seal.keys import default_key_path
from policyengine.audit.seal.notes import COSIGNATURE, Note, Signature, SignedCheckpoint, Verifier
from policyengine.audit.seal.record_proof import LogChangedError, RecordProver, RecordSeal, SealStatus
from policyengine.audit.seal.rotate_key import rotate_log_key
from tests.audit.seal.logs import checkpoint_of, folder, key_of, open_sealed, sealed_log

POLICY = """language 1
entity order { open: bool }
anyone { may GET /v1/orders/{id: order} }
guard "only open orders" on GET /v1/orders/{id: order} { require resource.open }
"""
SEALED, NOT_YET, BROKEN, NONE = SealStatus


def decide(log: DecisionLog, root: Path, count: int) -> None:
    engine = Engine.load(root / "d.policy", entities=root / "rows.json", log=log)
    for number in range(count):
        assert engine.decide({"request": {"method": "GET", "path": f"/v1/orders/{number}"}}).id


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 40 decisions in several files, of which one is compressed; and its checkpoint after 20."""
    root = tmp_path_factory.mktemp("original")
    (root / "d.policy").write_text(POLICY)
    (root / "rows.json").write_text('{"entities": [{"type": "order", "id": "1", "attributes": {"open": true}}]}')
    patch = pytest.MonkeyPatch()
    patch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))
    log = open_sealed(root / "d.jsonl", Rotation(size=6_000))
    decide(log, root, 20)
    log.seal()
    shutil.copy(folder(root / "d.jsonl") / "checkpoint", root / "kept")
    decide(log, root, 20)
    log.close()
    patch.undo()
    older = log_files(root / "d.jsonl")[1]
    older.with_name(f"{older.name}.gz").write_bytes(gzip.compress(older.read_bytes()))
    older.unlink()
    assert len(log_files(root / "d.jsonl")) > 3
    return root


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path / "d.jsonl"


def records(path: Path) -> list[DecisionRecord]:
    return list(read_records(path))


def check(
    path: Path,
    record: DecisionRecord,
    *kept: SignedCheckpoint,
    keys: tuple[Verifier, ...] = (),
    seal: Path | None = None,
) -> RecordSeal:
    seal = seal or folder(path)
    return RecordProver(path, seal, keys or (Verifier.parse((seal / "vkey").read_text()),), kept).check(record)


def edit(file: Path, change: Callable[[bytes], bytes]) -> None:
    raw = file.read_bytes()
    unpacked = gzip.decompress(raw) if file.suffix == ".gz" else raw
    changed = change(unpacked)
    assert changed != unpacked
    file.write_bytes(gzip.compress(changed) if file.suffix == ".gz" else changed)


def test_every_record_is_proved_at_its_place(path: Path) -> None:
    kept = SignedCheckpoint.parse((path.parent / "kept").read_bytes())
    found = [(record, check(path, record, kept)) for record in records(path)]
    assert len(found) == 40
    for record, seal in found:
        assert (seal.status, seal.entry, seal.keys) == (SEALED, record.line - 1, (key_of(path),))
        assert seal.checkpoint is not None
        assert seal.checkpoint.size == checkpoint_of(path).size


def test_lines_after_the_checkpoint_are_not_sealed_yet(path: Path) -> None:
    log = DecisionLog(path, seal=None)
    decide(log, path.parent, 3)
    log.close()
    *_, last = records(path)
    seal = check(path, last)
    assert seal.checkpoint is not None
    assert (seal.status, seal.unsealed) == (NOT_YET, last.line - seal.checkpoint.size)


@pytest.mark.parametrize("number", [0, 8, 39])
def test_a_changed_line_is_broken(path: Path, number: int) -> None:
    record = records(path)[number]
    edit(record.file, lambda raw: raw.replace(record.id[-6:].encode(), record.id[-5:].encode() + b"0", 1))
    changed = records(path)[number]
    assert changed.id != record.id
    assert (check(path, changed).status, changed.line) == (BROKEN, record.line)


def test_a_forged_line_with_the_id_of_a_decision_is_broken_and_the_real_one_is_proved(path: Path) -> None:
    record = records(path)[-3]
    lines = record.file.read_bytes().splitlines(keepends=True)
    lines.insert(1, lines[record.line_in_file - 1].replace(b'"deny"', b'"allow"'))
    record.file.write_bytes(b"".join(lines))
    forged, real = [each for each in records(path) if each.id == record.id]
    assert check(path, forged).status is BROKEN
    assert (check(path, real).status, check(path, real).entry) == (SEALED, record.line - 1)


@pytest.mark.parametrize("number", [0, 8])
def test_changed_entities_break_the_records_that_used_them(path: Path, number: int) -> None:
    record = records(path)[number]
    edit(record.file, lambda raw: raw.replace(b'"open":true', b'"open":false'))
    seal = check(path, records(path)[number])
    assert (seal.status, str(seal.problem).partition(":")[0]) == (BROKEN, "the line with its entities")


@pytest.mark.parametrize(
    ("spelled", "status"),
    [
        (b'"directory": "', BROKEN),
        (b'"directory":"sha256:0","directory":"', SEALED),  # the reader takes neither this nor the next
        (b'"\\u0064irectory":"', SEALED),
    ],
)
def test_entities_that_were_added_before_the_real_ones_are_broken(
    path: Path, spelled: bytes, status: SealStatus
) -> None:
    record = records(path)[-1]
    first, *lines = record.file.read_bytes().splitlines(keepends=True)
    forged = first.replace(b'"open":true', b'"open":false').replace(b'"directory":"', spelled, 1)
    record.file.write_bytes(b"".join([forged, first, *lines]))
    used = records(path)[-1]
    assert (used.id, used.entities_line) == (record.id, 1 if status is BROKEN else 2)
    assert check(path, used).status is status


def test_another_key_or_a_changed_checkpoint_is_broken(path: Path) -> None:
    record, other = records(path)[0], sealed_log(path.with_name("other.jsonl"))
    assert "no trusted key signed" in str(check(path, record, keys=(key_of(other),)).problem)
    edit(folder(path) / "checkpoint", lambda raw: raw.replace(str(checkpoint_of(path).size).encode(), b"42", 1))
    assert check(path, record).status is BROKEN


@pytest.mark.parametrize("tile", ["tile/0/000.p", "tile/entries"])
def test_a_missing_tile_is_broken_only_if_the_proof_needs_it(path: Path, tile: str) -> None:
    record = records(path)[5]
    shutil.rmtree(folder(path) / tile)
    assert check(path, record).status is (SEALED if tile == "tile/entries" else BROKEN)


def test_a_log_without_a_checkpoint_has_no_seal(path: Path) -> None:
    record = records(path)[0]
    (folder(path) / "checkpoint").unlink()
    assert check(path, record) == RecordSeal(NONE, f"the log has no seal: `{folder(path)}/checkpoint` is missing")


@pytest.mark.parametrize("hint", ["state", "starts", "places"])
def test_records_are_found_although_the_files_that_help_to_find_them_are_wrong(path: Path, hint: str) -> None:
    if hint == "state":
        edit(
            folder(path) / hint, lambda raw: raw.replace(b'"last":"', b'"last":"00').replace(b'"inode":', b'"inode":1')
        )
    else:
        (folder(path) / hint).write_bytes(bytes([0] * 7 + [9]) * 8)
    assert {check(path, each).status for each in records(path)[::9]} == {SEALED}


def test_a_checkpoint_kept_elsewhere_shows_that_the_log_was_written_anew(path: Path) -> None:
    kept = SignedCheckpoint.parse((path.parent / "kept").read_bytes())
    key = default_key_path(path).read_bytes()
    for file in (*log_files(path), path.parent / "d.jsonl.key"):
        file.unlink()
    shutil.rmtree(folder(path))
    default_key_path(path).write_bytes(key)
    default_key_path(path).chmod(0o600)
    log = open_sealed(path)
    decide(log, path.parent, 5)
    log.close()
    [record, *_] = records(path)
    assert check(path, record).status is SEALED
    assert str(check(path, record, kept).problem).startswith("the log has only 6 sealed lines, fewer than")
    log = open_sealed(path)
    decide(log, path.parent, 30)
    log.close()
    assert check(path, record, kept).status is BROKEN
    assert check(path, records(path)[-1], kept).status is BROKEN
    other = checkpoint_of(sealed_log(path.with_name("other.jsonl")))
    assert check(path, record, other, keys=(key_of(path), key_of(path.with_name("other.jsonl")))).status is BROKEN


def test_a_line_that_arrived_late_is_proved_by_its_statement(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))
    late = DecisionLog(path.with_name("late.jsonl"), seal=None)
    decide(late, path.parent, 1)
    late.close()
    line = path.with_name("late.jsonl").read_bytes().splitlines(keepends=True)[-1]
    log = open_sealed(path)
    decide(log, path.parent, 1)
    rotated = path.with_name("d.jsonl.1")
    path.rename(rotated)
    log.reopen()
    decide(log, path.parent, 1)
    log.seal()
    with rotated.open("ab") as file:
        file.write(line)
    [record] = [each for each in records(path) if each.id.encode() in line]
    assert check(path, record).status is BROKEN
    log.seal()
    log.close()
    seal = check(path, record)
    assert (seal.status, seal.late) == (SEALED, True)


def test_the_first_key_is_trusted_after_a_rotation(path: Path) -> None:
    first = key_of(path)
    record, key = records(path)[0], rotate_log_key(path, default_key_path(path), None)
    seal = check(path, record, keys=(first,))
    assert (seal.status, seal.keys) == (SEALED, (key,))


def test_a_witness_says_when_the_checkpoint_was_there(path: Path) -> None:
    signed, private = checkpoint_of(path), Ed25519PrivateKey.generate()
    witness = Verifier("w.example", COSIGNATURE, private.public_key().public_bytes_raw())
    cosignature = private.sign(f"cosignature/v1\ntime 1800000000\n{signed.note.text}".encode())
    line = Signature(witness.name, witness.id, (1_800_000_000).to_bytes(8) + cosignature)
    record, keys = records(path)[0], (key_of(path), witness)
    assert "the witness `w.example` cosigned no checkpoint" in str(check(path, record, keys=keys).problem)
    (folder(path) / "cosigned").write_text(str(Note(signed.note.text, (*signed.note.signatures, line))))
    assert check(path, record, keys=keys).witnesses == ((witness, 1_800_000_000),)


def test_a_packed_log_and_a_rotated_file_are_proved_by_the_seal_of_the_log(path: Path) -> None:
    pack_log([path], path.with_name("d.parquet"))
    for log in (path.with_name("d.parquet"), log_files(path)[0], log_files(path)[1]):
        record = records(log)[4]
        assert check(log, record, seal=folder(path)).status is SEALED
    edit(log_files(path)[0], lambda raw: raw.replace(b'"deny"', b'"allow"', 1))
    pack_log([path], path.with_name("e.parquet"))
    packed = path.with_name("e.parquet")
    statuses = [check(packed, each, seal=folder(path)).status for each in records(packed)[:6]]
    assert statuses.count(BROKEN) == 1


def test_a_log_that_was_rotated_meanwhile_is_not_called_broken(path: Path) -> None:
    record = records(path)[-1]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    with pytest.raises(LogChangedError):
        check(path, record)
