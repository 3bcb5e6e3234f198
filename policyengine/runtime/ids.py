"""What decisions are called: ULIDs whose random part is a keyed hash of a serial number, so that nobody can guess one.

An id is also what a report of the outcome names: who could guess the ids of others could report for them.
"""

from __future__ import annotations

import os
import secrets
from base64 import b32hexencode
from functools import lru_cache
from hashlib import shake_256
from itertools import count
from typing import TypeAlias

# When a decision was made (nanoseconds), and its serial number in this process or its id; or the id alone.
Stamp: TypeAlias = tuple[int, int | str] | str

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FROM_BASE32HEX = bytes.maketrans(b"0123456789ABCDEFGHIJKLMNOPQRSTUV", _CROCKFORD.encode())
_RANDOM_BYTES, _RANDOM_CHARACTERS = 10, 16  # 80 bits
_BLOCK = 256  # ids whose random parts are computed together, as that is quicker
serials = count()


def crockford(number: int, characters: int) -> str:
    """The number in base 32, five bits a character."""
    return "".join(_CROCKFORD[number >> 5 * place & 31] for place in reversed(range(characters)))


_key = secrets.token_bytes(32)


def _replace_key() -> None:
    """A forked process counts the same serials on: under another key its ids are others."""
    global _key
    _key = secrets.token_bytes(32)
    _random_parts.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_key)


@lru_cache(maxsize=64)
def _random_parts(block: int) -> str:
    """Those of a block of serials, one after another: the same whenever they are asked for."""
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
    """A ULID: 48 bits of milliseconds and 80 that look random, in 26 characters that sort by time."""
    block, place = divmod(serial, _BLOCK)
    start = place * _RANDOM_CHARACTERS
    return _time(nanoseconds // 1_000_000) + _random_parts(block)[start : start + _RANDOM_CHARACTERS]
