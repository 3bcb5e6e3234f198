"""`make demo-identity`: what it prints is what docs/identity.md shows."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

from tests.identity.providing import INSTALL, PACKAGES
from tests.pages import CHECKOUT, blocks

SCRIPT = CHECKOUT / "deploy" / "identity" / "demo.py"
PATIENCE = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def ran(port: int) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("node is missing: apt install nodejs")
    if not (PACKAGES / "node_modules" / "oidc-provider").is_dir():
        pytest.skip(f"oidc-provider is missing: {INSTALL}")
    command = [sys.executable, str(SCRIPT), str(PACKAGES), str(port)]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)


def test_the_identity_demo_prints_the_output_on_the_page() -> None:
    page = CHECKOUT / "docs" / "identity.md"
    (shown,) = (one.text for one in blocks(page) if one.marked("printed") == "make demo-identity")
    done = ran(free_port())
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def test_the_identity_demo_reports_a_port_already_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = ran(int(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.endswith(": EADDRINUSE")
    assert second == "`node` exited before it was ready; if its port is in use, choose another port"
