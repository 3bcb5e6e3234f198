"""When files are read again: whole, once they stay as they are, however they came there. No test waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from policyengine.engine import Engine
from policyengine.entities.sources import EntitySources
from policyengine.reload import Candidate, ReloadableEngine, ReloadRefusedError, ReloadSource, prepare_candidate
from policyengine.reload.scheduler import LOOK_SECONDS, MAX_TRIES, PolicyFileWatcher, ReloadScheduler
from tests.reload.conftest import OPEN, QUIET, SHUT


class Preparing:
    """Counts how often it is read; `during` happens once while it is."""

    def __init__(self) -> None:
        self.times = 0
        self.during: Callable[[], object] = lambda: None

    def __call__(self, origin: ReloadSource) -> Candidate:
        self.times += 1
        try:
            return prepare_candidate(origin)
        finally:
            self.during()


@pytest.fixture
def preparing() -> Preparing:
    return Preparing()


def held_of(*paths: Path, **more: object) -> ReloadableEngine:
    return ReloadableEngine(Engine.load(*paths), ReloadSource(paths, **more), lambda: QUIET)  # type: ignore[arg-type]


@pytest.fixture
def held(folder: Path) -> ReloadableEngine:
    return held_of(folder)


@pytest.fixture
def attempts(held: ReloadableEngine, preparing: Preparing) -> ReloadScheduler:
    return ReloadScheduler(held, True, preparing)


def looks(attempts: ReloadScheduler, times: int = 2) -> list[bool]:
    """Whether there was something to take at each look."""
    return [attempts.candidate() is not None for _ in range(times)]


def test_unchanged_files_are_not_read_again(attempts: ReloadScheduler, preparing: Preparing) -> None:
    assert (looks(attempts, 5), preparing.times) == ([False] * 5, 0)


def test_a_change_is_read_once_after_it_settled(attempts: ReloadScheduler, folder: Path, preparing: Preparing) -> None:
    (folder / "shop.policy").write_text(SHUT)
    assert (looks(attempts, 4), preparing.times) == ([False, True, False, False], 1)


def test_a_file_is_not_read_while_it_keeps_changing(
    attempts: ReloadScheduler, folder: Path, preparing: Preparing
) -> None:
    for cut in range(10, len(SHUT), 10):
        (folder / "shop.policy").write_text(SHUT[:cut])
        assert looks(attempts, 1) == [False]
    (folder / "shop.policy").write_text(SHUT)
    assert (looks(attempts), preparing.times) == ([False, True], 1)


def test_editor_backup_files_are_ignored_and_a_rename_is_a_change(attempts: ReloadScheduler, folder: Path) -> None:
    (folder / ".shop.policy.swp").write_text("nonsense")
    (folder / "shop.policy~").write_text("nonsense")
    assert looks(attempts) == [False, False]
    (folder / "4913").write_text(SHUT)
    (folder / "4913").rename(folder / "shop.policy")
    assert looks(attempts) == [False, True]


def test_an_added_or_removed_file_is_a_change(attempts: ReloadScheduler, folder: Path) -> None:
    (folder / "more.policy").write_text("package more\nanyone { may GET /more }\n")
    assert looks(attempts) == [False, True]
    (folder / "more.policy").unlink()
    assert looks(attempts) == [False, True]


def test_removing_all_files_is_rejected_and_the_engine_stays(
    attempts: ReloadScheduler, folder: Path, held: ReloadableEngine
) -> None:
    before = held.current
    (folder / "shop.policy").unlink()
    folder.rmdir()
    assert looks(attempts) == [False, False]
    assert held.current is before
    assert (held.reloads.refused, held.reloads.done) == (1, 0)
    folder.mkdir()
    (folder / "shop.policy").write_text(SHUT)
    assert looks(attempts) == [False, True]


def test_a_changed_file_mode_is_a_change(attempts: ReloadScheduler, folder: Path, preparing: Preparing) -> None:
    (folder / "shop.policy").chmod(0o600)
    looks(attempts)
    assert preparing.times == 1


def test_a_bad_file_is_rejected_once_and_read_again_after_a_change(
    attempts: ReloadScheduler, folder: Path, held: ReloadableEngine, preparing: Preparing
) -> None:
    (folder / "shop.policy").write_text("nonsense")
    assert (looks(attempts, 5), preparing.times) == ([False] * 5, 1)
    assert held.reloads.why is not None
    (folder / "shop.policy").write_text(SHUT)
    assert looks(attempts) == [False, True]


def test_a_kubernetes_configmap_update_is_a_change(tmp_path: Path, preparing: Preparing) -> None:
    """A mounted ConfigMap: `shop.policy` → `..data/shop.policy`, `..data` → a folder with a time as its name."""
    mounted = tmp_path / "mounted"
    for name, text in (("..2026_01", OPEN), ("..2026_02", SHUT)):
        (mounted / name).mkdir(parents=True)
        (mounted / name / "shop.policy").write_text(text)
    (mounted / "..data").symlink_to("..2026_01")
    (mounted / "shop.policy").symlink_to("..data/shop.policy")
    held = held_of(mounted)
    attempts = ReloadScheduler(held, True, preparing)
    (mounted / "..data_tmp").symlink_to("..2026_02")
    (mounted / "..data_tmp").rename(mounted / "..data")
    assert attempts.candidate() is None
    found = attempts.candidate()
    assert found is not None
    assert held.engine_of(found).revision == Engine.from_text(SHUT).revision


def test_a_change_of_entities_or_an_imported_file_is_due(tmp_path: Path, preparing: Preparing) -> None:
    (tmp_path / "main.policy").write_text("package main\nimport common\nanyone { may GET /health }\n")
    (tmp_path / "common.policy").write_text("package common\nscope reading { GET /x }\n")
    rows = tmp_path / "entities.json"
    rows.write_text('{"entities": []}')
    watch = PolicyFileWatcher(ReloadSource((tmp_path / "main.policy",), EntitySources.of(rows)))
    for file in (rows, tmp_path / "common.policy"):
        os.utime(file, ns=(1, 1))
        assert (watch.due(), watch.due()) == (False, True)
        watch.trying()
    assert not watch.due()


# ── Asked for ─────────────────────────────────────────────────────────────────────────────────


def test_reload_requests_are_merged_and_served_after_the_files_settled(
    held: ReloadableEngine, folder: Path, preparing: Preparing
) -> None:
    attempts = ReloadScheduler(held, False, preparing)
    attempts.ask()
    assert (looks(attempts), preparing.times) == ([True, False], 1)
    (folder / "shop.policy").write_text(SHUT)
    assert looks(attempts, 3) == [False, False, False]
    attempts.ask()
    attempts.ask()
    assert (looks(attempts, 1), attempts.pause) == ([False], LOOK_SECONDS)
    assert (looks(attempts), preparing.times) == ([True, False], 2)


def test_a_requested_reload_fails_when_the_files_keep_changing(
    held: ReloadableEngine, folder: Path, preparing: Preparing
) -> None:
    attempts = ReloadScheduler(held, False, preparing)
    attempts.ask()
    for number in range(MAX_TRIES + 1):
        (folder / "shop.policy").write_text(SHUT + "#" * number)
        assert looks(attempts, 1) == [False]
    assert (held.reloads.why, preparing.times) == ("the files kept changing", 0)
    assert attempts.pause is None


def test_a_reload_requested_during_a_reload_runs_after_it(
    held: ReloadableEngine, folder: Path, preparing: Preparing
) -> None:
    attempts = ReloadScheduler(held, False, preparing)
    preparing.during = attempts.ask
    attempts.ask()
    attempts.candidate()
    preparing.during = lambda: None
    attempts.candidate()
    assert (preparing.times, looks(attempts)) == (2, [False, False])


def test_a_file_changed_during_a_reload_is_read_again(
    held: ReloadableEngine, folder: Path, preparing: Preparing
) -> None:
    attempts = ReloadScheduler(held, False, preparing)
    preparing.during = lambda: (folder / "shop.policy").write_text(SHUT)
    attempts.ask()
    assert attempts.candidate() is None
    preparing.during = lambda: None
    assert attempts.pause is not None
    found = [attempts.candidate(), attempts.candidate()]
    assert (sum(one is not None for one in found), preparing.times) == (1, 2)


def test_a_bad_file_that_keeps_changing_during_reloads_is_rejected_once(
    held: ReloadableEngine, folder: Path, preparing: Preparing
) -> None:
    attempts, counts = ReloadScheduler(held, False, preparing), iter(range(1_000_000))
    preparing.during = lambda: (folder / "shop.policy").write_text(f"nonsense {'x' * next(counts)}")
    attempts.ask()
    looks(attempts, 3 * MAX_TRIES)
    assert held.reloads.refused == 1


def test_an_unchanged_candidate_is_not_returned_again(held: ReloadableEngine, preparing: Preparing) -> None:
    attempts = ReloadScheduler(held, False, preparing)
    attempts.ask()
    found = attempts.candidate()
    assert found is not None  # nobody knows yet in which words it was
    held.replace(held.engine_of(found))
    attempts.ask()
    assert attempts.candidate() is None
    assert held.reloads.done == 1


def test_restoring_the_old_text_clears_the_rejection(
    attempts: ReloadScheduler, folder: Path, held: ReloadableEngine
) -> None:
    (folder / "shop.policy").write_text(SHUT)
    looks(attempts, 1)
    found = attempts.candidate()
    assert found is not None
    held.replace(held.engine_of(found))
    (folder / "shop.policy").write_text("nonsense")
    looks(attempts)
    assert held.reloads.why is not None
    (folder / "shop.policy").write_text(SHUT)
    assert looks(attempts) == [False, False]
    assert (held.reloads.why, held.reloads.refused) == (None, 1)


def test_the_log_has_all_errors_and_the_reload_status_a_summary(
    attempts: ReloadScheduler, folder: Path, held: ReloadableEngine, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "shop.policy").write_text(OPEN + "anyone { may GET /x when nonsense }\n")
    looks(attempts)
    assert held.reloads.why == "1 error in the policies"
    assert "shop.policy:4:" in caplog.text
    assert issubclass(ReloadRefusedError, Exception)
