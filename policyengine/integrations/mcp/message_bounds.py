"""Bounds the number of values in a message before it is parsed: a large message of small values takes long to parse and
to check, and keeps other callers waiting. Nothing here depends on an SDK.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

MAX_MESSAGE_VALUES: Final = 100_000
# A string, which may lack its end, or the beginning of a further value. No character is examined twice.
TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?|[,\[{]', re.DOTALL)
STRING_START: Final = b'"'
TOKENS_PER_VALUE: Final = 4  # at most: a name, a value that is a string, a comma and a bracket


def has_too_many_values(message: bytes, most: int = MAX_MESSAGE_VALUES) -> bool:
    """Return whether a message in JSON has more than `most` values; for a text that is not JSON, the result may be True
    with fewer values."""
    if message.count(b",") + message.count(b"[") + message.count(b"{") < most:
        return False
    return count_values(message, most) > most


def count_values(message: bytes, most: int) -> int:
    """Return the number of values of a message; an empty list or object counts as two. Counting ends soon after `most`,
    and a text with more tokens than `most` values can have counts as larger.
    """
    values, seen = 1, 0
    for token in read_tokens(message, most):
        seen += 1
        values += not token[0].startswith(STRING_START)
        if values > most:
            return values
    return most + 1 if seen > TOKENS_PER_VALUE * most else values


def read_tokens(message: bytes, most: int) -> Iterator[re.Match[bytes]]:
    """Yield the strings, commas and opening brackets of a message; stop soon after as many as `most` values can
    have."""
    return islice(TOKEN.finditer(message), TOKENS_PER_VALUE * most + 1)
