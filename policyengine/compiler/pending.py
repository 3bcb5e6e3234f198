"""Pending facts for generated code: whether what a question says of them is plain, and what is surely absent.

A fact that is not given is not sure to generated code where it needs its value, pending or not. Only where it takes
absence for an answer it has to ask whether the fact is pending.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from policyengine.runtime.pending_facts import PENDING_WILDCARD, parse_pending_path
from policyengine.runtime.structure_checks import RequestError

Path: TypeAlias = tuple[str, ...]
# A path of a fact, and whether all members of it are meant that are not given.
Named: TypeAlias = tuple[Path, bool]

FREE = frozenset({"body", "args", "context"})  # nothing but rules asks for them
OF_A_REQUEST = frozenset({"headers", "query", "host", "ip", "size"})
MOST_NAMES = 64


def well_said(names: list[Any], question: Mapping[str, Any]) -> bool:
    """Whether it is sure that nothing is wrong with the names of pending facts. Raises TypeError for no names."""
    found = named(tuple(names))
    return found is not None and not any(given(question, *one) for one in found)


def surely_absent(question: Mapping[str, Any], path: Path) -> bool:
    """Of a fact that is not given, where some are pending and are well said."""
    found = named(tuple(question["pending"]))
    return found is not None and not any(path[: len(one)] == one or one[: len(path)] == path for one, _ in found)


@lru_cache(maxsize=256)  # callers have few such lists, and send them again and again
def named(names: tuple[Any, ...]) -> tuple[Named, ...] | None:
    """None where one of them is no fact, or one that says who asks for what."""
    if len(names) > MOST_NAMES or not all(type(name) is str for name in names):
        return None
    try:
        found = [
            (parse_pending_path(name.removesuffix(PENDING_WILDCARD), ""), name.endswith(PENDING_WILDCARD))
            for name in names
        ]
    except RequestError:
        return None
    whole = {path for path, others in found if not others}
    nested = any(path[:1] in whole for path, others in found if len(path) > 1 or others)
    return tuple(found) if not nested and all(is_plain(*one) for one in found) else None


def is_plain(path: Path, others: bool) -> bool:
    if path[0] == "request" and path[1:2] and path[1] in OF_A_REQUEST:
        return len(path) == (2 if others or path[1] not in ("headers", "query") else 3)
    return path[0] in FREE and (len(path) == 1 or (len(path) == 2 and not others))


def given(question: Mapping[str, Any], path: Path, others: bool) -> bool:
    """Whether the question says what it calls pending, or holds something else than the object it is to be in."""
    at: Any = question
    for step in path[:-1]:
        at = at.get(step)
        if at is None:
            return False
        if type(at) is not dict:
            return True
    if path[:2] == ("request", "headers") and len(path) == 3:
        return any(name.lower() == path[2] for name, value in at.items() if value is not None)
    held = at.get(path[-1])
    return not (held is None or (others and type(held) is dict))
