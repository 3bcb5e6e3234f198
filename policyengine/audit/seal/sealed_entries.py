"""Reads the entries of a sealed log from its folder. The entries prove nothing until their root hash equals a signed
root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from policyengine.audit.seal.merkle import HASH_BYTES, leaf_hash
from policyengine.audit.seal.sealed_files import START_BYTES
from policyengine.audit.seal.tiles import ENTRIES, TILE_WIDTH, TileError, TileFolder, read_file, tile_name

MAX_STARTS_BYTES = 1 << 24  # the starts of two million files


class SealedEntries:
    """The entries of a sealed log of `size` lines, by index. A bundle that cannot be read is reported, and counts as
    empty."""

    def __init__(self, tiles: TileFolder, size: int, report: Callable[[str], None]) -> None:
        self._tiles, self.size, self._report = tiles, size, report
        self._number, self._entries = -1, list[bytes]()

    def after(self, index: int) -> list[bytes]:
        """Return the entries from an index to the end of its bundle."""
        number, at = divmod(index, TILE_WIDTH)
        if number != self._number:
            self._number = number
            try:
                width = min(TILE_WIDTH, self.size - number * TILE_WIDTH)
                self._entries = self._tiles.read_entries(number, width) if width > 0 else []
            except (TileError, OSError) as error:
                self._report(str(error))
                self._entries = []
        return self._entries[at:]

    def reject_bundle(self, index: int, digests: Sequence[bytes]) -> bool:
        """Report the bundle of some lines from an index on if the hashes in the folder are those of the lines, so that
        the bundle was changed and not the lines. The bundle then counts as empty. Return whether it was reported."""
        number, at = divmod(index, TILE_WIDTH)
        try:
            hashes = self._tiles.read(0, number, min(TILE_WIDTH, self.size - number * TILE_WIDTH))
        except (TileError, OSError):
            return False
        leaves = b"".join(map(leaf_hash, digests))
        if hashes[at * HASH_BYTES : at * HASH_BYTES + len(leaves)] != leaves:
            return False
        width = min(TILE_WIDTH, self.size - number * TILE_WIDTH)
        self._report(f"the tile `{self._tiles.folder / tile_name(ENTRIES, number, width)}` was changed")
        self._number, self._entries = number, []
        return True

    def window(self, index: int, count: int) -> list[bytes]:
        """Return `count` entries from an index on, or fewer at the end of the log or before a bundle that cannot be
        read."""
        found: list[bytes] = []
        while len(found) < count and (some := self.after(index + len(found))):
            found += some
        return found[:count]

    def find(self, wanted: bytes, begin: int) -> int | None:
        """Return the index of the first entry from `begin` that equals `wanted`; None if no entry does, or if entries
        cannot be read.
        """
        index = begin
        while index < self.size:
            some = self.after(index)
            if wanted in some:
                return index + some.index(wanted)
            if not some:
                return None  # a bundle cannot be read, and the size may be wrong, too
            index += len(some)
        return None

    def find_start(self, folder: Path, digests: Sequence[bytes]) -> tuple[int, int]:
        """Return the index of the first entry of the file with these first lines, and the number of this file among all
        files that were ever sealed. The files before it were deleted. Return (0, 0) for the first file, and if no file
        begins with these lines."""
        starts = read_starts(folder)
        number = self._find_number(starts, digests) or 0
        return (starts[number], number) if number else (0, 0)

    def find_file(self, folder: Path, digests: Sequence[bytes]) -> int | None:
        """Return the number of the sealed file with these first lines, or None if no file was sealed with them."""
        return self._find_number(read_starts(folder), digests)

    def _find_number(self, starts: Sequence[int], digests: Sequence[bytes]) -> int | None:
        """Return the number of the file that has the most of these lines, because late lines may follow its sealed
        lines; None if no file has any of them."""
        most, found = 0, None
        for number, start in enumerate(starts):
            end = min([self.size, *starts[number + 1 : number + 2]])
            count = min(len(digests), end - start)
            if count > most and self.window(start, count) == list(digests[:count]):
                most, found = count, number
        return found


def read_starts(folder: Path) -> Sequence[int]:
    """Return the index of the first entry of each sealed file."""
    try:
        raw = read_file(folder / "starts", MAX_STARTS_BYTES)
    except OSError:
        raw = b""
    return [int.from_bytes(raw[at : at + START_BYTES]) for at in range(0, len(raw) - START_BYTES + 1, START_BYTES)]
