"""The members of an object in JSON: those that every reader reads alike, the others as unknown.

Readers disagree about names that stand twice, names that differ in case only (Go takes one for the other), numbers that
no double holds as they are written (JavaScript rounds them), and what is the prototype of objects in JavaScript.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from policyengine.runtime import decode
from policyengine.runtime.values import Invalid

SAFE_DIGITS = 15  # that many any double holds
ROUNDED = "a number that some readers round"
DUPLICATE_IN_OTHER_CASE = Invalid("a name that is there in another case, too")
PROTOTYPE = Invalid("an object with the key `__proto__` or `constructor.prototype`")


def parse_json_members(content: bytes) -> dict[str, object]:
    """Clean, as `decode.from_json` has them. Raises DecodeError for what is no object in JSON."""
    found = decode.clean(decode.json_tree(content, DECODER))
    if isinstance(found, Invalid):
        raise decode.DecodeError(found.why)
    if not isinstance(found, dict):
        raise decode.DecodeError("no JSON object")
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
    """With no value where two names are the same but for their case."""
    spellings = Counter(str(name).casefold() for name in found)
    if len(spellings) == len(found):
        return found
    return {
        name: DUPLICATE_IN_OTHER_CASE if spellings[str(name).casefold()] > 1 else value for name, value in found.items()
    }


def require_exact_double(read: Callable[[str], object]) -> Callable[[str], object]:
    """A reader of numbers that takes those only which are the same as doubles."""

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
