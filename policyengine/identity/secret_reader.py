"""Secrets by reference: configuration says where one lies, never what it is.

`file:path` is read again when the file changes, `env:NAME` each time, `bao:mount/path#field` when it is older than its
server's `refresh`: `openbao.py` asks that.
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

from policyengine.identity.config.model import IdentityError
from policyengine.identity.config.secret_references import (
    EnvironmentReference,
    FileReference,
    OpenBaoReference,
    parse_secret_reference,
)
from policyengine.trusted_files import UntrustedPathError, open_trusted

MAX_SECRET_BYTES = 65_536  # bytes
_LOG = logging.getLogger("policyengine")


class Secret:
    """A text that nothing shows: not `repr`, not a format, not a pickle. `reveal` is for whoever needs it."""

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

    __hash__ = None  # type: ignore[assignment]  # as a key it would be compared in a time that tells

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written down")


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


class SecretServer(Protocol):
    """A server that keeps secrets."""

    def read(self, place: OpenBaoReference, now: int) -> Secret:
        """May wait for it, for a bounded time. Raises IdentityError."""
        ...


@dataclass
class SecretReader:
    """Reads what references name. Threads may share one. `folder` is where paths begin."""

    folder: Path = Path()
    bao: SecretServer | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    _files: dict[Path, ChangingFile[Secret]] = field(default_factory=dict, repr=False)

    def read(self, reference: str, now: int) -> Secret:
        """Raises IdentityError, which names the reference and never what is there."""
        try:
            place = parse_secret_reference(reference, self.folder)
        except ValueError as error:
            raise IdentityError(str(error)) from None
        match place:
            case FileReference(path):
                return self._files.setdefault(path, ChangingFile(path, parse_secret)).read()
            case EnvironmentReference(name):
                text = self.environment.get(name, "")
                if not text:
                    raise IdentityError(f"`env:{name}`: the variable is not set", f"set `{name}`")
                return Secret(text)
            case OpenBaoReference():
                if self.bao is None:
                    raise IdentityError(f"`{reference}`: no OpenBao is set up", "add `[bao]` with its `address`")
                return self.bao.read(place, now)
            case _:
                assert_never(place)


def parse_secret(content: bytes, name: str) -> Secret:
    """One newline at the end, which editors add, is no part of it."""
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise IdentityError(f"`{name}` is no text") from None
    if not text:
        raise IdentityError(f"`{name}` is empty")
    return Secret(text)


# ── Files that hold secrets ───────────────────────────────────────────────────────────────────


def read_private(path: Path, *, public: bool = False) -> tuple[bytes, FileStamp]:
    """What a file holds that its owner alone can read, or its group too, and how it looked; one that is `public` all
    may read. Raises IdentityError."""
    try:
        descriptor = open_trusted(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except UntrustedPathError as error:
        raise IdentityError(error.message, error.hint) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise IdentityError(f"cannot read `{path}`: {(why or str(error)).lower()}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise IdentityError(f"`{path}` is no file")
        if os.name == "posix" and found.st_mode & (
            stat.S_IWOTH | stat.S_IWGRP if public else stat.S_IRWXO | stat.S_IWGRP
        ):
            raise IdentityError(f"others on this machine can use `{path}`", f"`chmod 600 {path}` keeps it to you")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_SECRET_BYTES:
        raise IdentityError(f"`{path}` is larger than {MAX_SECRET_BYTES:,} bytes")
    return content, file_stamp(found)


FileStamp: TypeAlias = tuple[int, int, int, int]


def file_stamp(found: os.stat_result) -> FileStamp:
    """By which it is seen that a file is another one."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


T = TypeVar("T")


@dataclass
class ChangingFile(Generic[T]):
    """A file that is read again when it changes. While it cannot be used, what it held last counts: whoever
    replaces it is not finished; before it could be used once, there is nothing to go by."""

    path: Path
    reads: Callable[[bytes, str], T]
    public: bool = False
    problem: str | None = None  # why what it holds now does not count
    _known: tuple[FileStamp, T] | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def read(self) -> T:
        """Raises IdentityError."""
        with self._lock:
            try:
                if self._known is None or file_stamp(os.stat(self.path)) != self._known[0]:
                    content, look = read_private(self.path, public=self.public)
                    self._known = look, self.reads(content, str(self.path))
                self.problem = None
            except (IdentityError, OSError) as error:
                self._failed(error)
            assert self._known is not None
            return self._known[1]

    def _failed(self, error: IdentityError | OSError) -> None:
        if self._known is None:
            raise error if isinstance(error, IdentityError) else IdentityError(f"cannot read `{self.path}`")
        if self.problem is None:
            _LOG.warning("what it held before counts: %s", error, extra={"event": "secret_not_read"})
        self.problem = str(error)
