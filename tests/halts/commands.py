"""Runs `policyengine` as a process of its own, and returns what it prints as JSON."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests import forking


def command(*arguments: str) -> Any:
    """Run a command that must succeed, with `--format json`."""
    run = [*forking.command(), *arguments, "--format", "json"]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
