"""Parses a JSON object: a member that every parser reads in the same way has a value, and all others are unknown.

Parsers disagree about duplicate names, names that differ only in case (Go accepts one for the other), numbers that no
double represents exactly (JavaScript rounds them), and the prototype of JavaScript objects.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from policyengine.runtime import decode
from policyengine.runtime.values import Invalid

SAFE_DIGITS = 15  # a number of this many digits survives the conversion to a double and back
ROUNDED = "a number that some parsers round"
DUPLICATE_IN_OTHER_CASE = Invalid("a name that is repeated in another case")
PROTOTYPE = Invalid("an object with the key `__proto__` or `constructor.prototype`")


def parse_json_members(content: bytes) -> dict[str, object]:
    """Return the members; those that parsers read differently are invalid, as in `decode.from_json`. Raises DecodeError
    if the content is not a JSON object.
    """
    found = decode.clean(decode.json_tree(content, DECODER))
    if isinstance(found, Invalid):
        raise decode.DecodeError(found.why)
    if not isinstance(found, dict):
        raise decode.DecodeError("not a JSON object")
    return found


def object_from_pairs(pairs: list[tuple[str, object]]) -> dict[object, object] | Invalid:
    found = decode.object_from_pairs(pairs)
    if "__proto__" in found:
        return PROTOTYPE
    match found.get("constructor"):
        case Invalid() | {"prototype": _}:
            return PROTOTYPE
    return drop_case_duplicates(found)


def drop_case_duplicates(found: dict[object, object]) -> dict[object, object]:
    """Return the members with an Invalid in place of the values of names that differ only in case."""
    if len({str(name).casefold() for name in found}) == len(found):
        return found
    spellings = Counter(str(name).casefold() for name in found)
    return {
        name: DUPLICATE_IN_OTHER_CASE if spellings[str(name).casefold()] > 1 else value for name, value in found.items()
    }


def require_exact_double(read: Callable[[str], object]) -> Callable[[str], object]:
    """Wrap a number parser so that it returns an Invalid for numbers that a double would round."""

    def number(text: str) -> object:
        value = read(text)
        if len(text) <= SAFE_DIGITS and text.lstrip("-").replace(".", "", 1).isdigit():
            return value
        exact = isinstance(value, Invalid) or Decimal(repr(float(text))) == value
        return value if exact else Invalid.in_place_of(text, ROUNDED)

    return number


DECODER = json.JSONDecoder(
    object_pairs_hook=object_from_pairs,
    parse_int=require_exact_double(decode.parse_json_int),
    parse_float=require_exact_double(decode.parse_json_float),
    parse_constant=lambda text: Invalid.in_place_of(text, decode.NOT_FINITE),
)
