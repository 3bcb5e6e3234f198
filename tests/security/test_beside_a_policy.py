"""What lies beside policies is read at most and never run: neither by a server that reads them anew, nor by tests. Each
case starts real processes; cases that start the same ones in another way are deep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from policyengine.testing.parallel import MIN_CHUNK_CASES

COMMAND = str(Path(sys.executable).with_name("policyengine"))
OPEN = "language 1\npackage acme.shop\nanyone { may GET /health }\n"
WIDER = OPEN.replace("GET /health", "GET /health, GET /other")
TESTS = "".join(f'test "t{number}" {{ GET /health => allow }}\n' for number in range(2 * MIN_CHUNK_CASES))
# Modules that processes of ours import, and that Python imports by itself; some are packages.
PLANTED = (
    "pickle", "json", "logging", "multiprocessing", "concurrent", "socket", "selectors", "subprocess", "signal",
    "typing", "enum", "dataclasses", "functools", "re", "random", "decimal", "ssl", "http", "policyengine", "lark",
    "msgspec", "sitecustomize", "usercustomize", "encodings", "cryptography",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Policies, and modules beside them that say so when somebody runs them."""
    made = tmp_path / "policies"
    made.mkdir()
    (made / "shop.policy").write_text(OPEN)
    (made / "shop_test.policy").write_text(f"language 1\npackage acme.shop\n{TESTS}")
    ran = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + chr(10))\n"
    for number, name in enumerate(PLANTED):
        package = number % 2 == 1
        (made / name).mkdir() if package else None
        (made / name / "__init__.py" if package else made / f"{name}.py").write_text(ran)
    return made


def ran(folder: Path) -> list[str]:
    """The modules that somebody ran."""
    told = folder.parent / "ran"
    return told.read_text().splitlines() if told.exists() else []


def environment() -> dict[str, str]:
    """As on a machine where nobody set up Python for this."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [COMMAND, "serve", str(folder), "--port", "0", "--format", "json", *options]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield int(json.loads(line)["listening"].rpartition(":")[2]), process
        finally:
            process.kill()


def revision(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/readyz")
    found: Any = json.loads(connection.getresponse().read())
    connection.close()
    return str(found["revision"])


def test_a_planted_module_would_run_without_protection(folder: Path) -> None:
    """Where Python looks into the working directory first: else these tests could not fail."""
    subprocess.run([sys.executable, "-c", "import pickle, json"], cwd=folder, env=environment(), check=False)
    assert "pickle" in ran(folder)


@pytest.mark.parametrize("by", ["SIGHUP", pytest.param("--watch", marks=pytest.mark.deep)])
def test_a_reload_runs_no_modules_planted_next_to_policies(folder: Path, by: str) -> None:
    with serving(folder, *(["--watch"] if by == "--watch" else [])) as (port, process):
        before, until = revision(port), time.monotonic() + 60
        (folder / "shop.policy").write_text(WIDER)
        if by == "SIGHUP":
            process.send_signal(signal.SIGHUP)
        while revision(port) == before:
            assert time.monotonic() < until, "it never came to that"
            time.sleep(0.05)
    assert ran(folder) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        *(
            pytest.param(arguments, marks=pytest.mark.deep)
            for arguments in (("test", "--mutate", "--jobs", "2"), ("lint",), ("compile", "--output", "b"))
        ),
    ],
    ids=" ".join,
)
def test_commands_run_no_modules_planted_next_to_policies(folder: Path, arguments: tuple[str, ...]) -> None:
    name, *options = arguments
    ended = subprocess.run(
        [COMMAND, name, ".", *options], cwd=folder, env=environment(), capture_output=True, text=True, timeout=100
    )
    assert ended.returncode in (0, 1), ended.stderr
    assert ran(folder) == []


def test_a_jobs_setting_runs_no_modules_planted_next_to_policies(folder: Path) -> None:
    (folder / "policyengine.toml").write_text("[test]\njobs = 2\n")
    ended = subprocess.run(
        [COMMAND, "test", "--mutate", "."], cwd=folder, env=environment(), capture_output=True, text=True, timeout=100
    )
    assert ended.returncode in (0, 1), ended.stderr
    assert ran(folder) == []
