"""The files of one log: the one that is written to, and those that were set aside, by us or by logrotate."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from policyengine.audit.rotation import STAMPED

Tell = Callable[[str], None]
GZIP = b"\x1f\x8b"


def files_of(path: Path) -> list[Path]:
    """Oldest first. A file that was set aside can be named by itself. Raises OSError where there is none at all."""
    ours = rf"\.{STAMPED}"
    logrotates = r"\.[0-9]{1,5}|-[0-9]{8}(?:-?[0-9]{1,10})?"
    named = re.compile(rf"{re.escape(path.name)}(?:{ours}|{logrotates})(?:\.gz)?")
    try:
        others = [one for one in path.parent.iterdir() if named.fullmatch(one.name)]
    except OSError:
        others = []
    if not others or path.exists():
        path.open("rb").close()
    found = [*sorted(others, key=lambda one: (one.stat().st_mtime_ns, one.name)), *([path] if path.exists() else [])]
    return without_twins(found)


def without_twins(files: list[Path]) -> list[Path]:
    """A file that is being compressed may be there twice for a moment."""
    names = {one.name for one in files}
    return [one for one in files if not (one.suffix == ".gz" and one.name.removesuffix(".gz") in names)]


def lines_of(path: Path, tell: Tell) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers. Raises OSError where the file cannot be read at all."""
    with opened(path) as file:
        try:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            tell(f"{path}: the rest of this file is left out: {error}")


def opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")
