"""Proves the record of a decision by the seal of its log: the line of the decision, and the line with the entities that
the decision used, must be in the tree of a signed checkpoint. Only these lines and a few tiles are read, unless a proof
fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

import msgspec

from policyengine.audit.files import is_packed
from policyengine.audit.packed_log import read_packed_lines
from policyengine.audit.reader import DecisionRecord
from policyengine.audit.seal.find_line import FoundLine, LogIndex, decision_id
from policyengine.audit.seal.key_notes import follow_announcements, read_announcements
from policyengine.audit.seal.line_digests import SEAL_MARK
from policyengine.audit.seal.merkle import consistency_proof, inclusion_proof
from policyengine.audit.seal.notes import COSIGNATURE, NoteError, SignedCheckpoint, Verifier
from policyengine.audit.seal.options import SEAL_MEMBER, SealStatement
from policyengine.audit.seal.proofs import (
    ConsistencyProof,
    InclusionProof,
    ProofError,
    UnsealedLineError,
    load_checkpoint,
    prove_line,
)
from policyengine.audit.seal.sealed_entries import SealedEntries
from policyengine.audit.seal.sealed_files import SealError
from policyengine.audit.seal.statements import read_statement
from policyengine.audit.seal.tiles import TileError, TileFolder


class SealStatus(StrEnum):
    """The state of a record in the seal of its log."""

    SEALED = "sealed"
    NOT_YET = "not_yet"
    BROKEN = "broken"
    NONE = "none"


class LogChangedError(Exception):
    """The error for a log that was rotated while it was read."""


@dataclass(frozen=True, slots=True)
class RecordSeal:
    """The result of checking a record by the seal. `problem` says why the seal does not prove the record. `entry` is
    the index of its line, from 0, or for a late line the index of the statement that seals the line. `unsealed` is the
    number of lines from the checkpoint to the record, if that is known. `keys` signed the checkpoint; `witnesses`
    cosigned it, each with the time in seconds since 1970. `written` is the time of the checkpoint's file, which proves
    nothing.
    """

    status: SealStatus
    problem: str | None = None
    entry: int | None = None
    late: bool = False
    unsealed: int | None = None
    checkpoint: SignedCheckpoint | None = None
    written: float | None = None
    keys: tuple[Verifier, ...] = ()
    witnesses: tuple[tuple[Verifier, int], ...] = ()


@dataclass(slots=True)
class RecordProver:
    """Proves records of a log with the seal in a folder. `keys` are the trusted keys of the log and of witnesses;
    `kept` are checkpoints that were kept elsewhere."""

    log: Path
    folder: Path
    keys: Sequence[Verifier]
    kept: Sequence[SignedCheckpoint] = ()

    def check(self, record: DecisionRecord) -> RecordSeal:
        """Return what the seal proves about a record. Raises OSError, LogChangedError."""
        if not (self.folder / "checkpoint").exists():
            return RecordSeal(SealStatus.NONE, missing_seal(self.folder))
        try:
            return self._check(record)
        except UnsealedLineError:
            return self._check_unsealed(record)
        except (ProofError, NoteError, TileError, SealError) as error:
            return RecordSeal(SealStatus.BROKEN, str(error))

    def _check(self, record: DecisionRecord) -> RecordSeal:
        index = self._index(record)
        trusted = follow_announcements(read_announcements(self.folder), self.keys)
        line = self._record_line(record, index)
        proof, late = self._prove(line, index, trusted)
        keys, witnesses = self._signers(proof.signed, trusted)
        for kept in self.kept:
            self._check_kept(proof, kept, trusted)
        if record.entities_line is not None:
            try:
                rows = self._line(record.file, record.entities_line, index)
                rows_proof, _ = self._prove(rows, index, trusted)
                self._signers(rows_proof.signed, trusted)
            except ProofError as error:
                raise ProofError(f"the line with its entities: {error}") from None
        written = (self.folder / "checkpoint").stat().st_mtime
        return RecordSeal(
            SealStatus.SEALED, entry=proof.index, late=late, checkpoint=proof.signed, written=written, keys=keys,
            witnesses=witnesses,
        )  # fmt: skip

    def _check_unsealed(self, record: DecisionRecord) -> RecordSeal:
        """Return the result for a record that is not sealed yet. Raises OSError, LogChangedError."""
        try:
            signed = load_checkpoint(self.folder, 0)
            signed.log_keys(follow_announcements(read_announcements(self.folder), self.keys))
            index = self._record_line(record, self._index(record)).index
        except (NoteError, SealError) as error:
            return RecordSeal(SealStatus.BROKEN, str(error))
        unsealed = None if index is None or index < signed.size else index - signed.size + 1
        return RecordSeal(SealStatus.NOT_YET, unsealed=unsealed, checkpoint=signed)

    # ── Lines ─────────────────────────────────────────────────────────────────────────────────

    def _index(self, record: DecisionRecord) -> LogIndex | None:
        """Return the index of the log; None if it is packed. Raises OSError, SealError, LogChangedError."""
        if is_packed(record.file):
            return None
        index = LogIndex(self.log, self.folder)
        if record.file not in index.files:
            raise LogChangedError
        return index

    def _record_line(self, record: DecisionRecord, index: LogIndex | None) -> FoundLine:
        """Return the line of the record. Raises OSError, SealError, LogChangedError."""
        found = self._line(record.file, record.line_in_file, index)
        if decision_id(found.line) != record.id and record.id.encode(errors="replace") not in found.line:
            raise LogChangedError
        return found

    def _line(self, file: Path, number: int, index: LogIndex | None) -> FoundLine:
        """Return a line of a file by its number. Raises OSError, SealError, LogChangedError."""
        if index is not None:
            found = index.line(file, number)
        else:
            packed = (line.removesuffix(b"\n") for at, line in read_packed_lines(file) if at == number)
            found = next((FoundLine(line, file, 0, None) for line in packed), None)
        if found is None:
            raise LogChangedError
        return found

    # ── Proofs ────────────────────────────────────────────────────────────────────────────────

    def _prove(
        self, line: FoundLine, index: LogIndex | None, trusted: Sequence[Verifier]
    ) -> tuple[InclusionProof, bool]:
        """Return the proof of a line, and whether the line was sealed late, by a later statement. Raises ProofError,
        NoteError, TileError, SealError, OSError."""
        try:
            return prove_line(self.folder, line.line, line.index), False
        except UnsealedLineError:
            if line.index is not None:
                raise
        except ProofError:
            pass
        entry = self._find_entry(line.line)
        if entry is not None:
            return prove_line(self.folder, line.line, entry), False
        statement = None if index is None else self._find_statement(line, index, trusted)
        if statement is not None:
            return prove_line(self.folder, statement.line, statement.index), True
        if index is not None and index.is_newer(line.file):
            raise UnsealedLineError("the line is in a file that is not sealed yet")
        place = "" if line.index is None else f"; line {line.index + 1:,} of the seal is a different line"
        raise ProofError(f"the seal does not contain this line: it was changed or added{place}")

    def _find_entry(self, line: bytes) -> int | None:
        """Search all entries for a line, and return the index of its entry, or None. Raises NoteError, OSError."""
        size = SignedCheckpoint.parse((self.folder / "checkpoint").read_bytes()).size
        return SealedEntries(TileFolder(self.folder), size, lambda _: None).find(sha256(line).digest(), 0)

    def _find_statement(self, line: FoundLine, index: LogIndex, trusted: Sequence[Verifier]) -> FoundLine | None:
        """Return the statement that seals a line which was written to a file after its rotation, or None. Raises
        OSError, SealError, NoteError.
        """
        digest = sha256(line.line).hexdigest()
        origin = load_checkpoint(self.folder, 0).checkpoint.origin
        for file in index.files[index.files.index(line.file) :]:
            for statement in index.lines_with(file, SEAL_MARK):
                note = decode_object(statement.line).get(SEAL_MEMBER)
                stated = read_statement(note.get("note"), origin, trusted) if isinstance(note, dict) else None
                if stated and stated["event"] == SealStatement.LATE_LINES and digest in stated["digests"]:
                    return statement
        return None

    def _signers(
        self, signed: SignedCheckpoint, trusted: Sequence[Verifier]
    ) -> tuple[tuple[Verifier, ...], tuple[tuple[Verifier, int], ...]]:
        """Return the trusted keys that signed a checkpoint, and the witnesses that cosigned it. Raises NoteError, and
        ProofError if a trusted witness did not cosign it."""
        keys, witnesses = signed.log_keys(trusted), signed.witnesses(self.keys)
        missing = next((key for key in self.keys if key.kind == COSIGNATURE and key not in witnesses), None)
        if missing is not None:
            raise ProofError(f"the witness `{missing.name}` cosigned no checkpoint that covers the line")
        return tuple(keys), tuple((key, signed.cosigned_at(key)) for key in witnesses)

    def _check_kept(self, proof: InclusionProof, kept: SignedCheckpoint, trusted: Sequence[Verifier]) -> None:
        """Check that a checkpoint that was kept elsewhere covers the line or, if the line is newer, that the log begins
        with the lines of that checkpoint. Raises ProofError, NoteError, TileError, OSError."""
        kept.log_keys(trusted)
        last = load_checkpoint(self.folder, max(kept.size, proof.signed.size))
        if kept.checkpoint.origin != last.checkpoint.origin:
            raise ProofError(f"the checkpoint kept elsewhere belongs to another log, `{kept.checkpoint.origin}`")
        if kept.size > last.size:
            raise ProofError(
                f"the log has only {last.size:,} sealed lines, fewer than the checkpoint kept elsewhere ({kept.size:,})"
            )
        if proof.index < kept.size:
            path = inclusion_proof(TileFolder(self.folder).subtrees(last.size), proof.index, kept.size)
            InclusionProof(proof.line, proof.index, tuple(path), kept).check()
        else:
            size = proof.signed.size
            path = consistency_proof(TileFolder(self.folder).subtrees(last.size), kept.size, size)
            ConsistencyProof(kept.size, tuple(path), proof.signed).check(kept)


def missing_seal(folder: Path) -> str:
    """Return why a log has no seal."""
    return f"the log has no seal: `{folder / 'checkpoint'}` is missing"


def decode_object(line: bytes) -> dict[str, object]:
    """Return the JSON object of a line; an empty object if the line is malformed."""
    with suppress(msgspec.DecodeError, ValueError, RecursionError):
        tree = msgspec.json.decode(line)
        return tree if isinstance(tree, dict) else {}
    return {}
