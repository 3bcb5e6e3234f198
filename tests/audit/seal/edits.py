"""Random edits of a sealed log, of which none may stay unnoticed."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random

from policyengine.audit import Rotation
from policyengine.audit.files import log_files
from policyengine.audit.seal.notes import SignedCheckpoint, Verifier
from tests.audit.seal.logs import checkpoint_of, folder, key_of, open_sealed, verified, write_lines

LINES = 48


class EditedLog:
    """A sealed log of several files, of which one is compressed, with a checkpoint and a key that were kept elsewhere,
    and another log with the same kind of lines to splice from."""

    def __init__(self, root: Path) -> None:
        self.path = write_log(root / "log", 0)
        other = write_log(root / "other", 1_000)
        self.kept: SignedCheckpoint = checkpoint_of(self.path)
        self.keys: list[Verifier] = [key_of(self.path)]
        self.files = log_files(self.path)
        self.seal = [file for file in folder(self.path).rglob("*") if file.is_file() and not is_hint(file)]
        self.original = {file: file.read_bytes() for file in (*self.files, *self.seal)}
        self.foreign = [line for file in log_files(other) for line in content_of(file).splitlines(keepends=True)]
        self.lines = {file: content_of(file).splitlines(keepends=True) for file in self.files}

    def restore(self) -> None:
        for file, raw in self.original.items():
            if not file.exists() or file.read_bytes() != raw:
                file.write_bytes(raw)

    def is_noticed(self) -> bool:
        result = verified(self.path, self.kept, keys=self.keys)
        return not result.is_whole or bool(result.unsealed) or result.torn

    def is_changed(self) -> bool:
        """Whether the edit changed a line, or a file of the seal."""
        for file, raw in self.original.items():
            if not file.exists():
                return True
            if file.read_bytes() == raw:
                continue
            if file in self.seal or file.suffix != ".gz":
                return True
            try:
                if content_of(file) != b"".join(self.lines[file]):
                    return True
            except Exception:
                return True
        return False

    def edit(self, random: Random) -> str:
        """Edit one file; return a description."""
        kind = random.choice(KINDS)
        file = random.choice(self.files)
        if kind == "seal":
            file = random.choice(self.seal)
            file.write_bytes(edit_bytes(self.original[file], random))
        elif kind == "bytes":
            file.write_bytes(edit_bytes(self.original[file], random))
        elif kind == "file":
            file.unlink()
        elif kind == "swap files":
            one, two = self.files[0], self.files[-1]
            one.write_bytes(b"".join(self.lines[two]))
            two.write_bytes(b"".join(self.lines[one]))
        else:
            lines = edit_lines(self.lines[file], self.foreign, kind, random)
            raw = b"".join(lines)
            file.write_bytes(gzip.compress(raw, mtime=0) if file.suffix == ".gz" else raw)
        return f"{kind} of {file.name}"


KINDS = (
    "bytes",
    "bytes",
    "seal",
    "remove",
    "double",
    "swap",
    "cut",
    "splice",
    "insert",
    "move",
    "text",
    "file",
    "swap files",
)


def is_hint(file: Path) -> bool:
    """Whether a file of the folder only helps to continue or to search, so that its content proves nothing;
    a verifier keeps the key elsewhere."""
    return file.name in {"state", "places", "starts", "lock", "writers", "vkey"}


def write_log(path: Path, begin: int) -> Path:
    path.mkdir()
    log = open_sealed(path / "d.jsonl", Rotation(size=2_000))
    for at in range(begin, begin + LINES, 4):
        write_lines(log, 4, begin=at)
        log.reopen()
    log.close()
    first = log_files(path / "d.jsonl")[0]
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes(), mtime=0))
    first.unlink()
    return path / "d.jsonl"


def content_of(file: Path) -> bytes:
    raw = file.read_bytes()
    return gzip.decompress(raw) if file.suffix == ".gz" else raw


def edit_bytes(raw: bytes, random: Random) -> bytes:
    begin = random.randrange(len(raw))
    end = min(len(raw), begin + random.choice((0, 1, 1, 1, 2, 40)))
    new = bytes(random.randrange(256) for _ in range(random.choice((0, 1, 1, 1, 2, 40))))
    return raw[:begin] + new + raw[end:]


def edit_lines(lines: list[bytes], foreign: list[bytes], kind: str, random: Random) -> list[bytes]:
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    begin, end = min(at, other), max(at, other) + 1
    found = list(lines)
    if kind == "remove":
        del found[begin : random.choice((begin + 1, end))]
    elif kind == "double":
        found[at:at] = found[begin : random.choice((begin + 1, end))]
    elif kind == "swap":
        found[at], found[other] = found[other], found[at]
    elif kind == "cut":
        found = found[:at] + ([found[at][: random.randrange(len(found[at]))]] if random.random() < 0.5 else [])
    elif kind == "splice":
        found[begin:end] = random.sample(foreign, end - begin)
    elif kind == "insert":
        found[at:at] = [random.choice(foreign)]
    elif kind == "move":
        found.insert(other, found.pop(at))
    elif kind == "text":
        found[at] = found[at].replace(b"t", b"u", 1)
    return found
