"""Compare the maps of other protocols as text, because the generated requests do not use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine import kernel as k
from policyengine.analysis.diff.model import MapChange, RuleExcerpt

MAP_NAME = "map authzen"


def map_changes(old: k.Kernel, new: k.Kernel) -> MapChange | None:
    removed, added = tuple(missing_items(old.maps, new.maps)), tuple(missing_items(new.maps, old.maps))
    return MapChange(removed, added) if removed or added else None


def missing_items(these: Sequence[k.MapItem], those: Sequence[k.MapItem]) -> Iterator[RuleExcerpt]:
    others = frozenset(those)
    for item in these:
        if item not in others:
            yield RuleExcerpt(MAP_NAME, item.span.at, " ".join(item.span.text.split()))
