"""The differences between two definitions of a tool: each member that was added, removed or changed, by its path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from policyengine.tool_pins.definitions import MAX_DEFINITION_DEPTH

ABSENT: Final = object()
PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


@dataclass(frozen=True, slots=True)
class MemberDifference:
    """A member that differs, such as `inputSchema.properties.path.type`: its text before and after; None if it is
    absent. Strings are texts without quotes."""

    path: str
    before: str | None
    after: str | None


def definition_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[MemberDifference]:
    """Return the differences in the order of the members."""
    return list(compare_values("", before, after, 0))


def compare_values(path: str, before: object, after: object, depth: int) -> Iterator[MemberDifference]:
    if before == after and type(before) is type(after):
        return
    match before, after:
        case (Mapping() | list(), _) | (_, Mapping() | list()) if depth > MAX_DEFINITION_DEPTH:
            yield MemberDifference(path, member_text(before), member_text(after))
        case (Mapping(), Mapping()):
            yield from compare_objects(path, before, after, depth)
        case (_, Mapping()) if before is ABSENT and after:
            yield from compare_objects(path, {}, after, depth)
        case (Mapping(), _) if after is ABSENT and before:
            yield from compare_objects(path, before, {}, depth)
        case (list(), list()) if len(before) == len(after) and any(isinstance(one, dict | list) for one in before):
            for at, pair in enumerate(zip(before, after, strict=True)):
                yield from compare_values(f"{path}[{at}]", *pair, depth + 1)
        case _ if member_text(before) != member_text(after) or type(before) is not type(after):
            yield MemberDifference(path, member_text(before), member_text(after))


def compare_objects(
    path: str, before: Mapping[str, Any], after: Mapping[str, Any], depth: int
) -> Iterator[MemberDifference]:
    for name in dict.fromkeys((*before, *after)):
        inner = join_path(path, name)
        yield from compare_values(inner, before.get(name, ABSENT), after.get(name, ABSENT), depth + 1)


def join_path(path: str, name: str) -> str:
    if not PLAIN_NAME.fullmatch(name):
        return f"{path}[{json.dumps(name)}]"
    return f"{path}.{name}" if path else name


def member_text(value: object) -> str | None:
    if value is ABSENT:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
