"""Commands and environments of Python child processes that import no modules from the working directory, because that
directory may contain files of other people.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"  # the same as `python -P`, but inherited by grandchildren


def python_command(code: str) -> list[str]:
    """Return the command that runs this code in a new Python process."""
    return [sys.executable, "-P", "-c", code]


def child_environment() -> dict[str, str]:
    return {**os.environ, SAFE_PATH_VARIABLE: "1"}


@contextmanager
def safe_multiprocessing() -> Iterator[None]:
    """Set the environment variable for processes that `multiprocessing` starts in this block, because `multiprocessing`
    accepts no Python options.
    """
    before = os.environ.get(SAFE_PATH_VARIABLE)
    os.environ[SAFE_PATH_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SAFE_PATH_VARIABLE, None)
        else:
            os.environ[SAFE_PATH_VARIABLE] = before
