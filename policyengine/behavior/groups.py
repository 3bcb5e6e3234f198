"""Groups of callers that share limits because they move as one, and how the groups of a day follow from those of the
days before.

A caller stays in its group while it moves with others, and for some days after: it cannot leave by going quiet for a
day, by moving with others, or by splitting the group. Newcomers that move with members of a group join this group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from policyengine.behavior.member_keys import MemberKeys

DAYS_KEPT: Final = 14  # days for which a member stays in its group after the last day on which it was found there
# A group that was found on fewer days may follow a daily schedule, so its members stay only for DAYS_UNCONFIRMED days.
DAYS_TO_CONFIRM: Final = 3
DAYS_UNCONFIRMED: Final = 2
LEAST_MEMBERS: Final = 3
MAX_MEMBERS: Final = 200_000  # of all groups together


class GroupMember(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member of a group, by its key (`MemberKeys`). It was found on a number of `days`, the latest being `seen` (days
    since 1970); there was evidence from the time `since` on, in milliseconds since 1970."""

    key: str
    since: int
    seen: int
    days: int

    def is_kept(self, day: int) -> bool:
        """Return whether the member is still in its group on a day."""
        return day - self.seen < (DAYS_KEPT if self.days >= DAYS_TO_CONFIRM else DAYS_UNCONFIRMED)


class CallerGroup(Struct, frozen=True, forbid_unknown_fields=True):
    """A group of callers that share limits, members in the order of their keys."""

    id: str
    members: tuple[GroupMember, ...]

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def since(self) -> int:
        """The time of the first evidence, in milliseconds since 1970."""
        return min(member.since for member in self.members)


class FoundPool(NamedTuple):
    """The keys of newcomers that move as one, and the time from which there was evidence of it."""

    keys: tuple[str, ...]
    confirmed: int


def follow_groups(
    earlier: Iterable[CallerGroup], found: Iterable[FoundPool], day: int, keys: MemberKeys
) -> tuple[CallerGroup, ...]:
    """Return the groups on a day, from the groups before it and the pools that were found since. The result does not
    depend on the order of the pools."""
    groups = {group.id: {one.key: one for one in group.members if one.is_kept(day)} for group in earlier}
    groups = {name: members for name, members in groups.items() if len(members) >= LEAST_MEMBERS}
    origins = {key: name for name, members in groups.items() for key in members}
    for pool in sorted(found):
        name = most_frequent(origins, pool.keys) or keys.name_group(list(pool.keys), day)
        for key in pool.keys:
            members = groups.setdefault(origins.setdefault(key, name), {})
            known = members.get(key) or GroupMember(key, pool.confirmed, 0, 0)
            if known.seen != day:
                members[key] = GroupMember(key, known.since, day, known.days + 1)
    return limit_groups(
        CallerGroup(name, tuple(members[key] for key in sorted(members))) for name, members in sorted(groups.items())
    )


def without_members(groups: Iterable[CallerGroup], keys: Container[str]) -> tuple[CallerGroup, ...]:
    """Return the groups without some members, and without groups that become too small."""
    left = (
        CallerGroup(group.id, tuple(member for member in group.members if member.key not in keys)) for group in groups
    )
    return tuple(group for group in left if group.size >= LEAST_MEMBERS)


def most_frequent(origins: Mapping[str, str], keys: Iterable[str]) -> str | None:
    """Return the group to which most of the callers belong; None if no caller belongs to a group."""
    counts = Counter(origins[key] for key in keys if key in origins)
    return min(counts, key=lambda name: (-counts[name], name), default=None)


def limit_groups(groups: Iterable[CallerGroup]) -> tuple[CallerGroup, ...]:
    """Return the groups. If they have more than MAX_MEMBERS members in total, the smallest groups are left out."""
    kept, count = [], 0
    for group in sorted(groups, key=lambda one: (-one.size, one.id)):
        count += group.size
        if count <= MAX_MEMBERS:
            kept.append(group)
    return tuple(sorted(kept, key=lambda one: one.id))
