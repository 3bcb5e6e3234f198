"""Access to raw facts by path; a member name that another reader could treat as the same makes a fact invalid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from policyengine.runtime.header_names import OTHER_SPELLING, has_other_spelling
from policyengine.runtime.values import ABSENT, PENDING, Invalid, MissingValue, PartialObject, describe_raw_value

HEADERS_PATH: Final = ("request", "headers")
CLIENT_ROOTS: Final = frozenset({"body", "args", "context", "request"})  # roots whose member names the client chooses
OTHER_CASE: Final = Invalid("absent, but present in another letter case")


def fact_at(facts: Mapping[str, object], path: tuple[str, ...]) -> object:
    """Return the raw fact at a path; `facts` are indexed by root."""
    root = path[0]
    if root == "request" and len(path) > 2 and path[1] == "headers":
        return header_at(facts, path[2].lower(), path[3:])
    current: object = facts.get(root)  # the engine names the roots, so they have one spelling
    ours = root not in CLIENT_ROOTS
    for name in path[1:]:
        current = current.get(name) if ours and type(current) is dict else get_member(current, name)
    return ABSENT if current is None else current


def header_at(facts: Mapping[str, object], name: str, path: tuple[str, ...]) -> object:
    """Return a header. A missing header is Invalid if another spelling of its name is present, because some servers
    accept that spelling.
    """
    headers = fact_at(facts, HEADERS_PATH)
    current = get_member(headers, name)
    if current in (ABSENT, None) and isinstance(headers, dict) and has_other_spelling(headers, name):
        return OTHER_SPELLING
    for step in path:
        current = get_member(current, step)
    return ABSENT if current is None else current


def get_member(raw: object, name: str) -> object:
    """Return a member. A missing member is Invalid if its name is present in another letter case, because some readers
    accept that.
    """
    if isinstance(raw, dict):  # objects of a clean tree are dicts; a fast check, because every path step runs it
        found = raw.get(name, PENDING if type(raw) is PartialObject else ABSENT)
        return OTHER_CASE if (found is ABSENT or found is None) and has_other_case(raw, name) else found
    if isinstance(raw, Invalid | MissingValue):
        return raw
    return ABSENT if raw is None else Invalid(f"expected an object, got {describe_raw_value(raw)}")


def has_other_case(members: Mapping[str, object], name: str) -> bool:
    if not members:
        return False
    folded = name.casefold()
    for member in members:  # noqa: SIM110  # a generator takes longer for the few that there are
        if member != name and member.casefold() == folded:
            return True
    return False
