"""Verifies a sealed log: its lines, its tiles and its checkpoints.

A trusted key must have signed the last checkpoint, the entries in the tiles must have its root hash, and the digest of
each line must equal its entry. The first line that differs shows where the log was damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from policyengine.audit.files import log_files, rotated_from
from policyengine.audit.seal.delivery import COSIGNED, read_cosigned
from policyengine.audit.seal.key_notes import follow_announcements, read_announcements
from policyengine.audit.seal.line_digests import LineBatch, UnreadableFileError, line_batches
from policyengine.audit.seal.merkle import EMPTY_ROOT
from policyengine.audit.seal.notes import COSIGNATURE, NoteError, SignedCheckpoint, Verifier
from policyengine.audit.seal.options import SEAL_MEMBER, SealStatement
from policyengine.audit.seal.sealed_entries import SealedEntries
from policyengine.audit.seal.sealed_files import default_folder, identity
from policyengine.audit.seal.statements import digest_lines, read_statement
from policyengine.audit.seal.tiles import ENTRIES, TILE_WIDTH, GrowingTree, TileError, TileFolder, read_file, tile_name
from policyengine.audit.seal.verification import ProblemKind, SealProblem, Verification, checkpoint_words, first_lines
from policyengine.plurals import pluralize

MAX_PROBLEMS = 20
ATTEMPTS = 3
LOOK_AHEAD = 4_096  # maximum following lines that are compared with the next entry
MAX_LATE_LINES = 1_000_000
Progress = Callable[[int], None]


def verify_log(
    path: Path,
    keys: Sequence[Verifier],
    *,
    folder: Path | None = None,
    checkpoints: Sequence[SignedCheckpoint] = (),
    progress: Progress = lambda read: None,
) -> Verification:
    """Verify all files of a log against its last checkpoint, and against `checkpoints` that were kept elsewhere. `keys`
    are the trusted keys of the log and of witnesses. `progress` receives the number of bytes that were read. Raises
    OSError if the files cannot be read."""
    for _ in range(ATTEMPTS - 1):
        before = list_log_files(path)
        with suppress(FileNotFoundError):  # a server rotated the log in the meantime
            found = LogVerifier(path, keys, folder or default_folder(path), checkpoints, progress).run()
            if found.is_whole or before == list_log_files(path):
                return found
    return LogVerifier(path, keys, folder or default_folder(path), checkpoints, progress).run()


def list_log_files(path: Path) -> list[tuple[Path, int, int]]:
    """Return the files of a log with their devices and inodes. Raises OSError if there is no file."""
    found = []
    for file in log_files(path):
        with suppress(FileNotFoundError):
            found.append((file, *identity(file)))
    return found


@dataclass(frozen=True, slots=True)
class LateLine:
    """A line at the end of a rotated file that has no entry at its place."""

    digest: bytes
    file: Path
    line: int


class ComparedTiles(TileFolder):
    """Compares the tiles that a growing tree would write with the tiles in the folder."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        super().__init__(folder)
        self._report = report

    def write(self, level: int | str, number: int, raw: bytes, width: int = TILE_WIDTH) -> None:
        if level == ENTRIES:
            return  # the tree was built from these tiles
        try:
            if self.read(int(level), number, width) != raw:
                self._report(f"the tile `{self.folder / tile_name(level, number, width)}` was changed")
        except (TileError, OSError) as error:
            self._report(str(error))


class LogVerifier:
    """Verifies one log, once."""

    def __init__(
        self,
        path: Path,
        keys: Sequence[Verifier],
        folder: Path,
        checkpoints: Sequence[SignedCheckpoint],
        progress: Progress,
    ) -> None:
        self.path, self.folder, self.progress = path, folder, progress
        self.keys = list(keys)
        self.kept = [(f"the {checkpoint_words(each.size)} that was kept elsewhere", each) for each in checkpoints]
        self.result = Verification(path)
        self.tree = GrowingTree(ComparedTiles(folder, self._seal_problem))
        self._roots: dict[int, bytes] = {0: EMPTY_ROOT}
        self._wanted: list[int] = []  # sizes of the tree whose roots are needed
        # Lines at the ends of rotated files that have no entries at their place, by the size of the tree before them.
        self._late: dict[int, list[LateLine]] = {}
        self._begins = True  # until the first line of the log is read
        self._notes: list[Any] = []  # signed notes in sealed lines about the seal

    def run(self) -> Verification:
        """Verify the log. Raises OSError."""
        files, cosigned = log_files(self.path), self._load_cosigned()  # first, because a server may write more lines
        last = self._load_checkpoint()
        if last is None:
            return self.result
        self.result.size = last.size
        if cosigned is not None:
            self.result.cosigned = cosigned
            path = self.folder / COSIGNED
            self.kept.append((f"the cosigned {checkpoint_words(cosigned.size)} in `{path}`", cosigned))
        self.entries = SealedEntries(TileFolder(self.folder), last.size, self._seal_problem)
        self._wanted = sorted({each.size for _, each in self.kept if each.size <= last.size} | {last.size})
        are_equal = self._compare_files(files)
        notes = [note for note in [*read_announcements(self.folder), *self._notes] if isinstance(note, str)]
        keys = follow_announcements(notes, self.keys)
        if are_equal:
            self._compare_statements(last.checkpoint.origin, keys)
        self._finish_tree()
        self._check_checkpoints(last, keys)
        return self.result

    def _load_checkpoint(self) -> SignedCheckpoint | None:
        path = self.folder / "checkpoint"
        try:
            self.result.checkpoint = SignedCheckpoint.parse(read_file(path))
        except FileNotFoundError:
            log = rotated_from(self.path)
            if log is not None and default_folder(log).exists():
                self._seal_problem(f"`{self.path}` is a rotated file of `{log}`: verify `{log}`, which includes it")
                return None
            sealed = ", but a checkpoint kept elsewhere shows that the log was sealed" if self.kept else ""
            self._seal_problem(f"`{path}` is missing{sealed or ': the log was never sealed, or its seal was removed'}")
        except NoteError as error:
            self._seal_problem(f"`{path}` is damaged: {error}")
        return self.result.checkpoint

    def _load_cosigned(self) -> SignedCheckpoint | None:
        """Load the last cosigned checkpoint, if any. Raises OSError."""
        try:
            return read_cosigned(self.folder)
        except NoteError as error:
            self._seal_problem(f"`{self.folder / COSIGNED}` is damaged: {error}")
            return None

    def _problem(self, kind: ProblemKind, message: str, file: Path | None = None, line: int | None = None) -> None:
        if len(self.result.problems) < MAX_PROBLEMS:
            self.result.problems.append(SealProblem(kind, message, file, line, self.tree.size if line else None))

    def _seal_problem(self, message: str) -> None:
        self._problem(ProblemKind.SEAL, message)

    # ── The tree ──────────────────────────────────────────────────────────────────────────────

    def _add(self, entries: Sequence[bytes]) -> None:
        """Add entries to the tree, at most up to the end of their bundle, and keep the roots of the wanted sizes."""
        at, tree = 0, self.tree
        while at < len(entries):
            end = len(entries)
            if self._wanted and tree.size < self._wanted[0] < tree.size + end - at:
                end = at + self._wanted[0] - tree.size
            some = list(entries[at:end])
            tree.add(some, [sha256(b"\0" + entry).digest() for entry in some])
            at = end
            if self._wanted and tree.size == self._wanted[0]:
                self._roots[self._wanted.pop(0)] = tree.root()

    def _finish_tree(self) -> None:
        """Add the entries whose lines were not compared, and compare the partial tiles with those in the
        folder.
        """
        while self.tree.size < self.entries.size and (some := self.entries.after(self.tree.size)):
            self._add(some)
        if self.tree.size == self.entries.size:
            self.tree.write_partial_tiles()

    # ── Lines ─────────────────────────────────────────────────────────────────────────────────

    def _compare_files(self, files: Sequence[Path]) -> bool:
        """Compare the lines of the files with the entries. Stop at the first difference and return False. Raises
        OSError.
        """
        for number, file in enumerate(files):
            following = files[number + 1] if number + 1 < len(files) else None
            try:
                if not self._compare_file(file, following):
                    return False
            except UnreadableFileError as error:
                self._problem(ProblemKind.CHANGED, str(error), file)
                return False
        missing = self.entries.size - self.tree.size
        if missing:
            what = "the last sealed line is" if missing == 1 else f"the last {missing:,} sealed lines are"
            self._problem(ProblemKind.REMOVED, f"{what} missing", files[-1])
        return not missing

    def _compare_file(self, file: Path, following: Path | None) -> bool:
        """Compare the lines of a file with the entries. Stop at the first difference and return False. Raises OSError,
        UnreadableFileError.
        """
        rest_is_late = False
        for batch in line_batches(file):
            self.progress(batch.read)
            if batch.torn and following is None:
                self.result.torn = True
                return True
            self.result.lines += not batch.torn and len(batch.digests)
            if self._begins:
                self._skip_deleted(batch)
                self._begins = False
            at = 0 if rest_is_late or batch.torn else self._compare_lines(batch)
            self._read_statements(batch, at)
            if at == len(batch.digests):
                continue
            if self.tree.size == self.entries.size and not rest_is_late:
                self.result.unsealed += len(batch.digests) - at
                continue
            if not rest_is_late and not self._is_end_of_file(following):
                self._differs(file, batch, at)
                return False
            rest_is_late = True
            late = self._late.setdefault(self.tree.size, [])
            late += [LateLine(each, file, batch.number + at + place) for place, each in enumerate(batch.digests[at:])]
            if len(late) > MAX_LATE_LINES:
                self._problem(ProblemKind.ADDED, "the end of this file was added", late[0].file, late[0].line)
                return False
        return True

    def _compare_lines(self, batch: LineBatch) -> int:
        """Add lines to the tree as long as they equal the next entries. Return how many were added."""
        at, digests, entries = 0, batch.digests, self.entries
        while at < len(digests) and self.tree.size < entries.size:
            expected = entries.after(self.tree.size)
            room = TILE_WIDTH - self.tree.size % TILE_WIDTH
            some = digests[at : at + min(room, entries.size - self.tree.size)]
            differs = bool(expected) and some != expected[: len(some)]
            if differs and not entries.reject_bundle(self.tree.size, some):
                same = next(place for place, each in enumerate(some) if each != expected[place])
                self._add(some[:same])
                return at + same
            # If a bundle cannot be read, the lines replace its entries, and the root hash shows whether they are right.
            self._add(some)
            at += len(some)
        return at

    def _is_end_of_file(self, following: Path | None) -> bool:
        """Return whether the next entry is the first line of the following file. Raises OSError,
        UnreadableFileError.
        """
        if following is None:
            return False
        first = next((batch.digests[0] for batch in line_batches(following)), None)
        expected = self.entries.after(self.tree.size)
        return bool(expected) and expected[0] == first

    def _skip_deleted(self, batch: LineBatch) -> None:
        """Add the entries of deleted files to the tree, if the log begins with a later file."""
        start, _ = self.entries.find_start(self.folder, batch.digests)
        while self.tree.size < start and (some := self.entries.after(self.tree.size)):
            self._add(some[: start - self.tree.size])
        self.result.deleted = start

    def _differs(self, file: Path, batch: LineBatch, at: int) -> None:
        """Report how the log was changed at a line that differs from the next entry."""
        line, digests, size = batch.number + at, batch.digests[at : at + LOOK_AHEAD], self.tree.size
        expected = self.entries.after(size)
        wanted = expected[0] if expected else None
        place = self.entries.find(digests[0], size + 1)
        if batch.torn and wanted == digests[0]:
            self._problem(ProblemKind.CHANGED, "the newline after this line was removed", file, line)
        elif wanted is None:
            self._problem(ProblemKind.ADDED, "this line was added after the last sealed line", file, line)
        elif place is not None and wanted in digests:
            self._problem(ProblemKind.MOVED, "this line was moved, or copied", file, line)
        elif place is not None:
            gone = place - size
            what = "the line before this one was" if gone == 1 else f"the {gone:,} lines before this one were"
            self._problem(ProblemKind.REMOVED, f"{what} removed", file, line)
        elif wanted in digests:
            added = digests.index(wanted)
            what = "this line was added" if added == 1 else f"{added:,} lines were added, beginning with this one"
            self._problem(ProblemKind.ADDED, what, file, line)
        else:
            self._problem(ProblemKind.CHANGED, "this line was changed", file, line)

    # ── What lines say about the seal ─────────────────────────────────────────────────────────

    def _read_statements(self, batch: LineBatch, sealed: int) -> None:
        """Collect the signed notes in the first `sealed` lines of a batch."""
        for place, line in batch.about_seal:
            if place >= sealed:
                return
            try:
                tree = msgspec.json.decode(line)
            except (msgspec.DecodeError, ValueError, RecursionError):
                continue
            found = tree.get(SEAL_MEMBER) if isinstance(tree, dict) else None
            if isinstance(found, dict):
                self._notes.append(found.get("note"))

    def _compare_statements(self, origin: str, keys: Sequence[Verifier]) -> None:
        """Compare late lines and deleted files with the statements that a key of the log signed."""
        notes = dict.fromkeys(note for note in self._notes if isinstance(note, str))  # without copies of the same note
        read = [read_statement(note, origin, keys) for note in notes]
        statements = [each for each in read if each is not None]
        late: dict[int, list[str]] = {}
        for each in statements:
            if each.get("event") == SealStatement.LATE_LINES:
                late.setdefault(int(each["size"]), []).extend(each["digests"])
        if self._compare_late_lines(late) and self.result.deleted:
            deleted = [each for each in statements if each.get("event") == SealStatement.FILE_DELETED]
            self._compare_deleted(deleted, late)

    def _compare_late_lines(self, stated: Mapping[int, Sequence[str]]) -> bool:
        """Compare the late lines of each remaining file with the statements. Return whether they are equal."""
        for size in sorted({*stated, *self._late}):
            lines, digests = self._late.get(size, []), list(stated.get(size, []))
            if 0 < size <= self.result.deleted:  # the other stated lines were in files that were deleted
                digests = digests[max(0, len(digests) - len(lines)) :]
            for line, digest in zip_longest(lines, digests):
                if line is None:
                    self._problem(
                        ProblemKind.REMOVED, f"late lines are missing at the end of the file before entry {size}"
                    )
                    return False
                if line.digest.hex() != digest:
                    self._problem(ProblemKind.ADDED, "this line was added", line.file, line.line)
                    return False
                self.result.late += 1
        return True

    def _compare_deleted(self, stated: Sequence[Mapping[str, Any]], late: Mapping[int, Sequence[str]]) -> None:
        """Check that statements about deleted files account for all entries before the first line."""
        at = 0
        for each in stated:
            lines = int(each["lines"])
            for size in (at + lines, *(size for size in late if at < size < at + lines)):
                extra = list(map(bytes.fromhex, late.get(size, []))) if size < at + lines else []
                if size - at + len(extra) == lines and size <= self.result.deleted:
                    found = digest_lines([*self.entries.window(at, size - at), *extra])
                    if found == each["digest"]:
                        at = size
                        break
        if at != self.result.deleted:
            self._problem(
                ProblemKind.REMOVED,
                f"{first_lines(self.result.deleted)} missing, and no signed line says that "
                "`--log-keep` deleted their files",
                self.path,
            )
            self.result.deleted = at

    # ── Checkpoints ───────────────────────────────────────────────────────────────────────────

    def _check_checkpoints(self, last: SignedCheckpoint, keys: Sequence[Verifier]) -> None:
        try:
            self.result.keys = tuple(last.log_keys(keys))
            signed = self.result.cosigned
            self.result.witnesses = () if signed is None else tuple(signed.witnesses(self.keys))
        except NoteError as error:
            self._seal_problem(f"`{self.folder / 'checkpoint'}`: {error}")
        for key in self.keys:
            if key.kind == COSIGNATURE and key not in self.result.witnesses:
                self._seal_problem(f"the witness `{key.name}` cosigned no checkpoint in `{self.folder / COSIGNED}`")
        if self._roots.get(last.size) != last.root:
            self._seal_problem(f"the entries in `{self.folder}` do not lead to the root hash of the checkpoint there")
        for name, kept in sorted(self.kept, key=lambda each: each[1].size):
            self._check_kept(name, kept, last, keys)

    def _check_kept(self, name: str, kept: SignedCheckpoint, last: SignedCheckpoint, keys: Sequence[Verifier]) -> None:
        try:
            kept.log_keys(keys)
        except NoteError as error:
            self._seal_problem(f"{name}: {error}")
            return
        if kept.checkpoint.origin != last.checkpoint.origin:
            self._seal_problem(f"{name} belongs to another log, `{kept.checkpoint.origin}`")
        elif kept.size > last.size:
            self._problem(
                ProblemKind.REMOVED, f"the log has only {pluralize(last.size, 'sealed line')}, fewer than {name}"
            )
        elif self._roots.get(kept.size) != kept.root:
            self._problem(ProblemKind.CHANGED, f"{first_lines(kept.size)} not those of {name}")
