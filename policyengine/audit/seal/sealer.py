"""Seals a log while processes write to it. Each process has a thread for this, but only the process that holds the lock
seals.

The sealer reads the complete lines of the files in order and adds their digests to the tree. While it holds the lock, a
busy writer of decisions also adds the lines that it has just written. At the end of each interval with new lines, the
thread forces the lines to disk and then signs a checkpoint, so that no checkpoint covers a line that a power failure
can lose. After a restart or a failure, the sealer continues at the place in the file `state`, which it writes before
each checkpoint.

A rotated file is finished if it was not changed for 3 s. If a process that was suspended later writes a line to the
file, the digest of that line is sealed in a later line of the log.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from threading import Event, RLock, Thread, current_thread
from time import monotonic, time
from typing import TYPE_CHECKING

from policyengine.audit.seal.key_notes import announcing_keys, leads_to, read_announcements
from policyengine.audit.seal.keys import SealKeyError, default_key_path, load_key, load_or_create_key, reason
from policyengine.audit.seal.notes import NoteError, SignedCheckpoint
from policyengine.audit.seal.options import SealOptions, SealStatement
from policyengine.audit.seal.seal_run import Pause, SealRun
from policyengine.audit.seal.seal_turns import SealTurns
from policyengine.audit.seal.sealed_files import (
    SealError,
    default_folder,
    identity,
    is_at,
    lock_file,
    stat_or_none,
)
from policyengine.audit.seal.statements import sign_statement
from policyengine.audit.seal.tiles import FILE_MODE, FOLDER_MODE, TileError, TileFolder, read_file, write_file
from policyengine.log_throttle import LogThrottle
from policyengine.trusted_files import write_problem

if TYPE_CHECKING:
    from policyengine.audit.seal.delivery import CheckpointDelivery

_LOG = logging.getLogger("policyengine")
# A rotated file is finished if it was not changed for this time: writers leave it within one second.
FINISHED_SECONDS = 3.0
OVERDUE_SECONDS = 60.0  # seconds without a checkpoint, although lines were written, after which this is reported
LOCK_SECONDS, LOCK_RETRY_SECONDS = 2.0, 0.02  # wait for the lock of another process that may be about to stop
RETRY_SECONDS = 60.0  # seconds after a failed rebuild of the tree until the next attempt
WAIT_SECONDS = 10.0  # maximum wait for the thread when a process ends
MISSING_KEY_HINT = (
    "restore it from a backup, name it with `--log-key FILE`, or move the log and its seal away to begin a new log"
)
ADVANCE_SECONDS = 1.0  # maximum time between two checkpoints while many lines are sealed
# Bytes of lines after which a process adds them to the tree itself, without a checkpoint. Leaving this to the thread
# would cost more, because threads that run at the same time take the interpreter from each other at every system call.
# Decisions are slower after each slice, because it displaces their data from the cache of the processor.
SLICE_BYTES = 524_288


class Sealer:
    """Seals a log in one process. `note` writes a line about the seal to the log."""

    def __init__(self, log: Path, options: SealOptions, note: Callable[[Mapping[str, object]], bool]) -> None:
        """Load or create the key and the folder. Raises SealKeyError, SealError."""
        self.log, self.interval = log, options.interval
        self.folder = options.folder or default_folder(log)
        self.key_path = options.key or default_key_path(log)
        self._note = note
        if (self.folder / "checkpoint").exists() and not self.key_path.exists():
            raise SealKeyError(f"the key `{self.key_path}` is missing, and the log is already sealed", MISSING_KEY_HINT)
        had_key = self.key_path.exists()
        self.signer = load_or_create_key(self.key_path, log)
        self.tiles = TileFolder(self.folder)
        self.delivery = open_delivery(self.folder, options)
        self._prepare_folder()
        self.checkpoint = self.load_checkpoint()
        if had_key and self.checkpoint is None and log.exists() and log.stat().st_size:
            _LOG.warning(
                "the log `%s` has lines and a key, but no checkpoint in `%s`: unless another process has just begun "
                "the log, or the last one was killed in its first second, the seal was removed; the log is sealed "
                "again from its first line", log, self.folder,
                extra={"event": "log_seal_begins"},
            )  # fmt: skip
        self.failures, self._opened_at, self._throttle = 0, time(), LogThrottle.every(OVERDUE_SECONDS)
        self._failing, self._unsealed_since = False, inf
        self._reset()
        _SEALERS.add(self)

    def _reset(self) -> None:
        """Reset the state of this process, without closing files that a parent process may use."""
        self._process, self._thread, self.turns = 0, None, SealTurns()  # 0 without a running thread, as after a fork
        self._written = 0  # bytes of lines that this process has not added to the tree itself
        self._guard, self._lock, self._writing = RLock(), -1, -1
        self._run: SealRun | None = None
        self._deadline, self._is_complete, self._is_misplaced = inf, True, False
        self._retry_at = 0.0

    _thread: Thread | None

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            if problem := write_problem(self.folder, os.stat(self.folder)):
                raise SealError(f"the folder of the seal can be changed by others: {problem}")
            vkey = f"{self.signer.verifier}\n".encode()
            if not (self.folder / "vkey").exists():
                write_file(self.folder / "vkey", vkey, writer=f".{secrets.token_hex(4)}")
            os.close(os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE))
        except OSError as error:
            raise SealError(f"the folder `{self.folder}` of the seal cannot be written: {reason(error)}") from None

    def load_checkpoint(self) -> SignedCheckpoint | None:
        """Load the last checkpoint; None before the first checkpoint. It must be signed by the key of this log, or by
        an earlier key that named this key as its successor. Raises SealError.
        """
        path = self.folder / "checkpoint"
        try:
            found = SignedCheckpoint.parse(read_file(path))
            notes = read_announcements(self.folder)
            mine, signers = self.signer.verifier, {(each.name, each.id) for each in found.note.signatures}
            announcing = {key for key in announcing_keys(notes) if (key.name, key.id) in signers}
            earlier = [key for key in announcing if leads_to(notes, key, mine)]
            found.log_keys([mine, *earlier])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SealError(f"the checkpoint `{path}` cannot be read: {reason(error)}") from None
        except NoteError as error:
            raise SealError(f"the checkpoint `{path}` does not fit the key `{self.key_path}`: {error}") from None
        return found

    def latest_checkpoint(self) -> SignedCheckpoint | None:
        """Return the last checkpoint in the folder, or None before the first. It must not be older than the last one
        that this process signed. Raises SealError.
        """
        found, signed = self.load_checkpoint(), self.checkpoint
        if signed is not None and (found is None or found.size < signed.size):
            raise SealError(
                f"`{self.folder}` was replaced by a version that is older than the last one that this "
                f"process signed: restore it"
            )
        return found

    def write_statement(self, event: SealStatement, members: Mapping[str, object]) -> bool:
        """Write a signed statement about the seal to the log. Return whether it was written."""
        note = sign_statement(self.signer, self.signer.name, event, members)
        return self._note({"event": event, "note": note})

    @property
    def unsealed_seconds(self) -> float:
        """The number of seconds since an access of this property first found lines that are newer than the last
        checkpoint; 0 if there are no such lines. Raises OSError.
        """
        with suppress(FileNotFoundError):
            written, checkpoint = os.stat(self.log), stat_or_none(self.folder / "checkpoint")
            mark = None if checkpoint is None else (checkpoint.st_ino, checkpoint.st_mtime_ns)
            if mark != self._unsealed_mark:  # under load, there are always newer lines
                self._unsealed_mark, self._unsealed_since = mark, inf
            if written.st_size and (checkpoint is None or checkpoint.st_mtime_ns < written.st_mtime_ns):
                self._unsealed_since = min(self._unsealed_since, monotonic())
                return monotonic() - self._unsealed_since
        self._unsealed_since = inf
        return 0.0

    _unsealed_mark: tuple[int, int] | None = None

    # ── The thread ────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """Start the thread of this process, after a line was written. A failure is logged, not raised."""
        if not self._process:
            with self._guard:
                if not self._process:
                    self._start()

    def wrote(self, length: int) -> None:
        """Record that this process wrote lines of `length` bytes. From time to time, add the written lines to the
        tree."""
        if not self._process:
            self.wake()
        written = self._written = self._written + length
        if written >= SLICE_BYTES:
            self._add_slice()
        if self.turns.is_wanted:
            self.turns.give()

    def _add_slice(self) -> None:
        """Add the lines that were just written to the tree, if this process holds the lock and its thread is not
        sealing. The next checkpoint covers these lines."""
        most, self._written = self._written, 0
        if self._run is None or not self._guard.acquire(blocking=False):
            return
        try:
            run = self._run
            if run is not None:
                self._attempt(lambda: run.add_slice(most))
        finally:
            self._guard.release()

    def _start(self) -> None:
        self._process, self.turns = os.getpid(), SealTurns()
        try:
            self._writing = lock_file(self.folder / "writers", exclusive=False)
            arguments = weakref.ref(self), self.turns, self.interval
            self._thread = Thread(target=seal_periodically, args=arguments, name="log seal", daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            if self._writing >= 0:
                os.close(self._writing)
            self._process, self._writing = 0, -1  # the next line tries again
            self._report_failure(error)

    @property
    def is_awake(self) -> bool:
        """Whether the thread of this process was started."""
        return bool(self._process)

    @property
    def pause(self) -> float:
        """The seconds until the thread seals again."""
        return self.interval if self._is_complete else 0.0

    def abandon(self) -> None:
        """Stop the thread and close all files without sealing; the next line starts the thread again."""
        self.turns.stop()
        with self._guard:
            self._unlock()
            if self._writing >= 0:
                os.close(self._writing)
            self._process, self._writing = 0, -1

    def __del__(self) -> None:
        if hasattr(self, "_guard") and self.is_awake:
            self.abandon()

    def stop(self) -> None:
        """Stop the thread, seal the remaining lines, and release the lock. If another process holds the lock, wait a
        short time, because that process may be about to stop, too. If it does not stop, it seals the lines."""
        if not self.is_awake:
            return
        self._deadline = monotonic() + WAIT_SECONDS
        self.turns.stop()
        thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join(WAIT_SECONDS)
            if thread.is_alive():
                _LOG.error(
                    "sealing the log `%s` did not end within %g s: its disk may not answer; the next process that "
                    "writes the log seals the rest", self.log, WAIT_SECONDS, extra={"event": "log_seal_fails"},
                )  # fmt: skip
                return
        closed, self._writing = self._writing, -1  # first: a second stop must not close it again
        if closed >= 0:
            with suppress(OSError):
                os.close(closed)
        until = monotonic() + LOCK_SECONDS
        while not self._seal_last() and monotonic() < until and not self._failing:
            Event().wait(LOCK_RETRY_SECONDS)
        while self._lock >= 0 and not self._is_complete and monotonic() < self._deadline and self._seal_last():
            pass
        with self._guard:
            self._unlock()
            self._process, self._writing, self._deadline = 0, -1, inf
        if self.delivery is not None:
            self.delivery.stop()

    def _seal_last(self) -> bool:
        """Seal the remaining lines. If no other process writes to the log, do not wait until rotated files are
        unchanged for a while. Return whether this process sealed them."""
        alone = -1
        with suppress(OSError):
            alone = lock_file(self.folder / "writers", exclusive=True)
        try:
            return self.seal(FINISHED_SECONDS if alone < 0 else 0.0)
        finally:
            if alone >= 0:
                os.close(alone)

    def seal(self, finished: float = FINISHED_SECONDS, pause: Pause | None = None) -> bool:
        """Seal the complete lines of the log, unless another process holds the lock. Return whether this process sealed
        lines without a failure. Each call tries again after a failure; only the first of consecutive failures is
        logged. A rotated file is finished if it was not changed for `finished` seconds. `pause` is called between
        chunks of lines.
        """
        with self._guard:
            self._is_complete = True
            until = min(self._deadline, monotonic() + ADVANCE_SECONDS)
            complete = self._attempt(lambda: self._advance(finished, until, pause))
            if complete is None:
                return False
            self._is_complete = complete
            if self._failing:
                self._failing = False
                _LOG.warning("the log `%s` is sealed again", self.log, extra={"event": "log_sealed"})
            return True

    def _advance(self, finished: float, until: float, pause: Pause | None) -> bool | None:
        """Seal lines until the time `until`. Return whether all lines were sealed, or None if this process may not seal
        now. Raises SealKeyError, OSError and the errors of SealRun.
        """
        if not self._holds_lock():
            self._watch_holder()
            return None
        self._follow_key()
        if self._run is None:
            if monotonic() < self._retry_at:
                return None
            self._run = SealRun(self, anew=self._is_misplaced)
        return self._run.advance(finished, until, pause)

    def _attempt(self, work: Callable[[], bool | None]) -> bool | None:
        """Return what `work` returns, or None if it failed."""
        try:
            return work()
        except (OSError, TileError, SealError, SealKeyError, NoteError) as error:
            self._report_failure(error)
        except Exception as error:  # a defect must not end the thread
            self._report_failure(error, exc_info=True)
        return None

    def _watch_holder(self) -> None:
        """Report a process that holds the lock but does not seal, for example because it is suspended. Remember its
        last checkpoint, so that this process never continues an older one. Raises OSError.
        """
        checkpoint = stat_or_none(self.folder / "checkpoint")
        with suppress(SealError, SealKeyError):  # the process that seals reports them
            self._follow_key()
            self.checkpoint = self.latest_checkpoint() or self.checkpoint
        sealed_at = self._opened_at if checkpoint is None else checkpoint.st_mtime
        written_at = self.log.stat().st_mtime if self.log.exists() else 0.0
        if time() - sealed_at > OVERDUE_SECONDS and written_at > sealed_at + OVERDUE_SECONDS:
            text = f"the log `{self.log}` is not sealed: another process holds `{self.folder / 'lock'}`"
            self._throttle.tell(logging.ERROR, "overdue", text, event="log_seal_fails")

    def _report_failure(self, error: Exception, *, exc_info: bool = False) -> None:
        self._unlock()  # another process may succeed
        if self._is_misplaced:  # reading the whole log did not help
            self._retry_at = monotonic() + RETRY_SECONDS
        self._is_misplaced = isinstance(error, SealError) and not self._is_misplaced
        self.failures += 1
        if not self._failing:
            self._failing = True
            why = reason(error) if isinstance(error, OSError) else str(error)
            if isinstance(error, OSError) and error.filename is not None:
                why = f"`{os.fsdecode(error.filename)}`: {why}"
            _LOG.error(
                "the log `%s` cannot be sealed: %s; decisions are still logged, and sealing is tried again",
                self.log, why, extra={"event": "log_seal_fails"}, exc_info=exc_info,
            )  # fmt: skip

    def _follow_key(self) -> None:
        """Load the key again if `audit rotate-key` has replaced it. Raises SealKeyError, and OSError if the key or the
        announcements cannot be read.
        """
        try:
            found = os.stat(self.key_path)
        except FileNotFoundError:
            return  # the key in memory is still the key of this log
        mark = (found.st_ino, found.st_mtime_ns)
        if mark == self._key_mark:
            return
        signer = load_key(self.key_path)
        if signer.verifier != self.signer.verifier:
            if not leads_to(read_announcements(self.folder), self.signer.verifier, signer.verifier):
                hint = "restore the key, or replace it with `policyengine audit rotate-key`"
                raise SealKeyError(
                    f"`{self.key_path}` has another key, which the previous key of the log did not announce", hint
                )
            _LOG.warning(
                "the log `%s` is now sealed with the key %s", self.log, signer.verifier.id.hex(),
                extra={"event": "log_key"},
            )  # fmt: skip
        self.signer, self._key_mark = signer, mark

    _key_mark: tuple[int, int] = (0, 0)

    def _holds_lock(self) -> bool:
        """Return whether this process holds the lock; take it if it is free. Raises OSError, SealError."""
        if self._lock < 0:
            self._lock = lock_file(self.folder / "lock", exclusive=True)
        elif not is_at(self.folder / "lock", identity(self._lock)):
            raise SealError(f"the folder `{self.folder}` of the seal was removed or replaced: restore it")
        return self._lock >= 0

    def _unlock(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def after_fork(self) -> None:
        """Close the files of the parent process in this child process, without releasing the locks of the parent."""
        files, run = (self._lock, self._writing), self._run
        self._reset()
        if run is not None:
            run.close()
        for file in files:
            if file >= 0:
                os.close(file)


def seal_periodically(sealer: weakref.ref[Sealer], turns: SealTurns, interval: float) -> None:
    """Seal periodically until the sealer stops or is no longer referenced."""
    wait = interval
    while turns.wait(wait):
        found = sealer()
        if found is None:
            return
        turns.begin()
        found.seal(pause=turns.rest)
        turns.end()
        wait = found.pause
        del found


def open_delivery(folder: Path, options: SealOptions) -> CheckpointDelivery | None:
    """Return the delivery of checkpoints, or None without receivers. Raises SealError."""
    if not (options.webhooks or options.witnesses):
        return None
    from policyengine.audit.seal.delivery import CheckpointDelivery, DeliveryError

    try:
        return CheckpointDelivery(folder, options)
    except DeliveryError as error:
        raise SealError(str(error)) from None


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
