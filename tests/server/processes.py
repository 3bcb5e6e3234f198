"""Server processes: started from a few lines of Python, and stopped after the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import forking

ROOT = Path(__file__).parents[2]


@contextmanager
def started(code: str, *arguments: str, fresh: bool = False) -> Iterator[tuple[str, Any]]:
    """Return the first line that the process prints, and the process. A `fresh` one has imported nothing yet."""
    with program(code, *arguments, fresh=fresh) as process:
        try:
            first = process.stdout.readline().strip()
            assert first, process.communicate()[1]
            yield first, process
        finally:
            process.kill()


def program(code: str, *arguments: str, fresh: bool = False) -> Any:
    if fresh or forking.address() is None:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return forking.Forked(code, *arguments, cwd=ROOT)
