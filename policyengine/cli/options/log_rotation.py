"""When to rotate the decision log, by size or age: `100MB`, `1d`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError

if TYPE_CHECKING:
    from policyengine.audit import Rotation

SIZE_PATTERN = re.compile(r"([1-9][0-9]{0,11})([KMG]B)")
UNITS = {"KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
MIN_AGE_SECONDS = 60  # seconds


def parse_rotation(wishes: Sequence[str], keep: int | None, compress: bool) -> Rotation:
    """Parse the options of rotation. Raises CommandError."""
    from policyengine.audit import Rotation

    size = age = None
    for wish in wishes:
        found = parse_size(wish)
        if found is not None:
            size = found
        else:
            age = parse_age(wish)
    if size is None and age is None and (keep is not None or compress):
        raise CommandError("usage", "the log is not rotated", "say when to rotate it: `--log-rotate 100MB`", code=2)
    return Rotation(size, age, keep, compress)


def parse_size(wish: str) -> int | None:
    found = SIZE_PATTERN.fullmatch(wish)
    return None if found is None else int(found[1]) * UNITS[found[2]]


def parse_age(wish: str) -> int:
    from policyengine.time_formats import parse_duration

    lasting = parse_duration(wish)
    if lasting is None:
        raise CommandError(
            "usage", f"`{wish}` is neither a size nor an age", "write `100MB` or `1d`, for example", code=2
        )
    if lasting.total_seconds() < MIN_AGE_SECONDS:
        raise CommandError("usage", f"`{wish}` is too short to rotate a log", "use a minute or longer", code=2)
    return int(lasting.total_seconds())
