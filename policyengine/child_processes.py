"""Starts Python child processes that do not import modules from the working directory, which contains policies and
other files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"  # like `python -P`, and inherited by grandchildren


def python_command(code: str) -> list[str]:
    """Return the command that runs this code."""
    return [sys.executable, "-P", "-c", code]


def child_environment() -> dict[str, str]:
    return {**os.environ, SAFE_PATH_VARIABLE: "1"}


@contextmanager
def safe_multiprocessing() -> Iterator[None]:
    """Set the environment so that processes started by `multiprocessing` are safe, because it accepts no
    Python options.
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
