"""Proofs that can be checked with only a checkpoint and a key: that a log contains a line (c2sp.org/tlog-proof), and
that a log begins with an earlier state of itself.

An inclusion proof contains the line as extra data; the proved entry is the SHA-256 digest of the line. A consistency
proof has the form of a request to a witness (c2sp.org/tlog-witness): the old size, the hashes, the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from policyengine.audit.seal.merkle import (
    HASH_BYTES,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    leaf_hash,
    root_of_inclusion,
)
from policyengine.audit.seal.notes import NoteError, SignedCheckpoint, decode_base64, encode_base64
from policyengine.audit.seal.tiles import TileFolder, read_file
from policyengine.plurals import pluralize

PROOF_START = "c2sp.org/tlog-proof@v1\n"
MAX_HASHES = 63
MAX_PROOF_BYTES = 1 << 28
OLD_SIZE = re.compile(r"old (0|[1-9][0-9]{0,18})")
INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


class ProofError(Exception):
    """The error for a proof that is malformed, does not hold or cannot be made; the message says why."""


class UnsealedLineError(ProofError):
    """The error for a line that no checkpoint covers yet."""


class OtherLogError(ProofError):
    """The error for a checkpoint of another log."""


@dataclass(frozen=True)
class InclusionProof:
    """A proof that a log contains a line. `line` has no newline at its end."""

    line: bytes
    index: int
    path: tuple[bytes, ...]
    signed: SignedCheckpoint

    def __str__(self) -> str:
        hashes = "".join(f"{encode_base64(each)}\n" for each in self.path)
        return f"{PROOF_START}extra {encode_base64(self.line)}\nindex {self.index}\n{hashes}\n{self.signed.note}"

    @classmethod
    def parse(cls, written: str) -> InclusionProof:
        """Parse a proof without checking it. Raises ProofError."""
        head, checkpoint = split_proof(written)
        lines = head.split("\n")
        if len(lines) < 3 or lines[0] + "\n" != PROOF_START:
            raise ProofError("it does not begin with `c2sp.org/tlog-proof@v1`")
        if not lines[1].startswith("extra "):
            raise ProofError("it does not contain the line that it proves (`extra`)")
        index = INDEX.fullmatch(lines[2])
        if index is None:
            raise ProofError("its third line is not `index <number>`")
        return cls(decode(lines[1].removeprefix("extra ")), int(index[1]), parse_hashes(lines[3:]), checkpoint)

    def check(self) -> None:
        """Check that the hashes lead from the line to the root of the checkpoint. The signatures of the checkpoint are
        not checked. Raises ProofError.
        """
        leaf = leaf_hash(sha256(self.line).digest())
        if root_of_inclusion(leaf, self.index, self.signed.size, self.path) != self.signed.root:
            raise ProofError("its hashes do not lead from the line to the root hash of the checkpoint")


@dataclass(frozen=True)
class ConsistencyProof:
    """A proof that the tree of a checkpoint begins with a tree of `old` entries."""

    old: int
    path: tuple[bytes, ...]
    signed: SignedCheckpoint

    def __str__(self) -> str:
        hashes = "".join(f"{encode_base64(each)}\n" for each in self.path)
        return f"old {self.old}\n{hashes}\n{self.signed.note}"

    @classmethod
    def parse(cls, written: str) -> ConsistencyProof:
        """Parse a proof without checking it. Raises ProofError."""
        head, checkpoint = split_proof(written)
        old, *hashes = head.split("\n")
        size = OLD_SIZE.fullmatch(old)
        if size is None:
            raise ProofError("its first line is neither `c2sp.org/tlog-proof@v1` nor `old <size>`")
        return cls(int(size[1]), parse_hashes(hashes), checkpoint)

    def check(self, old: SignedCheckpoint) -> None:
        """Check that the log of the checkpoint begins with the log of the old checkpoint. The signatures of both are
        not checked. Raises ProofError.
        """
        if old.checkpoint.origin != self.signed.checkpoint.origin:
            raise OtherLogError(f"the old checkpoint belongs to another log, `{old.checkpoint.origin}`")
        if old.size != self.old:
            raise ProofError(
                f"it begins after {pluralize(self.old, 'line')}, but the old checkpoint covers {old.size:,}"
            )
        if not is_consistent(old.size, old.root, self.signed.size, self.signed.root, self.path):
            raise ProofError("its hashes do not lead from the old checkpoint to the new one: the log was rewritten")


def split_proof(written: str) -> tuple[str, SignedCheckpoint]:
    """Return the part before the first empty line, and the checkpoint after it. Raises ProofError."""
    if len(written) > MAX_PROOF_BYTES:
        raise ProofError("it is too long for a proof")
    head, blank, note = written.partition("\n\n")
    if not blank:
        raise ProofError("it has no checkpoint after an empty line")
    try:
        return head, SignedCheckpoint.parse(note)
    except NoteError as error:
        raise ProofError(str(error)) from None


def parse_hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    """Decode hashes of 32 bytes. Raises ProofError."""
    hashes = tuple(map(decode, lines))
    if len(hashes) > MAX_HASHES or any(len(each) != HASH_BYTES for each in hashes):
        raise ProofError(f"it has more than {MAX_HASHES} hashes, or one that is not {HASH_BYTES} bytes long")
    return hashes


def decode(text: str) -> bytes:
    """Decode base64. Raises ProofError."""
    try:
        return decode_base64(text)
    except NoteError as error:
        raise ProofError(str(error)) from None


def prove_line(folder: Path, line: bytes, index: int | None) -> InclusionProof:
    """Return the proof that the log of the last checkpoint contains the line as the entry at `index`. An `index` of
    None, for a line without an entry, raises UnsealedLineError. Raises ProofError, NoteError, TileError, OSError.
    """
    signed = load_checkpoint(folder, 0 if index is None else index + 1)
    if index is None or index >= signed.size:
        raise UnsealedLineError("the line is not sealed yet: a running server seals it within about a second")
    path = inclusion_proof(TileFolder(folder).subtrees(signed.size), index, signed.size)
    found = InclusionProof(line, index, tuple(path), signed)
    found.check()
    return found


def load_checkpoint(folder: Path, size: int) -> SignedCheckpoint:
    """Load the last cosigned checkpoint if it covers `size` lines, otherwise the last checkpoint. Raises NoteError,
    OSError."""
    with suppress(FileNotFoundError):
        found = SignedCheckpoint.parse(read_file(folder / "cosigned"))
        if found.size >= size:
            return found
    return SignedCheckpoint.parse(read_file(folder / "checkpoint"))


def prove_consistency(folder: Path, old: SignedCheckpoint) -> ConsistencyProof:
    """Return the proof that the log of the last checkpoint begins with the log of an old checkpoint. Raises ProofError,
    NoteError, TileError, OSError.
    """
    signed = load_checkpoint(folder, old.size)
    if old.checkpoint.origin != signed.checkpoint.origin:
        raise OtherLogError(f"the old checkpoint belongs to another log, `{old.checkpoint.origin}`")
    if old.size > signed.size:
        raise ProofError(f"the log has {signed.size:,} sealed lines, fewer than the old checkpoint ({old.size:,})")
    path = consistency_proof(TileFolder(folder).subtrees(signed.size), old.size, signed.size)
    found = ConsistencyProof(old.size, tuple(path), signed)
    found.check(old)
    return found
