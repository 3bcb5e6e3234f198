"""Reads a log in a child process for a server, so that a long search takes no time from its decisions and can be ended
at any moment.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from policyengine.audit.event_records import OutcomeRecord
from policyengine.audit.query.query import AuditQuery, QueryAnswer, QueryError
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
MAX_KEY_BYTES = 4_096
COMMAND = "from policyengine.audit.query.log_process import main; main()"


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


LogQuestion: TypeAlias = LogSearch | DecisionSearch
LogAnswer: TypeAlias = QueryAnswer | LoggedDecision | None


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


def read_in_subprocess(question: LogQuestion, longest: float = MAX_READ_SECONDS) -> LogAnswer:
    """Answer a question in a child process, which is ended after `longest` seconds. Raises LogReadError."""
    try:
        ended = subprocess.run(
            python_command(COMMAND),
            input=pickle.dumps(question),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=longest,
            start_new_session=True,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        raise LogReadError(
            f"reading the log took longer than {longest:g} s",
            "ask for a shorter time, or use `policyengine audit query`",
        ) from None
    except OSError as error:
        raise LogReadError(f"no process could be started: {(error.strerror or str(error)).lower()}") from None
    if ended.returncode:
        raise LogReadError(f"the process that read the log ended with status {ended.returncode}")
    found: LogAnswer | LogReadError = pickle.loads(ended.stdout)
    if isinstance(found, LogReadError):
        raise found
    return found


def main() -> None:
    """Answer the question on stdin. Printed text goes to stderr, because stdout carries the answer."""
    for name in ("SIGHUP", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        found: LogAnswer | LogReadError
        try:
            found = answer_question(pickle.load(sys.stdin.buffer))
        except LogReadError as error:
            found = error
        answer.write(pickle.dumps(found))


def answer_question(question: LogQuestion) -> LogAnswer:
    """Answer a question in this process. Raises LogReadError."""
    try:
        return question.answer()
    except QueryError as error:
        raise LogReadError(error.message, error.hint) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise LogReadError(f"`{error.filename or question.log}`: {why}") from None
