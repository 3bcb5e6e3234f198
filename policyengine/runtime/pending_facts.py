"""Facts that a caller reports as pending: their names, and the value PENDING in their places."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.runtime.structure_checks import RequestError, get_text, iterate_items, quote_input
from policyengine.runtime.values import PENDING, PartialObject
from policyengine.vocabulary import ENTITY_ROOTS, FACTS, REQUEST_MEMBERS, ROOTS, FactOrigin

HEADERS_PATH = ("request", "headers")
PENDING_FACT = re.compile(r"""[a-z]+(?:\.[A-Za-z_][A-Za-z0-9_]*|\["[^"\\]+"\])*""")
STEP = re.compile(r"""(?<=\[")[^"]+|[A-Za-z_][A-Za-z0-9_]*""")
MAX_FACT_NAME_LENGTH = 1_000
PENDING_WILDCARD = ".*"  # the end of a name that stands for every member that the question lacks
FREE_OBJECTS = frozenset(
    [(root,) for root, members in ROOTS.items() if members is None]
    + [member.path for member in REQUEST_MEMBERS if member.type is None]
)
# Facts that identify the endpoint, which must be known.
ENDPOINT_FACTS = frozenset(fact.path for fact in FACTS if fact.origin is FactOrigin.ENDPOINT)
ENDPOINT_PATHS = ENDPOINT_FACTS | {("request",), ("tool",), ("action",), ("action", "name")}

# Maximum size of lists of names that are prepared. Longer lists are rare, and would take much memory.
MAX_PREPARED_NAMES = 64
MAX_PREPARED_CHARACTERS = 2_000
TEXT_ONLY = {str}


class PendingGroup(NamedTuple):
    """Consecutive names whose facts are members of one object: the path of the object, its pending members, and the
    arguments of `mark_pending` for each name. If the path is None, the names have other forms.
    """

    holder: tuple[str, ...] | None
    members: dict[str, object]
    names: tuple[tuple[str, str, tuple[str, ...]], ...]


class PendingNames(NamedTuple):
    """The parsed names of pending facts."""

    names: frozenset[str]
    groups: tuple[PendingGroup, ...]

    def mark(self, facts: dict[str, object]) -> None:
        """Mark the fact of each name as pending, as `mark_pending` does. Raises RequestError."""
        for holder_path, members, names in self.groups:
            holder = None if holder_path is None else find_object(facts, holder_path)
            if holder is not None and holder.keys().isdisjoint(members):
                holder.update(members)
                continue
            for name, place, path in names:
                mark_pending(facts, name, place, path)


def prepared_names(raw: object) -> PendingNames | None:
    """Return the prepared names of a list; None if the value is not an ordinary list of names."""
    if (type(raw) is not list and type(raw) is not tuple) or set(map(type, raw)) != TEXT_ONLY:
        return None
    return prepare_names(tuple(raw)) if are_few(raw) else None


def are_few(names: Collection[str]) -> bool:
    """Return whether the names are few and short enough to be cached."""
    return len(names) <= MAX_PREPARED_NAMES and sum(map(len, names)) <= MAX_PREPARED_CHARACTERS


def pending_entity_members(names: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Return the pending members of entities: the root of the entity, and the member."""
    return prepare_entity_members(names) if are_few(names) else find_entity_members(names)


def find_entity_members(names: frozenset[str]) -> tuple[tuple[str, str], ...]:
    paths = [pending_path(name, "pending") for name in names]
    return tuple((path[0], path[1]) for path in paths if path[0] in ENTITY_ROOTS and len(path) > 1)


prepare_entity_members = lru_cache(maxsize=256)(find_entity_members)


@lru_cache(maxsize=256)  # each gateway adapter sends the same few lists
def prepare_names(names: tuple[str, ...]) -> PendingNames | None:
    """Return the names, parsed; None if one of them is malformed or has to be cleaned."""
    if not all(map(str.isascii, names)):
        return None
    try:
        places = [(name, f"pending[{index}]") for index, name in enumerate(names)]
        paths = [(*place, pending_path(*place)) for place in places]
    except RequestError:
        return None
    groups = []
    for holder, row in groupby(paths, holder_path):
        rows = tuple(row)
        members: dict[str, object] = {path[-1]: PENDING for *_, path in rows} if holder is not None else {}
        groups.append(PendingGroup(holder, members, rows))
    return PendingNames(frozenset(names), tuple(groups))


def pending_path(name: str, place: str) -> tuple[str, ...]:
    """Return the path of a pending fact, or of the object whose other members are pending. Raises RequestError."""
    return parse_pending_path(name.removesuffix(PENDING_WILDCARD), place)


def holder_path(pending: tuple[str, str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the path of the object that contains a pending fact as a member; None for all other names."""
    name, _, path = pending
    return None if name.endswith(PENDING_WILDCARD) or is_entity_attribute(path) else path[:-1]


def find_object(facts: dict[str, object], path: tuple[str, ...]) -> dict[str, object] | None:
    """Return the object at a path; None if the path has no object yet."""
    holder: object = facts
    for step in path:
        holder = holder.get(step) if type(holder) is dict else None
    return holder if type(holder) is dict else None


def fact_path(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the path as `facts` spell it, with header names in lower case."""
    return (*path[:2], *(name.lower() for name in path[2:])) if path[:2] == HEADERS_PATH else path


def read_pending(names: object, facts: dict[str, object]) -> frozenset[str]:
    """Mark the pending facts, and return their names. Raises RequestError."""
    texts = [(get_text(item, place), place) for place, item in iterate_items(names, "pending")]
    for name, place in texts:
        mark_pending(facts, name, place, pending_path(name, place))
    return frozenset(name for name, _ in texts)


def mark_pending(facts: dict[str, object], name: str, place: str, path: tuple[str, ...]) -> None:
    """Put PENDING at the place of the fact. Pending attributes of entities are only in `Request.pending`. Raises
    RequestError.
    """
    if name.endswith(PENDING_WILDCARD):
        return mark_others_pending(facts, name, place, path)
    if is_entity_attribute(path):
        return
    holder = ensure_object(facts, path[:-1], name, place)
    if holder is None:
        return
    if holder.get(path[-1]) not in (None, PENDING):
        raise RequestError(place, f"`{name}` is both present and pending")
    holder[path[-1]] = PENDING


def is_entity_attribute(path: tuple[str, ...]) -> bool:
    """Return whether the path is an attribute of an entity, like `user.roles`, which `facts` do not contain."""
    return path[0] in ENTITY_ROOTS and len(path) > 1 and path[1] not in (ROOTS[path[0]] or ())


def pending_outside(names: Iterable[str], roots: Collection[str]) -> frozenset[str]:
    """Return the pending names outside these roots, whose facts have another source. Raises RequestError."""
    paths = {name: parse_pending_path(name.removesuffix(PENDING_WILDCARD), "pending") for name in names}
    return frozenset(name for name, path in paths.items() if path[0] not in roots or is_entity_attribute(path))


def mark_others_pending(facts: dict[str, object], name: str, place: str, path: tuple[str, ...]) -> None:
    """Handle `body.*`: members in the question stay, and all others are pending. Raises RequestError."""
    if path not in FREE_OBJECTS and (path[0],) not in FREE_OBJECTS and path[:2] not in FREE_OBJECTS:
        raise RequestError(
            place, f"`{name}` is pending, but the members of `{path[-1]}` are fixed", "name the pending members"
        )
    holder = ensure_object(facts, path[:-1], name, place)
    given = ensure_object(facts, path, name, place)
    if holder is not None and given is not None:
        holder[path[-1]] = PartialObject(given)


def ensure_object(facts: dict[str, object], path: tuple[str, ...], name: str, place: str) -> dict[str, object] | None:
    """Return the object at a path, created if necessary. Return None if the object is pending or was not given; an
    object that was not given becomes pending. Raises RequestError.
    """
    holder = facts
    for depth, step in enumerate(path, 1):
        below = holder.get(step)
        if below is None and (depth == 1 or path[:depth] in FREE_OBJECTS):
            below = holder[step] = {}
        elif below is None:
            below = holder[step] = PENDING
        if below is PENDING:
            return None
        if not isinstance(below, dict):
            raise RequestError(place, f"`{name}` is pending, but `{step}` is not an object")
        holder = below
    return holder


@lru_cache(maxsize=4_096)  # callers send the same names repeatedly
def parse_pending_path(name: str, place: str) -> tuple[str, ...]:
    if len(name) > MAX_FACT_NAME_LENGTH or not PENDING_FACT.fullmatch(name):
        raise RequestError(place, f"`{quote_input(name)}` is not the name of a fact")
    root, *steps = STEP.findall(name)
    allowed = ROOTS.get(root, ())
    if root not in ROOTS:
        raise RequestError(place, f"unknown fact `{quote_input(name)}`", did_you_mean(root, ROOTS))
    if (root, *steps[:1]) in ENDPOINT_PATHS:
        raise RequestError(place, f"`{name}` names the endpoint and cannot be pending")
    if steps and allowed is not None and root not in ENTITY_ROOTS and steps[0] not in allowed:
        raise RequestError(place, f"unknown fact `{quote_input(name)}`", did_you_mean(steps[0], allowed))
    return fact_path((root, *steps))
