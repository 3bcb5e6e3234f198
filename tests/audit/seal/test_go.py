"""Go's packages for transparency logs, which the checksum database of Go uses, read and verify a sealed log."""

import shutil
import subprocess

import pytest

from policyengine.audit.seal.notes import encode_base64
from policyengine.audit.seal.proofs import prove_consistency
from tests.audit.seal.logs import checkpoint_of, folder, key_of, open_sealed, sealed_log, write_lines


@pytest.fixture(scope="module")
def go(go_program):
    program = go_program("tlog")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)

    return run


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 700])
def test_go_verifies_the_checkpoint_and_every_entry(go, tmp_path, count):
    path = sealed_log(tmp_path / "d.jsonl", count)
    done = go(folder(path), key_of(path))
    assert (done.stdout, done.stderr) == (f"{count}\n", "")


def test_go_makes_the_same_proof_of_consistency(go, tmp_path):
    path = sealed_log(tmp_path / "d.jsonl", 300)
    old = tmp_path / "old"
    shutil.copy(folder(path) / "checkpoint", old)
    kept = checkpoint_of(path)
    log = open_sealed(path)
    write_lines(log, 500, begin=300)
    log.close()
    done = go(folder(path), key_of(path), old)
    ours = [encode_base64(each) for each in prove_consistency(folder(path), kept).path]
    assert done.stdout.split() == [*ours, "800"]


def test_go_refuses_another_key(go, tmp_path):
    path, other = sealed_log(tmp_path / "d.jsonl"), sealed_log(tmp_path / "other.jsonl")
    assert "note has no verifiable signatures" in go(folder(path), key_of(other)).stderr


def test_go_refuses_a_changed_tile(go, tmp_path):
    path = sealed_log(tmp_path / "d.jsonl", 300)
    tile = folder(path) / "tile/0/000"
    raw = bytearray(tile.read_bytes())
    raw[40] ^= 1
    tile.write_bytes(raw)
    done = go(folder(path), key_of(path))
    assert done.returncode == 1
    assert done.stderr in ("downloaded inconsistent tile\n", "entry 1 does not have its hash\n")
