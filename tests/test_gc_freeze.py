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


EXITS = """
import sys
from policyengine.gc_freeze import freeze_at_exit

class Knot:
    def __init__(self): self.own = self
    def __del__(self): print("collected")

Knot()
if sys.argv[1] == "frozen":
    freeze_at_exit()
"""


@pytest.mark.parametrize(("how", "printed"), [("usual", "collected\n"), ("frozen", "")])
def test_a_frozen_process_exits_without_a_last_collection(how: str, printed: str) -> None:
    command = [sys.executable, "-c", EXITS, how]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")
