"""Collections of a server pass over what its startup made, and the policies of before a reload are freed."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.gc_checks import CHECKS


@cache
def failures() -> dict[str, str]:
    """Return the failure of each check, from one process."""
    command = [sys.executable, "-m", "tests.gc_checks"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_the_collector_passes_over_what_is_frozen_and_frees_what_is_not(name: str) -> None:
    assert failures()[name] == ""
