"""Canonical methods and paths: the first step of every HTTP decision, which also finds malformed methods and paths.

A path is decoded once and compared in decoded form. A path is malformed if an upstream server could read it
differently: if it contains the characters below, segments that end in a dot or begin or end with white space (some file
systems drop these), characters that become ASCII under compatibility normalisation (some systems treat `ａ` as `a`), or
invisible characters (some systems drop them).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from policyengine.runtime.header_names import fold_header_name

MAX_PATH_LENGTH: Final = 8_192
MAX_SEGMENTS: Final = 128
METHOD = re.compile(r"[A-Z]{1,16}")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
HAZARDS = {
    "/": "an encoded slash",
    "\\": "a backslash",
    "\0": "a NUL character",
    ";": "a `;`",
    "?": "a `?`",
    "#": "a `#`",
    "%": "an escape that changes under a second decoding",
}
# Names as `override_name` returns them.
OVERRIDE_HEADERS = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})
OVERRIDE_FIELD = "-method"
OVERRIDE_PARAMETERS = OVERRIDE_HEADERS | {OVERRIDE_FIELD}


@dataclass(frozen=True, slots=True)
class CanonicalPath:
    """A path in canonical spelling. `path` is the decoded text without a trailing slash; `segments` are its nonempty
    parts."""

    path: str
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MalformedPath:
    why: str


PathResult: TypeAlias = CanonicalPath | MalformedPath


def canonical_path(path: str) -> PathResult:
    """Return the canonical spelling of the path of a request line, without query."""
    why = find_path_problem(path)
    if why:
        return MalformedPath(why)
    raw = path[1:].removesuffix("/").split("/") if path != "/" else []
    if len(raw) > MAX_SEGMENTS:
        return MalformedPath(f"more than {MAX_SEGMENTS} segments")
    segments = []
    for part in raw:
        if part.isascii() and part.isalnum():  # most segments, and always safe
            segments.append(part)
            continue
        segment = decode_segment(part)
        why = "invalid UTF-8" if segment is None else find_segment_hazard(segment)
        if segment is None or why:
            return MalformedPath(why or "")
        segments.append(segment)
    return CanonicalPath("/" + "/".join(segments), tuple(segments))


def find_path_problem(path: str) -> str | None:
    """Return the problem of the path as a whole, before it is split; None if the path is well-formed."""
    if len(path) > MAX_PATH_LENGTH:
        return f"longer than {MAX_PATH_LENGTH:,} characters"
    if not path.startswith("/"):
        return "no slash at the start"
    if BAD_ESCAPE.search(path):
        return "a `%` that does not begin an escape"
    return next((HAZARDS[char] for char in "?#" if char in path), None)


def decode_segment(segment: str) -> str | None:
    """Return the segment with its escapes decoded once; None if the result is not valid UTF-8."""
    try:
        return unquote_to_bytes(segment.encode("utf-8")).decode("utf-8")
    except UnicodeError:
        return None


def find_segment_hazard(segment: str) -> str | None:
    """Return why an upstream server could read a decoded segment differently; None if no server would."""
    if segment == "":
        return "an empty segment"
    if not unicodedata.is_normalized("NFC", segment):
        return "not in Unicode NFC"
    compatible = unicodedata.normalize("NFKC", segment)
    found = next((HAZARDS[char] for char in (*segment, *compatible) if char in HAZARDS), None)
    return (
        found
        or find_control_characters(segment)
        or find_odd_edges(segment)
        or find_odd_edges(compatible)
        or find_disguised_name(segment)
    )


def find_control_characters(segment: str) -> str | None:
    """Return why control characters or line separators make the segment a hazard; None if it has none."""
    odd = any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in segment)
    return "a control character" if odd else None


def find_disguised_name(segment: str) -> str | None:
    """Return why some systems may read the segment as another name: `ａdmin`, or `admin` with an invisible character;
    None if they do not.
    """
    if any(unicodedata.category(char) == "Cf" for char in segment):
        return "an invisible character"
    foreign = [char for char in segment if not char.isascii()]
    plain = any(char.isascii() for char in unicodedata.normalize("NFKC", "".join(foreign)))
    return "a character that some systems read as another" if plain else None


def find_odd_edges(segment: str) -> str | None:
    if set(segment) == {"."}:
        return "a dot segment"
    if segment.endswith("."):
        return "a segment that ends in a dot"
    return "a segment that begins or ends with white space" if segment != segment.strip() else None


def canonical_method(text: str) -> str | MalformedPath:
    """Return the method, with GET for HEAD; a MalformedPath if it is not a word of at most 16 upper-case letters."""
    if not METHOD.fullmatch(text):
        meant = text.upper() if METHOD.fullmatch(text.upper()) else "GET"
        return MalformedPath(f"the method is not an upper-case word: write `{meant}`")
    return "GET" if text == "HEAD" else text


def find_override(headers: Mapping[str, object], query: Mapping[str, object], body: Mapping[str, object]) -> str | None:
    """Return a message that names the header, parameter or body field with which some servers override the method; None
    if there is none.
    """
    for place, members, overriding, spelled in (
        ("a header", headers, OVERRIDE_HEADERS, override_header_name),
        ("the query", query, OVERRIDE_PARAMETERS, override_name),
        ("the body", body, frozenset({OVERRIDE_FIELD}), override_name),
    ):
        for name in map(spelled, present_names(members)):
            if name in overriding:
                return f"{place} names another method (`{'_method' if name == OVERRIDE_FIELD else name}`)"
    return None


def override_header_name(name: str) -> str:
    return fold_header_name(name.strip())


def present_names(members: Mapping[str, object]) -> Iterable[str]:
    return (name for name, value in members.items() if value is not None)


def override_name(name: str) -> str:
    """Return the canonical name of a parameter, because servers disagree about case, white space and underscores."""
    return name.strip().lower().replace("_", "-")
