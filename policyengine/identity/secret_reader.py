"""Reads secrets by reference: the configuration contains the location of a secret, never the secret itself.

`file:path` is read again when the file changes, `env:NAME` each time, and `bao:mount/path#field` (`openbao.py`) when it
is older than `refresh`.
"""

from __future__ import annotations

import hmac
import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Generic, NoReturn, Protocol, TypeAlias, TypeVar, assert_never

from policyengine.identity.config.model import IdentityConfigError
from policyengine.identity.config.secret_references import (
    EnvironmentReference,
    FileReference,
    OpenBaoReference,
    parse_secret_reference,
)
from policyengine.trusted_files import UntrustedPathError, open_trusted

MAX_SECRET_BYTES = 65_536
_LOG = logging.getLogger("policyengine")


class Secret:
    """A string that does not appear in `repr`, formatted strings or pickles; `reveal` returns it."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        return self.__text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    __hash__ = None  # type: ignore[assignment]  # as a dict key, the time of comparison would leak it

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


class SecretServer(Protocol):
    """A server that keeps secrets."""

    def read(self, place: OpenBaoReference, now: int) -> Secret:
        """Return a secret. May wait for a bounded time. Raises IdentityConfigError."""
        ...


@dataclass
class SecretReader:
    """A reader of referenced secrets. Paths are relative to `folder`. Threads may share it."""

    folder: Path = Path()
    bao: SecretServer | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    _files: dict[Path, ChangingFile[Secret]] = field(default_factory=dict, repr=False)

    def read(self, reference: str, now: int) -> Secret:
        """Return a secret. Raises IdentityConfigError, which names the reference and never the content."""
        try:
            place = parse_secret_reference(reference, self.folder)
        except ValueError as error:
            raise IdentityConfigError(str(error)) from None
        match place:
            case FileReference(path):
                return self._files.setdefault(path, ChangingFile(path, parse_secret)).read()
            case EnvironmentReference(name):
                text = self.environment.get(name, "")
                if not text:
                    raise IdentityConfigError(f"`env:{name}`: the variable is not set", f"set `{name}`")
                return Secret(text)
            case OpenBaoReference():
                if self.bao is None:
                    raise IdentityConfigError(
                        f"`{reference}`: OpenBao is not configured", "add `[bao]` with its `address`"
                    )
                return self.bao.read(place, now)
            case _:
                assert_never(place)


def parse_secret(content: bytes, name: str) -> Secret:
    """Parse a secret, without the final newline that editors add. Raises IdentityConfigError."""
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise IdentityConfigError(f"`{name}` is not UTF-8 text") from None
    if not text:
        raise IdentityConfigError(f"`{name}` is empty")
    return Secret(text)


# ── Files that hold secrets ───────────────────────────────────────────────────────────────────


def read_private(path: Path, *, public: bool = False) -> tuple[bytes, FileStamp]:
    """Read a file that only its owner and its group can read, and return its content and stamp. If `public`, other
    users may read it, too. Raises IdentityConfigError.
    """
    try:
        descriptor = open_trusted(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except UntrustedPathError as error:
        raise IdentityConfigError(error.message, error.hint) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise IdentityConfigError(f"cannot read `{path}`: {(why or str(error)).lower()}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise IdentityConfigError(f"`{path}` is not a regular file")
        if os.name == "posix" and found.st_mode & (
            stat.S_IWOTH | stat.S_IWGRP if public else stat.S_IRWXO | stat.S_IWGRP
        ):
            raise IdentityConfigError(f"other users of this machine can access `{path}`", f"run `chmod 600 {path}`")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_SECRET_BYTES:
        raise IdentityConfigError(f"`{path}` is larger than {MAX_SECRET_BYTES:,} bytes")
    return content, file_stamp(found)


FileStamp: TypeAlias = tuple[int, int, int, int]


def file_stamp(found: os.stat_result) -> FileStamp:
    """Return a stamp that changes with the file."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


T = TypeVar("T")


@dataclass
class ChangingFile(Generic[T]):
    """A file that is read again when it changes. While it cannot be used, its last content remains valid, because the
    file may be in the middle of an update; without any last content, that is an error.
    """

    path: Path
    reads: Callable[[bytes, str], T]
    public: bool = False
    problem: str | None = None  # the reason why the current content is not used
    _known: tuple[FileStamp, T] | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def read(self) -> T:
        """Return the parsed content, or the last valid content while the file cannot be used. Raises
        IdentityConfigError if there is no valid content yet.
        """
        with self._lock:
            try:
                if self._known is None or file_stamp(os.stat(self.path)) != self._known[0]:
                    content, look = read_private(self.path, public=self.public)
                    self._known = look, self.reads(content, str(self.path))
                self.problem = None
            except (IdentityConfigError, OSError) as error:
                self._failed(error)
            assert self._known is not None
            return self._known[1]

    def _failed(self, error: IdentityConfigError | OSError) -> None:
        if self._known is None:
            raise error if isinstance(error, IdentityConfigError) else IdentityConfigError(f"cannot read `{self.path}`")
        if self.problem is None:
            _LOG.warning("using the previous content: %s", error, extra={"event": "secret_not_read"})
        self.problem = str(error)
