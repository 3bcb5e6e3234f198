"""Parses untrusted JSON unambiguously: duplicate members, invalid numbers and deep nesting are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal, DecimalException

from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.values import DECIMAL_CONTEXT

MAX_DEPTH = 24  # maximum nesting depth, so that a claim fits into facts
MAX_DIGITS = DECIMAL_CONTEXT.prec  # maximum digits of a number; more cannot be exact
MAX_FRACTION_LENGTH = 3 * MAX_DIGITS  # maximum length of a fraction
# An unterminated string matches to the end, so matching takes linear time.
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
BRACKETS = re.compile(r"[\[\]{}]")
LONE = re.compile(r"[\ud800-\udfff]")


def parse_strict_object(data: bytes) -> dict[str, object]:
    """Parse a JSON object. Raises CredentialError if it is malformed or ambiguous."""
    try:
        text = data.decode("utf-8")
        check_depth(text)
        found = DECODER.decode(text)
    except (ValueError, RecursionError):  # errors of JSON or UTF-8
        raise CredentialError(RefusalCode.NOT_A_TOKEN) from None
    if not isinstance(found, dict):
        raise CredentialError(RefusalCode.NOT_A_TOKEN)
    if "\\u" in text and LONE.search(json.dumps(found, ensure_ascii=False, default=str)):
        raise CredentialError(RefusalCode.ENCODING)
    return found


def check_depth(text: str) -> None:
    """Check the nesting depth before parsing. Raises CredentialError."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in BRACKETS.findall(STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise CredentialError(RefusalCode.TOO_DEEP)


def unique_members(members: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(members)
    if len(found) != len(members):
        raise CredentialError(RefusalCode.DUPLICATE_MEMBER)
    return found


def parse_int(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise CredentialError(RefusalCode.CLAIM_TYPE)
    return int(text)


def parse_fraction(text: str) -> Decimal:
    """Parse a fraction exactly. Raises CredentialError."""
    try:
        number = DECIMAL_CONTEXT.create_decimal(text) if len(text) <= MAX_FRACTION_LENGTH else None
    except DecimalException:  # too many digits or too large an exponent
        number = None
    if number is None or abs(number.adjusted()) > MAX_DIGITS:
        raise CredentialError(RefusalCode.CLAIM_TYPE)
    return number


def reject_constant(_: str) -> object:
    raise CredentialError(RefusalCode.NOT_A_TOKEN)


DECODER = json.JSONDecoder(
    object_pairs_hook=unique_members, parse_int=parse_int, parse_float=parse_fraction, parse_constant=reject_constant
)
