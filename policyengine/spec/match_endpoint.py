"""Matches patterns of the kernel against the endpoint of a request, with captures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.globs import Glob
from policyengine.runtime.letter_case import equal_ignoring_case, fold_case
from policyengine.runtime.values import Invalid

# A capture is the raw text; Invalid if a character folds to several characters and the pattern matches only some of
# them.
Captures: TypeAlias = Mapping[str, str | Invalid]
NOTHING: Captures = MappingProxyType({})
SPLIT_CHARACTER = Invalid("a character of the path matches the pattern only in part")


def match_pattern(pattern: k.Pattern, endpoint: Endpoint, folding: k.Folding | None = None) -> Captures | None:
    """Return the captures by name; None if the pattern does not match. `folding` overrides the pattern's
    own folding.
    """
    match pattern:
        case k.HttpPattern() if isinstance(endpoint, HttpEndpoint):
            return _match_http(pattern, endpoint, folding or pattern.folding)
        case k.ToolPattern(glob) if isinstance(endpoint, ToolEndpoint):
            return NOTHING if Glob(glob).matches(endpoint.qualified) else None
        case k.ActionPattern(verb, type_) if isinstance(endpoint, ActionEndpoint):
            return NOTHING if (verb, type_) == (endpoint.verb, endpoint.type) else None
        case _:
            return None


def place_covers(place: k.Place, endpoint: Endpoint) -> bool:
    inside = place.patterns is None or any(match_pattern(p, endpoint) is not None for p in place.patterns)
    return inside and all(match_pattern(p, endpoint) is None for p in place.excepts)


def _match_http(pattern: k.HttpPattern, endpoint: HttpEndpoint, folding: k.Folding) -> Captures | None:
    given, wanted = endpoint.segments, pattern.segments
    if pattern.methods is not None and endpoint.method not in pattern.methods:
        return None
    if len(given) < len(wanted) or (len(given) > len(wanted) and not pattern.rest):
        return None
    captures: dict[str, str | Invalid] = {}
    for segment, text in zip(wanted, given, strict=False):
        middle = match_segment(segment, text, folding)
        if middle is None:
            return None
        if segment.capture is not None:
            captures[segment.capture] = middle
    return captures


def match_segment(segment: k.Segment, text: str, folding: k.Folding) -> str | Invalid | None:
    """Return the text that the wildcard matches; an empty text for an equal literal segment; None if the segment does
    not match; Invalid if the text of the wildcard begins or ends within a character.
    """
    if not segment.wild:
        return "" if equals_folded(text, segment.prefix, folding) else None
    start, end = len(segment.prefix), len(text) - len(segment.suffix)
    if (
        start < end
        and equals_folded(text[:start], segment.prefix, folding)
        and equals_folded(text[end:], segment.suffix, folding)
    ):
        return text[start:end]
    return _match_folded(segment, text) if folding == "full" and not text.isascii() else None


def least_folding(segment: k.Segment, text: str) -> int | None:
    """Return the index of the weakest folding with which a segment matches; None if it matches with no folding."""
    matching = (number for number, one in enumerate(k.FOLDINGS) if match_segment(segment, text, one) is not None)
    return next(matching, None)


def equals_folded(text: str, literal: str, folding: k.Folding) -> bool:
    match folding:
        case "none":
            return text == literal
        case "ascii":
            return equal_ignoring_case(text, literal)
        case "full":
            return text == literal or fold_case(text) == fold_case(literal)


def _match_folded(segment: k.Segment, text: str) -> str | Invalid | None:
    """Return the text that the wildcard matches, if characters such as `ß` fold to several characters, so that the
    prefix and its match may differ in length. Return None if the segment does not match, and Invalid if the prefix or
    suffix ends within a character.
    """
    prefix, suffix, folded = fold_case(segment.prefix), fold_case(segment.suffix), fold_case(text)
    if len(folded) <= len(prefix) + len(suffix) or not (folded.startswith(prefix) and folded.endswith(suffix)):
        return None
    most = len(text)  # no character folds to nothing, so a part is never longer than its folding
    start = next((n for n in range(min(most, len(prefix)) + 1) if fold_case(text[:n]) == prefix), most)
    end = next((most - n for n in range(min(most, len(suffix)) + 1) if fold_case(text[most - n :]) == suffix), 0)
    return text[start:end] if start < end else SPLIT_CHARACTER
