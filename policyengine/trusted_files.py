"""Whether a file may be opened by its path: no link on the way to it is one that others could point elsewhere."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

MOST_LINKS = 40  # as the system follows
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(eq=False)
class UntrustedPathError(Exception):
    """What is wrong with a path, and what to do."""

    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})"


def trusted_path(path: Path | str) -> Path:
    """Where a path leads, without links. A link counts that belongs to this user or to root and lies in a folder in
    which nobody else can replace it: so those do by which Kubernetes mounts secrets. Raises UntrustedPathError; a path
    that leads nowhere is answered as far as it goes, for whoever opens it to find out."""
    whole = os.path.abspath(path)
    if os.name != "posix":
        return Path(whole)
    left, place, links = whole.split("/")[:0:-1], "/", 0
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":  # of a link: `abspath` took all others out
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
        if links > MOST_LINKS:
            raise UntrustedPathError(f"`{path}` leads through more than {MOST_LINKS} links", "name the file itself")
        check_link(step, found, os.lstat(place))
        target = os.readlink(step)
        place = "/" if target.startswith("/") else place
        left += target.split("/")[::-1]
    return Path(place)


def check_link(link: str, found: os.stat_result, folder: os.stat_result) -> None:
    """Raises UntrustedPathError."""
    ours = (os.geteuid(), 0)
    if found.st_uid not in ours:
        raise UntrustedPathError(f"`{link}` is a link of another user", "name the file that is meant itself")
    sticky = folder.st_mode & stat.S_ISVTX
    if folder.st_uid not in ours or (folder.st_mode & OTHERS_WRITE and not sticky):
        hint = f"name the file itself, or `chmod go-w {os.path.dirname(link)}`"
        raise UntrustedPathError(f"`{link}` is a link in a folder that others can write to", hint)
