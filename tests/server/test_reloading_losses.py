"""What vanishes from files while a server watches them opens nothing: real files, a real watch, a real client."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.server.test_reloading import asked, connected, got, serving

DOORS = "language 1\npackage shop\nanyone { may GET /health, GET /x }\n"
HEAD = 'language 1\npackage shop\nguard "first" on GET /x { deny }\n'
GUARDS = HEAD + 'guard "closed" on GET /health { deny }\n'
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    (made / "guards").mkdir(parents=True)
    (made / "doors.policy").write_text(DOORS)
    (made / "guards" / "guards.policy").write_text(GUARDS)
    return made


def test_watch_refuses_an_emptied_guards_file(folder: Path) -> None:
    with serving(folder, "--watch") as (port, _), closing(connected(port)) as connection:
        assert asked(connection)["outcome"] == "deny"
        (folder / "guards" / "guards.policy").write_bytes(b"")
        wait_until(lambda: got(connection)["reloads"]["refused"] == 1)
        assert asked(connection)["outcome"] == "deny"


@pytest.mark.deep
def test_watch_refuses_a_lost_guard_until_its_revision_is_allowed(folder: Path) -> None:
    guards = folder / "guards" / "guards.policy"
    options = ["--watch", "--log-format", "json"]
    with serving(folder, *options, compare=True) as (port, process), closing(connected(port)) as connection:
        guards.write_text(HEAD)  # cut between two items: it is a policy still
        wait_until(lambda: got(connection)["reloads"]["refused"] == 1)
        assert got(connection)["reloads"]["why"] == "1 guard is gone"
        assert asked(connection)["outcome"] == "deny"
        told = json.loads([process.stderr.readline() for _ in range(2)][-1])
        assert (told["event"], told["reason"]) == ("reload_refused", "removed")
        revision = re.findall(r'allow = \["(sha256:\w+)"\]', told["message"])[0]
        (folder / "policyengine.toml").write_text(f'[reload]\nallow = ["{revision}"]\n')
        wait_until(lambda: asked(connection)["outcome"] == "allow")
        wait_until(lambda: got(connection)["reloads"]["widens"] is not None)
        ready = got(connection)
        assert (ready["revision"], ready["reloads"]["widens"], ready["reloads"]["proved"]) == (revision, 1, True)
        process.send_signal(signal.SIGTERM)
        events = [json.loads(line) for line in process.communicate(timeout=30)[1].splitlines()]
    (widens,) = [one for one in events if one["event"] == "reload_widens"]
    assert (widens["rule"], widens["request"]["request"]["path"]) == ('guard "closed"', "/health")


# ── However it vanishes ───────────────────────────────────────────────────────────────────────


def blank(folder: Path) -> None:
    (folder / "guards" / "guards.policy").write_text("\n\n  # nothing\n")


def removed(folder: Path) -> None:
    (folder / "guards" / "guards.policy").unlink()


def moved(folder: Path) -> None:
    (folder / "guards" / "guards.policy").rename(folder / "guards" / "guards.policy~")


def another_folder(folder: Path) -> None:
    (folder / "guards").rename(folder.parent / "guards")
    (folder / "guards").mkdir()


def shut_away(folder: Path) -> None:
    (folder / "guards" / "guards.policy").chmod(0)
    if os.geteuid() == 0:  # whom no mode keeps out
        removed(folder)
        (folder / "guards" / "guards.policy").symlink_to("guards.policy")


@pytest.mark.deep
@pytest.mark.parametrize("lose", [blank, removed, moved, another_folder, shut_away])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_worker_refuses_a_reload_after_a_policy_file_vanishes(
    folder: Path, lose: Callable[[Path], object], workers: int
) -> None:
    with serving(folder, "--watch", "--workers", str(workers)) as (port, _):
        lose(folder)
        for _ in range(4):
            with closing(connected(port)) as connection:
                wait_until(lambda: got(connection)["reloads"]["refused"] == 1)
                assert asked(connection)["outcome"] == "deny"


@pytest.mark.deep
def test_watch_refuses_a_config_map_that_lost_a_guard(tmp_path: Path) -> None:
    """`..data` is moved to a folder in which a file is missing, as Kubernetes does it."""
    mounted = tmp_path / "mounted"
    for name, files in (("..1", {"doors": DOORS, "guards": GUARDS}), ("..2", {"doors": DOORS + "# more\n"})):
        (mounted / name).mkdir(parents=True)
        for file, text in files.items():
            (mounted / name / f"{file}.policy").write_text(text)
    (mounted / "..data").symlink_to("..1")
    for file in ("doors", "guards"):
        (mounted / f"{file}.policy").symlink_to(f"..data/{file}.policy")
    with serving(mounted, "--watch") as (port, _), closing(connected(port)) as connection:
        (mounted / "..tmp").symlink_to("..2")
        (mounted / "..tmp").rename(mounted / "..data")
        wait_until(lambda: got(connection)["reloads"]["refused"] == 1)
        (mounted / "guards.policy").unlink()
        wait_until(lambda: got(connection)["reloads"]["refused"] == 2)
        assert got(connection)["reloads"]["why"] == "1 file and 2 guards are gone"
        assert asked(connection)["outcome"] == "deny"
