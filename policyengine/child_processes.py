"""Python processes that import nothing from the working directory, where policies lie and all that is beside them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"  # as `python -P`, for what a process starts itself, too


def python_command(code: str) -> list[str]:
    """Of a process that runs this text."""
    return [sys.executable, "-P", "-c", code]


def child_environment() -> dict[str, str]:
    return {**os.environ, SAFE_PATH_VARIABLE: "1"}


@contextmanager
def safe_multiprocessing() -> Iterator[None]:
    """What `multiprocessing` starts meanwhile is safe: it takes no arguments for Python, and the environment only."""
    before = os.environ.get(SAFE_PATH_VARIABLE)
    os.environ[SAFE_PATH_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SAFE_PATH_VARIABLE, None)
        else:
            os.environ[SAFE_PATH_VARIABLE] = before
