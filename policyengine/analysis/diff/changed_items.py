"""Compares the maps of other protocols and the profiles as text, because no generated request shows their change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine import kernel as k
from policyengine.analysis.diff.model import ItemChange, RuleExcerpt
from policyengine.kernel.sequence_automaton import order_text
from policyengine.time_formats import format_duration

MAP_NAME = "map authzen"


def map_changes(old: k.Kernel, new: k.Kernel) -> ItemChange | None:
    return item_changes(old.maps, new.maps)


def profile_changes(old: k.Kernel, new: k.Kernel) -> ItemChange | None:
    """Return the changed profiles; None if no rule reads learned facts, or if nothing changed."""
    return item_changes(old.profiles, new.profiles) if old.reads_behavior or new.reads_behavior else None


def item_changes(old: Sequence[k.MapItem | k.Profile], new: Sequence[k.MapItem | k.Profile]) -> ItemChange | None:
    removed, added = tuple(missing_items(old, new)), tuple(missing_items(new, old))
    return ItemChange(removed, added) if removed or added else None


def missing_items(
    these: Sequence[k.MapItem | k.Profile], those: Sequence[k.MapItem | k.Profile]
) -> Iterator[RuleExcerpt]:
    others = frozenset(those)
    for item in these:
        if item not in others:
            if isinstance(item, k.Profile):
                yield RuleExcerpt(f'profile "{item.name}"', item.span.at, profile_text(item))
            else:
                yield RuleExcerpt(MAP_NAME, item.span.at, " ".join(item.span.text.split()))


def profile_text(profile: k.Profile) -> str:
    """Return the settings of a profile as text, with the defaults of the settings that it omits."""
    key = "" if profile.run_key is None else f"by {profile.run_key.span.text} "
    items = [
        f"run {key}within {format_duration(profile.run_idle)}", f"learn {format_duration(profile.learn)}",
        f"ready {profile.ready_runs} runs, {profile.ready_days}d", f"burst once in {profile.burst_days}d",
        *([] if profile.version is None else [f"version by {profile.version.span.text}"]),
        *([f"expect {order_text(profile.order)}"] if profile.order else []),
    ]  # fmt: skip
    return f"for {format_agents(profile.agents)} {{ {'   '.join(items)} }}"


def format_agents(agents: k.ExactName | k.NamePattern | k.InGroup) -> str:
    match agents:
        case k.ExactName(name) | k.NamePattern(name):
            return f'agent "{name}"'
        case k.InGroup(group):
            return f'group "{group}"'
