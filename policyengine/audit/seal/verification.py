"""The result of verifying a sealed log."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from policyengine.audit.seal.notes import SignedCheckpoint, Verifier
from policyengine.plurals import pluralize


class ProblemKind(StrEnum):
    """The kind of a difference between a log and its seal."""

    CHANGED = "changed"
    REMOVED = "removed"
    ADDED = "added"
    MOVED = "moved"
    SEAL = "seal"  # checkpoints, tiles and keys


@dataclass(frozen=True, slots=True)
class SealProblem:
    """A difference between a log and its seal. `line` is a number in `file`, from 1; `entry` is an index in the whole
    log, from 0."""

    kind: ProblemKind
    message: str
    file: Path | None = None
    line: int | None = None
    entry: int | None = None

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{place}{self.message}"


@dataclass(slots=True)
class Verification:
    """The result of verifying a log. `size` lines are sealed; `deleted` of these lines were in files that `--log-keep`
    deleted. `lines` complete lines are in the remaining files. `unsealed` lines follow the sealed lines. `late` lines
    were written to a rotated file after it was sealed, and are sealed by a later line. `torn` is whether the last line
    is incomplete, as after a crash. `keys` signed the last `checkpoint`, and `witnesses` cosigned the checkpoint
    `cosigned`.
    """

    path: Path
    size: int = 0
    lines: int = 0
    deleted: int = 0
    late: int = 0
    unsealed: int = 0
    torn: bool = False
    checkpoint: SignedCheckpoint | None = None
    cosigned: SignedCheckpoint | None = None
    keys: tuple[Verifier, ...] = ()
    witnesses: tuple[Verifier, ...] = ()
    problems: list[SealProblem] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.problems


def checkpoint_words(size: int) -> str:
    return f"checkpoint of {pluralize(size, 'line')}"


def first_lines(count: int) -> str:
    """Return `the first line is` or `the first 2 lines are`."""
    return "the first line is" if count == 1 else f"the first {count:,} lines are"
