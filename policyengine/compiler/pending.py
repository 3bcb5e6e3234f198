"""Whether what a question says is pending can matter at a leaf.

Generated code takes a fact that is not given for one that is not there, and is not sure of it where it needs its value.
So a pending fact is like an absent one wherever nothing asks whether it is there, and nothing remembers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from policyengine.compiler.leaf import Covering, Leaf
from policyengine.runtime.request import OTHERS_PENDING, pending_path
from policyengine.runtime.shape import RequestError
from policyengine.semantics import kernel as k
from policyengine.semantics.absences import Path, asked_for
from policyengine.semantics.logic import blocks

# A path of a fact, and whether all members of it are meant that are not given.
Named: TypeAlias = tuple[Path, bool]

FREE = frozenset({"body", "args", "context"})  # nothing but rules asks for them
OF_A_REQUEST = frozenset({"headers", "query", "host", "ip", "size"})
MOST_NAMES, MOST_LISTS, MOST_LEAVES = 64, 256, 1_000


class PendingFacts:
    """Reads lists of pending facts, of which callers send few, again and again."""

    def __init__(self, kernel: k.Kernel) -> None:
        self._kernel = kernel
        self._everywhere = frozenset(path for block in blocks(kernel) for path, _ in asked_for(block))
        self._lists: dict[tuple[str, ...], tuple[Named, ...] | None] = {}
        self._asked: dict[int, tuple[Covering, frozenset[Path]]] = {}

    def are_idle(self, leaf: Leaf, names: list[Any], question: Mapping[str, Any]) -> bool:
        """Whether it is sure that they are well said, and that nothing at the leaf tells them from absent ones."""
        key = tuple(names)
        if key not in self._lists:
            if len(self._lists) >= MOST_LISTS:
                self._lists.clear()
            self._lists[key] = read(key)
        found = self._lists[key]
        if found is None or leaf.covering.watches:
            return False
        asked = self._asked_at(leaf.covering)
        return all(not given(question, *one) and not touches(asked, one[0]) for one in found)

    def _asked_at(self, covering: Covering) -> frozenset[Path]:
        known = self._asked.get(id(covering))
        if known is None or known[0] is not covering:
            if len(self._asked) >= MOST_LEAVES:
                self._asked.clear()
            parts = (
                *(self._kernel.guards[number] for number in covering.guards),
                *(self._kernel.limits[number] for number in covering.limits),
                *(self._kernel.binders[number] for number in covering.binders),
            )
            known = covering, self._everywhere.union(path for part in parts for path, _ in asked_for(part))
            self._asked[id(covering)] = known
        return known[1]


def read(names: tuple[Any, ...]) -> tuple[Named, ...] | None:
    """None where one of them is no fact, or one that says who asks for what."""
    try:
        found = tuple(
            (pending_path(name.removesuffix(OTHERS_PENDING), ""), name.endswith(OTHERS_PENDING)) for name in names
        )
    except (RequestError, AttributeError, TypeError):
        return None
    if len(names) > MOST_NAMES or not all(is_plain(*one) for one in found):
        return None
    whole = {path for path, others in found if not others}
    return None if any(path[:1] in whole for path, others in found if len(path) > 1 or others) else found


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


def touches(asked: frozenset[Path], path: Path) -> bool:
    return any(one[: len(path)] == path or path[: len(one)] == one for one in asked)
