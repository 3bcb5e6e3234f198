"""Compares the bindings of approvals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

PATH = re.compile(r"""[a-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\]|\["(?:[^"\\]|\\.)*"\])*""", re.ASCII)


@dataclass(frozen=True, slots=True)
class BoundPart:
    """A bound part of a request, as remedies write it: `body except body.request_id, body.trace`."""

    path: str
    excepts: tuple[str, ...]

    @classmethod
    def of(cls, words: str) -> Self:
        path, *others = PATH.findall(words)
        return cls(path, tuple(others[1:]))

    def holds(self, other: BoundPart) -> bool:
        """Return whether this part contains the other part."""
        if self.path == other.path:
            return all(any(is_within(one, out) for out in other.excepts) for one in self.excepts)
        apart = not any(is_within(one, other.path) or is_within(other.path, one) for one in self.excepts)
        return is_within(other.path, self.path) and apart


def binds_no_less(items: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether `items` bind an approval to everything to which `others` bind it."""
    parts = [BoundPart.of(one) for one in items]
    return all(any(part.holds(BoundPart.of(other)) for part in parts) for other in others if other != "resource")


def is_within(path: str, other: str) -> bool:
    return path == other or path.startswith((f"{other}.", f"{other}["))
