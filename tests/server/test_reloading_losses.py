"""What vanishes from files while a server watches them opens nothing: real files, a real watch, a real client."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.server.test_reloading import asked, connected, got, serving, until

DOORS = "language 1\npackage shop\nanyone { may GET /health }\n"
GUARDS = 'language 1\npackage shop\nguard "closed" on GET /health { deny }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    (made / "guards").mkdir(parents=True)
    (made / "doors.policy").write_text(DOORS)
    (made / "guards" / "guards.policy").write_text(GUARDS)
    return made


def emptied(guards: Path) -> None:
    (guards / "guards.policy").write_bytes(b"")


@pytest.mark.parametrize("lose", [emptied])
def test_what_vanishes_under_a_watch_is_refused(folder: Path, lose: Callable[[Path], object]) -> None:
    with serving(folder, "--watch") as (port, process), closing(connected(port)) as connection:
        assert asked(connection)["outcome"] == "deny"
        lose(folder / "guards")
        until(lambda: got(connection)["reloads"] != {"done": 0, "refused": 0, "why": None, "at": None})
        assert asked(connection)["outcome"] == "deny"
        assert got(connection)["reloads"]["refused"] == 1
        process.send_signal(signal.SIGTERM)
        print(process.communicate(timeout=30)[1])
