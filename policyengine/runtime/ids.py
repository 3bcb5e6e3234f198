"""What decisions are called: ULIDs, drawn by chance once for each process and counted on from there."""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from itertools import count
from typing import TypeAlias

# When a decision was made (nanoseconds) and which one of this process it was; or the id itself.
Stamp: TypeAlias = tuple[int, int] | str

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]
_COUNTED = 30  # of the 80 bits of chance, those that count on from a start drawn by chance
serials = count()


def crockford(number: int, characters: int) -> str:
    """The number in base 32, five bits a character."""
    return "".join(_CROCKFORD[number >> 5 * place & 31] for place in reversed(range(characters)))


def _drawn() -> tuple[str, int]:
    """What keeps the ids of this process apart from all others."""
    return crockford(secrets.randbits(80 - _COUNTED), 10), secrets.randbits(_COUNTED)


_chance, _start = _drawn()


def _draw_again() -> None:
    global _chance, _start
    _chance, _start = _drawn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_draw_again)


@lru_cache(maxsize=64)
def _time(milliseconds: int) -> str:
    return crockford(milliseconds, 10)


def ulid(nanoseconds: int, serial: int) -> str:
    """A ULID: 48 bits of milliseconds, then chance, in 26 characters that sort by time."""
    low = _start + serial
    last = f"{_PAIRS[low >> 20 & 1023]}{_PAIRS[low >> 10 & 1023]}{_PAIRS[low & 1023]}"
    return f"{_time(nanoseconds // 1_000_000)}{_chance}{last}"
