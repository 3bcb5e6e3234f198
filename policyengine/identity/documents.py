"""JSON that strangers wrote, read strictly: what could be read in two ways is read in none."""

from __future__ import annotations

import json
from decimal import Decimal

DEEPEST = 16
MOST_DIGITS = 34


class DocumentError(Exception):
    """What is wrong with a document, without anything that is in it."""


def json_object(data: bytes) -> dict[str, object]:
    """Fractions are Decimal. Raises DocumentError: no UTF-8, no JSON, a member that is there twice, a number that is
    none or too long, half a character, too deep, no object."""
    try:
        text = data.decode("utf-8")
        found = _DECODER.decode(text)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise DocumentError("it is no JSON") from None
    except RecursionError:
        raise DocumentError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise DocumentError("it is no JSON object")
    check_depth(found, DEEPEST)
    if "\\u" in text:
        check_characters(found)
    return found


def check_characters(tree: dict[str, object]) -> None:
    try:
        json.dumps(tree, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        raise DocumentError("half a character is in it") from None


def check_depth(tree: object, left: int) -> None:
    if left < 0:
        raise DocumentError("it is nested too deep")
    if isinstance(tree, dict | list):
        for one in tree.values() if isinstance(tree, dict) else tree:
            if isinstance(one, dict | list):
                check_depth(one, left - 1)


def _members(given: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(given)
    if len(found) != len(given):
        raise DocumentError("a member is in it twice")
    return found


def _no_number(text: str) -> object:
    raise DocumentError("a number in it is none")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise DocumentError("a number in it is too long")
    return int(text)


def _fraction(text: str) -> Decimal:
    """Of a size that its digits say: `1e999999999` is a few letters, and would be a long number."""
    number = Decimal(text) if len(text) <= MOST_DIGITS else None
    if number is None or abs(number.adjusted()) > MOST_DIGITS:
        raise DocumentError("a number in it is too long")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_whole, parse_float=_fraction, parse_constant=_no_number
)
