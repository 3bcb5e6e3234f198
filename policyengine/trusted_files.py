"""Opens files at trusted paths, on which no other user can redirect a symbolic link."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path
from typing import BinaryIO

MAX_LINKS = 40  # maximum links to follow, as in Linux
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
NAME_FILE_HINT = "pass the path of the file itself"


class UntrustedPathError(OSError):
    """The error for a path that another user could redirect: the untrusted `link`, and a hint. The text does not
    contain the path, as with other system errors.
    """

    def __init__(self, why: str, link: str, hint: str) -> None:
        super().__init__(errno.EPERM, why, link)
        self.message, self.hint = f"`{link}` is {why}", hint


def trusted_path(path: Path | str) -> Path:
    """Resolve a path without following untrusted links. Raises UntrustedPathError.

    A link is trusted if it belongs to this user or to root and is in a folder in which no other user can replace it.
    The links with which Kubernetes mounts secrets are trusted. A path that does not exist is resolved as far as
    possible; opening it then fails.
    """
    whole = os.path.abspath(path)
    if os.name != "posix":
        return Path(whole)
    left, place, links = whole.split("/")[:0:-1], "/", 0
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":  # this part comes from a link, because `abspath` has removed all others
            place = os.path.dirname(place)
            continue
        step = os.path.join(place, name)
        try:
            found = os.lstat(step)
        except OSError:
            return Path(step, *reversed(left))
        if not stat.S_ISLNK(found.st_mode):
            place = step
            continue
        links += 1
        if links > MAX_LINKS:
            raise UntrustedPathError(f"one of a chain of more than {MAX_LINKS} links", step, NAME_FILE_HINT)
        check_link(step, found, place)
        target = os.readlink(step)
        place = "/" if target.startswith("/") else place
        left += target.split("/")[::-1]
    return Path(place)


def check_link(link: str, found: os.stat_result, place: str) -> None:
    """Check a link and its folder `place`. A folder that others can write to is accepted only if it is sticky, or if it
    is mounted read-only, as ConfigMaps of Kubernetes are.

    Raises UntrustedPathError.
    """
    ours, folder = (os.geteuid(), 0), os.lstat(place)
    if found.st_uid not in ours:
        raise UntrustedPathError("a link of another user", link, NAME_FILE_HINT)
    shut = folder.st_mode & stat.S_ISVTX or os.statvfs(place).f_flag & os.ST_RDONLY
    if folder.st_uid not in ours or (folder.st_mode & OTHERS_WRITE and not shut):
        hint = f"{NAME_FILE_HINT}, or `chmod go-w {shlex.quote(os.path.dirname(link))}`"
        raise UntrustedPathError("a link in a folder that others can write to", link, hint)


def write_problem(name: Path | str, found: os.stat_result) -> str | None:
    """Return a message about other users who could write the file, or None if only this user and root can."""
    if os.name != "posix":
        return None
    if found.st_uid not in (os.geteuid(), 0):
        return f"`{name}` belongs to another user"
    return f"others can write `{name}`" if found.st_mode & OTHERS_WRITE else None


def open_trusted(path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open the file at a trusted path and return its descriptor. Raises OSError."""
    extra = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(trusted_path(path), flags | extra, mode)


def read_trusted(path: Path | str, most: int) -> bytes:
    """Read at most `most` bytes of the file at a trusted path. Raises OSError."""
    file: BinaryIO
    with os.fdopen(open_trusted(path), "rb") as file:
        return file.read(most)
