"""Writes files atomically, so that no reader sees part of a file, and protects decision logs from being replaced."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from policyengine.cli.errors import CommandError, file_error


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


def write_file(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically. A new file gets `mode`; a replaced file keeps its mode. A device or a pipe is written
    directly. Raises CommandError.
    """
    target = file.resolve()
    try:
        if is_special(target):
            target.write_bytes(text.encode())
            return
        with _temporary_file(target) as new:
            new.write_bytes(text.encode())
            new.chmod(target.stat().st_mode if target.exists() else mode)
            new.replace(target)
    except OSError as error:
        raise file_error(file, error) from None


def is_special(file: Path) -> bool:
    """Return whether the file is a device, a pipe or a socket, which must not be replaced by a regular file."""
    return file.exists() and not file.is_file() and not file.is_dir()


def refuse_to_replace_log(output: Path, logs: Sequence[Path], seal: Path | None = None) -> None:
    """Refuse to write over a file of a log, its key or its seal. Raises CommandError."""
    from policyengine.audit.files import log_files
    from policyengine.audit.seal.keys import default_key_path
    from policyengine.audit.seal.sealed_files import default_folder

    target = output.resolve()
    for log in logs:
        files = [default_key_path(log), log]
        with suppress(OSError):
            files += log_files(log)
        folder = (seal or default_folder(log)).resolve()
        if target in [file.resolve() for file in files] or target.is_relative_to(folder):
            raise CommandError(
                "usage", f"`{output}` belongs to the log `{log}` and is not replaced", "name another file",
                (("file", str(output)),), code=2,
            )  # fmt: skip


@contextmanager
def _temporary_file(target: Path) -> Iterator[Path]:
    """Create a temporary file in the folder of `target`. Remove the file at the end, unless it was moved."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
