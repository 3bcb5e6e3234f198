"""Changes without a restart: a changed file takes effect as a whole, a bad one not at all."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from policyengine.engine import Engine
from policyengine.entities.sources import EntitySources
from policyengine.entities.watch import EntityWatcher
from tests.entities.conftest import sqlite_of
from tests.entities.shop import ENTITIES, POLICY, READ, SQL, USER, asking, mapped, tables


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def followed(sources: EntitySources, clock: Clock) -> tuple[Engine, EntityWatcher]:
    stamp = sources.stamp()
    engine = Engine.from_text(POLICY, directory=sources.read(ENTITIES))
    return engine, Looking(sources, lambda: engine, stamp=stamp, clock=clock)


class Looking(EntityWatcher):
    """Looks twice, as what has changed is read when it stays as it is."""

    def look(self) -> bool:
        return super().look() or super().look()


@pytest.fixture
def folder(tmp_path):
    return tables(tmp_path / "csv")


def test_only_a_changed_entity_file_is_reloaded(folder):
    engine, following = followed(EntitySources((folder,)), Clock())
    before = engine.directory
    assert not following.look()
    assert engine.directory is before
    (folder / "user.csv").write_text(USER.replace("alice,emea", "alice,company"))
    assert engine.decide(READ).allowed
    assert following.look()
    assert not engine.decide(READ).allowed
    assert not following.look()


def test_a_replaced_file_of_the_same_size_and_time_is_detected(folder):
    engine, following = followed(EntitySources((folder,)), Clock())
    file, other = folder / "user.csv", folder / "new"
    other.write_text(USER.replace("alice,emea", "alice,emeb"))
    seen = file.stat()
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_size == seen.st_size
    assert following.look()
    assert not engine.decide(READ).allowed


def test_a_new_table_in_a_watched_folder_is_loaded(folder):
    (folder / "invoice.csv").rename(folder / "invoice.txt")
    engine, following = followed(EntitySources((folder,)), Clock())
    assert not engine.decide(READ).allowed
    (folder / "invoice.txt").rename(folder / "invoice.csv")
    assert following.look()
    assert engine.decide(READ).allowed


@pytest.mark.parametrize("bad", ["id,id\n", "id,plan\nalice,gold\n", 'id,roles\na,"\n', None])
def test_an_invalid_entity_file_is_refused_and_the_last_good_one_stays(folder, bad, caplog):
    engine, following = (
        followed(EntitySources((folder, folder / "user.csv") if bad is None else (folder,)), Clock())
        if (bad is not None)
        else followed(EntitySources((folder / "user.csv", folder / "team.csv", folder / "invoice.csv")), Clock())
    )
    before = engine.directory
    if bad is None:
        (folder / "user.csv").unlink()
    else:
        (folder / "user.csv").write_text(bad)
    with caplog.at_level(logging.WARNING, logger="policyengine"):
        assert not following.look()
        assert not following.look()
    assert (engine.directory is before, following.refused) == (True, 1)
    assert engine.decide(READ).allowed
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"the entities were not reloaded, and the previous ones stay in use: `{folder / 'user.csv'}")
    (folder / "user.csv").write_text(USER + "dora,legal,,,\n")
    assert following.look()
    assert engine.decide(asking("/v1/invoices/42", "dora")).allowed


def test_a_change_between_loading_and_watching_is_detected(folder):
    sources = EntitySources((folder,))
    stamp = sources.stamp()
    engine = Engine.from_text(POLICY, directory=sources.read(ENTITIES))
    (folder / "user.csv").write_text(USER + "dora,legal,,,\n")
    following = Looking(sources, lambda: engine, stamp=stamp)
    assert following.look()
    assert engine.decide(asking("/v1/invoices/42", "dora")).allowed


def test_a_loaded_database_is_reloaded_after_the_refresh_interval(tmp_path):
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install '.[sql]'")
    url = sqlite_of(tmp_path / "shop.db", SQL)
    file = mapped(tmp_path, url, **{"[directory]": '[directory]\nrefresh = "60s"'})
    clock = Clock()
    engine, following = followed(EntitySources((file,)), clock)
    sqlite_of(tmp_path / "shop.db", SQL.replace("('alice', 'emea')", "('alice', 'company')"))
    clock.now = 59
    assert not following.look()
    assert engine.decide(READ).allowed
    clock.now = 60
    assert following.look()
    assert not engine.decide(READ).allowed
    (tmp_path / "shop.db").unlink()
    clock.now = 120
    assert not following.look()
    assert len(engine.directory) == 8


def test_the_watcher_thread_polls_until_it_is_stopped(folder, monkeypatch):
    from policyengine.entities import watch as module

    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    seen = threading.Event()
    engine = Engine.from_text(POLICY)
    monkeypatch.setattr(engine, "replace_directory", lambda directory: seen.set())
    others = {*threading.enumerate()}
    following = EntityWatcher(EntitySources((folder,)), lambda: engine, stamp=()).started()
    [thread] = {*threading.enumerate()} - others
    assert seen.wait(10)
    following.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_a_watcher_catches_up_before_the_first_decision(folder, monkeypatch):
    from policyengine.entities import watch as module

    sources = EntitySources((folder,))
    engine = Engine.from_text(POLICY, directory=sources.read(ENTITIES))
    following, before = EntityWatcher(sources, lambda: engine), engine.directory
    following.catch_up()
    assert engine.directory is before
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    (folder / "user.csv").write_text(USER.replace("alice,emea", "alice,company"))
    following.catch_up()
    assert not engine.decide(READ).allowed
    (folder / "user.csv").write_text("id,id\n")
    following.catch_up()
    assert following.refused == 1


def test_a_watcher_that_catches_up_does_not_wait_for_files_that_keep_changing(folder, monkeypatch):
    from policyengine.entities import watch as module

    stamps = iter(range(1_000))
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(EntitySources, "stamp", lambda _: next(stamps))
    engine = Engine.from_text(POLICY)
    EntityWatcher(EntitySources((folder,)), lambda: engine).catch_up()
    assert len(engine.directory) == 0


def test_a_file_being_written_is_reloaded_only_once_it_is_stable(folder):
    sources = EntitySources((folder,))
    engine = Engine.from_text(POLICY, directory=sources.read(ENTITIES))
    following, before = EntityWatcher(sources, lambda: engine), engine.directory
    for text in (USER[:20], USER[:40], USER):
        (folder / "user.csv").write_text(text)
        assert not following.look()
    assert engine.directory is before
    assert following.look()


def test_a_watcher_without_files_ignores_changed_files(folder):
    sources = EntitySources((folder,))
    engine = Engine.from_text(POLICY, directory=sources.read(ENTITIES))
    following = EntityWatcher(sources, lambda: engine, files=False)
    (folder / "user.csv").write_text("id\n")
    assert not following.look()
    assert not following.look()


def test_a_table_that_lost_all_rows_is_refused_until_allowed(folder, caplog):
    sources, allowed = EntitySources((folder,)), []
    stamp = sources.stamp()
    engine = Engine.from_text(POLICY, directory=sources.read(ENTITIES))
    following = Looking(sources, lambda: engine, stamp=stamp, clock=Clock(), may_lose=lambda: bool(allowed))
    before, header = engine.directory, USER.splitlines()[0]
    (folder / "user.csv").write_text(f"{header}\n")
    assert not following.look()
    assert (engine.directory, following.refused) == (before, 1)
    assert "every row of `user` would be removed" in caplog.text
    allowed.append(True)
    (folder / "user.csv").write_text(f"{header}\n\n")
    assert following.look()
    assert not any(row.ref.type == "user" for row in engine.directory)


def test_a_file_that_lost_most_rows_is_refused(tmp_path, caplog):
    """`not resource is known` would become true of what is there."""
    rows = [f'{{"type": "user", "id": "{number}"}}\n' for number in range(50)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(rows))
    sources = EntitySources((file,))
    stamp = sources.stamp()
    engine = Engine.from_text(POLICY, directory=sources.read(ENTITIES))
    following = Looking(sources, lambda: engine, stamp=stamp, clock=Clock())
    file.write_text("".join(rows[:20]))
    assert not following.look()
    assert "30 of 50 rows of `user` would be removed" in caplog.text
    assert len(engine.directory) == 50
    file.write_text("".join(rows[:30]))
    assert following.look()


def test_a_file_that_changes_while_it_is_read_is_not_used(folder, monkeypatch, caplog):
    from policyengine.entities import csv_files as reading

    engine, following = followed(EntitySources((folder,)), Clock())
    records = reading.CsvReader.records

    def slow(lines):
        (folder / "user.csv").write_text(USER + "\n")
        return records(lines)

    before = engine.directory
    (folder / "user.csv").write_text(USER.replace("alice,emea", "alice,company"))
    monkeypatch.setattr(reading.CsvReader, "records", slow)
    assert not following.look()
    assert engine.directory is before
    assert "this file changed while it was being read" in caplog.text
