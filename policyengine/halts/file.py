"""The halt file: halts that are in effect while they are in a file, even when neither the server nor the store answers.

The file is JSON: `{"halts": [{"agent": "invoice-bot", "reason": "…", "until": "2026-12-01T00:00:00Z"}]}`. Only a valid
file lifts a halt: while the file is missing, damaged or writable for others, the halts that were read last stay in
effect.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from msgspec import structs

from policyengine.bounded_files import check_regular, read_stream
from policyengine.halts.document import MAX_HALTS, MAX_HALTS_OF_EVERYTHING, unknown_halt
from policyengine.halts.errors import HaltError, HaltsFullError, HaltsUnreadableError
from policyengine.halts.requests import check_halt
from policyengine.runtime.decode import DecodeError, from_json
from policyengine.runtime.halts import Halt, HaltMembers
from policyengine.runtime.structure_checks import (
    RequestError,
    check_members,
    get_flag,
    get_object,
    get_text,
    iterate_items,
    quote_input,
)
from policyengine.stores.halts import MAX_HALTS_BYTES
from policyengine.time_formats import format_epoch_seconds, parse_time
from policyengine.trusted_files import UntrustedPathError, open_trusted, write_problem

FILE_NAME: Final = "the halt file"
FILE_HINT: Final = (
    'only you may write a halt file (`chmod 600`); a file without halts is `{"halts": []}` (docs/halt.md)'
)
ID_LENGTH: Final = 12
REQUIRED_MEMBERS: Final = ("reason", "until")
MAX_FILE_HALTS: Final = MAX_HALTS + MAX_HALTS_OF_EVERYTHING
FileStamp = tuple[int, int, int, int, int]


class FileHalt(HaltMembers, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A halt as people write it. Without an `id`, the id is computed from the other members."""

    reason: str
    until: str
    id: str | None = None
    since: str | None = None

    def to_halt(self, since: int) -> Halt:
        """Return the halt; `since` applies if the file does not state it. Raises HaltError."""
        id = self.id or sha256(msgspec.json.encode(self)).hexdigest()[:ID_LENGTH]
        members = {name: getattr(self, name) for name in HaltMembers.__struct_fields__}
        begun = since if self.since is None else parse_file_time(self.since)
        halt = Halt(id, self.reason, begun, parse_file_time(self.until), **members)
        check_halt(halt)
        return halt

    @classmethod
    def of(cls, halt: Halt) -> FileHalt:
        times = {"since": format_epoch_seconds(halt.since), "until": format_epoch_seconds(halt.until)}
        return cls(**(structs.asdict(halt) | times))


class HaltFile:
    """A halt file that a process reads again when it changes."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._stamp: FileStamp | None = None
        self._halts: tuple[Halt, ...] = ()

    @property
    def name(self) -> str:
        return f"{FILE_NAME} `{self.path}`"

    def read(self) -> tuple[Halt, ...]:
        """Return the halts in the file. Raises HaltsUnreadableError."""
        try:
            if self._stamp is not None and self._stamp == stamp_of(os.stat(self.path)):
                return self._halts
            self._stamp = None  # a damaged file is read again, even if it does not change
            with os.fdopen(open_trusted(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                check_regular((found := os.fstat(file.fileno())).st_mode)
                raw = read_stream(file, MAX_HALTS_BYTES)
        except UntrustedPathError as error:
            raise HaltsUnreadableError(error.message, FILE_HINT) from None
        except OSError as error:
            raise HaltsUnreadableError((error.strerror or str(error)).lower(), FILE_HINT) from None
        if (problem := write_problem(self.path, found)) is not None:
            raise HaltsUnreadableError(problem, FILE_HINT)
        self._halts = parse_file(raw, int(found.st_mtime))
        self._stamp = stamp_of(found)
        return self._halts


def stamp_of(found: os.stat_result) -> FileStamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def parse_file(raw: bytes, since: int) -> tuple[Halt, ...]:
    """Parse the content of a halt file. Raises HaltsUnreadableError."""
    try:
        halts = tuple(one.to_halt(since) for one in read_halts(raw))
    except (DecodeError, RequestError, HaltError, ValueError) as error:
        why = f"it is damaged: {error}" if raw.strip() else "it is empty"
        raise HaltsUnreadableError(why, FILE_HINT) from None
    if len(halts) > MAX_FILE_HALTS:
        raise HaltsUnreadableError(f"it has more than {MAX_FILE_HALTS} halts")
    if len({halt.id for halt in halts}) < len(halts):
        raise HaltsUnreadableError("two of its halts have the same id")
    return halts


def read_halts(raw: bytes) -> Iterator[FileHalt]:
    """Yield the halts of the content. `halts` is required, so that an empty object lifts nothing. Raises DecodeError,
    RequestError."""
    content = from_json(raw)
    if not isinstance(content, dict):
        raise RequestError("", 'it is not an object such as `{"halts": []}`')
    check_members(content, ("halts",), "")
    if content.get("halts") is None:
        raise RequestError("halts", "`halts` is missing")
    for member, item in iterate_items(content["halts"], "halts"):
        given = require_object(item, member)
        check_members(given, FileHalt.__struct_fields__, member)
        everything = get_flag(given.get("everything"), f"{member}.everything", default=False)
        texts = {
            name: get_text(given.get(name), f"{member}.{name}")
            for name in FileHalt.__struct_fields__
            if name != "everything" and (name in REQUIRED_MEMBERS or given.get(name) is not None)
        }
        yield FileHalt(everything=everything, **texts)


def require_object(raw: object, member: str) -> Mapping[str, object]:
    """Return a value that must be an object. Raises RequestError for any other value."""
    if (found := get_object(raw, member)) is None:
        raise RequestError(member, f"`{member}` is missing")
    return found


def parse_file_time(text: str) -> int:
    """Return a time in seconds since 1970. Raises HaltError."""
    found = parse_time(text)
    if found is None:
        raise HaltError(f"`{quote_input(text)}` is not a time", "write it as `2026-12-01T00:00:00Z`")
    return int(found.timestamp())


# ── Changes by the command line ───────────────────────────────────────────────────────────────


def add_to_file(path: Path, halt: Halt) -> None:
    """Add a halt to a file. A missing file is not created, because that would lift the halts that were in it. Raises
    HaltError, HaltsUnreadableError, OSError."""
    if not path.exists():
        raise HaltError(f"`{path}` does not exist", missing_file_hint(path))
    halts = HaltFile(path).read()
    if len(halts) >= MAX_FILE_HALTS:
        raise HaltsFullError(f"`{path}` already has {MAX_FILE_HALTS} halts", "lift some of them")
    write_file(path, (*halts, halt))


def lift_from_file(path: Path, id: str) -> None:
    """Remove a halt from a file. Raises UnknownHaltError, HaltsUnreadableError, OSError."""
    halts = HaltFile(path).read()
    left = tuple(halt for halt in halts if halt.id != id)
    if len(left) == len(halts):
        raise unknown_halt(id, ())
    write_file(path, left)


def write_file(path: Path, halts: tuple[Halt, ...]) -> None:
    """Replace the file in one step, so that no process reads a part of it. Raises OSError."""
    content = msgspec.json.format(msgspec.json.encode({"halts": [FileHalt.of(halt) for halt in halts]}))
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    opened, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def missing_file_hint(path: Path) -> str:
    return f"if no halt was in it, create it: `echo '{{\"halts\": []}}' > {shlex.quote(str(path))}`"
