"""The halt file: only a valid file lifts a halt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.halts.control import FAILURES_BEFORE_ALARM
from policyengine.halts.errors import HaltError, HaltsFullError, HaltsUnreadableError, UnknownHaltError
from policyengine.halts.file import HaltFile, add_to_file, lift_from_file
from policyengine.halts.requests import make_halt
from tests.halts.halting import BEGIN, HOUR, create, outcome, question
from tests.processes import wait_until

UNTIL = "2026-03-02T12:00:00Z"
HALT = {"agent": "bot", "reason": "stop", "until": UNTIL}


def write(path: Path, *halts: dict[str, Any]) -> None:
    replace(path, json.dumps({"halts": halts}).encode())


def replace(path: Path, raw: bytes) -> None:
    """Replace the file as editors and deployments do, so that its inode changes."""
    new = path.with_suffix(".new")
    new.write_bytes(raw)
    new.chmod(0o600)
    new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "halts.json"
    write(found)
    return found


@pytest.fixture
def engine(path: Path) -> Engine:
    """An engine whose test reads the file when it wants to."""
    found = create(halt_file=path)
    found.halting.is_followed = False
    found.halting.refresh()
    return found


def reads(engine: Engine) -> str:
    for _ in range(FAILURES_BEFORE_ALARM):
        engine.halting.refresh()
    return outcome(engine, question())


def test_a_halt_in_the_file_is_in_effect_until_a_valid_file_is_without_it(engine: Engine, path: Path) -> None:
    assert outcome(engine, question()) == "allow"
    write(path, HALT)
    assert reads(engine) == "deny halted"
    [halt] = engine.halts
    assert (halt.agent, halt.reason, halt.message) == ("bot", "stop", f"halted until {UNTIL}: stop")
    write(path)
    assert reads(engine) == "allow"


def test_a_thread_follows_the_file(path: Path) -> None:
    engine = create(halt_file=path)
    assert outcome(engine, question()) == "allow"
    write(path, HALT)
    wait_until(lambda: outcome(engine, question()) == "deny halted")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"{}", b"[]", b"null", b"\x00" * 64, b"\xff\xfe", b'{"halts": null}', b'{"halts": {}}',
        b'{"halts": [', b'{"halts": []', b'{"Halts": []}', b'{"halts": [], "more": 1}',
        b'{"halts": [{"agent": "bot", "reason": "stop"}]}',
        b'{"halts": [{"agnet": "bot", "reason": "stop", "until": "2026-03-02T12:00:00Z"}]}',
        b'{"halts": [{"reason": "stop", "until": "2026-03-02T12:00:00Z"}]}',
        b'{"halts": [{"agent": "bot", "reason": "stop", "until": "tomorrow"}]}',
        b'{"halts": [{"agent": "bot", "reason": "", "until": "2026-03-02T12:00:00Z"}]}',
        b'{"halts": [{"place": "?", "reason": "stop", "until": "2026-03-02T12:00:00Z"}]}',
        b'{"halts": [{"id": "unread", "agent": "b", "reason": "stop", "until": "2026-03-02T12:00:00Z"}]}',
        b'{"halts": [%b]}' % b",".join([b'{"agent": "b", "reason": "r", "until": "2026-03-02T12:00:00Z"}'] * 2),
        b'{"halts": []}' + b" " * 2**20,
    ],
)  # fmt: skip
def test_garbage_lifts_no_halt(engine: Engine, path: Path, raw: bytes) -> None:
    write(path, HALT)
    assert reads(engine) == "deny halted"
    replace(path, raw)
    assert reads(engine) == "deny halted"
    assert engine.halting.status.unreadable == (f"the halt file `{path}`",)
    write(path)
    assert reads(engine) == "allow"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"halts": [{"agnet": "bot"}]}', "unknown member `halts[0].agnet` (did you mean `agent`?)"),
        (b'{"halts": [{"agent": "a", "until": "x"}]}', "`halts[0].reason` is missing"),
        (b'{"halts": [7]}', "`halts[0]` must be an object, got int"),
        (b'{"halts": [], "halts": []}', "`halts` must be a list, got a duplicate key"),
        (b"[]", 'it is not an object such as `{"halts": []}`'),
        (b'{"halts": [', "not valid JSON at line 1, column 12: the text ends too early"),
    ],
)
def test_a_damaged_file_is_described_by_its_members(path: Path, raw: bytes, why: str) -> None:
    path.write_bytes(raw)
    with pytest.raises(HaltsUnreadableError) as error:
        HaltFile(path).read()
    assert str(error.value) == f"it is damaged: {why}"


def test_removing_the_file_lifts_no_halt(engine: Engine, path: Path) -> None:
    write(path, HALT)
    assert reads(engine) == "deny halted"
    path.unlink()
    assert reads(engine) == "deny halted"
    assert engine.halting.status.unreadable == (f"the halt file `{path}`",)
    path.mkdir()
    assert reads(engine) == "deny halted"
    path.rmdir()
    os.mkfifo(path)
    assert reads(engine) == "deny halted"  # a pipe does not make the reader wait


def test_a_file_that_others_can_write_lifts_no_halt(engine: Engine, path: Path) -> None:
    write(path, HALT)
    assert reads(engine) == "deny halted"
    write(path)
    path.chmod(0o666)
    assert reads(engine) == "deny halted"
    path.chmod(0o600)
    assert reads(engine) == "allow"


def test_without_a_readable_file_everything_is_halted(tmp_path: Path) -> None:
    engine = create(halt_file=tmp_path / "missing.json")
    assert outcome(engine, question("/health", agent=None, user=None)) == "deny halted"


def test_a_file_that_changes_within_its_size_is_read_again(engine: Engine, path: Path) -> None:
    write(path, HALT)
    assert reads(engine) == "deny halted"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"bot", b"bxx"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reads(engine) == "allow"


def test_an_end_in_the_past_is_no_halt(engine: Engine, path: Path) -> None:
    write(path, {**HALT, "until": "2026-03-02T09:59:59Z"})
    assert reads(engine) == "allow"
    assert engine.halts == ()


def test_a_halt_in_the_file_is_lifted_in_the_file_only(engine: Engine, path: Path) -> None:
    write(path, HALT)
    assert reads(engine) == "deny halted"
    with pytest.raises(HaltError, match="is in the halt file"):
        engine.lift(engine.halts[0].id, reason="mended")
    assert outcome(engine, question()) == "deny halted"


def test_a_file_and_the_store_add_up(engine: Engine, path: Path) -> None:
    write(path, HALT)
    engine.halt(reason="more", end=HOUR, user="bob")
    reads(engine)
    assert {one.reason for one in engine.halts} == {"stop", "more"}
    replace(path, b"garbage")
    assert reads(engine) == "deny halted"


def test_the_id_of_a_halt_in_a_file_stays_while_the_halt_does_not_change(path: Path) -> None:
    write(path, HALT)
    first = HaltFile(path).read()[0].id
    write(path, {**HALT, "agent": "other"}, HALT)
    assert HaltFile(path).read()[1].id == first
    assert HaltFile(path).read()[0].id != first


def test_the_command_line_adds_to_a_file_and_lifts_from_it(path: Path) -> None:
    write(path, HALT)
    scope: Any = {"user": "bob"}
    halt = make_halt(scope, everything=False, reason="r", end=HOUR, by="me", now=int(BEGIN.timestamp()))
    add_to_file(path, halt)
    kept, added = HaltFile(path).read()
    assert (kept.reason, added) == ("stop", halt)
    assert path.stat().st_mode & 0o777 == 0o600
    lift_from_file(path, kept.id)
    assert HaltFile(path).read() == (halt,)
    with pytest.raises(UnknownHaltError):
        lift_from_file(path, kept.id)


def test_the_command_line_creates_no_file_because_that_would_lift_halts(tmp_path: Path) -> None:
    scope: Any = {"user": "bob"}
    halt = make_halt(scope, everything=False, reason="r", end=HOUR, by="me", now=int(BEGIN.timestamp()))
    with pytest.raises(HaltError, match="does not exist"):
        add_to_file(tmp_path / "missing.json", halt)
    (tmp_path / "damaged.json").write_bytes(b"garbage")
    with pytest.raises(HaltsUnreadableError):
        add_to_file(tmp_path / "damaged.json", halt)
    assert (tmp_path / "damaged.json").read_bytes() == b"garbage"


def test_a_file_has_room_for_a_bounded_number_of_halts(path: Path) -> None:
    write(path, *({**HALT, "agent": f"a{number}"} for number in range(272)))
    assert len(HaltFile(path).read()) == 272
    scope: Any = {"user": "bob"}
    halt = make_halt(scope, everything=False, reason="r", end=HOUR, by="me", now=int(BEGIN.timestamp()))
    with pytest.raises(HaltsFullError):
        add_to_file(path, halt)
    write(path, *({**HALT, "agent": f"a{number}"} for number in range(273)))
    with pytest.raises(HaltsUnreadableError, match="more than 272 halts"):
        HaltFile(path).read()
