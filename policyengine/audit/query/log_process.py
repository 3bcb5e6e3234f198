"""Reads a log in a child process for a server, so that a long search takes no time from its decisions and can be ended
at any moment.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import TypeAlias
from weakref import finalize

from policyengine.audit.event_records import OutcomeRecord
from policyengine.audit.query.halted_requests import HaltedCount, HaltedRequestSearch
from policyengine.audit.query.log_tail import TrafficDecision, TrafficSearch
from policyengine.audit.query.query import AuditQuery, QueryAnswer, QueryError
from policyengine.audit.query.requester_history import RequesterActivity, RequesterSearch
from policyengine.audit.query.source import LogFiles, check_logs, open_reader
from policyengine.audit.reader import DecisionRecord, read_entries
from policyengine.audit.seal.find_line import LogIndex
from policyengine.audit.seal.notes import NoteError, Verifier
from policyengine.audit.seal.proofs import ProofError, prove_line
from policyengine.audit.seal.record_proof import LogChangedError, RecordProver, RecordSeal, SealStatus, missing_seal
from policyengine.audit.seal.sealed_files import SealError, default_folder
from policyengine.audit.seal.tiles import TileError, read_file
from policyengine.child_processes import child_environment, python_command

MAX_READ_SECONDS = 20.0
IDLE_SECONDS = 60.0  # seconds after which an idle process ends
MAX_KEY_BYTES = 4_096
COMMAND = "from policyengine.audit.query.log_process import main; main({}, {})"


class LogReadError(Exception):
    """The error for a log that cannot be read; the message says why, and the hint what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __reduce__(self) -> tuple[type[LogReadError], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


@dataclass(frozen=True, slots=True)
class LogSearch:
    """A question about the records of a log."""

    log: Path
    query: AuditQuery

    def answer(self) -> QueryAnswer:
        """Return the answer. Raises QueryError, OSError."""
        with open_reader(LogFiles.find([self.log]), lambda _: None) as reader:
            [found] = reader.answer([self.query])
            check_logs(reader.skipped)
        return found


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A decision of a log, the reported outcome of its request, what the seal proves about it, and the text of the
    proof, if there is one."""

    record: DecisionRecord
    outcome: OutcomeRecord | None
    seal: RecordSeal
    proof: str | None


@dataclass(frozen=True, slots=True)
class DecisionSearch:
    """The search for a decision by its id."""

    log: Path
    id: str

    def answer(self) -> LoggedDecision | None:
        """Return the decision; None if the log does not contain it. Raises OSError."""
        folder = default_folder(self.log)
        try:
            line = LogIndex(self.log, folder).find(self.id)
        except SealError as error:
            raise LogReadError(str(error), "run `policyengine audit verify`") from None
        if line is None:
            return None
        record: DecisionRecord | None = None
        outcome: OutcomeRecord | None = None
        mark = self.id.encode()
        for entry in read_entries(line.file, lambda _: None, 0, lambda text: mark in text):
            match entry:
                case DecisionRecord() if entry.id == self.id:
                    record = record or entry
                case OutcomeRecord() if entry.decision == self.id:
                    outcome = outcome or entry
        if record is None:
            return None
        seal, proof = check_seal(self.log, folder, record), None
        if seal.status is SealStatus.SEALED:
            with suppress(ProofError, NoteError, TileError, SealError, OSError):
                proof = str(prove_line(folder, line.line, line.index))
        return LoggedDecision(record, outcome, seal, proof)


LogQuestion: TypeAlias = LogSearch | DecisionSearch | TrafficSearch | RequesterSearch | HaltedRequestSearch
LogAnswer: TypeAlias = (
    QueryAnswer | LoggedDecision | tuple[TrafficDecision, ...] | RequesterActivity | HaltedCount | None
)


@dataclass(frozen=True, slots=True)
class LogReply:
    """The answer of the process, or the error that it reports instead."""

    content: LogAnswer | LogReadError


def check_seal(log: Path, folder: Path, record: DecisionRecord) -> RecordSeal:
    """Return what the seal of the log proves about a record, with the key in the folder of the seal."""
    if not (folder / "checkpoint").exists():
        return RecordSeal(SealStatus.NONE, missing_seal(folder))
    try:
        key = Verifier.parse(read_file(folder / "vkey", MAX_KEY_BYTES).decode())
        return RecordProver(log, folder, [key]).check(record)
    except LogChangedError:
        return RecordSeal(SealStatus.NONE, "the log was rotated while it was read: try again")
    except (NoteError, UnicodeDecodeError) as error:
        return RecordSeal(SealStatus.BROKEN, str(error))
    except OSError as error:
        return RecordSeal(SealStatus.NONE, f"the seal is not checked: {(error.strerror or str(error)).lower()}")


class LogReader:
    """A child process that answers questions, one after the other. It starts with the first question, which takes half
    a second, and ends when it has been idle for `idle` seconds. `longest` is the maximum number of seconds for an
    answer. Threads take turns.
    """

    def __init__(self, longest: float = MAX_READ_SECONDS, idle: float = IDLE_SECONDS) -> None:
        self._longest, self._idle = longest, idle
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._reaper: finalize[[subprocess.Popen[bytes], int], LogReader] | None = None
        self._closed = False

    def ask(self, question: LogQuestion) -> LogAnswer:
        """Return the answer. Raises LogReadError."""
        with self._lock:
            try:
                found = self._exchange(question) if self._process is not None else None
            except (OSError, EOFError):  # it was idle and has ended
                found = None
            if found is None:
                found = self._begin(question)
        if isinstance(found.content, LogReadError):
            raise found.content
        return found.content

    def close(self) -> None:
        """End the process, even if it is working. Later questions are not answered."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._end()

    def _begin(self, question: LogQuestion) -> LogReply:
        """Start a new process, and return its answer. Raises LogReadError."""
        self._end()
        if self._closed:
            raise LogReadError("the server is stopping")
        try:
            self._start()
            return self._exchange(question)
        except (EOFError, ConnectionError):
            self._end()
            raise LogReadError("the process that reads the log has ended") from None
        except OSError as error:
            self._end()
            raise LogReadError(f"no process reads the log: {(error.strerror or str(error)).lower()}") from None

    def _start(self) -> None:
        """Start the process. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = Connection(ours.detach())
            self._process = subprocess.Popen(
                python_command(COMMAND.format(theirs.fileno(), self._idle)), pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                env=child_environment(),
            )  # fmt: skip
            self._reaper = finalize(self, reap_process, self._process, os.getpid())

    def _exchange(self, question: LogQuestion) -> LogReply:
        """Send a question to the process, and return its answer. Raises EOFError, OSError, LogReadError."""
        assert self._connection is not None
        self._connection.send(question)
        if not self._connection.poll(self._longest):
            self._end()
            hint = "choose a shorter period, or use `policyengine audit query`"
            raise LogReadError(f"reading the log took longer than {self._longest:g} s", hint)
        reply: LogReply = self._connection.recv()
        return reply

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._reaper is not None:
            self._reaper()
            self._process = self._reaper = None


def reap_process(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a process when its reader is closed or deleted, or the `owner` exits. A fork of the owner does not end it."""
    if os.getpid() == owner:
        process.kill()
        process.wait()


def main(descriptor: int, idle: float) -> None:
    """Answer questions that arrive on a socket, until none arrives for `idle` seconds after an answer, or its other end
    is closed."""
    for name in ("SIGHUP", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    connection = Connection(descriptor)
    wait: float | None = None
    with suppress(EOFError, ConnectionError):
        while connection.poll(wait):
            wait = idle
            try:
                content: LogAnswer | LogReadError = answer_question(connection.recv())
            except LogReadError as error:
                content = error
            connection.send(LogReply(content))


def answer_question(question: LogQuestion) -> LogAnswer:
    """Answer a question in this process. Raises LogReadError."""
    try:
        return question.answer()
    except QueryError as error:
        raise LogReadError(error.message, error.hint) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise LogReadError(f"`{error.filename or question.log}`: {why}") from None
