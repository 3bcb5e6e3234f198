"""A log of many files: nothing is lost between them, and all are read as one."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import time
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit import DecisionLog, Rotation, log_file, read_records, rotation
from policyengine.audit.files import log_files
from policyengine.audit.reader import read_entries
from policyengine.audit.rotation import compress, rotated_files, tidy
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from tests.processes import wait_until
from tests.spec.deciding import row

POLICY = "anyone { may GET /health }"
OPEN = {"request": {"method": "GET", "path": "/health"}}
DAY = 86_400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked after in the same thread."""
    monkeypatch.setattr(log_file, "tidy_in_thread", tidy)


def engine(path: Path, *, directory: EntityStore | None = None, **options: Any) -> Engine:
    return Engine.from_text(POLICY, directory=directory, log=DecisionLog(path, **options))


def ids(path: Path) -> list[str]:
    return [record.id for record in read_records(path)]


def aged(path: Path, seconds: float) -> None:
    """Written to last so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.usefixtures("at_once")
def test_a_full_log_file_is_rotated_and_all_files_are_read_in_order(path: Path) -> None:
    asked = engine(path, rotation=Rotation(size=2_000))
    given = [asked.decide(OPEN).id for _ in range(20)]
    assert len(log_files(path)) > 3
    assert all(one.stat().st_size < 3_000 for one in log_files(path))
    assert ids(path) == given
    assert len({record.line for record in read_records(path)}) == 20
    assert ids(log_files(path)[0]) == given[: len(ids(log_files(path)[0]))]


def test_a_log_file_of_yesterday_is_rotated_before_the_next_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "CHECK_INTERVAL_SECONDS", 0.0)
    asked = engine(path, rotation=Rotation(age=DAY))
    first = [asked.decide(OPEN).id for _ in range(2)]
    aged(path, DAY)
    second = asked.decide(OPEN).id
    alone = [[record.id for record in read_entries(one, lambda _: None)] for one in log_files(path)]
    assert alone == [first, [second]]


def test_a_log_file_without_decisions_is_not_rotated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "CHECK_INTERVAL_SECONDS", 0.0)
    asked = engine(path, directory=EntityStore([row("user ann", {})]), rotation=Rotation(age=DAY))
    aged(path, 3 * DAY)
    asked.decide(OPEN)
    assert log_files(path) == [path]


@pytest.mark.usefixtures("at_once")
def test_each_rotated_file_contains_the_entities_of_its_decisions(path: Path) -> None:
    asked = engine(path, directory=EntityStore([row("user ann", {})]), rotation=Rotation(size=1_500))
    for _ in range(9):
        asked.decide(OPEN)
    assert len(log_files(path)) > 2
    assert {len(record.directory or ()) for record in read_records(path)} == {1}


@pytest.mark.usefixtures("at_once")
def test_rotation_keeps_the_configured_number_of_files(path: Path) -> None:
    asked = engine(path, rotation=Rotation(size=1_000, keep=2))
    given = [asked.decide(OPEN).id for _ in range(20)]
    assert len(rotated_files(path)) == 2
    assert given[-len(ids(path)) :] == ids(path)


def old_files(path: Path, many: int, compressed: int = 0) -> list[Path]:
    """Files that were set aside, oldest first, the first `compressed` of them in their small form."""
    for number in range(many):
        path.write_text(f"{number}\n")
        aside = rotation.rename_aside(path, 1_700_000_000.0 + number)
        aged(aside, DAY)
        if number < compressed:
            compress(aside)
    return rotated_files(path)


def numbers(path: Path) -> list[int]:
    return [int(gzip.open(one).read() if one.suffix == ".gz" else one.read_text()) for one in rotated_files(path)]


@pytest.mark.parametrize("compresses", [False, True])
@pytest.mark.parametrize("keep", [None, 0, 1, 3, 4, 5, 6, 30])
@pytest.mark.parametrize("there", [0, 1, 5])
def test_tidy_removes_only_the_oldest_files_beyond_the_kept_number(
    path: Path, there: int, keep: int | None, compresses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for already in (0, there // 2, there):
        for one in rotated_files(path):
            one.unlink()
        old_files(path, there, already)
        for _ in range(2):
            tidy(path, Rotation(size=1, keep=keep, compress=compresses))
            assert numbers(path) == list(range(there))[-there if keep is None or keep > there else there - keep :]
        if compresses:
            assert all(one.suffix == ".gz" for one in rotated_files(path)[:-1])


def test_old_files_are_deleted_after_the_clock_was_far_ahead(path: Path) -> None:
    path.write_text("0\n")
    rotation.rename_aside(path, 4_000_000_000.0)
    old_files(path, 4)
    tidy(path, Rotation(size=1, keep=2))
    assert numbers(path) == [2, 3]


def test_a_folder_with_the_name_of_an_old_file_does_not_keep_others_from_being_deleted(path: Path) -> None:
    path.with_name(f"{path.name}.20000101T000000.000000Z").mkdir()
    path.with_name(f"{path.name}.20000102T000000.000000Z").symlink_to("missing")
    files = old_files(path, 4)[2:]
    tidy(path, Rotation(size=1, keep=2))
    assert [file for file in files if file.exists()] == files[2:]


def test_a_file_and_its_compressed_copy_count_as_one(path: Path) -> None:
    files = old_files(path, 4)
    twice = files[-2].with_name(f"{files[-2].name}.gz")
    twice.write_bytes(gzip.compress(files[-2].read_bytes()))
    tidy(path, Rotation(size=1, keep=3))
    assert rotated_files(path) == sorted([*files[1:], twice])


def test_rotated_files_get_unique_names(path: Path) -> None:
    for _ in range(3):
        path.touch()
        rotation.rename_aside(path, 1_700_000_000.0)
    assert len(rotated_files(path)) == 3


# ── Compressed ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("at_once")
def test_old_rotated_files_are_compressed_and_still_read(path: Path) -> None:
    asked = engine(path, rotation=Rotation(size=1_000, compress=True))
    given = []
    for _ in range(12):
        given.append(asked.decide(OPEN).id)
        for old in rotated_files(path):
            aged(old, 120 - rotated_files(path).index(old))
    packed = [one for one in log_files(path) if one.suffix == ".gz"]
    assert len(packed) > 1
    assert rotated_files(path)[-1].suffix != ".gz"  # others may write to it still
    assert ids(path) == given
    assert {one.stat().st_mode & 0o777 for one in packed} == {0o600}


def test_a_recently_written_file_is_not_compressed(path: Path) -> None:
    path.write_bytes(b"x\n")
    compress(path)
    assert path.exists()


def test_a_write_during_compression_is_not_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"one\n")
    aged(path, 120)
    copy = rotation.shutil.copyfileobj

    def and_more(of: Any, to: Any, size: int) -> None:
        copy(of, to, size)
        with path.open("ab") as late:
            late.write(b"two\n")

    monkeypatch.setattr(rotation.shutil, "copyfileobj", and_more)
    compress(path)
    assert path.read_bytes() == b"one\ntwo\n"
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_an_abandoned_compression_is_retried_after_a_while(path: Path) -> None:
    path.write_bytes(b"one\n")
    aged(path, 120)
    half = path.with_name(path.name + ".gz.new")
    half.write_bytes(b"half")
    compress(path)
    assert path.exists()
    aged(half, 7_200)
    compress(path)
    assert gzip.decompress(path.with_name(path.name + ".gz").read_bytes()) == b"one\n"


def test_a_truncated_compressed_file_is_reported(path: Path) -> None:
    asked = engine(path)
    first = asked.decide(OPEN).id
    packed = path.with_name(path.name + ".1.gz")
    packed.write_bytes(gzip.compress(path.read_bytes() + b"x" * 5_000)[:-20])
    path.unlink()
    told: list[str] = []
    found = [record.id for record in read_records(path, told.append)]
    assert found in ([first], [])
    assert "skipped the rest of this file" in " ".join(told)


@pytest.mark.parametrize("name", ["decisions.jsonl.1", "decisions.jsonl.2.gz", "decisions.jsonl-20270104"])
def test_files_rotated_by_logrotate_are_read(path: Path, name: str) -> None:
    asked = engine(path)
    first = asked.decide(OPEN).id
    moved = path.with_name(name)
    moved.write_bytes(gzip.compress(path.read_bytes()) if name.endswith("gz") else path.read_bytes())
    aged(moved, 60)
    os.truncate(path, 0)
    asked.log.reopen()  # type: ignore[union-attr]
    second = asked.decide(OPEN).id
    (path.parent / "decisions.jsonl.bak").write_text("nonsense")
    assert ids(path) == [first, second]


def test_reading_a_missing_log_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_records(path))


# ── Failures ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("at_once")
def test_a_log_that_cannot_be_rotated_keeps_writing_and_reports_it_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_file, "CHECK_INTERVAL_SECONDS", 0.0)
    asked = engine(path, rotation=Rotation(size=500))

    def denied(path: Path, now: float) -> Path:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(log_file, "rename_aside", denied)
    given = [asked.decide(OPEN) for _ in range(10)]
    assert all(one.allowed for one in given)
    assert ids(path) == [one.id for one in given]
    assert caplog.text.count("cannot be rotated") == 1


@pytest.mark.usefixtures("at_once")
def test_a_user_who_locks_the_folder_of_the_log_delays_no_decision(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_file, "CHECK_INTERVAL_SECONDS", 0.0)
    asked = engine(path, rotation=Rotation(size=500))
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert all(asked.decide(OPEN).allowed for _ in range(3))
    assert (rotated_files(path), caplog.text) == ([], "")
    monkeypatch.setattr(log_file, "MAX_BUSY_SECONDS", 0.0)
    assert asked.decide(OPEN).allowed
    assert caplog.text.count("another process holds the lock of its folder") == 1
    os.close(folder)
    monkeypatch.setattr(log_file, "LATER", 0.0)
    asked.log._file._later = 0.0
    asked.decide(OPEN)
    assert len(rotated_files(path)) == 1


# ── Several processes ─────────────────────────────────────────────────────────────────────────

EACH = 150


def decides(path: Path, sender: Any) -> None:
    asked = engine(path, rotation=Rotation(size=20_000))
    sender.send([asked.decide(OPEN).id for _ in range(EACH)])


def test_concurrent_processes_lose_no_record_during_rotation(path: Path) -> None:
    context = get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [context.Process(target=decides, args=(path, sender)) for _, sender in pipes]
    for process in processes:
        process.start()
    given = [one for receiver, _ in pipes for one in receiver.recv()]
    for process in processes:
        process.join()
        process.close()
    for receiver, sender in pipes:
        receiver.close()
        sender.close()
    assert len(log_files(path)) > 2
    assert sorted(ids(path)) == sorted(given)


# ── To the disk ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("sync", "times"), [("always", 3), ("never", 0)])
def test_sync_always_forces_each_line_to_disk_before_the_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch, sync: str, times: int
) -> None:
    forced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", forced.append)
    asked = engine(path, sync=sync, seal=None)
    for _ in range(3):
        asked.decide(OPEN)
    assert len(forced) == times


@pytest.mark.parametrize("sync", ["always", "second"])
def test_a_decision_that_cannot_be_synced_to_disk_is_denied(
    path: Path, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    def broken(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    monkeypatch.setattr("policyengine.audit.log.FSYNC_INTERVAL_SECONDS", 0.0)
    asked = engine(path, sync=sync)
    wait_until(lambda: not asked.decide(OPEN).allowed)
    assert asked.log is not None
    assert asked.log.failures > 0
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    wait_until(lambda: asked.decide(OPEN).allowed)


def test_sync_second_forces_lines_to_disk_within_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", forced.append)
    monkeypatch.setattr("policyengine.audit.log.FSYNC_INTERVAL_SECONDS", 0.0)
    asked = engine(path, sync="second")
    asked.decide(OPEN)
    wait_until(lambda: forced)


def test_rotation_by_age_is_due_at_whole_periods() -> None:
    found = os.stat_result((0o600, 1, 1, 1, 0, 0, 10, 0, int(timedelta(days=2, hours=23).total_seconds()), 0))
    assert Rotation(age=DAY).due(found, timedelta(days=3).total_seconds())
    assert not Rotation(age=DAY).due(found, timedelta(days=2, hours=23, minutes=59).total_seconds())
