"""A drawing as data: nested boxes, from which every format is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class BoxKind(StrEnum):
    """The kind of a box, which selects its style."""

    POLICY = "policy"
    ENDPOINT = "endpoint"
    SECTION = "section"
    PATH = "path"
    TOOL = "tool"
    ACTION = "action"
    METHOD = "method"
    AGENT = "agent"
    USER = "user"
    ANYONE = "anyone"
    MAY = "may"
    DELEGATE = "delegate"
    BINDS = "binds"
    GUARD = "guard"
    EXEMPT = "exempt"
    DENY = "deny"
    CONFIRM = "confirm"
    OBLIGE = "oblige"
    RATE = "rate"
    BUDGET = "budget"
    LIMIT = "limit"
    PROFILE = "profile"
    STATE = "state"
    NOTE = "note"
    MORE = "more"


RULES = frozenset({BoxKind.MAY, BoxKind.DELEGATE, BoxKind.DENY, BoxKind.CONFIRM, BoxKind.OBLIGE, BoxKind.LIMIT})


@dataclass(frozen=True, slots=True)
class Box:
    """A box. `at` is its place in the policy, `hidden` the number of boxes that are not drawn below it. `size` is the
    number of drawn boxes: this box and all boxes inside it.
    """

    kind: BoxKind
    label: str
    detail: str = ""
    at: str | None = None
    children: tuple[Box, ...] = ()
    hidden: int = 0
    size: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", 1 + sum(child.size for child in self.children))

    def walk(self) -> Iterator[Box]:
        """Yield this box and all boxes inside it, from the top down."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return `{"kind", "label"}`, and `detail`, `at`, `hidden` and `children` if they are not empty."""
        found: dict[str, Any] = {"kind": str(self.kind), "label": self.label}
        found |= {"detail": self.detail} if self.detail else {}
        found |= {"at": self.at} if self.at else {}
        found |= {"hidden": self.hidden} if self.hidden else {}
        return found | ({"children": [child.to_dict() for child in self.children]} if self.children else {})


def count_rules(boxes: tuple[Box, ...]) -> int:
    """Return the number of different rules; a rule at many endpoints is counted once."""
    return len({(box.at, box.label) for outer in boxes for box in outer.walk() if box.kind in RULES})
