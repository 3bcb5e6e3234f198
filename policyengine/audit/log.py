"""The decision log file: append-only, one write for each line, so that processes may share it."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from math import inf
from pathlib import Path
from threading import RLock
from time import monotonic, time
from typing import TYPE_CHECKING

from policyengine import kernel as k
from policyengine.audit.encoder import LogLineEncoder, encode
from policyengine.audit.event_records import OUTCOME_MEMBER, SYSTEM_MEMBER
from policyengine.audit.files import NO_ROOM, ends_with_newline, file_identity, write_beginning
from policyengine.audit.fsync import FSYNC_INTERVAL_SECONDS, FileSyncer, Sync
from policyengine.audit.recent_decisions import DecisionSubject, RecentDecisions
from policyengine.audit.redaction import Redaction
from policyengine.audit.rotation import (
    LATER,
    MAX_BUSY_SECONDS,
    NO_ROTATION,
    Rotation,
    delete_file,
    rename_aside,
    rotation_lock,
    tidy_in_thread,
)
from policyengine.audit.seal.options import SEAL_MEMBER, SealOptions, SealStatement
from policyengine.audit.system_notes import SystemNotes
from policyengine.audit.token_events import TokenEventKind
from policyengine.entities.store import RowResult
from policyengine.http.trace_context import current_trace
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request
from policyengine.spec.facts import Facts
from policyengine.trusted_files import UntrustedPathError, open_trusted
from policyengine.typesystem import EntityRef

if TYPE_CHECKING:
    from policyengine.audit.seal.sealer import Sealer
    from policyengine.audit.sinks.sink_set import SinkOptions, SinkSet

_LOG = logging.getLogger("policyengine")
MAX_COUNTED_BYTES = 1_048_576  # bytes
CHECK_INTERVAL_SECONDS = 1.0  # seconds between two checks whether the file was moved
OWNER_ONLY = 0o600
TASK_ID = ("task", "id")
SEALED = SealOptions()
ISSUED = TokenEventKind.ISSUED.value
SEAL_HINT = "correct it, or turn sealing off with `--log-seal off`"


class OnFailure(StrEnum):
    """The answer to a decision that cannot be logged."""

    DENY = "deny"
    CONTINUE = "continue"


class DecisionLogError(Exception):
    """The error for a log that cannot be used; `hint` says how to correct it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message, self.hint = message, hint


class DecisionLog:
    """A log in a file that only its owner may read. Threads and forked processes may share the log.

    `redact` lists facts (`body.card`, `args.**.token`) to redact in addition to those with secret names. `failures`
    counts lines that could not be written. A moved file is reopened within a second, or by `reopen`; `rotation` is when
    to rotate the file, and `sync` when to force lines to disk. `sinks` are the URLs of systems that also get the lines
    (`docs/audit-export.md`). Raises DecisionLogError.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        on_failure: OnFailure | str = OnFailure.DENY,
        redact: Iterable[str] = (),
        rotation: Rotation = NO_ROTATION,
        sync: Sync | str = Sync.NEVER,
        seal: SealOptions | None = SEALED,
        sinks: SinkOptions | Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.on_failure = OnFailure(on_failure)
        self.rotation, self._syncing = rotation, FileSyncer(Sync(sync), FSYNC_INTERVAL_SECONDS)
        self._room = inf if rotation.size is None else float(rotation.size)  # bytes until the next size check
        self._later, self._busy_since = 0.0, inf
        self.failures = 0
        self.recent = RecentDecisions()  # decisions whose outcomes may be reported
        self.system = SystemNotes(self.note_system)
        try:
            self._redaction = Redaction.of(redact)
            self._writer = LogLineEncoder(self._redaction)
            # Encoders by the facts that guards redact; their number is bounded.
            self._writers: dict[tuple[str, ...], LogLineEncoder] = {}
        except ValueError as error:
            raise DecisionLogError(
                str(error), 'write it as in policies: `body.card`, `request.headers["x-id"]`'
            ) from None
        self._directories: dict[str, bytes] = {}
        self._guard = RLock()  # tests delete old files in the thread that rotates
        self._due = self._looked()
        self._ends_torn = self._failing = False
        try:
            self._file = open_log(self.path)
            self._place, self._size = file_identity(self._file), 0
            self._ends_torn = not ends_with_newline(self._file)
        except OSError as error:
            raise DecisionLogError(f"`{self.path}`: {(error.strerror or str(error)).lower()}") from None
        self.sealer = None if seal is None else self._open_sealer(seal)
        self.sinks = self._open_sinks(sinks) if sinks else None

    def _open_sealer(self, options: SealOptions) -> Sealer:
        """Open the sealer; if this fails, close the log. Raises DecisionLogError."""
        from policyengine.audit.seal.keys import SealKeyError
        from policyengine.audit.seal.sealed_files import SealError
        from policyengine.audit.seal.sealer import Sealer

        try:
            return Sealer(self.path, options, self.note_seal)
        except SealKeyError as error:
            os.close(self._file)
            raise DecisionLogError(error.message, error.hint) from None
        except SealError as error:
            os.close(self._file)
            raise DecisionLogError(str(error), SEAL_HINT) from None

    def _open_sinks(self, sinks: SinkOptions | Sequence[str]) -> SinkSet:
        """Raises DecisionLogError."""
        from policyengine.audit.sinks.sink_set import SinkSetupError, open_sinks

        try:
            return open_sinks(self.path, sinks)
        except SinkSetupError as error:
            raise DecisionLogError(error.message, error.hint) from None

    def note_seal(self, told: Mapping[str, object]) -> bool:
        """Write a line about the seal. Return whether it was written."""
        return self.note(SEAL_MEMBER, told, int(time()))

    def _delete(self, file: Path) -> bool:
        """Delete a rotated file if the seal has as many later files as are kept, or does not have the file. Write a
        line about it, so that its lines are not missed. Return whether it was deleted. Raises OSError."""
        if self.sealer is None:
            return delete_file(file)
        from policyengine.audit.seal.line_digests import UnreadableFileError, summarize_lines
        from policyengine.audit.seal.old_files import count_later_files
        from policyengine.audit.seal.sealed_files import SealError

        try:
            later = count_later_files(self.path, self.sealer.folder, file)
        except (SealError, UnreadableFileError):
            later = None
        if later is None:
            return delete_file(file)
        if later < (self.rotation.keep or 0):
            return False
        lines, digest = summarize_lines(file)
        members = {"file": file.name, "lines": lines, "digest": digest}
        is_written = self.sealer.write_statement(SealStatement.FILE_DELETED, members)
        delete_file(file)
        if not is_written:  # perhaps the disk was full
            self.sealer.write_statement(SealStatement.FILE_DELETED, members)
        return True

    def seal(self) -> bool:
        """Seal the complete lines of the log, without waiting for the interval. Return whether this process sealed
        them: another process that writes this log may hold the lock.
        """
        return self.sealer is not None and self.sealer.seal()

    def wake(self) -> None:
        """Start the threads of this process that seal and send lines. A failure is logged, not raised."""
        if self.sealer is not None:
            self.sealer.wake()
        if self.sinks is not None:
            self.sinks.wake()

    def close(self) -> None:
        """Seal the complete lines of the log, and close the file. Nothing may be written afterwards."""
        if self.sealer is not None:
            self.sealer.stop()
        if self.sinks is not None:
            self.sinks.stop()
        os.close(self._file)

    @property
    def redaction(self) -> Redaction:
        """The redacted facts, in addition to those with secret names."""
        return self._redaction

    @property
    def others_may_read(self) -> bool:
        """Return whether the file existed with a mode that permits other users to read it."""
        return bool(os.fstat(self._file).st_mode & 0o077)

    def flush(self) -> None:
        """Wait until written lines are on disk, if the system can force them."""
        with suppress(OSError):
            os.fsync(self._file)

    def finish(self) -> None:
        """Seal and send what is written and force it to disk, before the process ends."""
        if self.sealer is not None:
            self.sealer.stop()
        if self.sinks is not None:
            self.sinks.stop()
        self.flush()

    def reopen(self) -> None:
        """Reopen the file before the next line is written, because the file was moved."""
        self._due = 0.0

    def directory(self, rows: Iterable[EntityData]) -> bytes:
        """Write the entity rows that decisions will use, and return the member that refers to them. Raises
        DecisionLogError."""
        name, line = self._writer.directory(rows, lambda written: f"sha256:{sha256(written).hexdigest()}")
        if name not in self._directories:
            if not self._holds(line) and not self._append(line, at_once=True):
                raise DecisionLogError(
                    f"`{self.path}`: the entities could not be written", "check that the disk has space"
                )
            last = list(self._directories.items())[-1:]
            self._directories = {**dict(last), name: line}  # decisions in progress may use the previous rows
        return b'"directory":' + encode(name) + b","

    def _holds(self, line: bytes) -> bool:
        """Return whether the file already has the line, at its beginning, or near its end if the parent process wrote
        it.
        """
        if os.pread(self._file, len(line), 0) == line:
            return True
        size = os.fstat(self._file).st_size
        return line in os.pread(self._file, len(line) + MAX_COUNTED_BYTES, max(0, size - len(line) - MAX_COUNTED_BYTES))

    def past(self, asked: Iterable[k.HistoryCondition | k.Aggregate], facts: Facts) -> bytes:
        """Return the member with the histories that a decision used."""
        return self._writer.past(asked, facts)

    def looked_up(self, found: Mapping[EntityRef, RowResult], types: Iterable[str]) -> bytes:
        """Return the member with the rows that a decision looked up."""
        return self._writer.looked_up(found, types)

    def keep(
        self, decision: Decision, moment: int, call: bytes, state: bytes, question: dict[str, object] | Request
    ) -> bool:
        """Write a decision. Return whether the decision may be returned: it was written, or `on_failure` permits
        returning it anyway.

        `moment` is the time of the decision in nanoseconds. Nothing is written while a sink that denies lags.
        """
        if self.sinks is not None and not self.sinks.admits():
            return False
        try:
            writer = self._writer_for(decision) if decision.obligations else self._writer
            line = writer.line(decision, moment, call, trace_member() + state, writer.question(question))
            return self._append(line) or self.lets_pass
        except Exception:
            self._not_put("a decision")
            return self.lets_pass

    def note(self, what: str, told: Mapping[str, object], now: int) -> bool:
        """Write a token event. Return whether it was written. `now` is in seconds since 1970."""
        if what == ISSUED and self.sinks is not None and not self.sinks.admits():
            return False
        return self._note(what, told, now * 1_000_000_000)

    def note_outcome(self, told: Mapping[str, object], moment: int) -> bool:
        """Write how a request came out, at a time in nanoseconds. Return whether it was written."""
        return self._note(OUTCOME_MEMBER, told, moment)

    def redacts(self, decision: Decision, path: tuple[str, ...]) -> bool:
        """Whether the line of a decision has a fingerprint in place of a fact."""
        redaction = self._writer_for(decision).redaction if decision.obligations else self._redaction
        return redaction.hides(path)

    def redact_subject(self, subject: DecisionSubject) -> dict[str, object]:
        """Return what an outcome repeats about its decision; facts that its line redacts have the same fingerprint."""
        task = self._redaction.value(subject.task, TASK_ID)
        return subject._replace(task=task).to_dict()

    def note_system(self, told: Mapping[str, object], moment: int) -> bool:
        """Write an event of the server, at a time in nanoseconds. It does not start the thread of the seal, because
        processes may be forked later. Return whether it was written."""
        return self._note(SYSTEM_MEMBER, told, moment, wake=False)

    def _note(self, what: str, told: Mapping[str, object], moment: int, *, wake: bool = True) -> bool:
        try:
            line = self._writer.event(what, told, moment, trace_member())
        except Exception:
            self._not_put(f"an event of kind `{what}`")
            return False
        return self._append(line, wake=wake)

    @property
    def lets_pass(self) -> bool:
        """Return whether decisions that cannot be written are answered anyway."""
        return self.on_failure is OnFailure.CONTINUE

    def _not_put(self, what: str) -> None:
        _LOG.exception("%s could not be logged", what, extra={"event": "log_fails"})
        with self._guard:
            self.failures += 1

    def _writer_for(self, decision: Decision) -> LogLineEncoder:
        """Return the encoder that also redacts the facts which the policy's `redact` obligations name."""
        facts = tuple(fact for one in decision.obligations if one.kind == "redact" for fact in one.arguments)
        if not facts:
            return self._writer
        found = self._writers.get(facts)
        if found is None:
            found = self._writers[facts] = LogLineEncoder(self._redaction.also(facts))
        return found

    # ── The file ──────────────────────────────────────────────────────────────────────────────

    def _append(self, line: bytes, *, at_once: bool = False, wake: bool = True) -> bool:
        try:
            if self._room <= 0:
                self._due = 0.0
            if monotonic() >= self._due:
                self._look()
            whole = b"\n" + line if self._ends_torn else line
            self._room -= len(whole)
            if os.write(self._file, whole) != len(whole):
                self._ends_torn = True  # the rest would not fit either
                raise NO_ROOM
            self._syncing.wrote(self._file, at_once=at_once)
            if wake and not at_once:
                self.wake()
        except OSError as error:
            self._failed(error)
            return False
        if self._ends_torn or self._failing:
            self._mended()
        return True

    @staticmethod
    def _looked() -> float:
        return monotonic() + CHECK_INTERVAL_SECONDS

    def _look(self) -> None:
        """Reopen the file if it was moved, and rotate it if rotation is due."""
        with self._guard:
            if monotonic() < self._due:
                return
            self._due = self._looked()
            if self._is_in_place() and not (self.rotation.wanted and self._set_aside()):
                room = inf if self.rotation.size is None else float(self.rotation.size - self._size)
                self._room = room if room > 0 else inf  # rotation is not possible now
                return
            self._open_anew()

    def _open_anew(self) -> None:
        """Open a new file, which begins with the entity rows. Raises OSError."""
        self._syncing.leaving(self._file)
        try:
            opened = open_log(self.path)
        except DecisionLogError as error:
            raise OSError(errno.EINVAL, error.message) from None
        try:
            write_beginning(opened, b"".join(self._directories.values()))
            os.dup2(opened, self._file, inheritable=False)  # atomic: no thread writes to a closed file
            self._place, self._ends_torn = file_identity(self._file), False
            self._size = os.fstat(self._file).st_size
            self._room = inf if self.rotation.size is None else float(max(1, self.rotation.size - self._size))
        finally:
            os.close(opened)

    def _set_aside(self) -> bool:
        """Rotate the file. Return whether this or another process did; otherwise writing continues in the same file."""
        if not self._is_due() or monotonic() < self._later:
            return False
        try:
            with rotation_lock(self.path):
                self._busy_since = inf
                if file_identity(self.path) == self._place and self._is_due():
                    rename_aside(self.path, time())
        except FileNotFoundError:
            return True
        except BlockingIOError:  # another process renames the file, or something else
            self._busy_since = min(self._busy_since, monotonic())
            if monotonic() - self._busy_since >= MAX_BUSY_SECONDS:
                self._cannot_rotate("another process holds the lock of its folder")
            return False
        except (OSError, ValueError, OverflowError) as error:  # rotation never denies a decision
            self._cannot_rotate(str(error))
            return False
        tidy_in_thread(self.path, self.rotation, self._delete)
        return True

    def _cannot_rotate(self, why: str) -> None:
        self._later = monotonic() + LATER
        _LOG.error(
            "the decision log `%s` cannot be rotated, and grows: %s", self.path, why, extra={"event": "log_rotation"}
        )

    def _is_due(self) -> bool:
        """Return whether rotation is due; never if the file has only entity rows."""
        found = os.fstat(self._file)
        return found.st_size > sum(map(len, self._directories.values())) and self.rotation.due(found, time())

    def _is_in_place(self) -> bool:
        """Return whether the path still names the open file, and the file was not truncated."""
        with suppress(FileNotFoundError):
            before, self._size = self._size, os.fstat(self._file).st_size
            return file_identity(self.path) == self._place and self._size >= before
        return False

    def _failed(self, error: OSError) -> None:
        with self._guard:
            self.failures += 1
            told, self._failing = self._failing, True
        if not told:
            self.system.remember_log_failure(error)
            means = "are denied" if self.on_failure is OnFailure.DENY else "go unrecorded"
            _LOG.error(
                "the decision log `%s` cannot be written: %s; decisions %s", self.path, error.strerror, means,
                extra={"event": "log_fails"},
            )  # fmt: skip

    def _mended(self) -> None:
        with self._guard:
            told, self._failing, self._ends_torn = self._failing, False, False
        if told:
            _LOG.warning(
                "the decision log `%s` is written again after %d failures", self.path, self.failures,
                extra={"event": "log_written", "failures": self.failures},
            )  # fmt: skip
            self.system.write_log_failure(self.failures)


def trace_member() -> bytes:
    """Return the member with the current trace; empty without a trace."""
    trace = current_trace()
    return b"" if trace is None else b'"trace":"%b",' % trace.parent.encode()


def open_log(path: Path) -> int:
    """Open the file. Raises OSError, and DecisionLogError if it is not a regular file."""
    try:
        opened = open_trusted(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, OWNER_ONLY)
    except UntrustedPathError as error:
        raise DecisionLogError(error.message, error.hint) from None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise DecisionLogError(
            f"`{path}` is not a file", "use a regular file: elsewhere, lines of several processes may be mixed"
        )
    return opened
