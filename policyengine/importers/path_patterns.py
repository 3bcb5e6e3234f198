"""Converts path templates to patterns, or to notes that say why this is impossible, and finds overlaps.

A pattern that matches more than its template is used only if it matches no other endpoint, so that no scope grants
another endpoint. A path without a pattern is left out, so it stays denied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from policyengine.importers.model import PathSegment
from policyengine.importers.sanitize import capture_name, safe_name
from policyengine.runtime.paths import MalformedPath, canonical_path

CAPTURE = re.compile(r"\{([^{}]*)\}")
LITERAL = re.compile(r"(?:-*[A-Za-z0-9._~@:+!$&'])*")
ID_NAME = re.compile(r"(?:.*[a-z0-9_-])?(?:I[dD]|U[uU][iI][dD]|Key|Slug|Name)|(?:.*[_-])?(?:id|uuid|key|slug|name)|id")
BUILT_IN_ENTITIES = frozenset(["agent_", "tool_"])  # names as `safe_name` returns them
MAX_SEGMENTS = 40


def parse_path(path: str) -> tuple[tuple[PathSegment, ...], str]:
    """Return the segments and a note. If no pattern matches the path, the segments are empty and the note says why.

    The root path has no segments and an empty note.
    """
    if not path.startswith("/"):
        return (), "does not begin with a slash"
    parts = path[1:].removesuffix("/").split("/") if path != "/" else []
    if len(parts) > MAX_SEGMENTS:
        return (), f"has more than {MAX_SEGMENTS} segments"
    found: list[PathSegment] = []
    notes: list[str] = []
    names: set[str] = set()
    for number, part in enumerate(parts):
        segment, note = _parse_segment(part, found[-1] if found else None)
        if segment is None:
            return (), note
        if segment.capture in names:
            segment = replace(segment, capture=f"{segment.capture}_{number + 1}", entity="")
        names.update([segment.capture] if segment.capture else [])
        found.append(segment)
        notes += [note] if note else []
    why = canonical_path("/" + "/".join(segment.filled("x1") for segment in found))
    return (
        ((), f"is never a canonical path: {why.why}")
        if isinstance(why, MalformedPath)
        else (tuple(found), "; ".join(notes))
    )


def _parse_segment(part: str, before: PathSegment | None) -> tuple[PathSegment | None, str]:
    captures = list(CAPTURE.finditer(part))
    around = CAPTURE.sub("", part)
    if not part:
        return None, "contains an empty segment"
    if "{" in around or "}" in around or (not captures and not LITERAL.fullmatch(part)):
        return None, f"contains a segment that no pattern can match: `{_printable(part)}`"
    if not captures:
        return PathSegment(part), ""
    start, end = part[: captures[0].start()], part[captures[-1].end() :]
    if not LITERAL.fullmatch(start) or not LITERAL.fullmatch(end):
        return None, f"contains a segment that no pattern can match: `{_printable(part)}`"
    raw = [found[1].strip("+*.?#") for found in captures]
    bare = [name.partition(":")[0] for name in raw]
    name = capture_name("_".join(bare), "part")
    if len(captures) > 1:
        note = f"`{_printable(part)}` is one capture here, and matches any text"
        return PathSegment("", name, "", start, end, wider=True), note
    rest = raw[0] != captures[0][1] or ":" in raw[0]
    note = f"`{_printable(part)}` is exactly one segment here" if rest else ""
    entity = _entity_name(before, bare[0]) if not start and not end and not rest else ""
    return PathSegment("", name, entity, start, end), note


def _printable(part: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() and char != "`" else "?" for char in part[:60])


def _entity_name(before: PathSegment | None, name: str) -> str:
    """Return the entity that a path names: `/pets/{petId}` is a pet. The result is empty unless an id follows the name
    of a collection."""
    if before is None or before.capture or not ID_NAME.fullmatch(name):
        return ""
    thing = safe_name(_singular(before.text), "")
    if thing == "user_":
        return "user"  # a built-in entity, which needs no declaration
    return "" if thing in BUILT_IN_ENTITIES else thing


def _singular(text: str) -> str:
    low = text.lower()
    if low.endswith("ies") and len(low) > 4:
        return f"{text[:-3]}y"
    if low.endswith(("sses", "shes", "ches", "xes")):
        return text[:-2]
    return text[:-1] if low.endswith("s") and not low.endswith(("ss", "us", "is")) and len(low) > 2 else text


# ── Overlaps ───────────────────────────────────────────────────────────────────────


def segments_overlap(a: PathSegment, b: PathSegment) -> bool:
    """Return whether some text may match both segments; True for two captures, which are not compared further."""
    if a.capture and b.capture:
        return True
    if not a.capture and not b.capture:
        return a.text == b.text
    held, text = (a, b.text) if a.capture else (b, a.text)
    return matches_segment(held, text)


def matches_segment(segment: PathSegment, text: str) -> bool:
    if not segment.capture:
        return segment.text == text
    longer = len(text) > len(segment.before) + len(segment.after)
    return longer and text.startswith(segment.before) and text.endswith(segment.after)


def literal_count(segments: Sequence[PathSegment]) -> int:
    return sum(not segment.capture for segment in segments)
