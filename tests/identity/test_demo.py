"""`make demo-identity` and `make demo-approvals`: what they print is what the pages show."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests import forking
from tests.gateways.servers import KINDS
from tests.identity.providing import INSTALL, PACKAGES
from tests.pages import CHECKOUT, blocks
from tests.ports import free_port

SCRIPT = CHECKOUT / "deploy" / "identity" / "demo.py"
APPROVALS_SCRIPT = SCRIPT.with_name("demo_approvals.py")
PATIENCE = 60


def ran(port: int, script: Path = SCRIPT, *programs: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("node is missing: apt install nodejs")
    if not (PACKAGES / "node_modules" / "oidc-provider").is_dir():
        pytest.skip(f"oidc-provider is missing: {INSTALL}")
    command = [forking.python(), str(script), str(PACKAGES), *programs, str(port)]
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


def free_ports(number: int) -> int:
    """Return the first of some free ports that follow each other."""
    while True:
        first = free_port()
        with ExitStack() as stack, suppress(OSError, OverflowError):
            for port in range(first, first + number):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def test_the_approvals_demo_prints_the_output_on_the_page() -> None:
    page = CHECKOUT / "docs" / "approvals.md"
    (shown,) = (one.text for one in blocks(page) if one.marked("printed") == "make demo-approvals")
    envoy = next(one for one in KINDS if one.name == "envoy-grpc").found()
    if envoy is None:
        pytest.skip("envoy is missing: make tools")
    done = ran(free_ports(6), APPROVALS_SCRIPT, envoy)
    assert (done.returncode, done.stdout) == (0, shown), done.stderr
