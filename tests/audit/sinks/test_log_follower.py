"""Following a log: every complete line once, through everything that happens to its files."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.audit.sinks import cursor, log_follower
from policyengine.audit.sinks.cursor import CursorError, cursor_path, measure_lag, read_cursor
from policyengine.audit.sinks.log_follower import LineRange, LogFollower
from tests.audit.sinks.lines import DIRECTORY, Clock, append, begin, decision, ids, numbered

LATER = 10.0  # seconds after which a rotated file is finished


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sinks"


class Following:
    """A follower whose process may be killed and started again."""

    def __init__(self, log: Path, folder: Path) -> None:
        self.log, self.folder, self.clock = log, folder, Clock()
        self.settle()
        self.follower = LogFollower(log, folder, "s", self.clock)

    def settle(self) -> None:
        """Let all rotated files be finished."""
        newest = max((path.stat().st_ctime for path in self.log.parent.iterdir()), default=0.0)
        self.clock.now = newest + LATER

    def restart(self) -> None:
        self.follower.close()
        self.follower = LogFollower(self.log, self.folder, "s", self.clock)

    def take(self, most: int = 100, most_bytes: int = 1 << 20) -> list[bytes]:
        """Return the lines of one read, and commit them."""
        found = self.follower.read(most, most_bytes)
        if found is None:
            return []
        self.follower.commit(found, len(found.lines))
        return list(found.lines)

    def rest(self) -> list[bytes]:
        self.settle()
        lines: list[bytes] = []
        while some := self.take():
            lines += some
        return lines

    @property
    def lost(self) -> int:
        return self.follower.cursor.lost


@pytest.fixture
def following(log: Path, folder: Path) -> Iterator[Following]:
    begin(log, folder)
    found = Following(log, folder)
    yield found
    found.follower.close()


def rotate(log: Path, name: str = "20270115T080000.000000Z") -> Path:
    return log.rename(log.with_name(f"{log.name}.{name}"))


def test_new_lines_are_read_once(log, following):
    append(log, decision(1), decision(2))
    assert ids(following.take()) == numbered(1, 2)
    assert following.take() == []
    append(log, decision(3))
    assert ids(following.take()) == numbered(3)


def test_a_new_sink_begins_at_the_end_of_the_log(log, folder):
    append(log, DIRECTORY, decision(1))
    begin(log, folder)
    append(log, decision(2))
    following = Following(log, folder)
    assert ids(following.rest()) == numbered(2)
    following.follower.close()


def test_a_restart_continues_behind_the_last_committed_line(log, following):
    append(log, decision(1), decision(2))
    assert ids(following.take(1)) == numbered(1)
    assert following.follower.read(10, 1 << 20) is not None  # not committed
    following.restart()
    assert ids(following.take()) == numbered(2)


def test_a_line_is_read_when_it_is_complete(log, following):
    whole = decision(1)
    append(log, whole[:20])
    assert following.take() == []
    append(log, whole[20:])
    assert ids(following.take()) == numbered(1)


@pytest.mark.parametrize("most_bytes", [10, 700, 1 << 20])
def test_a_line_longer_than_a_batch_is_read_whole(log, following, most_bytes):
    append(log, decision(1, note="x" * 600_000), decision(2))
    assert ids(line for _ in range(2) for line in following.take(1, most_bytes)) == numbered(1, 2)


def test_a_line_that_is_too_long_is_lost(log, following, monkeypatch):
    monkeypatch.setattr(log_follower, "MAX_LINE_BYTES", 300_000)
    append(log, decision(1, note="x" * 400_000), decision(2))
    found = following.follower.read(10, 1 << 20)
    assert found == LineRange([b""], len(decision(1, note="x" * 400_000)), lost=True)
    following.follower.commit(found, 0, 1)
    following.restart()
    assert ids(following.take()) == numbered(2)


def test_entity_rows_that_are_too_long_are_no_loss(log, following, monkeypatch):
    monkeypatch.setattr(log_follower, "MAX_LINE_BYTES", 300_000)
    append(log, b'{"v":1,"directory":"' + b"x" * 400_000 + b'"}\n', decision(2))
    assert not following.follower.read(10, 1 << 20).lost
    following.take()
    assert ids(following.take()) == numbered(2)


# ── Rotation ──────────────────────────────────────────────────────────────────────────────────


def test_a_rotated_file_is_read_to_its_end_first(log, following):
    append(log, decision(1), decision(2))
    assert ids(following.take(1)) == numbered(1)
    rotate(log)
    append(log, decision(3))
    assert ids(following.rest()) == numbered(2, 3)


def test_a_rotated_file_is_left_after_its_last_writer(log, following):
    append(log, decision(1))
    assert ids(following.take()) == numbered(1)
    old = rotate(log)
    append(log, decision(3))
    following.clock.now = old.stat().st_ctime + 1
    assert following.take() == []
    append(old, decision(2))
    assert ids(following.rest()) == numbered(2, 3)


@pytest.mark.parametrize("how", ["the clock is set back", "somebody writes to it"])
def test_a_rotated_file_is_left_although_it_never_seems_finished(log, following, monkeypatch, how):
    now = [1_000.0]
    monkeypatch.setattr(log_follower, "monotonic", lambda: now[0])
    append(log, decision(1))
    assert ids(following.take()) == numbered(1)
    old = rotate(log)
    append(log, decision(2))
    following.clock.now = 0.0
    found: list[bytes] = []
    for _ in range(20):
        if how == "somebody writes to it":
            with old.open("ab") as file:
                file.write(b"\n")
        found += [line for line in [*following.take(), *following.take()] if line]
        now[0] += 2
    assert ids(found) == numbered(2)


@pytest.mark.parametrize("restarts", [False, True])
def test_the_files_before_one_that_was_removed_are_not_sent_again(log, following, restarts):
    for number in (1, 2):
        append(log, decision(number))
        rotate(log, f"2027011{number}T080000.000000Z")
    append(log, decision(3))
    assert ids(following.rest()) == numbered(1, 2, 3)
    log.rename(log.with_name("moved"))
    append(log, decision(4))
    if restarts:
        following.restart()
    assert ids(following.rest()) == numbered(4)


def test_a_line_that_is_written_to_a_left_file_is_read(log, following):
    append(log, decision(1))
    old = rotate(log)
    append(log, decision(2))
    assert ids(following.rest()) == numbered(1, 2)
    append(old, decision(3))
    assert ids(following.rest()) == numbered(3)
    assert following.rest() == []


def test_the_half_of_a_line_in_a_rotated_file_is_skipped(log, following):
    append(log, decision(1), decision(9)[:30])
    rotate(log)
    append(log, decision(2))
    assert ids(following.rest()) == numbered(1, 2)


@pytest.mark.parametrize("restarts", [False, True])
def test_several_rotations_and_compression_lose_nothing(log, following, restarts):
    append(log, decision(1), decision(2))
    following.take(1)
    for number in (3, 4, 5):
        old = rotate(log, f"20270115T08000{number}.000000Z")
        with gzip.open(f"{old}.gz", "wb") as packed:
            packed.write(old.read_bytes())
        old.unlink()
        append(log, decision(number))
    if restarts:
        following.restart()
    assert ids(following.rest()) == numbered(2, 3, 4, 5)
    assert following.lost == 0


@pytest.mark.parametrize("restarts", [False, True])
def test_logrotate_may_rename_and_compress(log, following, restarts):
    append(log, decision(1), decision(2))
    following.take(1)
    log.rename(log.with_name(f"{log.name}.1"))
    append(log, decision(3))
    with gzip.open(log.with_name(f"{log.name}.2.gz"), "wb") as packed:
        packed.write(log.with_name(f"{log.name}.1").read_bytes())
    os.utime(log.with_name(f"{log.name}.2.gz"), (1, 1))
    log.with_name(f"{log.name}.1").unlink()
    log.rename(log.with_name(f"{log.name}.1"))
    append(log, decision(4))
    if restarts:
        following.restart()
    assert ids(following.rest()) == numbered(2, 3, 4)


@pytest.mark.parametrize("restarts", [False, True])
def test_logrotate_may_copy_and_truncate(log, following, restarts):
    append(log, decision(1), decision(2), decision(3))
    following.take(1)
    shutil.copy2(log, log.with_name(f"{log.name}.1"))
    log.write_bytes(b"")
    append(log, decision(4))
    if restarts:
        following.restart()
    assert ids(following.rest()) == numbered(2, 3, 4)


def test_a_file_that_lost_its_end_is_sent_again(log, following, caplog):
    append(log, decision(1), decision(2))
    following.take()
    log.write_bytes(decision(1) + decision(3))  # after a power failure, with a new line
    following.restart()
    assert ids(following.rest())[-1:] == numbered(3)


def test_a_rotation_while_the_files_are_listed_skips_no_file(log, following, monkeypatch):
    append(log, decision(1))
    following.take()
    rotate(log, "20270115T080001.000000Z")
    append(log, decision(2))
    following.settle()
    listed = cursor.log_files

    def rotated_meanwhile(path: Path) -> list[Path]:
        files = listed(path)
        if len(list(path.parent.glob("*Z"))) == 1:
            rotate(log, "20270115T080002.000000Z")
            append(log, decision(3))
        return files

    monkeypatch.setattr(cursor, "log_files", rotated_meanwhile)
    assert ids(following.rest()) == numbered(2, 3)


def test_a_rotation_between_listing_and_opening_skips_no_file(log, following, monkeypatch):
    append(log, decision(1))
    following.take()
    rotate(log, "20270115T080001.000000Z")
    append(log, decision(2))
    following.settle()
    opened = log_follower.open_plain

    def rotated_before(path: Path) -> int:
        if path == log and len(list(path.parent.glob("*Z"))) == 1:
            rotate(log, "20270115T080002.000000Z")
            append(log, decision(3))
        return opened(path)

    monkeypatch.setattr(log_follower, "open_plain", rotated_before)
    with pytest.raises(FileNotFoundError, match="it was renamed"):
        following.take()
    assert ids(following.rest()) == numbered(2, 3)


# ── Loss ──────────────────────────────────────────────────────────────────────────────────────


def delete_rotated(log: Path) -> None:
    for path in log.parent.glob(f"{log.name}.2*"):
        path.unlink()


def test_lines_of_deleted_files_are_counted_as_lost(log, following):
    append(log, decision(1), decision(2))
    following.take(1)
    rotate(log, "20270115T080001.000000Z")
    append(log, decision(3), decision(4))
    rotate(log, "20270115T080002.000000Z")
    append(log, decision(5))
    following.follower.survey()
    delete_rotated(log)
    assert ids(following.rest()) == numbered(2, 5)  # the open file can still be read
    assert following.lost == 2


def test_lines_of_files_that_were_deleted_before_a_restart_are_counted_as_lost(log, following):
    append(log, decision(1), decision(2))
    following.take(1)
    rotate(log, "20270115T080001.000000Z")
    append(log, decision(3), decision(4))
    rotate(log, "20270115T080002.000000Z")
    append(log, decision(5))
    following.follower.survey()
    following.follower.close()
    delete_rotated(log)
    following.restart()
    assert following.lost == 3
    assert ids(following.rest()) == numbered(5)


def test_a_loss_of_unknown_size_counts_at_least_one_line(log, following):
    append(log, decision(1))
    following.take()
    following.follower.close()
    log.unlink()
    append(log, decision(2))
    following.restart()
    assert following.lost == 1
    assert ids(following.rest()) == numbered(2)


def test_skipping_a_file_counts_its_unsent_lines(log, following):
    append(log, decision(1), decision(2), decision(3))
    following.take(1)
    assert following.follower.skip_file() == 0  # it is still written to
    rotate(log)
    append(log, decision(4))
    assert following.follower.skip_file() == 2
    assert following.lost == 2
    assert ids(following.rest()) == numbered(4)


def test_a_survey_counts_each_file_once(log, following):
    append(log, decision(1))
    rotate(log)
    append(log, decision(2))
    following.follower.survey()
    before = following.follower.cursor
    following.follower.survey()
    assert following.follower.cursor is before
    assert [(each.name, each.lines) for each in before.pending] == [(f"{log.name}.20270115T080000.000000Z", 1)]


# ── Lag and cursors ───────────────────────────────────────────────────────────────────────────


def test_the_lag_is_what_is_not_sent(log, folder, following):
    append(log, decision(1), decision(2))
    following.take(1)
    assert measure_lag(log, read_cursor(folder, "s")) == len(decision(2))
    rotate(log)
    append(log, decision(3))
    assert measure_lag(log, read_cursor(folder, "s")) == len(decision(2)) + len(decision(3))
    following.rest()
    assert measure_lag(log, read_cursor(folder, "s")) == 0


def test_a_damaged_cursor_is_reported(log, folder):
    begin(log, folder)
    cursor_path(folder, "s").write_bytes(b"{")
    with pytest.raises(CursorError, match=r"` is damaged: delete it, and the sink begins at the end of the log$"):
        LogFollower(log, folder, "s")


def test_a_cursor_that_cannot_be_written_whole_stays_as_it_was(log, folder, following, monkeypatch):
    append(log, decision(1))
    found = following.follower.read(10, 1 << 20)
    before = cursor_path(folder, "s").read_bytes()
    monkeypatch.setattr(os, "write", lambda file, raw: len(raw) - 1)
    with pytest.raises(CursorError, match=r"` cannot be written: no space left on device$"):
        following.follower.commit(found, 1)
    monkeypatch.undo()
    assert cursor_path(folder, "s").read_bytes() == before
    following.restart()
    assert ids(following.take()) == numbered(1)


def test_a_file_that_was_compressed_is_continued_although_the_next_one_begins_with_the_same_line(
    log, folder, following
):
    append(log, DIRECTORY, decision(1))
    assert len(following.take(1)) == 1
    rotate(log, "20270115T080001.000000Z")
    [rotated] = log.parent.glob("*.jsonl.*Z")
    with gzip.open(f"{rotated}.gz", "wb") as packed:
        packed.write(rotated.read_bytes())
    rotated.unlink()
    log.touch()
    append(log, DIRECTORY, decision(2))
    following.settle()
    following.restart()
    assert ids(line for line in following.rest() if line + b"\n" != DIRECTORY) == numbered(1, 2)
    assert following.lost == 0


STEPS = st.lists(
    st.sampled_from(["write", "write", "read", "half read", "rotate", "compress", "restart", "tear"]), max_size=30
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_every_line_arrives_in_order(tmp_path_factory, steps):
    tmp = tmp_path_factory.mktemp("log")
    log, folder = tmp / "d.jsonl", tmp / "sinks"
    begin(log, folder)
    following, written, rotations, got = Following(log, folder), 0, 0, list[str]()
    for step in steps:
        match step:
            case "write":
                written += 1
                append(log, decision(written))
            case "tear":
                append(log, decision("X")[:25], b"\n")
            case "read" | "half read":
                got += ids(line for line in following.take(1 if step == "half read" else 100) if line.endswith(b"}"))
            case "rotate" if log.stat().st_size:
                rotations += 1
                rotate(log, f"20270115T0800{rotations:02}.000000Z")
                log.touch()
                following.settle()
            case "compress" if files := sorted(tmp.glob("d.jsonl.*Z")):
                with gzip.open(f"{files[0]}.gz", "wb") as packed:
                    packed.write(files[0].read_bytes())
                files[0].unlink()
                following.settle()
            case "restart":
                following.restart()
    got += ids(line for line in following.rest() if line.endswith(b"}"))
    following.follower.close()
    assert got == numbered(*range(1, written + 1))
    assert following.lost == 0
