"""Folds a drawing that is too large to read; a folded box shows how many boxes it replaces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from policyengine.compiler.graph.box import Box, BoxKind, count_rules

MAX_BOXES = 200  # maximum boxes of a drawing, unless the user requests the whole drawing
MIN_BOXES_PER_PART = 10  # minimum boxes of a part, so that a path is visible with its methods, agents and rules
MIN_ALIKE_SIBLINGS = 3  # from this number on, siblings with equal content are drawn as one
PLURALS = {
    BoxKind.ANYONE: "blocks for anyone",
    BoxKind.NOTE: "notes",
    BoxKind.MAY: "doors",
    BoxKind.DELEGATE: "delegations",
}
SINGULARS = {BoxKind.ANYONE: "block for anyone", BoxKind.MAY: "door", BoxKind.DELEGATE: "delegation"}
SELECT_MORE = "use `--endpoint`, `--agent` or `--all` to see more"


def collapse(root: Box, depth: int | None = None, *, whole: bool = False, more: str = SELECT_MORE) -> Box:
    """Return the drawing with at most `depth` levels below the root and, unless `whole`, at most `MAX_BOXES` boxes.
    `more` says how to see the folded boxes.
    """
    box = root if whole or root.size <= MAX_BOXES else _ShapeIndex().fold(root)
    box = box if depth is None else _cut_below(box, depth)
    box = box if whole else _fit(box, MAX_BOXES)
    hidden = sum(part.hidden for part in box.walk())
    if not hidden:
        return box
    told = f"{box.size:,} boxes drawn, {hidden:,} folded: {more}"
    return replace(box, detail=f"{box.detail}; {told}" if box.detail else told)


def close_box(box: Box) -> Box:
    """Return the box without its children."""
    if not box.children:
        return box
    told = f"{_rules(box.children) or _count_words(box.children)} below"
    detail = f"{box.detail}; {told}" if box.detail else told
    return replace(box, detail=detail, children=(), hidden=box.hidden + count_boxes(box.children))


def _cut_below(box: Box, depth: int) -> Box:
    if depth <= 0:
        return close_box(box)
    return replace(box, children=tuple(_cut_below(child, depth - 1) for child in box.children))


# ── Equal siblings ───────────────────────────────────────────────────────────────────


class _ShapeIndex:
    """Assigns equal numbers to boxes with equal content, from the leaves up."""

    def __init__(self) -> None:
        self.shapes: dict[object, int] = {}

    def fold(self, box: Box) -> Box:
        return self._fold_box(box)[0]

    def _fold_box(self, box: Box) -> tuple[Box, int]:
        below = [self._fold_box(child) for child in box.children]
        key = (box.kind, box.detail, tuple((child.label, shape) for child, shape in below))
        shape = self.shapes.setdefault(key, len(self.shapes))
        return (replace(box, children=_group_alike(below)) if below else box), shape


def _group_alike(boxes: Sequence[tuple[Box, int]]) -> tuple[Box, ...]:
    """Merge siblings of equal shape into one box, at the position of the first."""
    groups: dict[int, list[Box]] = defaultdict(list)
    for number, (box, shape) in enumerate(boxes):
        groups[shape if box.children else -1 - number].append(box)
    return tuple(
        box
        for group in groups.values()
        for box in (group if len(group) < MIN_ALIKE_SIBLINGS else [_merge_alike(group)])
    )


def _merge_alike(boxes: Sequence[Box]) -> Box:
    first = boxes[0]
    label = f"{len(boxes):,} {_plural(first.kind)} alike: {_range(boxes)}"
    return Box(first.kind, label, first.detail, None, first.children, first.hidden + count_boxes(boxes[1:]))


def _range(boxes: Sequence[Box]) -> str:
    labels = [box.label for box in boxes]
    return f"{labels[0]} … {labels[-1]}" if len(labels) > 2 else ", ".join(labels)


def _plural(kind: BoxKind) -> str:
    return PLURALS.get(kind, f"{kind}s")


# ── Number of boxes ──────────────────────────────────────────────────────────────────────────────────────


def _fit(box: Box, room: int) -> Box:
    """Return the box with at most `room` boxes, including itself: small parts are kept whole, and the others share the
    remaining room.
    """
    if box.size <= room:
        return box
    kinds = len({child.kind for child in box.children})
    if room <= 1 + kinds:
        return close_box(box)
    shown = _boxes_to_draw(box.children, max(1, (room - 1 - kinds) // MIN_BOXES_PER_PART))
    more = _rest_by_kind([child for number, child in enumerate(box.children) if number not in shown])
    left, drawn = room - 1 - len(more), dict.fromkeys(sorted(shown), box)
    for rank, number in enumerate(sorted(shown, key=lambda number: box.children[number].size)):
        drawn[number] = _fit(box.children[number], left // (len(shown) - rank))
        left -= drawn[number].size
    return replace(box, children=(*drawn.values(), *more))


def _boxes_to_draw(boxes: Sequence[Box], count: int) -> set[int]:
    """Return the first box of every kind, then the second box of every kind, and so on, so that a thousand agents do
    not hide the only guard.
    """
    seen: dict[BoxKind, int] = defaultdict(int)
    ranks = []
    for number, box in enumerate(boxes):
        ranks.append((seen[box.kind], number))
        seen[box.kind] += 1
    return {number for _, number in sorted(ranks)[:count]}


def _rest_by_kind(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Return one box for each kind of omitted boxes."""
    kinds: dict[BoxKind, list[Box]] = defaultdict(list)
    for box in boxes:
        kinds[box.kind].append(box)
    return tuple(_rest_box(kind, tuple(group)) for kind, group in kinds.items())


def _rest_box(kind: BoxKind, boxes: tuple[Box, ...]) -> Box:
    if len(boxes) == 1:
        return close_box(boxes[0])
    count = count_rules(boxes)
    detail = f"{count:,} rule{'' if count == 1 else 's'}" if count else ""
    return Box(
        BoxKind.MORE, f"{len(boxes):,} more {_plural(kind)}: {_range(boxes)}", detail, None, (), count_boxes(boxes)
    )


def _count_words(boxes: Sequence[Box]) -> str:
    kind = boxes[0].kind
    return f"1 {SINGULARS.get(kind, kind)}" if len(boxes) == 1 else f"{len(boxes):,} {_plural(kind)}"


def _rules(boxes: tuple[Box, ...]) -> str:
    count = count_rules(boxes)
    return f"{count:,} rule{'' if count == 1 else 's'}" if count else ""


def count_boxes(boxes: Iterable[Box]) -> int:
    """Return the number of boxes in the unfolded drawing, including all inside them."""
    return sum(1 + part.hidden for box in boxes for part in box.walk())
