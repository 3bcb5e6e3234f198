"""Counts the sealed files after a rotated file, to decide whether that file may be deleted.

The files in the folder cannot be counted instead, because an attacker who can write to the folder could add files, so
that old files seem to be surplus.
"""

from __future__ import annotations

from pathlib import Path

from policyengine.audit.files import log_files
from policyengine.audit.seal.line_digests import line_batches
from policyengine.audit.seal.sealed_entries import SealedEntries
from policyengine.audit.seal.sealed_files import SealState, is_at, read_state
from policyengine.audit.seal.tiles import TileFolder


def count_later_files(log: Path, folder: Path, file: Path) -> int | None:
    """Return the number of sealed rotated files after a file; 0 if entries of the seal cannot be read, -1 if the file
    will be sealed, and None if the file is not part of the sealed log. Raises OSError, SealError,
    UnreadableFileError.
    """
    problems: list[str] = []
    state = read_state(folder)
    if state is None:
        return None
    first = next((batch.digests for batch in line_batches(file) if not batch.torn), [])
    number = SealedEntries(TileFolder(folder), state.size, problems.append).find_file(folder, first)
    if problems:
        return 0
    if number is None:
        return -1 if is_waiting(log, folder, state, file) else None
    return state.file - number - is_at(log, (state.device, state.inode))


def is_waiting(log: Path, folder: Path, state: SealState, file: Path) -> bool:
    """Return whether a file is the file that is being sealed, or follows it. If the file that is being sealed is gone,
    return whether the given file was written after the last checkpoint. Raises OSError."""
    files = log_files(log)
    at = next((at for at, path in enumerate(files) if is_at(path, (state.device, state.inode))), None)
    if at is None:
        return file.stat().st_mtime_ns >= (folder / "state").stat().st_mtime_ns
    return file in files[at:]
