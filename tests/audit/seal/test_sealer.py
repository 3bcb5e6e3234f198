"""Sealing while logs are written, rotated, compressed, deleted, truncated and continued."""

import gzip
import logging
import os
import shutil
import time
from pathlib import Path
from threading import Event, Thread

import msgspec
import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog, Rotation
from policyengine.audit.files import log_files
from policyengine.audit.rotation import rename_aside
from policyengine.audit.seal import late_files, seal_run, sealer, tiles
from policyengine.audit.seal.options import SealOptions
from policyengine.audit.seal.sealed_files import SealState
from tests.audit.seal.logs import (
    checkpoint_of,
    folder,
    open_sealed,
    problems,
    sealed_log,
    verified,
    write_lines,
)
from tests.processes import wait_until

ALLOWING = "anyone { may GET /v1/** }"
QUESTION = {"request": {"method": "GET", "path": "/v1/a"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def finished_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotated files count as finished immediately."""
    monkeypatch.setattr(sealer, "FINISHED_SECONDS", 0.0)
    monkeypatch.setattr(late_files, "INCOMPLETE_SECONDS", 0.0)
    monkeypatch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))


def test_processes_that_start_at_the_same_moment_both_prepare_the_folder(path, monkeypatch):
    write, started = tiles.write_in_place, []

    def write_while_another_starts(*arguments, **options):
        write(*arguments, **options)
        if not started:
            started.append(True)
            started[0] = DecisionLog(path)

    monkeypatch.setattr(tiles, "write_in_place", write_while_another_starts)
    log = DecisionLog(path)
    write_lines(log, 3)
    for each in (log, started[0]):
        each.close()
    assert verified(path).size == 3
    assert [file.name for file in folder(path).iterdir() if file.name.endswith(".new")] == []


def rotate(path: Path, log) -> Path:
    """Rotate the file as logrotate does, and let the log notice it at its next line."""
    aside = rename_aside(path, path.stat().st_mtime)
    log.reopen()
    return aside


# ── Ordinary logs ─────────────────────────────────────────────────────────────────────────────


def test_closing_a_log_seals_all_its_lines(path):
    sealed_log(path, 700)
    result = verified(path)
    assert (result.size, result.lines, result.unsealed, result.problems) == (700, 700, 0, [])


@pytest.mark.parametrize(("paced_bytes", "is_paced"), [(1 << 24, True), (100, False)])
def test_sealing_pauses_between_chunks_unless_it_falls_behind(path, monkeypatch, paced_bytes, is_paced):
    monkeypatch.setattr(seal_run, "CHUNK_BYTES", 4_096)
    monkeypatch.setattr(seal_run, "PACED_BYTES", paced_bytes)
    log = open_sealed(path)
    write_lines(log, 700)
    pauses: list[float] = []
    log.sealer.seal(pause=pauses.append)
    chunks = path.stat().st_size // 4_096
    assert (abs(len(pauses) - chunks) <= chunks // 10) if is_paced else not pauses
    assert log.sealer.pause > 0  # all lines are sealed
    log.close()
    assert verified(path).size == 700


def test_a_process_that_decides_seals_its_decisions_in_slices(path, monkeypatch):
    monkeypatch.setattr(sealer, "SLICE_BYTES", 4_096)
    log = open_sealed(path)
    engine = Engine.from_text(ALLOWING, log=log)
    engine.decide(QUESTION)
    log.seal()
    for _ in range(600):
        engine.decide(QUESTION)
    assert 580 < log.sealer._run.tree.size <= 601
    assert checkpoint_of(path).size == 1
    assert not (folder(path) / "tile/0/000").exists()  # files are left to the thread
    log.close()
    assert (verified(path).size, problems(path)) == (601, [])


def test_a_decision_never_writes_the_tiles_of_a_seal(path, monkeypatch):
    monkeypatch.setattr(sealer, "SLICE_BYTES", 4_096)
    monkeypatch.setattr(tiles, "MAX_WAITING_TILES", 8)
    log = open_sealed(path)
    engine = Engine.from_text(ALLOWING, log=log)
    engine.decide(QUESTION)
    log.seal()
    for _ in range(1_500):
        engine.decide(QUESTION)
    assert not (folder(path) / "tile/0/000").exists()
    log.close()
    assert (verified(path).size, problems(path)) == (1_501, [])


def test_a_slice_of_a_truncated_log_is_not_sealed(path, monkeypatch):
    monkeypatch.setattr(sealer, "SLICE_BYTES", 4_096)
    log = open_sealed(path)
    engine = Engine.from_text(ALLOWING, log=log)
    for _ in range(2):
        engine.decide(QUESTION)
    log.seal()
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)  # as `copytruncate` of logrotate does
    for _ in range(100):
        engine.decide(QUESTION)
    assert log.sealer._run.tree.size == 2
    log.close()
    assert (verified(path).size, problems(path)) == (102, [])


def test_a_decision_does_not_wait_for_a_seal_that_hangs(path, monkeypatch):
    monkeypatch.setattr(sealer, "SLICE_BYTES", 4_096)
    log, begun, release = open_sealed(path), Event(), Event()
    engine = Engine.from_text(ALLOWING, log=log)
    engine.decide(QUESTION)
    log.seal()

    def hang(file: int) -> None:
        begun.set()
        release.wait(60)

    monkeypatch.setattr(seal_run.os, "fdatasync", hang)
    hanging = Thread(target=log.seal)
    engine.decide(QUESTION)
    hanging.start()
    assert begun.wait(30)
    log.sealer.turns.is_wanted = True  # as if the thread hung in its turn
    for _ in range(50):
        assert engine.decide(QUESTION).allowed
    assert hanging.is_alive()
    log.sealer.turns.is_wanted = False
    release.set()
    hanging.join()
    log.close()
    assert (verified(path).size, problems(path)) == (52, [])


def test_a_seal_that_was_removed_while_no_server_ran_is_reported(path, caplog):
    sealed_log(path)
    shutil.rmtree(folder(path))
    open_sealed(path).close()
    assert [record.event for record in caplog.records] == ["log_seal_begins"]


def test_a_log_that_was_not_sealed_before_is_sealed_without_a_warning(path, caplog):
    unsealed = DecisionLog(path, seal=None)
    write_lines(unsealed, 3)
    unsealed.close()
    log = open_sealed(path)
    write_lines(log, 1, begin=3)
    log.close()
    assert (verified(path).size, caplog.text) == (4, "")


def test_a_log_without_lines_is_not_sealed(path):
    open_sealed(path).close()
    assert not (folder(path) / "checkpoint").exists()


def test_a_log_continues_its_seal_when_it_is_opened_again(path):
    sealed_log(path, 300)
    first = checkpoint_of(path)
    log = open_sealed(path)
    write_lines(log, 300, begin=300)
    log.close()
    result = verified(path, first)
    assert (result.size, result.problems) == (600, [])


def test_a_log_that_was_written_without_a_seal_is_sealed_from_its_first_line(path):
    log = open_sealed(path)
    write_lines(log, 5)
    log._file.close()  # as after a kill: nothing is sealed
    assert not (folder(path) / "checkpoint").exists()
    log = open_sealed(path)
    write_lines(log, 1, begin=5)
    log.close()
    assert verified(path).size == 6


def test_sealing_happens_by_itself_within_the_interval(path):
    from policyengine.audit import DecisionLog

    log = DecisionLog(path, seal=SealOptions(interval=0.01))
    write_lines(log, 3)
    wait_until(lambda: (folder(path) / "checkpoint").exists() and checkpoint_of(path).size == 3)
    log.close()


def test_lines_of_any_length_are_sealed(path):
    log = open_sealed(path)
    for size in (10, 70_000, 200_000, 3_000_000, 65_536, 10):
        write_lines(log, 2, size=size)
    log.close()
    assert (verified(path).size, problems(path)) == (12, [])


def test_a_long_line_that_is_not_complete_yet_is_read_once(path, monkeypatch):
    monkeypatch.setattr(seal_run, "CHUNK_BYTES", 4_096)
    log, read = open_sealed(path), 0
    write_lines(log, 1)
    log.seal()
    pread = os.pread

    def counted(file: int, length: int, offset: int) -> bytes:
        nonlocal read
        data = pread(file, length, offset)
        read += len(data)
        return data

    monkeypatch.setattr(seal_run.os, "pread", counted)
    with path.open("ab") as file:
        for _ in range(5):
            file.write(b"x" * 500_000)
            file.flush()
            log.seal()
        file.write(b"\n")
    assert read < 3_000_000
    log.close()
    assert (verified(path).size, problems(path)) == (2, [])


def test_an_incomplete_last_line_is_not_sealed(path):
    sealed_log(path, 3)
    with path.open("ab") as file:
        file.write(b'{"v":1,"time":"20')
    result = verified(path)
    assert (result.torn, result.unsealed, result.problems) == (True, 0, [])
    log = open_sealed(path)
    write_lines(log, 1, begin=3)
    log.close()
    result = verified(path)
    assert (result.size, result.torn, result.problems) == (5, False, [])


def test_a_checkpoint_is_signed_only_after_its_lines_are_on_disk(path, monkeypatch):
    order = []
    sync, write = os.fdatasync, seal_run.write_file
    monkeypatch.setattr(seal_run.os, "fdatasync", lambda file: (order.append("sync"), sync(file))[1])
    monkeypatch.setattr(
        seal_run, "write_file", lambda file, raw, **more: (order.append(file.name), write(file, raw, **more))[1]
    )
    log = open_sealed(path)
    write_lines(log, 3)
    order.clear()
    log.seal()
    assert order == ["sync", "state", "checkpoint"]
    log.close()


# ── Rotation ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("finished_at_once")
def test_rotated_files_are_sealed_in_their_order(path):
    log = open_sealed(path, Rotation(size=2_000))
    for begin in range(0, 200, 10):
        write_lines(log, 10, begin=begin)
        log.reopen()
    log.close()
    assert len(list(path.parent.glob("decisions.jsonl.2*"))) > 3
    assert (verified(path).size, problems(path)) == (200, [])


@pytest.mark.usefixtures("finished_at_once")
def test_a_seal_continues_in_files_that_were_rotated_meanwhile(path):
    sealed_log(path, 10)
    log = open_sealed(path)
    write_lines(log, 5, begin=10)
    log._file.close()  # killed
    rename_aside(path, 1_800_000_000)
    log = open_sealed(path)
    write_lines(log, 5, begin=15)
    rotate(path, log)
    write_lines(log, 5, begin=20)
    log.close()
    assert (verified(path).size, problems(path)) == (25, [])


@pytest.mark.usefixtures("finished_at_once")
def test_compressed_files_are_verified_and_continued(path):
    sealed_log(path, 10)
    log = open_sealed(path)
    write_lines(log, 5, begin=10)
    log._file.close()
    aside = rename_aside(path, 1_800_000_000)
    with gzip.open(f"{aside}.gz", "wb") as packed:
        packed.write(aside.read_bytes())
    aside.unlink()
    log = open_sealed(path)
    write_lines(log, 5, begin=15)
    log.close()
    assert (verified(path).size, problems(path)) == (20, [])


def test_a_file_that_was_just_rotated_may_still_be_written_to(path):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    aside = rotate(path, log)
    write_lines(log, 3, begin=3)
    log.seal()
    assert checkpoint_of(path).size == 3
    with aside.open("ab") as file:
        file.write(b'{"v":1,"time":"2027-01-15T08:00:00.000000Z","issued":{}}\n')
    log.seal()
    assert checkpoint_of(path).size == 4
    log.close()
    assert (verified(path).size, problems(path)) == (7, [])


@pytest.mark.usefixtures("finished_at_once")
def test_a_line_that_arrives_late_is_sealed_by_a_later_line(path):
    log = open_sealed(path)
    write_lines(log, 3)
    aside = rotate(path, log)
    write_lines(log, 3, begin=3)
    log.seal()
    with aside.open("ab") as file:
        file.write(b'{"v":1,"time":"2027-01-15T08:00:00.000000Z","issued":{}}\n')
    log.seal()
    log.close()
    result = verified(path)
    assert (result.size, result.late, result.problems) == (7, 1, [])
    with aside.open("ab") as file:
        file.write(b'{"v":1,"time":"2027-01-15T08:00:00.000000Z","issued":{"jti":"forged"}}\n')
    assert problems(path) == [f"{aside.name}:5: this line was added"]


@pytest.mark.usefixtures("finished_at_once")
def test_many_late_lines_are_read_in_bounded_pieces(path, monkeypatch):
    monkeypatch.setattr(late_files, "MAX_LATE_BYTES", 200)
    log = open_sealed(path)
    write_lines(log, 3)
    aside = rotate(path, log)
    write_lines(log, 3, begin=3)
    log.seal()
    with aside.open("ab") as file:
        file.write(b'{"v":1,"time":"2027-01-15T08:00:00.000000Z","issued":{}}\n' * 9)
    for _ in range(6):
        log.seal()
    log.close()
    result = verified(path)
    assert (result.late, result.problems) == (9, [])


@pytest.mark.usefixtures("finished_at_once")
def test_a_log_whose_oldest_file_has_late_lines_is_whole(path):
    log = open_sealed(path)
    for begin in (0, 3):
        write_lines(log, 3, begin=begin)
        log.seal()
        aside = rotate(path, log)
    write_lines(log, 3, begin=6)
    log.seal()
    with aside.open("ab") as file:
        file.write(b"{}\n")
    log.seal()
    assert log._delete(log_files(path)[0])
    log.close()
    result = verified(path)
    assert (result.deleted, result.late, result.problems) == (3, 1, [])


@pytest.mark.usefixtures("finished_at_once")
def test_a_line_that_arrives_late_is_sealed_although_the_process_that_left_the_file_was_killed(path):
    log = open_sealed(path)
    write_lines(log, 3)
    aside = rotate(path, log)
    write_lines(log, 3, begin=3)
    log.seal()
    with aside.open("ab") as file:
        file.write(b'{"v":1,"time":"2027-01-15T08:00:00.000000Z","issued":{}}\n')
    log._file.close()
    log.sealer._unlock()  # as after a kill
    log = open_sealed(path)
    write_lines(log, 1, begin=6)
    log.seal()
    log.close()
    result = verified(path)
    assert (result.late, result.problems) == (1, [])


@pytest.mark.usefixtures("finished_at_once")
def test_more_late_lines_than_a_note_holds_are_sealed(path):
    log = open_sealed(path)
    write_lines(log, 3)
    aside = rotate(path, log)
    write_lines(log, 3, begin=3)
    log.seal()
    with aside.open("ab") as file:
        file.write(b"\n" * 2_000)
    for _ in range(4):
        log.seal()
    log.close()
    result = verified(path)
    assert (result.late, result.problems) == (2_000, [])


def test_an_incomplete_line_is_sealed_by_a_process_that_runs_for_a_moment(path):
    sealed_log(path, 3)
    with path.open("ab") as file:
        file.write(b'{"v":1,"time":"20')
    os.utime(path, (1_700_000_000, 1_700_000_000))
    log = open_sealed(path, Rotation(age=86_400))
    log.reopen()
    write_lines(log, 3, begin=3)
    log.close()
    sealed_log(path, 1)
    assert len(log_files(path)) == 2
    assert problems(path) == []


@pytest.mark.usefixtures("finished_at_once")
def test_an_incomplete_line_at_the_end_of_a_rotated_file_is_sealed(path):
    log = open_sealed(path)
    write_lines(log, 3)
    with path.open("ab") as file:
        file.write(b'{"v":1,"time":"20')
    aside = rotate(path, log)
    log._file._ends_torn = False
    write_lines(log, 3, begin=3)
    log.seal()
    log.close()
    assert verified(path).problems == []
    with aside.open("ab") as file:
        file.write(b"27")
    assert problems(path) == [f"{aside.name}:4: this line was added"]


@pytest.mark.usefixtures("finished_at_once")
@pytest.mark.parametrize("more", [2, 40], ids=["a shorter file", "a longer file"])
def test_lines_after_copytruncate_continue_the_seal(path, more):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    write_lines(log, 2, begin=3)
    shutil.copy(path, path.with_name("decisions.jsonl.1"))
    os.truncate(path, 0)
    write_lines(log, more, begin=5)
    log.seal()
    log.close()
    assert (verified(path).size, problems(path)) == (5 + more, [])


@pytest.mark.usefixtures("finished_at_once")
@pytest.mark.usefixtures("finished_at_once")
@pytest.mark.parametrize("how", ["removed", "moved", "removed, and a copy put back", "replaced by a copy"])
def test_sealing_continues_after_a_file_that_was_removed_while_the_log_is_written(path, how):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    copy, aside = path.with_name("copy"), path.with_name("moved")
    shutil.copy(path, copy)
    if how == "replaced by a copy":
        copy.rename(path)
    else:
        path.rename(aside)
        os.utime(aside, (4e9, 4e9))
        if how != "moved":
            aside.unlink()
    log.reopen()
    write_lines(log, 3, begin=3)
    if how == "removed, and a copy put back":
        copy.rename(path.with_name(f"{path.name}.20260101T000000.000000Z"))
    log.seal()
    log.seal()
    assert checkpoint_of(path).size == 6
    log.close()
    assert bool(problems(path)) is (how in ("removed", "moved"))


def test_nobody_holds_the_seal_back_by_writing_to_a_rotated_file(path, monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(seal_run, "monotonic", lambda: now[0])
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    aside = rotate(path, log)
    write_lines(log, 3, begin=3)
    for _ in range(20):
        with aside.open("ab") as file:
            file.write(b"{}\n")
        log.seal()
        now[0] += 2
    log.seal()
    assert verified(path).unsealed == 0
    assert path.read_bytes().count(b"late_lines") > 0
    log.close()
    assert problems(path) == []


def test_a_last_line_that_is_changed_while_the_log_is_written_is_reported(path, caplog):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    text = path.read_bytes()
    path.write_bytes(text.replace(b"t2", b"t9"))  # in place
    log.seal()
    write_lines(log, 2, begin=3)
    log.seal()
    log.close()
    assert problems(path) == ["decisions.jsonl:3: this line was changed"]
    assert [record.event for record in caplog.records] == ["log_tampered"]


@pytest.mark.usefixtures("finished_at_once")
def test_a_file_that_is_compressed_before_the_seal_left_it_is_continued(path, caplog):
    log = open_sealed(path)
    write_lines(log, 3)
    log.seal()
    aside = rotate(path, log)
    with gzip.open(f"{aside}.gz", "wb") as packed:
        packed.write(aside.read_bytes())
    aside.unlink()
    write_lines(log, 2, begin=3)
    log.seal()
    assert checkpoint_of(path).size == 5
    log.close()
    assert (verified(path).size, problems(path), caplog.text) == (5, [], "")


# ── Failures ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_folder_that_is_removed_is_not_begun_anew(path, caplog, is_replaced):
    log = open_sealed(path)
    write_lines(log, 300)
    assert log.seal()
    folder(path).rename(path.with_name("away"))
    if is_replaced:
        folder(path).mkdir(0o700)
    write_lines(log, 1, begin=300)
    assert not log.seal()
    assert not log.seal()
    assert not (folder(path) / "checkpoint").exists()
    assert "was removed or replaced: restore it" in caplog.text
    shutil.rmtree(folder(path), ignore_errors=True)
    path.with_name("away").rename(folder(path))
    log.sealer._retry_at = 0.0  # the tree is not built again each second
    assert log.seal()
    log.close()
    assert (verified(path).size, problems(path)) == (301, [])


def test_the_time_without_a_checkpoint_is_known(path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(sealer, "monotonic", lambda: clock[0])
    log = open_sealed(path)
    assert log.sealer.unsealed_seconds == 0
    write_lines(log, 1)
    for seconds in (0, 5, 60):
        clock[0] = 100.0 + seconds
        assert log.sealer.unsealed_seconds == seconds
    log.seal()
    assert log.sealer.unsealed_seconds == 0
    write_lines(log, 1, begin=1)
    os.utime(path, (2**31, 2**31))  # later than the checkpoint, whatever the precision of the file system
    clock[0] += 1
    assert log.sealer.unsealed_seconds == 0
    clock[0] += 7
    assert log.sealer.unsealed_seconds == 7
    log.close()


def test_under_load_the_time_without_a_checkpoint_does_not_grow(path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(sealer, "monotonic", lambda: clock[0])
    log = open_sealed(path)
    for number in range(10):
        write_lines(log, 1, begin=number)
        log.seal()
        os.utime(path, (2**31, 2**31))  # a line that is newer than the checkpoint
        assert log.sealer.unsealed_seconds == 0
        clock[0] += 60
    log.close()


def test_a_process_that_cannot_start_a_thread_keeps_no_descriptors(path, monkeypatch):
    def fail(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    log = open_sealed(path)
    with monkeypatch.context() as patch:
        patch.setattr(sealer.Thread, "start", fail)
        before = len(os.listdir("/proc/self/fd"))
        write_lines(log, 20)
        assert len(os.listdir("/proc/self/fd")) == before
    log.close()


def test_a_process_ends_although_the_disk_of_its_seal_does_not_answer(path, monkeypatch, caplog):
    monkeypatch.setattr(sealer, "WAIT_SECONDS", 0.1)
    answers, asked = Event(), Event()

    def hang(file: int) -> None:
        asked.set()
        answers.wait(60)

    log = DecisionLog(path, seal=SealOptions(interval=0.001))
    monkeypatch.setattr(os, "fdatasync", hang)
    write_lines(log, 3)
    assert asked.wait(60)
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"sealing the log `{path}` did not end within 0.1 s: its disk may not answer; the next process that writes the "
        "log seals the rest"
    ]
    answers.set()


def replace_with_shorter_file(path: Path) -> None:
    """Replace the file with another one, as `sed -i` does."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"t1", b"t"))
    other.replace(path)


def cut_in_place(path: Path) -> None:
    os.truncate(path, len(path.read_bytes().splitlines(keepends=True)[0]))


@pytest.mark.usefixtures("finished_at_once")
@pytest.mark.parametrize("lose", [replace_with_shorter_file, Path.unlink, cut_in_place])
def test_lines_that_are_lost_while_the_log_is_written_are_reported_and_sealing_goes_on(path, lose, caplog):
    log = open_sealed(path)
    write_lines(log, 5)
    log.seal()
    lose(path)
    log.reopen()
    write_lines(log, 2, begin=5)
    log.seal()
    write_lines(log, 1, begin=7)
    log.seal()
    log.close()
    assert [record.event for record in caplog.records] == ["log_tampered"]
    result = verified(path)
    assert (result.size > 5, result.unsealed, result.is_whole) == (True, 0, False)


def test_a_tile_that_a_checkpoint_needs_is_never_incomplete(path, monkeypatch):
    """A process wrote a full tile and was killed before the next checkpoint; the next one is killed while it writes the
    same tile.
    """
    sealed_log(path, 100)

    def fail(file: Path, raw: bytes, durable: bool = False) -> None:
        raise OSError(28, "No space left on device")

    write = os.write

    def write_nothing(file: int, data: bytes) -> int:
        if len(data) == tiles.TILE_BYTES:
            raise KeyboardInterrupt
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(seal_run, "write_file", fail)
        log = open_sealed(path)
        write_lines(log, 200, begin=100)
        assert not log.seal()
        log.sealer.abandon()
        assert not (folder(path) / "tile/0/000.p").exists()
        patch.setattr(os, "write", write_nothing)
        with pytest.raises(KeyboardInterrupt):
            log.sealer.seal()
        log.sealer.abandon()
    result = verified(path)
    assert (result.problems, result.size, result.unsealed) == ([], 100, 200)


def test_a_failure_to_seal_is_reported_once_and_sealing_is_tried_again(path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    log = open_sealed(path)
    write_lines(log, 3)
    write = seal_run.write_file

    def fail(file: Path, raw: bytes, durable: bool = False) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seal_run, "write_file", fail)
    assert not log.seal()
    assert not log.seal()
    monkeypatch.setattr(seal_run, "write_file", write)
    assert log.seal()
    assert [record.getMessage() for record in caplog.records] == [
        f"the log `{path}` cannot be sealed: no space left on device; decisions are still logged, and sealing is tried "
        "again",
        f"the log `{path}` is sealed again",
    ]
    log.close()
    assert problems(path) == []


def test_lost_lines_are_reported_and_the_log_is_sealed_from_there_on(path, caplog):
    sealed_log(path, 10)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    log = open_sealed(path)
    write_lines(log, 1)
    log.close()
    assert "has lost lines that were sealed" in caplog.text
    assert not verified(path).is_whole


def test_a_folder_that_is_removed_while_the_log_is_written_is_reported_and_not_made_anew(path, caplog):
    log = open_sealed(path)
    write_lines(log, 3)
    assert log.seal()
    aside = folder(path).rename(path.with_name("aside"))
    write_lines(log, 1, begin=3)
    assert (log.seal(), folder(path).exists()) == (False, False)
    assert "was removed or replaced: restore it" in caplog.text
    aside.rename(folder(path))
    assert log.seal()
    log.close()
    assert (verified(path).size, problems(path)) == (4, [])


def test_a_stop_that_is_interrupted_leaves_no_number_of_a_closed_file(path, tmp_path, monkeypatch):
    log = DecisionLog(path)
    write_lines(log, 3)
    log.wake()
    number = log.sealer._writing

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(log.sealer, "_seal_last", interrupt)
        with pytest.raises(KeyboardInterrupt):
            log.sealer.stop()
    other = os.open(tmp_path, os.O_RDONLY)
    os.dup2(other, number)
    log.close()
    for each in {number, other}:
        os.close(each)  # raises an error if the sealer has closed it


def damage_state(path: Path) -> None:
    (folder(path) / "state").write_text("{")


def remove_state(path: Path) -> None:
    (folder(path) / "state").unlink()


def put_wrong_state(path: Path) -> None:
    wrong = SealState(5, 0, 0, 0, 0, 0)
    (folder(path) / "state").write_bytes(msgspec.json.encode(wrong))


def empty_tiles(path: Path) -> None:
    """Empty the files whose content was not on disk at a power failure."""
    for tile in (folder(path) / "tile").rglob("*.p/*"):
        tile.write_bytes(b"")


def change_tiles(path: Path) -> None:
    for tile in (folder(path) / "tile/0").rglob("*.p/*"):
        tile.write_bytes(bytes(len(tile.read_bytes())))


def lose_full_tiles(path: Path) -> None:
    """Lose the files that were written shortly before a power failure."""
    (folder(path) / "tile/0/000").write_bytes(b"")
    (folder(path) / "tile/entries/001").unlink()


@pytest.mark.parametrize(
    "damage", [damage_state, lose_full_tiles, remove_state, put_wrong_state, empty_tiles, change_tiles]
)
def test_a_damaged_folder_is_built_again_from_the_lines(path, damage):
    sealed_log(path, 700)
    before = checkpoint_of(path)
    damage(path)
    log = open_sealed(path)
    write_lines(log, 1, begin=700)
    log.seal()
    log.close()
    assert (verified(path, before).size, problems(path, before)) == (701, [])


@pytest.mark.usefixtures("finished_at_once")
@pytest.mark.parametrize("with_empty_file", [False, True])
def test_a_damaged_folder_is_built_again_although_the_first_files_were_deleted(path, with_empty_file):
    log = open_sealed(path)
    for begin in range(0, 900, 300):
        write_lines(log, 300, begin=begin)
        last = rotate(path, log)
        log.seal()
    first = log_files(path)[0]
    assert log._delete(first)
    write_lines(log, 10, begin=900)
    log.close()
    assert last.exists()
    damage_state(path)
    if with_empty_file:
        empty = path.with_name("decisions.jsonl.9")
        empty.touch()
        os.utime(empty, (0, 0))
        assert log_files(path)[0] == empty
    log = open_sealed(path)
    write_lines(log, 1, begin=910)
    log.close()
    result = verified(path)
    assert (result.problems, result.deleted, result.size) == ([], 300, 912)


def rotate_by_number(path: Path, log) -> None:
    path.rename(path.with_name(f"{path.name}.1"))
    log.reopen()


def copy_log(path: Path) -> Path:
    """Copy a log with its seal, as `cp -r` does: all files have new times, in another order."""
    copy = path.parent / "copy"
    shutil.copytree(folder(path), folder(copy / path.name), copy_function=shutil.copyfile)
    folder(copy / path.name).chmod(0o700)
    for number, file in enumerate([path.with_name(f"{path.name}.key"), *reversed(log_files(path))]):
        shutil.copyfile(file, copy / file.name)
        os.utime(copy / file.name, (2_000_000_000 + number,) * 2)
    (copy / f"{path.name}.key").chmod(0o600)
    return copy / path.name


@pytest.mark.usefixtures("finished_at_once")
def test_another_file_with_the_inode_of_a_watched_file_has_no_late_lines(path):
    """Compressing rotated files frees their inodes, which the system gives to other files."""
    log = open_sealed(path)
    for begin in (0, 30):
        write_lines(log, 3 + begin, begin=begin)
        other = rotate(path, log)
        write_lines(log, 1, begin=100 + begin)
        log.seal()
    log.close()
    state = folder(path) / "state"
    saved = msgspec.json.decode(state.read_bytes(), type=SealState)
    [first, *_] = saved.late
    mark = msgspec.structs.replace(first, device=other.stat().st_dev, inode=other.stat().st_ino)
    state.write_bytes(msgspec.json.encode(msgspec.structs.replace(saved, late=(mark,))))
    log = open_sealed(path)
    write_lines(log, 1, begin=200)
    log.seal()
    log.close()
    result = verified(path)
    assert (result.late, result.problems) == (0, [])


@pytest.mark.usefixtures("finished_at_once")
@pytest.mark.parametrize("damage", [damage_state, lose_full_tiles, remove_state, empty_tiles, change_tiles])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_damaged_folder_of_a_copied_log_is_built_again(path, damage, is_late):
    """The first file was rotated by logrotate, the second one by the server. Late lines of the first file are sealed by
    a statement in the last file."""
    log = open_sealed(path)
    for turn in (rotate_by_number, rotate):
        write_lines(log, 300, begin=300 * (turn is rotate))
        assert log.seal()
        turn(path, log)
        log.seal()
    write_lines(log, 200, begin=600)
    assert log.seal()
    if is_late:
        with path.with_name(f"{path.name}.1").open("ab") as file:
            file.write(b'{"v":1,"time":"2027-01-15T08:00:00.000000Z","issued":{}}\n')
        assert log.seal()
    log.close()
    copy = copy_log(path)
    assert [file.name for file in log_files(copy)] == [file.name for file in log_files(path)]
    assert problems(copy) == []
    before = checkpoint_of(copy)
    damage(copy)
    log = open_sealed(copy)
    write_lines(log, 1, begin=800)
    assert log.seal()
    log.close()
    result = verified(copy, before)
    assert (result.size, result.late, result.problems) == (801 + is_late, int(is_late), [])


@pytest.mark.usefixtures("finished_at_once")
def test_a_folder_with_damaged_starts_of_files_is_built_again(path):
    log = open_sealed(path)
    for begin in (0, 300):
        write_lines(log, 300, begin=begin)
        log.seal()
        rotate(path, log)
    write_lines(log, 1, begin=600)
    log.close()
    damage_state(path)
    starts = folder(path) / "starts"
    starts.write_bytes((200).to_bytes(8).join((bytes(8), starts.read_bytes()[16:])))
    log = open_sealed(path)
    write_lines(log, 1, begin=601)
    assert [log.seal(), log.seal()] == [False, True]
    log.close()
    assert (verified(path).size, problems(path)) == (602, [])


def test_changed_lines_are_not_signed_again(path, caplog):
    sealed_log(path, 10)
    before = checkpoint_of(path)
    damage_state(path)
    path.write_bytes(path.read_bytes().replace(b"t3", b"t9"))
    log = open_sealed(path)
    write_lines(log, 1)
    log.close()
    assert (
        f"the lines of `{path}` do not lead to its checkpoint: `policyengine audit verify` shows where" in caplog.text
    )
    assert checkpoint_of(path) == before


def test_fewer_lines_than_the_checkpoint_are_not_signed_again(path, caplog):
    sealed_log(path, 10)
    before = checkpoint_of(path)
    damage_state(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    log = open_sealed(path)
    write_lines(log, 1)
    log.close()
    assert f"`{path}` has fewer lines than its checkpoint" in caplog.text
    assert checkpoint_of(path) == before


def test_a_log_that_does_not_fit_its_checkpoint_is_not_read_again_at_once(path, monkeypatch):
    sealed_log(path, 10)
    damage_state(path)
    path.write_bytes(path.read_bytes().replace(b"t3", b"t9"))
    runs = []
    begin = seal_run.SealRun._begin
    monkeypatch.setattr(seal_run.SealRun, "_begin", lambda self: (runs.append(1), begin(self))[1])
    log = open_sealed(path)
    write_lines(log, 1)
    for _ in range(5):
        assert not log.seal()
    assert len(runs) == 2
    log.close()


def test_a_long_log_is_sealed_in_several_steps(path, monkeypatch):
    log = open_sealed(path)
    write_lines(log, 2_000)
    monkeypatch.setattr(seal_run, "CHUNK_BYTES", 32_768)
    monkeypatch.setattr(sealer, "ADVANCE_SECONDS", 0.0)
    sizes = []
    for _ in range(20):
        log.seal()
        sizes.append(checkpoint_of(path).size if (folder(path) / "checkpoint").exists() else 0)
    assert 0 <= sizes[0] < 2_000
    log.close()
    assert (verified(path).size, problems(path)) == (2_000, [])


def test_a_process_does_not_wait_long_for_the_rest_of_a_log_when_it_ends(path, monkeypatch):
    monkeypatch.setattr(sealer, "WAIT_SECONDS", 0.0)
    log = open_sealed(path)
    write_lines(log, 2_000)
    log.close()
    monkeypatch.undo()
    log = open_sealed(path)
    write_lines(log, 1, begin=2_000)
    log.close()
    assert (verified(path).size, problems(path)) == (2_001, [])


# ── Processes ─────────────────────────────────────────────────────────────────────────────────


def test_one_process_at_a_time_seals(path):
    one, two = open_sealed(path), open_sealed(path)
    write_lines(one, 3)
    write_lines(two, 3, begin=3)
    assert one.seal()
    assert not two.seal()
    one.close()
    assert two.seal()
    two.close()
    assert (verified(path).size, problems(path)) == (6, [])


def test_forked_workers_seal_what_all_of_them_wrote(path):
    log = open_sealed(path)
    write_lines(log, 2)
    log.seal()
    pids = []
    for worker in range(3):
        if (pid := os.fork()) == 0:
            try:
                write_lines(log, 50, begin=100 * worker)
                log.close()
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    log.close()
    assert (verified(path).size, problems(path)) == (152, [])


def test_a_process_that_holds_the_lock_and_does_not_seal_is_reported(path, caplog):
    one, two = open_sealed(path), open_sealed(path)
    write_lines(one, 3)
    assert one.seal()
    write_lines(two, 3, begin=3)
    for file, age in ((folder(path) / "checkpoint", 200.0), (path, 100.0)):
        os.utime(file, (time.time() - age,) * 2)
    for _ in range(3):
        assert not two.seal()
    assert caplog.text.count("another process holds") == 1
    one.close()
    two.close()


def test_the_lock_of_a_killed_process_is_free(path):
    if (pid := os.fork()) == 0:
        log = open_sealed(path)
        write_lines(log, 5)
        log.seal()
        write_lines(log, 5, begin=5)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert (verified(path).size, verified(path).unsealed) == (5, 5)
    log = open_sealed(path)
    write_lines(log, 1, begin=10)
    log.close()
    assert (verified(path).size, problems(path)) == (11, [])
