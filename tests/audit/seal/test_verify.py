"""Verification finds every change, and says where it is."""

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from policyengine.audit import DecisionLogError, Rotation, log_file, rotation
from policyengine.audit.files import log_files
from policyengine.audit.rotation import rename_aside
from policyengine.audit.seal import sealer
from policyengine.audit.seal.rotate_key import rotate_log_key
from policyengine.audit.seal.verify import verify_log
from tests.audit.seal.edits import EditedLog
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return sealed_log(tmp_path / "d.jsonl", 300)


def edit(path: Path, change) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


def swap(lines: list[bytes]) -> None:
    lines[10], lines[270] = lines[270], lines[10]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: lines.__setitem__(41, lines[41].replace(b"t41", b"t42")), "d.jsonl:42: this line was changed"),
        (lambda lines: lines.__delitem__(41), "d.jsonl:42: the line before this one was removed"),
        (lambda lines: lines.__delitem__(slice(41, 290)), "d.jsonl:42: the 249 lines before this one were removed"),
        (lambda lines: lines.insert(41, b"{}\n"), "d.jsonl:42: this line was added"),
        (
            lambda lines: lines.__setitem__(slice(41, 41), [b"{}\n", b"\n"]),
            "d.jsonl:42: 2 lines were added, beginning with this one",
        ),
        (lambda lines: lines.insert(41, lines[50]), "d.jsonl:42: this line was moved, or copied"),
        (swap, "d.jsonl:11: this line was moved, or copied"),
        (lambda lines: lines.__delitem__(299), "d.jsonl: the last sealed line is missing"),
        (lambda lines: lines.__delitem__(slice(100, 300)), "d.jsonl: the last 200 sealed lines are missing"),
        (lambda lines: lines.__setitem__(299, lines[299][:-1]), "d.jsonl: the last sealed line is missing"),
        (lambda lines: lines.__setitem__(3, lines[3].replace(b"\n", b"\r\n")), "d.jsonl:4: this line was changed"),
    ],
)
def test_the_first_changed_line_is_reported(path, change, problem):
    edit(path, change)
    assert problems(path)[0] == problem


def test_lines_after_the_checkpoint_are_reported_as_unsealed(path):
    edit(path, lambda lines: lines.append(b"{}\n"))
    assert (verified(path).unsealed, problems(path)) == (1, [])


def test_a_missing_seal_is_a_problem(path):
    kept = checkpoint_of(path)
    shutil.rmtree(folder(path))
    keys = [key_of(sealed_log(path.with_name("other.jsonl")))]
    assert problems(path, keys=keys) == [
        "`d.jsonl.tlog/checkpoint` is missing: the log was never sealed, or its seal was removed"
    ]
    assert problems(path, kept, keys=keys) == [
        "`d.jsonl.tlog/checkpoint` is missing, but a checkpoint kept elsewhere shows that the log was sealed"
    ]


def test_a_log_that_was_sealed_anew_with_another_key_is_noticed(path):
    key = key_of(path)
    shutil.rmtree(folder(path))
    path.with_name("d.jsonl.key").unlink()
    edit(path, lambda lines: lines.__delitem__(5))
    sealed_log(path, 1)
    assert problems(path) == []
    assert "no trusted key signed the checkpoint" in problems(path, keys=[key])[0]


def test_the_holder_of_the_key_cannot_rewrite_what_a_checkpoint_elsewhere_covers(path):
    kept = checkpoint_of(path)
    shutil.rmtree(folder(path))
    edit(path, lambda lines: lines.__delitem__(5))
    writer = open_sealed(path)
    write_lines(writer, 10, begin=900)
    writer.close()
    assert problems(path) == []
    assert problems(path, kept) == [
        "the first 300 lines are not those of the checkpoint of 300 lines that was kept elsewhere"
    ]


def test_a_log_that_was_cut_and_sealed_again_has_fewer_lines_than_the_checkpoint_elsewhere(path):
    kept = checkpoint_of(path)
    shutil.rmtree(folder(path))
    edit(path, lambda lines: lines.__delitem__(slice(50, 300)))
    writer = open_sealed(path)
    write_lines(writer, 1)
    writer.close()
    assert problems(path, kept) == [
        "the log has only 51 sealed lines, fewer than the checkpoint of 300 lines that was kept elsewhere"
    ]


def test_a_checkpoint_of_another_log_is_reported(path):
    other = sealed_log(path.with_name("other.jsonl"))
    keys = [key_of(path), key_of(other)]
    assert "belongs to another log" in problems(path, checkpoint_of(other), keys=keys)[0]


def test_a_checkpoint_elsewhere_that_no_trusted_key_signed_proves_nothing(path):
    other = sealed_log(path.with_name("other.jsonl"))
    assert "no trusted key signed the checkpoint" in problems(path, checkpoint_of(other))[0]


@pytest.mark.parametrize("tile", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"])
def test_a_changed_tile_is_reported_although_the_lines_are_whole(path, tile):
    file = folder(path) / tile
    file.write_bytes(bytes(len(file.read_bytes())))
    assert problems(path) == [f"the tile `d.jsonl.tlog/{tile}` was changed"]


@pytest.mark.parametrize("content", [b"", b"x" * 8_704])
def test_a_damaged_entry_bundle_is_reported_and_the_lines_prove_the_root(path, content):
    (folder(path) / "tile/entries/000").write_bytes(content)
    found = problems(path)
    assert len(found) == 1
    assert "`d.jsonl.tlog/tile/entries/000` is damaged" in found[0]


@pytest.mark.parametrize("bundle", ["tile/entries/000", "tile/entries/001.p/44"])
def test_a_changed_entry_bundle_does_not_accuse_a_line(path, bundle):
    file = folder(path) / bundle
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    assert problems(path) == [f"the tile `d.jsonl.tlog/{bundle}` was changed"]


def test_a_missing_tile_is_reported(path):
    (folder(path) / "tile/0/000").unlink()
    assert problems(path) == ["`d.jsonl.tlog/tile/0/000` is missing"]


def test_a_changed_line_with_its_changed_entry_does_not_lead_to_the_root(path):
    from hashlib import sha256

    lines = path.read_bytes().splitlines(keepends=True)
    old = sha256(lines[41][:-1]).digest()
    lines[41] = lines[41].replace(b"t41", b"t42")
    path.write_bytes(b"".join(lines))
    bundle = folder(path) / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(old, sha256(lines[41][:-1]).digest()))
    assert any("do not lead to the root hash" in each for each in problems(path))


# ── Files that are gone ───────────────────────────────────────────────────────────────────────


def rotated_log(path: Path) -> Path:
    writer = open_sealed(path, Rotation(size=2_000))
    for begin in range(0, 100, 10):
        write_lines(writer, 10, begin=begin)
        writer.seal()
        writer.reopen()
    writer.close()
    return path


def test_a_removed_first_file_is_noticed(tmp_path):
    path = rotated_log(tmp_path / "d.jsonl")
    log_files(path)[0].unlink()
    assert "lines are missing, and no signed line says that `--log-keep` deleted their files" in problems(path)[0]


def test_files_that_the_log_deleted_itself_are_not_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "tidy_in_thread", lambda *arguments: None)
    path = rotated_log(tmp_path / "d.jsonl")
    writer = open_sealed(path)
    rotation.tidy(path, Rotation(size=2_000, keep=2), writer._delete)
    writer.close()
    result = verified(path)
    assert len(log_files(path)) == 3
    assert (result.problems, result.deleted > 30) == ([], True)
    log_files(path)[0].unlink()
    assert "are missing, and no signed line" in problems(path)[0]


def test_a_removed_newline_at_the_end_of_a_rotated_file_is_noticed(tmp_path):
    path = rotated_log(tmp_path / "d.jsonl")
    first = log_files(path)[0]
    lines = first.read_bytes().count(b"\n")
    first.write_bytes(first.read_bytes()[:-1])
    assert problems(path)[0] == f"{first.name}:{lines}: the newline after this line was removed"


def test_a_log_that_is_rotated_while_it_is_verified_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))
    path = tmp_path / "d.jsonl"
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    rename_aside(path, 1_700_000_000.0)
    log.reopen()
    write_lines(log, 3, begin=3)
    log.seal()
    rotations = [1_700_000_100.0]

    def progress(read: int) -> None:
        if rotations:
            rename_aside(path, rotations.pop())
            log.reopen()
            write_lines(log, 3, begin=6)
            log.seal()

    result = verify_log(path, [key_of(path)], progress=progress)
    assert (result.problems, result.size, rotations) == ([], 9, [])
    log.close()


def test_a_copied_log_of_numbered_files_is_whole(tmp_path, monkeypatch):
    """A copy has other times than the log."""
    monkeypatch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))
    path = tmp_path / "d.jsonl"
    log = open_sealed(path)
    for number in range(3):
        write_lines(log, 3, begin=3 * number)
        log.seal()
        for name in range(number, 0, -1):  # as logrotate does
            path.with_name(f"d.jsonl.{name}").rename(path.with_name(f"d.jsonl.{name + 1}"))
        path.rename(path.with_name("d.jsonl.1"))
        log.reopen()
    write_lines(log, 1, begin=9)
    log.close()
    for number, file in enumerate(sorted(path.parent.glob("d.jsonl.[0-9]"))):
        os.utime(file, (1_700_000_000 + number, 1_700_000_000 + number))
    assert problems(path) == []
    assert [file.name for file in log_files(path)] == ["d.jsonl.3", "d.jsonl.2", "d.jsonl.1", "d.jsonl"]


def test_a_removed_file_in_the_middle_is_noticed(tmp_path):
    path = rotated_log(tmp_path / "d.jsonl")
    log_files(path)[1].unlink()
    assert "lines before this one were removed" in problems(path)[0]


def test_a_removed_current_file_is_noticed(tmp_path):
    path = rotated_log(tmp_path / "d.jsonl")
    path.unlink()
    assert "are missing" in problems(path)[0]


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────


def test_a_verifier_with_the_first_key_follows_its_rotations(path):
    key, kept = key_of(path), checkpoint_of(path)
    new = rotate_log_key(path, path.with_name("d.jsonl.key"), None)
    writer = open_sealed(path)
    write_lines(writer, 5)
    writer.close()
    last = rotate_log_key(path, path.with_name("d.jsonl.key"), None)
    result = verified(path, kept, keys=[key])
    assert (result.problems, result.keys, result.size) == ([], (last,), 307)
    shutil.rmtree(folder(path) / "keys")
    assert verified(path, kept, keys=[key]).problems == []
    assert new != last


def test_a_key_that_no_trusted_key_named_is_not_followed(path):
    stranger = key_of(sealed_log(path.with_name("other.jsonl")))
    rotate_log_key(path, path.with_name("d.jsonl.key"), None)
    assert "no trusted key signed the checkpoint" in problems(path, keys=[stranger])[0]


# ── Random edits ──────────────────────────────────────────────────────────────────────────────


def notice_edits(root: Path, seed: int, count: int) -> int:
    """Return how many of `count` random edits changed something; each of them must be noticed."""
    random, edited, changed = Random(seed), EditedLog(root), 0
    assert not edited.is_noticed()
    for number in range(count):
        what = edited.edit(random)
        if edited.is_changed():
            changed += 1
            assert edited.is_noticed(), f"edit {number} of seed {seed} was not noticed: {what}"
        edited.restore()
    return changed


def test_random_edits_are_noticed(tmp_path):
    assert notice_edits(tmp_path, 7, 400) > 350


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_random_edits_are_noticed(tmp_path, seed):
    assert notice_edits(tmp_path, seed, 10_500) > 10_000


@pytest.mark.parametrize("kind", ["a pipe", "an endless file"])
def test_a_file_of_the_seal_that_cannot_be_read_whole_is_a_problem(path, kind):
    """Neither verification nor the next server waits for a pipe, or reads more than a file of the seal may contain."""
    kept, key, here = checkpoint_of(path), key_of(path), folder(path)
    whole = shutil.copytree(here, path.with_name("whole"))
    names = [str(each.relative_to(whole)) for each in whole.rglob("*") if each.is_file()]
    assert {"checkpoint", "state", "starts", "tile/0/000"} <= set(names)
    for name in names:
        shutil.rmtree(here)
        shutil.copytree(whole, here)
        file = here / name
        file.unlink()
        if kind == "a pipe":
            os.mkfifo(file)
        else:
            file.touch()
            os.truncate(file, 1 << 40)  # a sparse file
        found = list[str]()
        try:
            found += [problem.message for problem in verify_log(path, [key], checkpoints=[kept]).problems]
            assert found or name in ("state", "starts", "places", "vkey", "lock", "writers")  # which prove nothing
        except OSError as error:
            found.append(str(error.filename))
        try:
            open_sealed(path).close()
        except DecisionLogError as error:
            found.append(str(error))
        assert all(str(file) in each for each in found)
