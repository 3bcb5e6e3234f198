"""The decision log: encodes decisions and events as lines, and writes each line to the file in one call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from threading import Lock
from time import time
from typing import TYPE_CHECKING

from msgspec import structs

from policyengine import kernel as k
from policyengine.audit.encoder import LogLineEncoder, encode
from policyengine.audit.event_records import OUTCOME_MEMBER, SYSTEM_MEMBER
from policyengine.audit.files import NO_ROOM
from policyengine.audit.fsync import FSYNC_INTERVAL_SECONDS, FileSyncer, Sync
from policyengine.audit.log_file import DecisionLogError, RotatingLogFile
from policyengine.audit.recent_decisions import DecisionSubject, RecentDecisions
from policyengine.audit.redaction import Redaction
from policyengine.audit.rotation import NO_ROTATION, Rotation, delete_file
from policyengine.audit.seal.options import SEAL_MEMBER, SealOptions, SealStatement
from policyengine.audit.system_notes import SystemNotes
from policyengine.audit.token_events import TokenEventKind
from policyengine.entities.store import RowResult
from policyengine.http.trace_context import current_trace
from policyengine.plurals import pluralize
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request
from policyengine.spec.facts import Facts
from policyengine.typesystem import EntityRef

if TYPE_CHECKING:
    from policyengine.audit.seal.sealer import Sealer
    from policyengine.audit.sinks.sink_set import SinkOptions, SinkSet

_LOG = logging.getLogger("policyengine")
TASK_ID = ("task", "id")
SEALED = SealOptions()
ISSUED = TokenEventKind.ISSUED.value
SEAL_HINT = "correct it, or turn sealing off with `--log-seal off`"


class OnFailure(StrEnum):
    """The handling of a decision that cannot be logged: DENY denies it, CONTINUE returns it anyway."""

    DENY = "deny"
    CONTINUE = "continue"


class DecisionLog:
    """A log in a file that only its owner may read. Threads and forked processes may share the log.

    `redact` lists facts (`body.card`, `args.**.token`) to redact in addition to facts with secret names. `failures`
    counts lines that could not be written. A moved file is reopened within a second, or by `reopen`. `rotation` says
    when to rotate the file, and `sync` when to force lines to disk. `sinks` are options, or URLs, of other systems that
    receive the lines (`docs/audit-export.md`). Raises DecisionLogError.
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
        self.rotation = rotation
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
        self._guard, self._failing = Lock(), False
        self._lost = 0  # lines that the current outage has lost
        try:
            self._file = RotatingLogFile(
                self.path, rotation, FileSyncer(Sync(sync), FSYNC_INTERVAL_SECONDS), self._delete
            )
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
            self._file.close()
            raise DecisionLogError(error.message, error.hint) from None
        except SealError as error:
            self._file.close()
            raise DecisionLogError(str(error), SEAL_HINT) from None

    def _open_sinks(self, sinks: SinkOptions | Sequence[str]) -> SinkSet:
        """Open the sinks; if this fails, close the log. Raises DecisionLogError."""
        from policyengine.audit.sinks.sink_set import SinkSetupError, open_sinks

        try:
            return open_sinks(self.path, sinks)
        except SinkSetupError as error:
            raise DecisionLogError(error.message, error.hint) from None

    def note_seal(self, told: Mapping[str, object]) -> bool:
        """Write a line about the seal. Return whether it was written."""
        return self.note(SEAL_MEMBER, told, int(time()))

    def _delete(self, file: Path) -> bool:
        """Delete a rotated file, unless the seal has fewer later files than `rotation.keep`. For a sealed file, first
        write a signed line, so that the verification of the log does not report its lines as missing. Return whether
        the file was deleted. Raises OSError."""
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
        """Start the threads of this process that seal lines and send them to sinks. A failure is logged, not raised."""
        if self.sealer is not None:
            self.sealer.wake()
        if self.sinks is not None:
            self.sinks.wake()

    def close(self) -> None:
        """Seal the complete lines of the log, and close the file. Nothing may be written afterwards."""
        self._file.finish_tidying()
        if self.sealer is not None:
            self.sealer.stop()
        if self.sinks is not None:
            self.sinks.stop()
        self._file.close()

    @property
    def redaction(self) -> Redaction:
        """The redaction of facts, by `redact` and by secret names."""
        return self._redaction

    @property
    def others_may_read(self) -> bool:
        """Whether the file existed with a mode that permits other users to read, write or execute it."""
        return bool(self._file.mode & 0o077)

    def flush(self) -> None:
        """Wait until written lines are on disk, if the system can force them."""
        self._file.flush()

    def finish(self) -> None:
        """Seal the written lines, send them to the sinks, and force them to disk, before the process ends."""
        self._file.finish_tidying()
        if self.sealer is not None:
            self.sealer.stop()
        if self.sinks is not None:
            self.sinks.stop()
        self.flush()

    def reopen(self) -> None:
        """Reopen the file before the next line is written, because the file was moved."""
        self._file.reopen()

    def directory(self, rows: Iterable[EntityData]) -> bytes:
        """Write the entity rows that decisions will use, and return the member that refers to them. Raises
        DecisionLogError."""
        name, line = self._writer.directory(rows, lambda written: f"sha256:{sha256(written).hexdigest()}")
        if name not in self._directories:
            if not self._file.holds(line) and not self._append(line, at_once=True):
                raise DecisionLogError(
                    f"`{self.path}`: the entities could not be written", "check that the disk has space"
                )
            last = list(self._directories.items())[-1:]
            self._directories = {**dict(last), name: line}  # decisions in progress may use the previous rows
            self._file.beginning = b"".join(self._directories.values())
        return b'"directory":' + encode(name) + b","

    def past(self, asked: Iterable[k.HistoryCondition | k.Aggregate], facts: Facts) -> bytes:
        """Return the encoded member with the histories that a decision used; empty if it used none."""
        return self._writer.past(asked, facts)

    def looked_up(self, found: Mapping[EntityRef, RowResult], types: Iterable[str]) -> bytes:
        """Return the encoded member with the rows that a decision looked up."""
        return self._writer.looked_up(found, types)

    def encode_decision(
        self, decision: Decision, moment: int, call: bytes, state: bytes, question: dict[str, object] | Request
    ) -> bytes | bool:
        """Return the line of a decision, for `write_decisions`; or, if it must not be written or cannot be encoded,
        whether the decision may be returned anyway.

        `moment` is the time of the decision in nanoseconds. While a sink that denies lags beyond its bound, nothing is
        written and the decision may not be returned.
        """
        if self.sinks is not None and not self.sinks.admits():
            return False
        try:
            writer = self._writer_for(decision) if decision.obligations else self._writer
            return writer.line(decision, moment, call, trace_member() + state, writer.question(question))
        except Exception:
            self._not_put("a decision")
            return self.lets_pass

    def write_decisions(self, lines: Sequence[bytes]) -> int:
        """Write lines in one call. Return how many of them were written, counted from the first: fewer than all if the
        disk is full. Call `wrote` afterwards."""
        try:
            written = self._file.append_all(lines)
        except OSError as error:
            self._note_failure(error, len(lines))
            return 0
        except Exception:
            self._not_put("decisions" if len(lines) > 1 else "a decision", len(lines))
            return 0
        if written < len(lines):
            self._note_failure(NO_ROOM, len(lines) - written)
        elif self._failing:
            self._note_recovery()
        return written

    def wrote(self, length: int) -> None:
        """Record that lines of `length` bytes were written, and start the threads that seal and send them. Some calls
        also seal the lines, which takes several milliseconds.
        """
        try:
            if self.sealer is not None:
                self.sealer.wrote(length)
            if self.sinks is not None:
                self.sinks.wake()
        except Exception:  # the lines are in the log
            _LOG.exception("the threads of the log `%s` failed", self.path, extra={"event": "log_fails"})

    def note(self, what: str, told: Mapping[str, object], now: int) -> bool:
        """Write a token event or a note of the seal. Return whether it was written: the event of an issued token is
        refused while a sink that denies lags beyond its bound. `now` is in seconds since 1970."""
        if what == ISSUED and self.sinks is not None and not self.sinks.admits():
            return False
        return self._note(what, told, now * 1_000_000_000)

    def note_outcome(self, told: Mapping[str, object], moment: int) -> bool:
        """Write the outcome of a request, at a time in nanoseconds. Return whether it was written."""
        return self._note(OUTCOME_MEMBER, told, moment, is_clean=True)

    def redacts(self, decision: Decision, path: tuple[str, ...]) -> bool:
        """Return whether the line of a decision has a fingerprint in place of a fact."""
        redaction = self._writer_for(decision).redaction if decision.obligations else self._redaction
        return redaction.hides(path)

    def redact_subject(self, subject: DecisionSubject) -> dict[str, object]:
        """Return the facts that an outcome repeats about its decision. A fact that the log redacts has the same
        fingerprint as in the line of the decision."""
        task = self._redaction.value(subject.task, TASK_ID)
        return structs.replace(subject, task=task).to_dict()

    def note_system(self, told: Mapping[str, object], moment: int) -> bool:
        """Write an event of the server, at a time in nanoseconds, without starting the threads of the seal and the
        sinks, because the process may fork later. Return whether it was written."""
        return self._note(SYSTEM_MEMBER, told, moment, wake=False)

    def _note(
        self, what: str, told: Mapping[str, object], moment: int, *, wake: bool = True, is_clean: bool = False
    ) -> bool:
        try:
            line = self._writer.event(what, told, moment, trace_member(), is_clean=is_clean)
        except Exception:
            self._not_put(f"an event of kind `{what}`")
            return False
        return self._append(line, wake=wake)

    @property
    def lets_pass(self) -> bool:
        """Whether decisions that cannot be written are returned anyway."""
        return self.on_failure is OnFailure.CONTINUE

    def _not_put(self, what: str, lines: int = 1) -> None:
        _LOG.exception("%s could not be logged", what, extra={"event": "log_fails"})
        with self._guard:
            self.failures += lines

    def _writer_for(self, decision: Decision) -> LogLineEncoder:
        """Return the encoder that also redacts the facts in the `redact` obligations of the decision."""
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
            self._file.append(line, at_once=at_once)
            if wake and not at_once:
                self.wrote(len(line))
        except OSError as error:
            self._note_failure(error)
            return False
        if self._failing:
            self._note_recovery()
        return True

    def _note_failure(self, error: OSError, lines: int = 1) -> None:
        with self._guard:
            self.failures += lines
            self._lost += lines
            told, self._failing = self._failing, True
        if not told:
            self.system.remember_log_failure(error)
            means = "are denied" if self.on_failure is OnFailure.DENY else "go unrecorded"
            _LOG.error(
                "the decision log `%s` cannot be written: %s; decisions %s", self.path, error.strerror, means,
                extra={"event": "log_fails"},
            )  # fmt: skip

    def _note_recovery(self) -> None:
        with self._guard:
            told, self._failing = self._failing, False
            lost, self._lost = self._lost, 0
        if told:
            _LOG.warning(
                "the decision log `%s` is written again after the loss of %s", self.path, pluralize(lost, "line"),
                extra={"event": "log_written", "failures": lost},
            )  # fmt: skip
            self.system.write_log_failure(lost)


def trace_member() -> bytes:
    """Return the encoded member with the current trace, or no bytes without a trace."""
    trace = current_trace()
    return b"" if trace is None else b'"trace":"%b",' % trace.parent.encode()
