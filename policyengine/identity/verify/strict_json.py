"""JSON of a stranger, read in the one way that there is: no member twice, no number that is none, bounded depth."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal, DecimalException

from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.values import EXACT

DEEPEST = 24  # so that a claim fits into facts
MOST_DIGITS = EXACT.prec  # of a number; more are exact nowhere here
LONGEST = 3 * MOST_DIGITS  # characters of a fraction
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # one that does not end goes on to the end: looked at once
BRACKETS = re.compile(r"[\[\]{}]")
LONE = re.compile(r"[\ud800-\udfff]")


def json_object(data: bytes) -> dict[str, object]:
    """Raises Refused: of what is no JSON object, or could be read in two ways."""
    try:
        text = data.decode("utf-8")
        check_depth(text)
        found = DECODER.decode(text)
    except (ValueError, RecursionError):  # JSON and UTF-8 alike
        raise Refused(Refusal.NOT_A_TOKEN) from None
    if not isinstance(found, dict):
        raise Refused(Refusal.NOT_A_TOKEN)
    if "\\u" in text and LONE.search(json.dumps(found, ensure_ascii=False, default=str)):
        raise Refused(Refusal.ENCODING)
    return found


def check_depth(text: str) -> None:
    """Before anybody walks it. Raises Refused."""
    if text.count("{") + text.count("[") <= DEEPEST:
        return
    depth = 0
    for bracket in BRACKETS.findall(STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            raise Refused(Refusal.TOO_DEEP)


def once(members: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(members)
    if len(found) != len(members):
        raise Refused(Refusal.DUPLICATE_MEMBER)
    return found


def whole(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise Refused(Refusal.CLAIM_TYPE)
    return int(text)


def fraction(text: str) -> Decimal:
    """Exact, as every number is here."""
    try:
        number = EXACT.create_decimal(text) if len(text) <= LONGEST else None
    except DecimalException:  # more digits, or an exponent that none has
        number = None
    if number is None or abs(number.adjusted()) > MOST_DIGITS:
        raise Refused(Refusal.CLAIM_TYPE)
    return number


def no_number(_: str) -> object:
    raise Refused(Refusal.NOT_A_TOKEN)


DECODER = json.JSONDecoder(object_pairs_hook=once, parse_int=whole, parse_float=fraction, parse_constant=no_number)
