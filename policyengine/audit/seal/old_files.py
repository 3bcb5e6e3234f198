"""Counts the files that a seal has after a rotated file, to decide whether that file may be deleted.

The files themselves do not show it: an attacker who can write to their folder can add files, so that old ones seem to
be surplus.
"""

from __future__ import annotations

from pathlib import Path

from policyengine.audit.seal.line_digests import line_batches
from policyengine.audit.seal.sealed_entries import SealedEntries
from policyengine.audit.seal.sealed_files import is_at, read_state
from policyengine.audit.seal.tiles import TileFolder


def count_later_files(log: Path, folder: Path, file: Path) -> int | None:
    """Return how many rotated files the seal has after a file; 0 if the seal cannot be read now, and None if the file
    is not sealed. Raises OSError, SealError, UnreadableFileError."""
    problems: list[str] = []
    state = read_state(folder)
    if state is None:
        return None
    first = next((batch.digests for batch in line_batches(file) if not batch.torn), [])
    number = SealedEntries(TileFolder(folder), state.size, problems.append).find_file(folder, first)
    if problems:
        return 0
    if number is None:
        return None
    return state.file - number - is_at(log, (state.device, state.inode))
