"""Planned changes in the behavior of classes, as an operator announces them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from policyengine.behavior.row import HOUR, HOURS_OF_DAY

MAX_RELEASE: Final = 14 * HOURS_OF_DAY * HOUR  # milliseconds
MAX_RELEASES: Final = 1_000
MAX_RELEASES_BYTES: Final = 2**20


class ReleaseError(Exception):
    """The error for planned changes that cannot be used; the text says why."""


class ClassRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A planned change of the callers of a class. It begins at `made` and ends at `until`, in milliseconds since
    1970."""

    group: str
    made: int
    until: int


def sort_releases(releases: Iterable[ClassRelease]) -> tuple[ClassRelease, ...]:
    """Return at most MAX_RELEASES planned changes, in the order of their classes."""
    return tuple(sorted(releases, key=lambda one: one.group)[:MAX_RELEASES])


def check_releases(releases: Iterable[ClassRelease]) -> None:
    """Check that no planned change is too long. Raises ReleaseError."""
    if any(one.until - one.made > MAX_RELEASE for one in releases):
        raise ReleaseError("there is a planned change of more than 14 days")


def release_ends(releases: Iterable[ClassRelease]) -> Mapping[str, int]:
    """Return the end of the planned change of each class, in milliseconds since 1970."""
    return {one.group: one.until for one in releases}
