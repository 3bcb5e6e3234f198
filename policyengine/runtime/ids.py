"""Ids of decisions: ULIDs whose random part is a keyed hash of a serial number, so that callers cannot guess them.

A report of an outcome names the id of the decision, so a caller who could guess ids could report outcomes for others.
"""

from __future__ import annotations

import os
import re
import secrets
from base64 import b32hexencode
from functools import lru_cache
from hashlib import shake_256
from itertools import count
from typing import TypeAlias

# The time of a decision (nanoseconds), with its serial number in this process or its id; or only the id.
Stamp: TypeAlias = tuple[int, int | str] | str

ULID = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FROM_BASE32HEX = bytes.maketrans(b"0123456789ABCDEFGHIJKLMNOPQRSTUV", _CROCKFORD.encode())
_RANDOM_BYTES, _RANDOM_CHARACTERS = 10, 16  # 80 bits
_BLOCK = 256  # number of ids whose random parts are computed together, which is faster
serials = count()


def crockford(number: int, characters: int) -> str:
    """Return the number in base 32, five bits for each character."""
    return "".join(_CROCKFORD[number >> 5 * place & 31] for place in reversed(range(characters)))


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
    hashed = shake_256(_key + block.to_bytes(16, "big")).digest(_RANDOM_BYTES * _BLOCK)
    return b32hexencode(hashed).translate(_FROM_BASE32HEX).decode()


@lru_cache(maxsize=64)
def _time(milliseconds: int) -> str:
    return crockford(milliseconds, 10)


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
