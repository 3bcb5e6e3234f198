"""Servers as processes of their own: started from a few lines of Python, and gone when the test is over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def started(code: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The first line that the process prints, and the process."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline().strip()
            assert first, process.communicate()[1]
            yield first, process
        finally:
            process.kill()
