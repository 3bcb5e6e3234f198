"""The folder of a sealed log in the layout of c2sp.org/tlog-tiles, which a web server can serve as it is.

A tile has up to 256 hashes of one level; an entry bundle has up to 256 entries, each with its length in two bytes.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from policyengine.audit.seal.merkle import HASH_BYTES, Subtrees, fold, join
from policyengine.bounded_files import read_bounded

TILE_LEVELS = 8  # levels of the tree that a tile covers
TILE_WIDTH = 1 << TILE_LEVELS
TILE_BYTES = TILE_WIDTH * HASH_BYTES
ENTRY_PREFIX = HASH_BYTES.to_bytes(2)  # the length of every entry, which is a SHA-256 digest
BUNDLE_ITEM_BYTES = len(ENTRY_PREFIX) + HASH_BYTES
FOLDER_MODE, FILE_MODE = 0o700, 0o600
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a pipe must not block
ENTRIES = "entries"
MAX_WAITING_TILES, TILES_PER_TURN = 512, 16
MAX_FILE_BYTES, MAX_INDEX_BYTES = 1 << 20, 1 << 32  # maximum size of a tile, note or state, and of the file `places`


class TileError(Exception):
    """The error for a tile that is missing or damaged; the message names the tile."""


def tile_name(level: int | str, number: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a tile, such as `tile/0/x001/x234/067`; for a partial tile, `.p/<width>` follows. For entry
    bundles, the level is `entries`.
    """
    digits = f"{number:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    steps = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{step}" for step in steps[:-1]), steps[-1]])
    return f"tile/{level}/{name}" + ("" if width == TILE_WIDTH else f".p/{width}")


def tile_widths(size: int) -> Iterator[tuple[int, int, int]]:
    """Yield the level, number and width of each partial tile of a tree of `size` entries. A level has at most one."""
    level, left = 0, size
    while left:
        if left % TILE_WIDTH:
            yield level, left // TILE_WIDTH, left % TILE_WIDTH
        level, left = level + 1, left // TILE_WIDTH


class TileFolder:
    """Reads and writes tiles and entry bundles."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._prefix = folder, f"{folder}/"

    def read(self, level: int, number: int, width: int) -> bytes:
        """Return the first `width` hashes of a tile, from the partial tile of this width or from the full tile. Raises
        TileError, OSError.
        """
        return self._read(tile_name(level, number, width), tile_name(level, number), width * HASH_BYTES)

    def read_entries(self, number: int, width: int) -> list[bytes]:
        """Return the first `width` entries of a bundle. Raises TileError, OSError."""
        name = tile_name(ENTRIES, number, width)
        raw = self._read(name, tile_name(ENTRIES, number), width * BUNDLE_ITEM_BYTES)
        prefixes = [raw[at::BUNDLE_ITEM_BYTES] for at in range(len(ENTRY_PREFIX))]
        if prefixes != [bytes((byte,)) * width for byte in ENTRY_PREFIX]:
            raise TileError(f"`{self.folder / name}` is damaged: its entries are not 32 bytes long")
        return [raw[at : at + HASH_BYTES] for at in range(len(ENTRY_PREFIX), len(raw), BUNDLE_ITEM_BYTES)]

    def _read(self, name: str, full: str, length: int) -> bytes:
        for each in dict.fromkeys((name, full)):
            with suppress(FileNotFoundError, NotADirectoryError):
                raw = read_file(self.folder / each)
                if len(raw) < length or (each == name and len(raw) != length):
                    raise TileError(f"`{self.folder / each}` is damaged: it has {len(raw)} bytes instead of {length}")
                return raw[:length]
        raise TileError(f"`{self.folder / name}` is missing")

    def write(self, level: int | str, number: int, raw: bytes, width: int = TILE_WIDTH) -> None:
        """Write a tile or bundle. If it is full, remove its partial tiles. An existing tile is replaced atomically,
        because a checkpoint may need it. Raises OSError.
        """
        path = f"{self._prefix}{tile_name(level, number, width)}"
        try:
            write_in_place(path, raw, os.O_EXCL)
        except FileExistsError:
            write_file(Path(path), raw)
        partial = f"{path}.p"
        if width == TILE_WIDTH and os.path.isdir(partial):
            shutil.rmtree(partial, ignore_errors=True)

    def subtrees(self, size: int) -> Subtrees:
        """Return a function that returns the hash of a complete subtree of the tree of `size` entries. The function
        raises TileError, OSError.
        """

        @lru_cache(maxsize=64)
        def tile(level: int, number: int) -> bytes:
            full = size >> (TILE_LEVELS * (level + 1))
            width = TILE_WIDTH if number < full else (size >> (TILE_LEVELS * level)) % TILE_WIDTH
            return self.read(level, number, width)

        def subtree(level: int, index: int) -> bytes:
            tile_level, height = divmod(level, TILE_LEVELS)
            first = index << height
            raw, at = tile(tile_level, first // TILE_WIDTH), first % TILE_WIDTH
            hashes = [raw[HASH_BYTES * each : HASH_BYTES * (each + 1)] for each in range(at, at + (1 << height))]
            return fold(hashes)

        return subtree


class WaitingTiles(TileFolder):
    """A folder whose tiles wait in memory until `write_waiting`, so that decisions do not wait for the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._waiting: deque[tuple[int | str, int, bytes, int]] = deque()

    @property
    def is_half_full(self) -> bool:
        """Whether at least half of the maximum number of tiles wait."""
        return len(self._waiting) >= MAX_WAITING_TILES // 2

    def write(self, level: int | str, number: int, raw: bytes, width: int = TILE_WIDTH) -> None:
        """Add a waiting tile; first write all waiting tiles if there are too many. Raises OSError."""
        if len(self._waiting) >= MAX_WAITING_TILES:
            self.write_waiting(lambda: None)
        self._waiting.append((level, number, raw, width))

    def write_waiting(self, rest: Callable[[], object]) -> None:
        """Write the waiting tiles. `rest` is called from time to time. Raises OSError; the tiles that were not written
        still wait."""
        written = 0
        while self._waiting:
            super().write(*self._waiting[0])
            self._waiting.popleft()
            written += 1
            if written % TILES_PER_TURN == 0:
                rest()


def read_file(path: Path, most: int = MAX_FILE_BYTES) -> bytes:
    """Read a file of the folder. Pipes, devices and files of more than `most` bytes are refused. Raises OSError."""
    try:
        return read_bounded(path, most)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_file(path: Path, raw: bytes, *, durable: bool = False, writer: str = "") -> None:
    """Replace a file atomically, and create its folders if they are missing. With `durable`, the new content is on disk
    before it replaces the old file. Processes that may write the file at the same time need different names (`writer`).
    Raises OSError."""
    new = path.with_name(f".{path.name}{writer}.new")
    write_in_place(str(new), raw, os.O_TRUNC, durable=durable)
    new.rename(path)


def write_in_place(path: str, raw: bytes, flags: int, *, durable: bool = False) -> None:
    """Write a file, and create its folders if they are missing. Raises OSError."""
    flags |= WRITE_FLAGS
    try:
        opened = os.open(path, flags, FILE_MODE)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), FOLDER_MODE, exist_ok=True)
        opened = os.open(path, flags, FILE_MODE)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(opened, view) :]
        if durable:
            os.fsync(opened)
    finally:
        os.close(opened)


class GrowingTree:
    """A tree to which entries are added. It writes full tiles, and keeps the hashes of partial tiles in memory."""

    def __init__(self, tiles: TileFolder | None, size: int = 0) -> None:
        """Continue the tree of `size` entries in the folder. If `tiles` is None, nothing is read or written. Raises
        TileError, OSError.
        """
        self._tiles, self.size = tiles, size
        self._edges: list[list[bytes]] = []  # the hashes of the partial tile of each tile level
        self._bundle: list[bytes] = []
        if size and tiles is not None:
            self._resume(tiles, size)

    def _resume(self, tiles: TileFolder, size: int) -> None:
        level, left = 0, size
        while left:
            width = left % TILE_WIDTH
            raw = tiles.read(level, left // TILE_WIDTH, width) if width else b""
            self._edges.append([raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)])
            level, left = level + 1, left // TILE_WIDTH
        if size % TILE_WIDTH:
            self._bundle = tiles.read_entries(size // TILE_WIDTH, size % TILE_WIDTH)

    @property
    def room(self) -> int:
        """The number of entries that can be added until the current tile is full."""
        return TILE_WIDTH - self.size % TILE_WIDTH

    def add(self, entries: list[bytes], leaves: list[bytes]) -> None:
        """Add entries with their leaf hashes, at most `room` of them. Raises OSError."""
        if not self._edges:
            self._edges.append([])
        self._edges[0] += leaves
        self._bundle += entries
        self.size += len(leaves)
        if self.size % TILE_WIDTH == 0 and leaves:
            self._finish_tiles()

    def _finish_tiles(self) -> None:
        """Write the tiles that became full. Raises OSError; the tree is then unusable."""
        level, count = 0, self.size
        if self._tiles is not None:
            self._tiles.write(ENTRIES, count // TILE_WIDTH - 1, bundle_bytes(self._bundle))
        self._bundle = []
        while count and count % TILE_WIDTH == 0:
            hashes = self._edges[level]
            count //= TILE_WIDTH
            if self._tiles is not None:
                self._tiles.write(level, count - 1, b"".join(hashes))
            self._edges[level] = []
            level += 1
            if level == len(self._edges):
                self._edges.append([])
            self._edges[level].append(fold(hashes))

    def write_partial_tiles(self) -> None:
        """Write the partial tiles, which a checkpoint of this size needs. Raises OSError."""
        if self._tiles is None:
            return
        for level, number, width in tile_widths(self.size):
            self._tiles.write(level, number, b"".join(self._edges[level]), width)
            if level == 0:
                self._tiles.write(ENTRIES, number, bundle_bytes(self._bundle), width)

    def root(self) -> bytes:
        """Return the root hash; the tree must not be empty."""
        hashes: list[bytes] = []
        for edge in reversed(self._edges):
            at = 0
            for bit in reversed(range(TILE_LEVELS)):
                if len(edge) >> bit & 1:
                    hashes.append(fold(edge[at : at + (1 << bit)]))
                    at += 1 << bit
        return join(hashes)


def bundle_bytes(entries: list[bytes]) -> bytes:
    return b"".join([ENTRY_PREFIX + entry for entry in entries])
