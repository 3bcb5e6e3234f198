"""Guards that cover less than the grant that they protect: only the tools of one server, or only one path
of a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import PatternIndex, covers
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.dead_rules import all_blocks

ANYTHING = k.Segment("", wild=True)


def narrower_guards(kernel: k.Kernel) -> Iterator[Diagnostic]:
    doors = PatternIndex[k.Pattern]()
    written = (opening.pattern for block in all_blocks(kernel) for one in block.grants for opening in one.openings)
    for door in dict.fromkeys(written):
        doors.add(door, door)
    for guard in kernel.guards:
        if any(isinstance(one, k.Deny | k.Confirm) for one in guard.effects):
            for pattern in guard.place.patterns or ():
                yield from other_servers(guard, pattern, doors)
                yield from paths_below(guard, pattern, doors)


# ── Tools ─────────────────────────────────────────────────────────────────────────────────────


def other_servers(guard: k.Guard, pattern: k.Pattern, doors: PatternIndex[k.Pattern]) -> Iterator[Diagnostic]:
    """Yield a W562 if a guard covers all tools of one server and a grant opens the tools of any server."""
    server = server_of(pattern)
    if server is None:
        return
    for door in doors.overlapping(pattern):
        if (
            isinstance(door, k.ToolPattern)
            and "*" in door.glob.partition("/")[0]
            and not narrower_guard_finding(guard, door)
        ):
            opened = f"`{quote_pattern(door)}` grants tools of any server"
            message = f"{opened}, but this guard covers only the tools of `{server}`"
            hint = "name the servers in the grant, or write the guard `on TOOL *`"
            yield Diagnostic("W562", message, pattern.span, hint, (RelatedLocation("the grant", door.span),))
            return


def server_of(pattern: k.Pattern) -> str | None:
    """Return the server if the pattern matches all tools of one server; None otherwise."""
    if not isinstance(pattern, k.ToolPattern):
        return None
    server, slash, name = pattern.glob.partition("/")
    return server if slash and "*" not in server and name and not name.strip("*") else None


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────


def paths_below(guard: k.Guard, pattern: k.Pattern, doors: PatternIndex[k.Pattern]) -> Iterator[Diagnostic]:
    """Yield a W563 if a guard covers one path and a grant with `**` also opens the paths below it."""
    if not isinstance(pattern, k.HttpPattern) or pattern.rest:
        return
    below = replace(pattern, segments=(*pattern.segments, ANYTHING), rest=True)
    wide = (one for one in doors.overlapping(pattern) if isinstance(one, k.HttpPattern) and one.rest)
    for door in wide:
        if len(door.segments) <= len(pattern.segments) and not narrower_guard_finding(guard, below):
            message = (
                f"`{quote_pattern(door)}` also grants paths below `{pattern_path(pattern)}`, "
                "which this guard does not cover"
            )
            hint = f"write `{pattern_path(pattern)}/**`, which covers the path itself as well"
            yield Diagnostic("W563", message, pattern.span, hint, (RelatedLocation("the grant", door.span),))
            return


def narrower_guard_finding(guard: k.Guard, pattern: k.Pattern) -> bool:
    return any(covers(one, pattern) for one in guard.place.patterns or ())


def pattern_path(pattern: k.Pattern) -> str:
    """Return the path of a pattern as written, without methods; the whole text if it is the name of a scope."""
    text = quote_pattern(pattern)
    return f"/{text.partition('/')[2]}".rstrip("/") if "/" in text else text


def quote_pattern(pattern: k.Pattern) -> str:
    return " ".join(pattern.span.text.split())
