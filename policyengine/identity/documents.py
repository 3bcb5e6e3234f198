"""JSON that strangers wrote, read strictly: what could be read in two ways is read in none."""

from __future__ import annotations

import json
from decimal import Decimal

DEEPEST = 16


class DocumentError(Exception):
    """What is wrong with a document, without anything that is in it."""


def json_object(data: bytes) -> dict[str, object]:
    """Fractions are Decimal. Raises DocumentError: no UTF-8, no JSON, a member that is there twice, a number that is
    none, too deep, no object."""
    try:
        found = _DECODER.decode(data.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise DocumentError("it is no JSON") from None
    except RecursionError:
        raise DocumentError("it is nested too deep") from None
    except ValueError:  # more digits than Python reads
        raise DocumentError("a number in it is too long") from None
    if not isinstance(found, dict):
        raise DocumentError("it is no JSON object")
    check_depth(found, DEEPEST)
    return found


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


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_float=Decimal, parse_constant=_no_number)
