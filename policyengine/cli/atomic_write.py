"""Policies back to their files, in one step each, so that no reader sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policyengine.cli.errors import file_error


def replace_file(file: Path, text: str) -> None:
    """The new text in place of the old; links stay links, and who may read the file stays as it was."""
    target = file.resolve()
    try:
        with _temporary_file(target) as new:
            new.write_bytes(text.encode())
            new.chmod(target.stat().st_mode)
            new.replace(target)
    except OSError as error:
        raise file_error(file, error) from None


def write_file(file: Path, text: str) -> None:
    """The text in a file, whole or not at all; what was there before is replaced."""
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
    """A new file in the same folder, gone in the end unless it was moved."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
