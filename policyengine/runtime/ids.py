"""Ids of decisions: ULIDs whose random part is a keyed hash of a serial number, so that callers cannot guess them.

A report of an outcome names the id of the decision, so a caller who could guess ids could report outcomes for others.
"""

from __future__ import annotations

import os
import re
import secrets
from functools import lru_cache
from hashlib import shake_256
from itertools import count
from typing import TypeAlias

# The time of a decision (nanoseconds), with its serial number in this process or its id; or only the id.
Stamp: TypeAlias = tuple[int, int | str] | str

ULID = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple([first + second for first in _CROCKFORD for second in _CROCKFORD])  # by ten bits
_FIVE_BITS = 8 * _CROCKFORD.encode()  # the character for the lowest five bits of each byte
_RANDOM_CHARACTERS = 16  # 80 bits
_BLOCK = 256  # number of ids whose random parts are computed together, which is faster
serials = count()


_key = secrets.token_bytes(32)


def _replace_key() -> None:
    """Replace the key after a fork: the child continues with the same serial numbers, but needs different ids."""
    global _key
    _key = secrets.token_bytes(32)
    _random_parts.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_key)


@lru_cache(maxsize=64)
def _random_parts(block: int) -> str:
    """Return the concatenated random parts of a block of serials; the same parts on every call."""
    hashed = shake_256(_key + block.to_bytes(16, "big")).digest(_RANDOM_CHARACTERS * _BLOCK)
    return hashed.translate(_FIVE_BITS).decode()


@lru_cache(maxsize=64)
def _time(milliseconds: int) -> str:
    """Return the lowest fifty bits of a time in ten characters."""
    pairs, low = _PAIRS, milliseconds & 0xFFFFF
    high = milliseconds >> 20
    first = pairs[high >> 20 & 1023] + pairs[high >> 10 & 1023] + pairs[high & 1023]
    return first + pairs[low >> 10] + pairs[low & 1023]


def id_of(stamp: Stamp) -> str:
    if isinstance(stamp, str):
        return stamp
    nanoseconds, serial = stamp
    return serial if isinstance(serial, str) else ulid(nanoseconds, serial)


def ulid(nanoseconds: int, serial: int) -> str:
    """Return a ULID: 48 bits of milliseconds and 80 pseudorandom bits, as 26 characters that sort by time."""
    block, place = divmod(serial, _BLOCK)
    start = place * _RANDOM_CHARACTERS
    return _time(nanoseconds // 1_000_000) + _random_parts(block)[start : start + _RANDOM_CHARACTERS]


def time_of(id: str) -> int | None:
    """Return the time of a ULID in milliseconds since 1970, or None for any other id."""
    if len(id) != 26 or not id.isascii():
        return None
    milliseconds = 0
    for character in id[:10]:
        digit = _CROCKFORD.find(character)
        if digit < 0:
            return None
        milliseconds = milliseconds << 5 | digit
    return milliseconds
