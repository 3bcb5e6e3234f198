"""Programs in Go that read sealed logs with Go's own packages for transparency logs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGES = Path("/usr/share/gocode")  # where Debian installs Go packages


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds a program of this folder."""
    if shutil.which("go") is None:
        pytest.skip("go is missing: install it (on Debian: `apt install golang-go`)")
    if not (PACKAGES / "src/golang.org/x/mod/sumdb/tlog").exists():
        pytest.skip("golang.org/x/mod is missing: install it (on Debian: `apt install golang-golang-x-mod-dev`)")
    root = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(PACKAGES)}

    def build(name: str) -> Path:
        program = root / name
        if not program.exists():
            source = Path(__file__).with_name(f"{name}.go")
            subprocess.run(["go", "build", "-o", program, source], check=True, env=environment, cwd=root)
        return program

    return build
