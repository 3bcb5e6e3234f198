"""Writes policy files atomically, so that no reader sees part of a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policyengine.cli.errors import file_error


def replace_file(file: Path, text: str) -> None:
    """Replace the text of an existing file, keeping its mode and symbolic links. Raises CommandError."""
    target = file.resolve()
    try:
        with _temporary_file(target) as new:
            new.write_bytes(text.encode())
            new.chmod(target.stat().st_mode)
            new.replace(target)
    except OSError as error:
        raise file_error(file, error) from None


def write_file(file: Path, text: str) -> None:
    """Write a file, whole or not at all; replace an existing file. Raises CommandError."""
    target = file.resolve()
    try:
        with _temporary_file(target) as new:
            new.write_bytes(text.encode())
            new.chmod(target.stat().st_mode if target.exists() else 0o644)
            new.replace(target)
    except OSError as error:
        raise file_error(file, error) from None


@contextmanager
def _temporary_file(target: Path) -> Iterator[Path]:
    """Create a temporary file in the folder of `target`. Remove the file at the end, unless it was moved."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
