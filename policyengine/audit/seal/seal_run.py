"""Seals the lines of the files of a log in order, starting at one place."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import pairwise
from math import inf
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policyengine.audit.files import log_files
from policyengine.audit.seal.late_files import LateFiles
from policyengine.audit.seal.line_digests import line_batches
from policyengine.audit.seal.merkle import fold, leaf_hash, tree_root
from policyengine.audit.seal.notes import Checkpoint, SignedCheckpoint
from policyengine.audit.seal.sealed_entries import SealedEntries, read_starts
from policyengine.audit.seal.sealed_files import (
    PLACE_BYTES,
    START_BYTES,
    BegunLine,
    LateMark,
    SealError,
    SealState,
    ends_with_line,
    has_line,
    identity,
    is_at,
    open_plain,
    read_state,
    write_at,
)
from policyengine.audit.seal.tiles import TILE_LEVELS, TILE_WIDTH, GrowingTree, TileError, WaitingTiles, write_file

if TYPE_CHECKING:
    from policyengine.audit.seal.sealer import Sealer

_LOG = logging.getLogger("policyengine")
# Threads that decide wait while a chunk is hashed, and continue during the pause after the chunk.
CHUNK_BYTES, PAUSE_SECONDS = 1 << 18, 0.001
SLICE_READ_BYTES = 1 << 15  # bytes of one read while a decision waits; small enough for the cache of the processor
MAX_LINE_READ_AGAIN = 1 << 20  # maximum bytes of the last line to read again, to detect that the file was truncated
PACED_BYTES = 1 << 24  # without pauses if more bytes are unsealed, so that sealing does not fall behind
Pause: TypeAlias = Callable[[float], object]
MAX_WAIT_SECONDS = 30.0  # seconds until the sealer leaves a rotated file that still grows
RECENT_TILES = 512  # full tiles that are checked when sealing continues
VERIFY_HINT = "`policyengine audit verify` shows where"


class SealRun:
    """Seals the files from one place on, in the process that holds the lock. After an exception, the run is
    unusable."""

    def __init__(self, sealer: Sealer, *, anew: bool = False) -> None:
        """Continue where the last run ended. If the folder does not match the log, or with `anew`, build the tree again
        from the lines. Raises OSError, TileError, SealError, NoteError.
        """
        self._sealer, self.log, self.tiles = sealer, sealer.log, WaitingTiles(sealer.folder)
        self._places: list[bytes] = []  # places of the last tiles, which are written with the tiles
        self._late = LateFiles(sealer.log, sealer.write_statement)
        self._file, self._path = -1, sealer.log
        self._last, self._last_bytes, self._changed_at = b"", 0, -1
        self._until = inf
        self._begun: BegunLine | None = None
        # The rotated file after each file, by identity, for the duration of one call of `advance`.
        self._known: dict[tuple[int, int], tuple[Path, tuple[int, int]]] = {}
        self._pause: Pause | None = None
        # While the tree is built again: the index of the first entry of each file, and of the file after the current
        # one. Lines that follow in the current file were late, and later lines seal them.
        self._sealed_starts: Sequence[int] = ()
        self._end = inf
        self._checkpoint = sealer.latest_checkpoint()
        self._seen, self._since, self._moved_at = (0, 0, 0), monotonic(), inf
        try:
            self._open(sealer, anew=anew)
        except BaseException:
            self.close()
            raise

    def _open(self, sealer: Sealer, *, anew: bool) -> None:
        """Continue at the saved state, or begin with the oldest file. With `anew`, the stored index of the first entry
        of each file is not read, because it may be wrong. Raises OSError, TileError, SealError."""
        state, late = None, tuple[LateMark, ...]()
        try:
            state = None if anew else read_state(sealer.folder)
            if state is not None:
                late = state.late
                self._continue(state)
        except (TileError, SealError) as error:
            _LOG.warning(
                "the seal of the log `%s` is built again from its lines: %s", self.log, error,
                extra={"event": "log_seal_rebuilt"},
            )  # fmt: skip
            state = None
        if state is None:
            self._sealed_starts = () if anew else read_starts(sealer.folder)
            self._begin()
            self._late.restore(late)

    def close(self) -> None:
        """Close the files."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._late.close()

    @property
    def _signed_size(self) -> int:
        return 0 if self._checkpoint is None else self._checkpoint.size

    def _continue(self, state: SealState) -> None:
        """Continue the tree in the folder. Raises OSError, TileError, SealError."""
        self.tree = GrowingTree(self.tiles, state.size)
        size, last = self._signed_size, self._checkpoint
        if last and 0 < size <= state.size and tree_root(self.tiles.subtrees(state.size), size) != last.root:
            raise TileError(f"the tiles in `{self._sealer.folder}` do not have the root of its checkpoint")
        self._check_recent_tiles(state.size)
        self._number, self._first, self._offset = state.file, state.first, state.offset
        self._last, self._last_bytes = bytes.fromhex(state.last), state.last_bytes
        self._open_again(state)
        self._late.restore(state.late)

    def _check_recent_tiles(self, size: int) -> None:
        """Check the last full tiles and bundles, because a power failure may have lost their content. Raises OSError,
        TileError."""
        full, subtrees = size // TILE_WIDTH, self.tiles.subtrees(size)
        for number in range(max(0, full - RECENT_TILES), full):
            leaves = [leaf_hash(entry) for entry in self.tiles.read_entries(number, TILE_WIDTH)]
            is_whole = b"".join(leaves) == self.tiles.read(0, number, TILE_WIDTH)
            if not is_whole or fold(leaves) != subtrees(TILE_LEVELS, number):
                raise TileError(f"tile {number:,} in `{self._sealer.folder}` is damaged")

    def _begin(self) -> None:
        """Begin with the oldest file of the log, after the entries of files that were deleted. Raises OSError,
        SealError.
        """
        self.tree, files = GrowingTree(self.tiles), log_files(self.log)
        entries = SealedEntries(self.tiles, self._signed_size, lambda message: None)
        oldest = next((file for file in files if file.stat().st_size), files[0])
        first = next((batch.digests for batch in line_batches(oldest) if not batch.torn), [])
        start, number = entries.find_start(self._sealer.folder, first) if first else (0, 0)
        while self.tree.size < start and (some := entries.after(self.tree.size)[: start - self.tree.size]):
            self.tree.add(some, [leaf_hash(entry) for entry in some])
        self._start_file(oldest, number)

    # ── Which file ────────────────────────────────────────────────────────────────────────────

    def _start_file(self, path: Path, number: int) -> None:
        """Start sealing a file at its first line. Raises OSError, SealError."""
        opened = open_plain(path)
        if self._file >= 0:
            os.close(self._file)
        self._path = path
        self._file, self._number, self._first, self._offset = opened, number, self.tree.size, 0
        self._last, self._last_bytes, self._moved_at, self._begun = b"", 0, inf, None
        ends = self._sealed_starts[number + 1 : number + 2]
        self._end = ends[0] if ends and self._first <= ends[0] <= self._signed_size else inf
        write_at(self._sealer.folder / "starts", START_BYTES * number, self._first.to_bytes(START_BYTES))

    def _open_again(self, state: SealState) -> None:
        """Open the file in which the last run ended, even if it was renamed or compressed. Raises OSError,
        SealError.
        """
        files = log_files(self.log)
        same = [path for path in files if identity(path) == (state.device, state.inode)]
        others = [path for path in reversed(files) if path not in same]
        for path in (*same, *others):
            if ends_with_line(path, self._offset, self._last, self._last_bytes):
                self._file, self._path = open_plain(path), path
                return
        self._report_loss()
        sealed_at = os.stat(self._sealer.folder / "state").st_mtime
        later = [path for path in files if path.stat().st_mtime >= sealed_at]
        self._start_file((later or files[-1:])[0], self._number + 1)

    def _report_loss(self) -> None:
        _LOG.error(
            "the log `%s` has lost lines that were sealed: `policyengine audit verify` shows which", self.log,
            extra={"event": "log_tampered"},
        )  # fmt: skip

    def advance(self, finished: float, until: float, pause: Pause | None = None) -> bool:
        """Seal the complete lines of the log, and sign a checkpoint. Return whether all lines were sealed before the
        monotonic time `until`. `pause` is called between chunks with the seconds to wait. Raises OSError, TileError,
        SealError.
        """
        began, self._until, self._pause = self.tree.size, until, pause
        self._known.clear()
        complete = self._was_truncated() or self._read_lines()
        while complete and (following := self._following_file(finished)) is not None:
            os.fdatasync(self._file)
            if self._end == inf:  # otherwise its late lines are sealed, or watched
                self._late.watch(self._file, self._offset, self.tree.size, finished)
            self._start_file(following, self._number + 1)
            complete = self._read_lines()
        self._late.seal_lines()
        if self.tree.size < self._signed_size:
            if complete:
                raise SealError(f"`{self.log}` has fewer lines than its checkpoint: {VERIFY_HINT}")
        elif self.tree.size != began or self._is_behind():
            self._write_tiles()
            self._sealer.turns.end()  # let writers continue during the writes to disk
            os.fdatasync(self._file)
            self._sign()
        return complete

    def add_slice(self, most: int) -> None:
        """Add the entries of the next lines of the current file, at most `most` bytes. Nothing is written to disk,
        because a decision waits. Raises OSError, SealError.
        """
        if self.tiles.is_half_full or self._was_truncated():
            return
        end = self._offset + most
        while (begin := self._offset) < end:
            data = os.pread(self._file, min(SLICE_READ_BYTES, end - begin), begin)
            self._add_lines(data, data.rfind(b"\n"))
            if self._offset == begin:
                return

    def _is_behind(self) -> bool:
        last = self._checkpoint
        if last is None or last.size != self.tree.size:
            return self.tree.size > 0
        verifier = self._sealer.signer.verifier
        return not any((each.name, each.id) == (verifier.name, verifier.id) for each in last.note.signatures)

    def _following_file(self, finished: float) -> Path | None:
        """Return the file after the current file if the current file is finished, otherwise None. Raises OSError,
        SealError."""
        found = os.fstat(self._file)
        here = found.st_dev, found.st_ino
        if self._was_truncated():
            return self._after_truncation()
        if is_at(self.log, here):
            self._moved_at = inf
            return None
        if not self._is_finished(found, finished):
            return None
        if here in self._known and is_at(*self._known[here]):
            return self._known[here][0]
        try:
            files = log_files(self.log)
        except FileNotFoundError:
            return None  # the last file was moved, and nothing was written after that
        self._remember(files)
        place = self._place_among(files, here)
        if place is None and not self.log.exists():
            return None  # nothing was written after the file was moved
        if place is None:  # the file was deleted
            if self._offset:
                self._report_loss()
            later = [path for path in files if path.stat().st_mtime_ns >= found.st_mtime_ns]
            return (later or files[-1:])[0]
        if place + 1 < len(files):
            return files[place + 1]
        if files[place] == self.log:  # a copy replaced the file, for example one that an editor wrote
            self._reopen(self.log)
        return None

    def _remember(self, files: Sequence[Path]) -> None:
        """Remember the order of the rotated files, because listing hundreds of files takes several milliseconds."""
        with suppress(FileNotFoundError):  # renamed or deleted in the meantime
            places = [(path, identity(path)) for path in files if path != self.log]
            self._known = {here: following for (_, here), following in pairwise(places)}

    def _reopen(self, path: Path) -> None:
        """Continue at the same offset of a copy. Raises OSError, SealError."""
        opened = open_plain(path)
        os.close(self._file)
        self._file, self._path, self._begun = opened, path, None

    def _place_among(self, files: Sequence[Path], here: tuple[int, int]) -> int | None:
        """Return the index of the current file, found by its inode or by the last sealed line, which a compressed file
        or a copy has at the same offset. None if the file was deleted. Raises OSError, SealError.
        """
        places = list(range(len(files)))[::-1]
        by_inode = [at for at in places if is_at(files[at], here)]
        if self._offset and not by_inode:
            fits = (at for at in places if ends_with_line(files[at], self._offset, self._last, self._last_bytes))
            return next(fits, None)
        by_path = [at for at in places if files[at] == self._path != self.log]  # the current file was unpacked
        return next(iter([*by_inode, *by_path]), None)

    def _is_finished(self, found: os.stat_result, finished: float) -> bool:
        """Return whether a rotated file did not grow for `finished` seconds, by the system's time or by the monotonic
        clock, or was rotated MAX_WAIT_SECONDS ago, so that a process that still writes to it cannot stop the seal.
        """
        now, seen = monotonic(), (found.st_dev, found.st_ino, found.st_size)
        if seen != self._seen:
            self._seen, self._since = seen, now
        self._moved_at = min(self._moved_at, now)
        age = time() - max(found.st_mtime, found.st_ctime)
        return now - self._since >= finished or age >= finished or now - self._moved_at >= MAX_WAIT_SECONDS

    def _was_truncated(self) -> bool:
        """Return whether the current file was truncated: the last sealed line is no longer at its place. A long line is
        not read again. A line that was only changed is reported, and does not count as truncation. Raises OSError,
        SealError.
        """
        found = os.fstat(self._file)
        if not is_at(self.log, (found.st_dev, found.st_ino)):
            return False
        if found.st_size < self._offset:
            return True
        if self._last_bytes > MAX_LINE_READ_AGAIN or self._changed_at == self._offset:
            return False
        if has_line(self._file, self._offset, self._last, self._last_bytes):
            return False
        is_changed = (
            os.pread(self._file, 1, self._offset - 1) == b"\n" and self._find_copy(log_files(self.log)[:-1]) is None
        )
        if is_changed:
            self._changed_at = self._offset
            self._report_loss()
        return not is_changed

    def _after_truncation(self) -> Path:
        """Seal the remaining lines of the copy that `copytruncate` of logrotate made, and return the truncated file,
        which has the next lines. Raises OSError, SealError.
        """
        copy = self._find_copy(log_files(self.log)[:-1])
        if copy is not None:
            self._reopen(copy)
            self._read_lines()
        else:
            self._report_loss()
        return self.log

    def _find_copy(self, files: Sequence[Path]) -> Path | None:
        """Return the newest file that has the last sealed line at the same offset, or None. Raises OSError,
        SealError."""
        for path in reversed(files):
            if ends_with_line(path, self._offset, self._last, self._last_bytes):
                return path
        return None

    # ── Lines ─────────────────────────────────────────────────────────────────────────────────

    def _read_lines(self) -> bool:
        """Add the entries of the remaining complete lines of the file. Return False if the time is up before the end.
        Raises OSError, SealError.
        """
        pause = self._pause
        if pause is not None and os.fstat(self._file).st_size - self._offset > PACED_BYTES:
            pause = None
        while self.tree.size < self._end and (data := os.pread(self._file, CHUNK_BYTES, self._offset)):
            cut = data.rfind(b"\n")
            if cut >= 0:
                self._add_lines(data, cut)
            elif not self._read_long_line():
                return monotonic() <= self._until
            if monotonic() > self._until:
                return False
            if pause is not None and len(data) == CHUNK_BYTES:
                pause(PAUSE_SECONDS)
        return True

    def _add_lines(self, data: bytes, cut: int) -> None:
        """Add the entries of the lines up to the newline at `cut`; -1 means that there is no complete line. Raises
        OSError, SealError."""
        if cut >= 0 and self.tree.size < self._end:
            lines = data.split(b"\n")
            lines.pop()  # it is incomplete, or empty
            if len(lines) > self._end - self.tree.size:
                lines = lines[: int(self._end) - self.tree.size]
                cut = sum(map(len, lines)) + len(lines) - 1
            self._add(lines, [sha256(line).digest() for line in lines])
            self._offset += cut + 1

    def _read_long_line(self) -> bool:
        """Add the entry of a line that is longer than a chunk if the line is complete, and return whether it is. If it
        is not, the next call continues where this call ended. Raises OSError, SealError.
        """
        if self._begun is None or self._begun.offset != self._offset:
            self._begun = BegunLine(self._offset)
        begun = self._begun
        while data := os.pread(self._file, CHUNK_BYTES, self._offset + begun.length):
            cut = data.find(b"\n")
            begun.digest.update(data if cut < 0 else data[:cut])
            begun.length += len(data) if cut < 0 else cut
            if cut >= 0:
                self._add_entries([begun.digest.digest()], [self._offset])
                self._last, self._last_bytes = begun.digest.digest(), begun.length
                self._offset += begun.length + 1
                self._begun = None
                return True
            if monotonic() > self._until:
                return False
        return False

    def _add(self, lines: Sequence[bytes], entries: list[bytes]) -> None:
        room = self.tree.room
        if len(entries) < room and self.tree.size % TILE_WIDTH:
            self._add_entries(entries, ())
        else:
            offset, offsets = self._offset, []
            for line in lines:
                offsets.append(offset)
                offset += len(line) + 1
            self._add_entries(entries, offsets)
        self._last, self._last_bytes = entries[-1], len(lines[-1])

    def _add_entries(self, entries: list[bytes], offsets: Sequence[int]) -> None:
        """Add entries; `offsets` are the offsets of their lines in the file. The offset of the first line of each tile
        is recorded, so that a line can be found without counting from the beginning. Raises OSError, SealError.
        """
        tree, at, signed = self.tree, 0, self._signed_size
        while at < len(entries):
            if tree.size % TILE_WIDTH == 0:
                self._places.append(offsets[at].to_bytes(8) + self._number.to_bytes(8))
            room = min(tree.room, signed - tree.size) if tree.size < signed else tree.room
            some = entries[at : at + room]
            tree.add(some, [sha256(b"\0" + entry).digest() for entry in some])
            at += len(some)
            if tree.size == signed and tree.root() != self._checkpoint.root:  # type: ignore[union-attr]
                raise SealError(f"the lines of `{self.log}` do not lead to its checkpoint: {VERIFY_HINT}")

    # ── The checkpoint ────────────────────────────────────────────────────────────────────────

    def _write_tiles(self) -> None:
        """Write the tiles that the next checkpoint needs, and the places of their lines. Raises OSError."""
        end = -(-self.tree.size // TILE_WIDTH)
        if self._places:
            first = end - len(self._places)
            write_at(self._sealer.folder / "places", first * PLACE_BYTES, b"".join(self._places))
            self._places.clear()
        self.tree.write_partial_tiles()
        pause = self._pause
        self.tiles.write_waiting((lambda: None) if pause is None else partial(pause, PAUSE_SECONDS))

    def _sign(self) -> None:
        """Write the state and the checkpoint. Raises OSError."""
        sealer, tree = self._sealer, self.tree
        found = os.fstat(self._file)
        state = SealState(
            tree.size, self._number, self._first, self._offset, found.st_dev, found.st_ino, self._last.hex(),
            self._last_bytes, self._late.marks(),
        )  # fmt: skip
        write_file(sealer.folder / "state", msgspec.json.encode(state), durable=True)
        root = tree.root()
        text = str(Checkpoint(sealer.signer.name, tree.size, root))
        note = sealer.signer.sign(text)
        write_file(sealer.folder / "checkpoint", note.encode(), durable=True)
        self._checkpoint = sealer.checkpoint = SignedCheckpoint.parse(note)
        if sealer.delivery is not None:
            sealer.delivery.announce(self._checkpoint)
