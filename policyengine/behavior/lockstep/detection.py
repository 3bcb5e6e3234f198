"""Finds the groups of callers that move as one in the events of a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from policyengine.behavior.events import Caller
from policyengine.behavior.lockstep.bounds import MAX_MOMENTS
from policyengine.behavior.lockstep.columns import EventColumns
from policyengine.behavior.lockstep.group import (
    CommonMinutes,
    LockstepCrowd,
    LockstepFindings,
    LockstepGroup,
    MemberEvidence,
    SharedMoment,
)
from policyengine.behavior.lockstep.group_names import name_groups
from policyengine.behavior.lockstep.membership import EarlierMember, evidence_time, form_groups
from policyengine.behavior.lockstep.pair import LockstepPair
from policyengine.install_hints import install_command

if TYPE_CHECKING:
    from policyengine.behavior.lockstep.moments import GroupMoments, MemberTimes
    from policyengine.behavior.lockstep.pair_search import PairSearch

EXTRA = "behavior"


class LockstepError(Exception):
    """The error for a search for groups that failed or is not possible; the text says why."""


def require_numpy() -> None:
    """Check that a search for groups is possible, before events are read. Raises LockstepError without numpy."""
    try:
        import policyengine.behavior.lockstep.pair_search  # noqa: F401
    except ImportError as error:
        raise LockstepError(f"groups are found with numpy, {install_command(EXTRA)}") from error


def find_groups(
    columns: EventColumns,
    callers: Sequence[Caller],
    key: bytes,
    *,
    ready: Sequence[int] | None = None,
    earlier: Iterable[LockstepGroup] = (),
    most_moments: int = MAX_MOMENTS,
) -> LockstepFindings:
    """Return the groups of callers that move as one, from the events of a window. Schedules that repeat only
    daily are recognized from the third day on.

    `callers` are in the order of their numbers. `ready` has for each caller the time since which it is ready by its own
    runs, in milliseconds since 1970. A caller that becomes ready within the window is ready from then on; without
    `ready`, no caller was ready before the window. `earlier` are the groups that were found before: groups keep their
    names, and callers that share limits still share them, even if they are ready now. Each group has at most
    `most_moments` examples. The result depends on nothing else. Raises LockstepError without numpy.
    """
    require_numpy()
    from policyengine.behavior.lockstep import moments, pair_search, readiness

    earlier = tuple(earlier)
    search = pair_search.search_pairs(columns)
    times = readiness.ready_times(search.events, columns.begin, len(callers))
    if ready is not None:
        times = [min(pair) for pair in zip(times, ready, strict=True)]
    known = earlier_members(callers, earlier)
    groups = form_groups(search.pairs, times, known)
    members = [sorted(group.pooled + group.reported) for group in groups]
    evidence = GroupEvidence(search, known, callers, columns.begin)
    inner = evidence.inner_pairs(members)
    slots = [most_used_slot(pairs) for pairs in inner]
    examples = moments.find_moments(search.events, members, slots, most_moments)
    names = name_groups([[callers[number] for number in numbers] for numbers in members], earlier, key)
    found = (
        LockstepGroup(
            names[place],
            tuple(callers[number] for number in group.pooled),
            tuple(callers[number] for number in group.reported),
            slots[place],
            evidence.of_members(members[place], inner[place]),
            evidence.moments(examples[place].moments),
            evidence.minutes(examples[place]),
        )
        for place, group in enumerate(groups)
    )
    crowds = (
        LockstepCrowd(
            tuple(callers[number] for number in crowd.callers),
            crowd.size,
            tuple(columns.begin + at for at in crowd.times),
        )
        for crowd in search.crowds
    )
    return LockstepFindings(
        tuple(sorted(found, key=lambda group: group.id)), tuple(crowds), len(search.pairs), search.left_out,
        search.token_callers,
    )  # fmt: skip


def earlier_members(callers: Sequence[Caller], earlier: Iterable[LockstepGroup]) -> dict[int, EarlierMember]:
    """Return the numbers of the callers that share limits in earlier groups."""
    numbers = {caller: number for number, caller in enumerate(callers)}
    return {
        numbers[member.caller]: EarlierMember(group.id, member.confirmed)
        for group in earlier
        for member in group.evidence
        if member.caller in group.pooled and member.caller in numbers
    }


def most_used_slot(pairs: Iterable[LockstepPair]) -> int:
    counts = Counter(pair.slot for pair in pairs)
    return min(counts, key=lambda slot: (-counts[slot], slot))


class GroupEvidence:
    """Describes why members belong to groups."""

    def __init__(
        self, search: PairSearch, earlier: Mapping[int, EarlierMember], callers: Sequence[Caller], begin: int
    ) -> None:
        self._search, self._earlier = search, earlier
        self._callers, self._begin = callers, begin

    def inner_pairs(self, groups: Sequence[Sequence[int]]) -> list[list[LockstepPair]]:
        """Return the pairs inside each group."""
        places = {number: place for place, group in enumerate(groups) for number in group}
        found: list[list[LockstepPair]] = [[] for _ in groups]
        for pair in self._search.pairs:
            place = places.get(pair.first)
            if place is not None and place == places.get(pair.second):
                found[place].append(pair)
        return found

    def of_members(self, members: Iterable[int], pairs: Iterable[LockstepPair]) -> tuple[MemberEvidence, ...]:
        """Return the evidence of each member, from the pairs inside the group."""
        pairs_of: dict[int, list[LockstepPair]] = {member: [] for member in members}
        for pair in pairs:
            pairs_of[pair.first].append(pair)
            pairs_of[pair.second].append(pair)
        return tuple(self._of_member(member, own) for member, own in pairs_of.items())

    def _of_member(self, member: int, pairs: Sequence[LockstepPair]) -> MemberEvidence:
        best = max(pairs, key=lambda pair: (pair.common, -pair.q_value, -pair.first, -pair.second))
        is_first = best.first == member
        return MemberEvidence(
            self._callers[member],
            len(pairs),
            self._callers[best.second if is_first else best.first],
            int(self._search.events.runs_of[member]),
            best.common,
            best.expected,
            best.q_value,
            best.lag if is_first else -best.lag,
            min(evidence_time(pair, self._earlier) for pair in pairs),
        )

    def minutes(self, found: GroupMoments) -> CommonMinutes:
        return CommonMinutes(found.minutes, self._begin + found.first, self._begin + found.last)

    def moments(self, examples: Iterable[MemberTimes]) -> tuple[SharedMoment, ...]:
        """Return the moments of a group with the names of its members."""
        return tuple(
            SharedMoment(
                self._begin + min(at for _, at in times),
                tuple((self._callers[number], self._begin + at) for number, at in times),
            )
            for times in examples
        )
