"""The folder of learned behavior: what is kept, what is refused, and who may save."""

import logging
import os

import pytest

from policyengine.behavior.events import ALLOWED, BehaviorEvent, Caller, RequestTags
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.folder import BehaviorFolder, BehaviorFolderError
from policyengine.behavior.row import pack_row
from policyengine.behavior.state import DAY
from policyengine.behavior.tracker import BehaviorTracker

BEGIN = 1_767_571_200_000  # 2026-01-05, in milliseconds


def settings_of(group):
    return ProfileSettings(ready_runs=1, ready_days=1)


def teach(tracker, days=3, callers=3):
    for day in range(days):
        for number in range(callers):
            for each in range(6):
                at = BEGIN + day * DAY + each * 1_000
                caller, tags = Caller("idp", f"bot-{number}"), RequestTags(tracker.tag("GET /a"), each)
                reading = tracker.read(caller, "bots", tags, at, settings_of("bots"), settings_of)
                tracker.learn(reading, ALLOWED, False, settings_of)


@pytest.fixture
def folder(tmp_path):
    tracker = BehaviorTracker.open(tmp_path / "learned")
    teach(tracker)
    tracker.close()
    return tmp_path / "learned"


def refusal(folder):
    with pytest.raises(BehaviorFolderError) as refused:
        BehaviorTracker.open(folder)
    assert refused.value.hint
    return refused.value.message


def test_rows_and_models_are_the_same_after_opening_the_folder_again(tmp_path):
    tracker = BehaviorTracker.open(tmp_path / "learned")
    teach(tracker)
    tracker.close()
    again = BehaviorTracker.open(tmp_path / "learned")
    assert {caller: pack_row(found.row) for caller, found in again.state.rows.items()} == {
        caller: pack_row(found.row) for caller, found in tracker.state.rows.items()
    }
    assert again.state.model.payload == tracker.state.model.payload
    assert again.state.model.content.tags == again.folder.key_id


def test_only_the_owner_can_read_the_folder(folder):
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("place", [0, 10, 200, -1, -40])
def test_changed_rows_are_refused(folder, place):
    raw = bytearray((folder / "rows").read_bytes())
    raw[place] ^= 1
    (folder / "rows").write_bytes(raw)
    assert refusal(folder) == f"the rows `{folder / 'rows'}` were changed, or are damaged"


@pytest.mark.parametrize("length", [0, 1, 31, 32, 100])
def test_rows_that_are_cut_off_are_refused(folder, length):
    (folder / "rows").write_bytes((folder / "rows").read_bytes()[:length])
    assert "were changed, or are damaged" in refusal(folder)


def test_a_changed_model_is_refused(folder):
    path = max((folder / "models").iterdir())
    path.write_bytes(path.read_bytes().replace(b'"runs":', b'"runs":1', 1))
    assert refusal(folder) == f"the model `{path}` cannot be used: it was not signed with this key"


def test_attack_30_an_older_model_is_refused(folder):
    """Somebody who cannot sign removes the latest model, or puts an earlier one in its place."""
    models = sorted((folder / "models").iterdir())
    if len(models) > 1:  # the thread of the tracker saved one before the end
        models[-1].write_bytes(models[0].read_bytes())
        assert "has a number that differs from its file name" in refusal(folder)
    models[-1].unlink()
    assert refusal(folder) == (f"the rows in `{folder}` are newer than its models: some are missing, or were restored")


def test_a_folder_without_its_key_is_refused(folder):
    (folder / "key").unlink()
    assert refusal(folder) == f"the key `{folder / 'key'}` is missing, and the folder is not empty"


@pytest.mark.parametrize("raw", [b"", b"zz", b"00" * 31, b"00" * 33])
def test_a_damaged_key_is_refused(folder, raw):
    (folder / "key").write_bytes(raw)
    assert refusal(folder) == f"the key `{folder / 'key'}` is damaged"


def test_a_key_that_others_can_read_is_refused(folder):
    (folder / "key").chmod(0o644)
    assert refusal(folder) == f"other users can access the key `{folder / 'key'}`"


def test_a_folder_that_others_can_write_is_refused(folder):
    folder.chmod(0o777)
    assert "others can change the learned behavior" in refusal(folder)


def test_a_pipe_in_place_of_the_rows_is_refused(folder):
    (folder / "rows").unlink()
    os.mkfifo(folder / "rows")
    assert "cannot be read" in refusal(folder)


def test_only_one_process_saves(folder, caplog):
    first, second = BehaviorTracker.open(folder), BehaviorTracker.open(folder)
    before = (folder / "rows").read_bytes()
    teach(first, days=1)
    first.keep()
    saved = (folder / "rows").read_bytes()
    teach(second, days=1, callers=1)
    with caplog.at_level(logging.WARNING):
        second.keep()
        second.keep()
    assert saved != before
    assert (folder / "rows").read_bytes() == saved
    assert [record.event for record in caplog.records] == ["behavior_not_saved"]
    first.close()
    second.close()


def test_a_full_disk_is_reported_once_and_saving_is_tried_again(folder, caplog, monkeypatch):
    tracker = BehaviorTracker.open(folder)
    teach(tracker, days=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BehaviorFolder, "save_rows", full)
    with caplog.at_level(logging.WARNING):
        tracker.keep()
        tracker.keep()
        monkeypatch.undo()
        tracker.keep()
    assert [record.event for record in caplog.records] == ["behavior_fails", "behavior_saved"]
    tracker.close()


def test_events_before_the_latest_one_do_not_turn_time_back(folder):
    tracker = BehaviorTracker.open(folder)
    caller = Caller("idp", "bot-0")
    row = tracker.state.rows[caller].row
    hour, level = row.hour, row.level_at
    tracker.state.fold(BehaviorEvent(BEGIN + DAY, caller, "bots", "GET /a", 1, ALLOWED), settings_of)
    assert (row.hour, row.level_at) == (hour, level)
    tracker.close()
