"""Seals a log while processes write to it. Each process has a thread for this; only the process that holds the lock
seals.

The sealer reads the complete lines of the files in their order and adds their digests to the tree. At the end of each
interval with new lines, it forces the lines to disk and then signs a checkpoint, so that no checkpoint covers a line
that a power failure can lose. After a restart or a failure, it continues at the place in the file `state`, which it
writes before each checkpoint.

A rotated file is finished if it was not changed for 3 s. If a process that was suspended writes another line to it, the
digest of that line is sealed in a later line.
"""

from __future__ import annotations

import atexit
import logging
import os
import stat
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock, Thread, current_thread
from time import monotonic, time
from typing import TYPE_CHECKING

import msgspec

from policyengine.audit.files import log_files, open_log_file
from policyengine.audit.seal.keys import SealKeyError, default_key_path, load_key, load_or_create_key, reason
from policyengine.audit.seal.merkle import EMPTY_ROOT, tree_root
from policyengine.audit.seal.notes import Checkpoint, NoteError, SignedCheckpoint
from policyengine.audit.seal.options import SealOptions
from policyengine.audit.seal.tiles import FILE_MODE, FOLDER_MODE, GrowingTree, TileError, TileFolder, write_file

if TYPE_CHECKING:
    from policyengine.audit.seal.delivery import CheckpointDelivery

_LOG = logging.getLogger("policyengine")
CHUNK_BYTES = 65_536  # small, so that hashing a chunk delays no decision
# A rotated file is finished if it was not changed for this time: writers leave it within one second.
FINISHED_SECONDS = 3.0
LATE_FILES = 32  # maximum rotated files that are watched for late lines
LOCK_SECONDS, LOCK_RETRY_SECONDS = 2.0, 0.02  # for another process that may be about to stop
WAIT_SECONDS = 10.0  # maximum wait for the thread when a process ends
FOLDER_SUFFIX = ".tlog"
PLACE_BYTES = 16


class SealError(Exception):
    """The log cannot be sealed; the message says why."""


class SealState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a log is sealed: `size` entries. `file` is the number of the last file, counting from 0 all files that
    were ever sealed. This file has the entries from `first` on, and is sealed up to byte `offset`. `last` is the digest
    of its last sealed line, and `last_bytes` the length of that line.
    """

    size: int
    file: int
    first: int
    offset: int
    device: int
    inode: int
    last: str = ""
    last_bytes: int = 0


def default_folder(log: Path) -> Path:
    """Return the default folder of the seal, next to the log."""
    return log.with_name(log.name + FOLDER_SUFFIX)


class Sealer:
    """Seals a log in one process. `note` writes a line about the seal to the log."""

    def __init__(self, log: Path, options: SealOptions, note: Callable[[Mapping[str, object]], bool]) -> None:
        """Load or create the key and the folder. Raises SealKeyError, SealError."""
        self.log, self.interval = log, options.interval
        self.folder = options.folder or default_folder(log)
        self.key_path = options.key or default_key_path(log)
        self.note = note
        self.signer = load_or_create_key(self.key_path, log)
        self.tiles = TileFolder(self.folder)
        self.delivery = open_delivery(self.folder, options)
        self._prepare_folder()
        self.checkpoint = self._load_checkpoint()
        self.failures = 0
        self._failing = False
        self._reset()
        _SEALERS.add(self)

    def _reset(self) -> None:
        """Reset the state of this process, without closing what a parent process may use."""
        self._process, self._thread, self._stop = 0, None, Event()
        self._guard, self._lock, self._writing = Lock(), -1, -1
        self._run: SealRun | None = None

    _thread: Thread | None

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            vkey = f"{self.signer.verifier}\n".encode()
            if not (self.folder / "vkey").exists():
                write_file(self.folder / "vkey", vkey)
            os.close(os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        except OSError as error:
            raise SealError(f"the folder `{self.folder}` of the seal cannot be written: {reason(error)}") from None

    def _load_checkpoint(self) -> SignedCheckpoint | None:
        """Load the last checkpoint, which the key must have signed. Raises SealError."""
        path = self.folder / "checkpoint"
        try:
            found = SignedCheckpoint.parse(path.read_bytes())
            found.log_keys([self.signer.verifier])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SealError(f"the checkpoint `{path}` cannot be read: {reason(error)}") from None
        except NoteError as error:
            raise SealError(f"the checkpoint `{path}` does not fit the key `{self.key_path}`: {error}") from None
        return found

    # ── The thread ────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """Start the thread of this process, after a line was written. A failure is logged, not raised."""
        if self._process != os.getpid():
            with self._guard:
                if self._process != os.getpid():
                    self._start()

    def _start(self) -> None:
        self._process, self._stop = os.getpid(), Event()
        try:
            self._writing = self._open_lock("writers", exclusive=False)
            self._thread = Thread(target=self._loop, name="log seal", daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            self._failed(error)

    @property
    def is_awake(self) -> bool:
        """Whether the thread of this process was started."""
        return self._process == os.getpid()

    def _loop(self) -> None:
        stop = self._stop
        while not stop.wait(self.interval):
            self.seal()

    def stop(self) -> None:
        """Stop the thread, seal the lines that are there, and leave the lock to others. If another process holds the
        lock, wait for it shortly: it may be about to stop, too, and else it seals the lines itself."""
        if not self.is_awake:
            return
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join(WAIT_SECONDS)
        with suppress(OSError):
            if self._writing >= 0:
                os.close(self._writing)
        until = monotonic() + LOCK_SECONDS
        while not self._seal_last() and monotonic() < until and not self._failing:
            Event().wait(LOCK_RETRY_SECONDS)
        with self._guard:
            self._unlock()
            self._process, self._writing = 0, -1
        if self.delivery is not None:
            self.delivery.stop()

    def _seal_last(self) -> bool:
        """Seal, also rotated files that were just changed if no other process writes to the log."""
        alone = -1
        with suppress(OSError):
            alone = self._open_lock("writers", exclusive=True)
        try:
            return self.seal(FINISHED_SECONDS if alone < 0 else 0.0)
        finally:
            if alone >= 0:
                os.close(alone)

    def seal(self, finished: float = FINISHED_SECONDS) -> bool:
        """Seal the complete lines of the log, unless another process holds the lock. Return whether this process sealed
        them. Of failures in a row, only the first is logged; each call tries again. A rotated file is finished if it
        was not changed for `finished` seconds.
        """
        with self._guard:
            try:
                if not self._holds_lock():
                    return False
                self._follow_key()
                if self._run is None:
                    self._run = SealRun(self)
                self._run.advance(finished)
            except (OSError, TileError, SealError, SealKeyError, NoteError) as error:
                self._failed(error)
                return False
            except Exception as error:  # a defect must not end the thread
                self._failed(error, exc_info=True)
                return False
            if self._failing:
                self._failing = False
                _LOG.warning("the log `%s` is sealed again", self.log, extra={"event": "log_sealed"})
            return True

    def _failed(self, error: Exception, *, exc_info: bool = False) -> None:
        if self._run is not None:
            self._run.close()
        self._run = None
        self.failures += 1
        if not self._failing:
            self._failing = True
            why = reason(error) if isinstance(error, OSError) else str(error)
            _LOG.error(
                "the log `%s` cannot be sealed: %s; decisions are still logged, and sealing is tried again",
                self.log, why, extra={"event": "log_seal_fails"}, exc_info=exc_info,
            )  # fmt: skip

    def _follow_key(self) -> None:
        """Load the key again after `audit rotate-key` replaced it. Raises SealKeyError."""
        try:
            found = os.stat(self.key_path)
        except FileNotFoundError:
            return  # the key in memory is still the key of this log
        mark = (found.st_ino, found.st_mtime_ns)
        if mark != self._key_mark:
            signer = load_key(self.key_path)
            if str(signer) != str(self.signer):
                _LOG.warning(
                    "the log `%s` is now sealed with the key %s", self.log, signer.verifier.id.hex(),
                    extra={"event": "log_key"},
                )  # fmt: skip
            self.signer, self._key_mark = signer, mark

    _key_mark: tuple[int, int] = (0, 0)

    def _holds_lock(self) -> bool:
        if self._lock < 0:
            self._lock = self._open_lock("lock", exclusive=True)
        return self._lock >= 0

    def _open_lock(self, name: str, *, exclusive: bool) -> int:
        """Open a lock file and lock it; return -1 if another process holds it. Raises OSError."""
        import fcntl

        opened = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(opened, fcntl.LOCK_NB | (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH))
        except BlockingIOError:
            os.close(opened)
            return -1
        return opened

    def _unlock(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def after_fork(self) -> None:
        """Give up what belongs to the parent process: close its lock in this child process, without releasing it."""
        files, run = (self._lock, self._writing), self._run
        self._reset()
        if run is not None:
            run.close()
        for file in files:
            if file >= 0:
                os.close(file)


@dataclass(slots=True)
class LateFile:
    """A rotated file that was sealed up to byte `offset`. `file` is its descriptor, open for reading."""

    file: int
    offset: int


class SealRun:
    """Seals from one place in the files on, in the process that holds the lock. After an exception it is unusable."""

    def __init__(self, sealer: Sealer) -> None:
        """Continue where the last run ended. Raises OSError, TileError, SealError, NoteError."""
        self._sealer, self.log, self.tiles = sealer, sealer.log, sealer.tiles
        self._late: deque[LateFile] = deque()
        self._file, self._path = -1, sealer.log
        state = read_state(sealer.folder)
        self._checkpoint = sealer._load_checkpoint()
        self.tree = GrowingTree(self.tiles, state.size) if state is not None else GrowingTree(self.tiles)
        self._check_tree()
        self._last, self._last_bytes = b"", 0
        if state is None:
            self._number, self._first, self._offset = 0, 0, 0
            self._open_first()
        else:
            self._number, self._first, self._offset = state.file, state.first, state.offset
            self._last, self._last_bytes = bytes.fromhex(state.last), state.last_bytes
            self._open_again(state)

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, *(late.file for late in self._late)):
            if file >= 0:
                os.close(file)
        self._file = -1
        self._late.clear()

    def _check_tree(self) -> None:
        """Check that the tiles lead to the last checkpoint. Raises TileError, SealError."""
        last = self._checkpoint
        if last is None:
            return
        if last.size > self.tree.size:
            raise SealError(f"`{self._sealer.folder / 'state'}` is older than the checkpoint beside it: restore it")
        root = tree_root(self.tiles.subtrees(self.tree.size), last.size) if self.tree.size else EMPTY_ROOT
        if root != last.root:
            raise SealError(f"the tiles in `{self._sealer.folder}` do not lead to the checkpoint there")

    # ── Which file ────────────────────────────────────────────────────────────────────────────

    def _open_first(self) -> None:
        """Begin with the oldest file of the log."""
        self._start_file(log_files(self.log)[0], 0)

    def _start_file(self, path: Path, number: int) -> None:
        """Begin with the first line of a file. Raises OSError."""
        opened = open_plain(path)
        if self._file >= 0:
            os.close(self._file)
        self._path = path
        self._file, self._number, self._first, self._offset = opened, number, self.tree.size, 0
        self._last, self._last_bytes = b"", 0
        write_at(self._sealer.folder / "starts", 8 * number, self._first.to_bytes(8))

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
        _LOG.error(
            "the log `%s` has lost lines that were sealed: `policyengine audit verify` shows which", self.log,
            extra={"event": "log_tampered"},
        )  # fmt: skip
        self._start_file(files[-1], self._number + 1)

    def advance(self, finished: float) -> None:
        """Seal the complete lines of the log, and sign a checkpoint. Raises OSError, TileError, SealError."""
        began = self.tree.size
        self._read_lines()
        while (following := self._following_file(finished)) is not None:
            os.fdatasync(self._file)
            self._leave_file()
            self._start_file(following, self._number + 1)
            self._read_lines()
        self._find_late_lines()
        if self.tree.size != began or self._is_behind():
            os.fdatasync(self._file)
            self._sign()

    def _is_behind(self) -> bool:
        last = self._checkpoint
        if last is None or last.size != self.tree.size:
            return self.tree.size > 0
        verifier = self._sealer.signer.verifier
        return not any((each.name, each.id) == (verifier.name, verifier.id) for each in last.note.signatures)

    def _following_file(self, finished: float) -> Path | None:
        """Return the file after this one if this one is finished, else None. Raises OSError."""
        found = os.fstat(self._file)
        here, packed = (found.st_dev, found.st_ino), found.st_nlink == 0  # unpacked, or deleted
        try:
            if identity(self.log) == here:
                if found.st_size < self._offset:
                    return self._after_truncation()
                return None
        except FileNotFoundError:
            return None  # moved; nothing was written since
        if time() - max(found.st_mtime, found.st_ctime) < finished:
            return None
        files = log_files(self.log)
        places = [at for at, path in enumerate(files) if identity(path) == here or (packed and path == self._path)]
        return files[places[-1] + 1] if places and places[-1] + 1 < len(files) else files[-1]

    def _after_truncation(self) -> Path:
        """Seal the rest of the lines in the copy that logrotate's `copytruncate` made, and return the truncated file,
        in which new lines begin.
        """
        for path in reversed(log_files(self.log)[:-1]):
            if ends_with_line(path, self._offset, self._last, self._last_bytes):
                opened = open_plain(path)
                os.close(self._file)
                self._file = opened
                self._read_lines()
                break
        return self.log

    def _leave_file(self) -> None:
        """Watch the rotated file for late lines, unless it was truncated and is used again."""
        if identity(self.log) == identity(self._file):
            return
        self._late.append(LateFile(os.dup(self._file), self._offset))
        if len(self._late) > LATE_FILES:
            os.close(self._late.popleft().file)

    def _find_late_lines(self) -> None:
        """Seal the lines that a process wrote to a rotated file after the sealer left it, with a line in the current
        file. The last line may have no newline, if the process was killed while writing it.
        """
        for late in self._late:
            if os.fstat(late.file).st_size <= late.offset:
                continue
            data = os.pread(late.file, CHUNK_BYTES * 16, late.offset)
            os.fdatasync(late.file)
            lines = data.split(b"\n") if data[-1:] != b"\n" else data[:-1].split(b"\n")
            digests = [sha256(line).hexdigest() for line in lines]
            if self._sealer.note({"event": "late_lines", "digests": digests}):
                late.offset += len(data)

    # ── Lines ─────────────────────────────────────────────────────────────────────────────────

    def _read_lines(self) -> None:
        """Add the entries of the complete lines of the file, from the offset on. Raises OSError."""
        while data := os.pread(self._file, CHUNK_BYTES, self._offset):
            cut = data.rfind(b"\n")
            if cut < 0:
                if not self._read_long_line():
                    return
                continue
            lines = data[:cut].split(b"\n")
            entries = [sha256(line).digest() for line in lines]
            self._add(lines, entries)
            self._offset += cut + 1

    def _read_long_line(self) -> bool:
        """Add the entry of a line that is longer than a chunk, if the line is complete. Return whether it is. Raises
        OSError.
        """
        digest, length = sha256(), 0
        while data := os.pread(self._file, CHUNK_BYTES * 16, self._offset + length):
            cut = data.find(b"\n")
            digest.update(data if cut < 0 else data[:cut])
            length += len(data) if cut < 0 else cut
            if cut >= 0:
                self._add_entries([digest.digest()], [self._offset])
                self._last, self._last_bytes = digest.digest(), length
                self._offset += length + 1
                return True
        return False

    def _add(self, lines: Sequence[bytes], entries: list[bytes]) -> None:
        room = self.tree.room
        if len(entries) < room and self.tree.size % 256:
            self._add_entries(entries, ())
        else:
            offset, offsets = self._offset, []
            for line in lines:
                offsets.append(offset)
                offset += len(line) + 1
            self._add_entries(entries, offsets)
        self._last, self._last_bytes = entries[-1], len(lines[-1])

    def _add_entries(self, entries: list[bytes], offsets: Sequence[int]) -> None:
        """Add entries. `offsets` are the offsets of their lines in the file. The offset of the first line of each tile
        is recorded, so that a line is found without counting from the beginning.
        """
        tree, at = self.tree, 0
        while at < len(entries):
            if tree.size % 256 == 0:
                place = offsets[at].to_bytes(8) + self._number.to_bytes(8)
                write_at(self._sealer.folder / "places", tree.size // 256 * PLACE_BYTES, place)
            some = entries[at : at + tree.room]
            tree.add(some, [sha256(b"\0" + entry).digest() for entry in some])
            at += len(some)

    # ── The checkpoint ────────────────────────────────────────────────────────────────────────

    def _sign(self) -> None:
        """Write the partial tiles, the state and the checkpoint. Raises OSError."""
        sealer, tree = self._sealer, self.tree
        tree.write_partial_tiles()
        found = os.fstat(self._file)
        state = SealState(
            tree.size, self._number, self._first, self._offset, found.st_dev, found.st_ino, self._last.hex(),
            self._last_bytes,
        )  # fmt: skip
        write_file(sealer.folder / "state", msgspec.json.encode(state))
        root = tree.root()
        origin = sealer.signer.name if self._checkpoint is None else self._checkpoint.checkpoint.origin
        text = str(Checkpoint(origin, tree.size, root))
        note = sealer.signer.sign(text)
        write_file(sealer.folder / "checkpoint", note.encode())
        self._checkpoint = sealer.checkpoint = SignedCheckpoint.parse(note)
        if sealer.delivery is not None:
            sealer.delivery.announce(self._checkpoint)


def open_delivery(folder: Path, options: SealOptions) -> CheckpointDelivery | None:
    """Return the delivery of checkpoints, or None without receivers. Raises SealError."""
    if not (options.webhooks or options.witnesses):
        return None
    from policyengine.audit.seal.delivery import CheckpointDelivery, DeliveryError

    try:
        return CheckpointDelivery(folder, options)
    except DeliveryError as error:
        raise SealError(str(error)) from None


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def read_state(folder: Path) -> SealState | None:
    """Return the state, or None if nothing was sealed yet. Raises SealError, OSError."""
    path = folder / "state"
    try:
        return msgspec.json.decode(path.read_bytes(), type=SealState)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ValueError) as error:
        raise SealError(f"`{path}` is damaged: {error}") from None


def identity(path: Path | int) -> tuple[int, int]:
    """Return the device and inode of a file. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def open_plain(path: Path) -> int:
    """Open a file for reading; a compressed file is unpacked into a temporary file. Raises OSError, and SealError if it
    is not a regular file.
    """
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise SealError(f"`{path}` is not a file")
    if os.pread(opened, 2, 0) != b"\x1f\x8b":
        return opened
    os.close(opened)
    import shutil
    import tempfile

    with open_log_file(path) as packed, tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.flush()
        return os.dup(unpacked.fileno())


def ends_with_line(path: Path, offset: int, digest: bytes, length: int) -> bool:
    """Return whether the bytes before the offset are the line with this digest, followed by a newline. Raises OSError,
    SealError.
    """
    opened = open_plain(path)
    try:
        if offset == 0 or not digest:
            return offset == 0
        if os.fstat(opened).st_size < offset:
            return False
        begin = max(0, offset - length - 1)
        if begin and os.pread(opened, 1, begin - 1) != b"\n":
            return False
        found, at = sha256(), begin
        while at < offset - 1 and (data := os.pread(opened, min(1 << 20, offset - 1 - at), at)):
            found.update(data)
            at += len(data)
        return os.pread(opened, 1, offset - 1) == b"\n" and found.digest() == digest
    finally:
        os.close(opened)


def write_at(path: Path, offset: int, raw: bytes) -> None:
    """Write bytes at an offset of a file. Raises OSError."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        os.pwrite(opened, raw, offset)
    finally:
        os.close(opened)


# ── Processes ─────────────────────────────────────────────────────────────────────────────────

_SEALERS: weakref.WeakSet[Sealer] = weakref.WeakSet()


def _after_fork() -> None:
    for sealer in tuple(_SEALERS):
        sealer.after_fork()


def _at_exit() -> None:
    for sealer in tuple(_SEALERS):
        sealer.stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
