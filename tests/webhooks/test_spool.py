"""The spool survives `kill -9`, keeps its bounds, and is refused if it is not what it should be."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
from pathlib import Path

import pytest

from policyengine.webhooks.spool import (
    SpoolDamagedError,
    SpoolError,
    SpoolMessage,
    WebhookSpool,
    open_spool,
)
from tests.depth import examples, scaled
from tests.webhooks.sending import NOW, OPEN


def message(id: str, *, webhook: str = "finance", body: bytes = b"x", due: float = NOW) -> SpoolMessage:
    return SpoolMessage(id, webhook, "opened", body, due, NOW + 86_400)


def spool_at(path: Path | None, **more: int) -> WebhookSpool:
    found = WebhookSpool(path, now=lambda: NOW, **more)
    OPEN.append(found)
    return found


def ids_in(spool: WebhookSpool, webhook: str = "finance") -> list[str]:
    found = []
    while (one := spool.lease(webhook, 1e6)) is not None:
        found.append(one.id)
    return found


def test_messages_are_sent_oldest_first_and_those_of_a_webhook_only(tmp_path: Path) -> None:
    spool = spool_at(tmp_path / "spool")
    spool.add([message("a"), message("b", webhook="other"), message("c")])
    assert (ids_in(spool), ids_in(spool, "other")) == (["a", "c"], ["b"])


def test_only_one_process_gets_a_message_until_its_lease_ends(tmp_path: Path) -> None:
    first, second = spool_at(tmp_path / "spool"), spool_at(tmp_path / "spool")
    first.add([message("a")])
    assert (found := first.lease("finance", 120)) is not None
    assert second.lease("finance", 120) is None
    later = WebhookSpool(tmp_path / "spool", now=lambda: NOW + 121)
    OPEN.append(later)
    assert (leased := later.lease("finance", 120)) is not None
    assert leased.id == found.id


def test_the_same_message_is_added_once(tmp_path: Path) -> None:
    spool = spool_at(tmp_path / "spool")
    spool.add([message("a")])
    spool.add([message("a"), message("a", webhook="other")])
    assert {name: state.waiting for name, state in spool.states().items()} == {"finance": 1, "other": 1}


def test_a_full_spool_drops_the_oldest_messages(tmp_path: Path) -> None:
    spool = spool_at(tmp_path / "spool", most=3)
    assert spool.add([message("a"), message("b", webhook="other"), message("c")]) == {}
    assert spool.add([message("d"), message("e")]) == {"finance": 1, "other": 1}
    assert ids_in(spool) == ["c", "d", "e"]


def test_the_bytes_of_a_spool_are_bounded(tmp_path: Path) -> None:
    spool = spool_at(tmp_path / "spool", most_bytes=100)
    spool.add([message("a", body=b"x" * 60)])
    assert spool.add([message("b", body=b"x" * 60)]) == {"finance": 1}
    assert spool.add([message("c", body=b"x" * 101)]) == {"finance": 2}
    assert ids_in(spool) == []


def test_only_the_owner_may_read_a_spool(tmp_path: Path) -> None:
    spool_at(tmp_path / "spool").add([message("a")])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}


def test_a_removed_spool_is_begun_again(tmp_path: Path) -> None:
    spool = spool_at(tmp_path / "spool")
    spool.add([message("a")])
    for path in tmp_path.iterdir():
        path.unlink()
    spool.add([message("b")])
    assert ids_in(spool_at(tmp_path / "spool")) == ["b"]


def test_a_spool_in_memory_is_of_one_process() -> None:
    spool = spool_at(None)
    spool.add([message("a")])
    assert (ids_in(spool), ids_in(spool_at(None))) == (["a"], [])


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────────


def add_until_killed(path: Path, name: str, told: int) -> None:
    """Add messages, and acknowledge each of them through a pipe."""
    spool = WebhookSpool(path)
    for number in range(100_000):
        spool.add([message(f"{name}{number:06}")])
        os.write(told, f"{name}{number:06}".encode())


@scaled
def test_killed_processes_lose_no_acknowledged_message(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "spool", list[str]()
    names = "abcdefgh"[: examples(4, 8)]
    for name in names:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                add_until_killed(path, name, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with open(reading, "rb") as pipe:
            first = pipe.read(7 * 20)
            os.kill(child, signal.SIGKILL)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
            told = (first + pipe.read()).decode()
        acknowledged += [told[at : at + 7] for at in range(0, len(told) // 7 * 7, 7)]
    assert len(acknowledged) >= 20 * len(names)
    assert set(acknowledged) <= set(ids_in(spool_at(path)))


# ── Files that are no spool ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"no database" * 1_000, b"SQLite format 3\x00" + b"\xff" * 4_096])
def test_a_damaged_spool_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool"
    path.write_bytes(content)
    with pytest.raises(SpoolDamagedError):
        WebhookSpool(path)
    spool, aside = open_spool(path)
    OPEN.append(spool)
    assert aside == tmp_path / "spool.damaged"
    assert aside.read_bytes() == content
    spool.add([message("a")])
    assert len(ids_in(spool_at(path))) == 1


def test_a_page_that_was_overwritten_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool = WebhookSpool(path)
    spool.add([message(f"m{number}", body=b"x" * 3_000) for number in range(50)])
    spool.close()
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(b"\xff" * 40_960)
    with pytest.raises(SpoolDamagedError):
        ids_in(spool_at(path))


@pytest.mark.parametrize("damage", ["body = 7", "kind = NULL", "due = 'x'", "attempts = 'x'", "id = x'00'"])
def test_a_malformed_message_is_noticed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "spool"
    WebhookSpool(path).close()
    changed = sqlite3.connect(path)
    # A table without the types and constraints of ours.
    changed.executescript(
        f"DROP TABLE message; CREATE TABLE message (number, id, webhook, kind, body, due, until, attempts, why);"
        f"INSERT INTO message VALUES (1, 'a', 'finance', 'opened', x'00', 0.0, 1e12, 0, '');"
        f"UPDATE message SET {damage}"
    )
    changed.close()
    if damage == "due = 'x'":  # never due
        assert spool_at(path).lease("finance", 1) is None
        return
    with pytest.raises(SpoolDamagedError):
        spool_at(path).lease("finance", 1)


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    other = sqlite3.connect(path)
    other.executescript("CREATE TABLE message (a); INSERT INTO message VALUES (1)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(SpoolError, match="another database"):
        open_spool(path)
    assert path.read_bytes() == before


def test_a_link_of_another_user_is_not_followed(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    (shared / "spool").symlink_to(own)
    with pytest.raises(SpoolError, match="link"):
        open_spool(shared / "spool")
    assert not own.exists()


def test_a_folder_that_is_missing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="no such file"):
        open_spool(tmp_path / "none" / "spool")
    with pytest.raises(SpoolError):
        open_spool(tmp_path)


def test_a_forked_process_leaves_the_connection_to_its_parent(tmp_path: Path) -> None:
    spool = spool_at(tmp_path / "spool")
    spool.add([message("a")])
    child = os.fork()
    if child == 0:
        try:
            spool.after_fork()
            spool.add([message("b")])
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    spool.add([message("c")])
    assert ids_in(spool) == ["a", "b", "c"]
