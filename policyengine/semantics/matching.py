"""Whether a pattern of the kernel matches the endpoint of a request, and what it captures."""

from __future__ import annotations

from collections.abc import Mapping

from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.patterns import Glob
from policyengine.semantics import kernel as k

Captures = Mapping[str, str]
NOTHING: Captures = {}


def match_pattern(pattern: k.Pattern, endpoint: Endpoint) -> Captures | None:
    """The captures of a pattern that matches, by name; None when it does not match."""
    match pattern:
        case k.HttpPattern() if isinstance(endpoint, HttpEndpoint):
            return _match_http(pattern, endpoint)
        case k.ToolPattern(glob) if isinstance(endpoint, ToolEndpoint):
            return NOTHING if Glob(glob).matches(endpoint.qualified) else None
        case k.ActionPattern(verb, type_) if isinstance(endpoint, ActionEndpoint):
            return NOTHING if (verb, type_) == (endpoint.verb, endpoint.type) else None
        case _:
            return None


def place_covers(place: k.Place, endpoint: Endpoint) -> bool:
    inside = place.patterns is None or any(match_pattern(p, endpoint) is not None for p in place.patterns)
    return inside and all(match_pattern(p, endpoint) is None for p in place.excepts)


def _match_http(pattern: k.HttpPattern, endpoint: HttpEndpoint) -> Captures | None:
    given, wanted = endpoint.segments, pattern.segments
    if pattern.methods is not None and endpoint.method not in pattern.methods:
        return None
    if len(given) < len(wanted) or (len(given) > len(wanted) and not pattern.rest):
        return None
    captures: dict[str, str] = {}
    for segment, text in zip(wanted, given, strict=False):
        middle = _match_segment(segment, text)
        if middle is None:
            return None
        if segment.capture is not None:
            captures[segment.capture] = middle
    return captures


def _match_segment(segment: k.Segment, text: str) -> str | None:
    """What stands for the wild part; empty for a literal segment that is equal."""
    if not segment.wild:
        return "" if text == segment.prefix else None
    fixed = len(segment.prefix) + len(segment.suffix)
    if len(text) <= fixed or not (text.startswith(segment.prefix) and text.endswith(segment.suffix)):
        return None
    return text[len(segment.prefix) : len(text) - len(segment.suffix)]
