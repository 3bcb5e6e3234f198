"""Searches the groups of callers that share limits, in the requests of the last days."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from policyengine.behavior.groups import CallerGroup, FoundPool, follow_groups
from policyengine.behavior.lockstep.detection import LockstepError
from policyengine.behavior.lockstep.pools import find_pools
from policyengine.behavior.member_keys import MemberKeys
from policyengine.behavior.recent_requests import RecentRequests

_LOG = logging.getLogger("policyengine")
NEVER: Final = 2**62  # milliseconds


def find_groups_of(
    requests: RecentRequests,
    earlier: Iterable[CallerGroup],
    ready: Mapping[tuple[str, str], int],
    keys: MemberKeys,
    day: int,
) -> tuple[CallerGroup, ...] | None:
    """Return the groups on a day. `ready` has the time since which each agent is ready, in milliseconds since 1970, by
    issuer and name. A member of an earlier group does not count as ready. Return None, and log it, without numpy."""
    earlier = tuple(earlier)
    columns, callers = requests.window(day)
    members = [keys.of(caller.issuer, caller.agent) for caller in callers]
    pooled = {member.key for group in earlier for member in group.members if member.is_kept(day)}
    times = [
        NEVER if member in pooled else ready.get((caller.issuer, caller.agent), NEVER)
        for caller, member in zip(callers, members, strict=True)
    ]
    try:
        pools = find_pools(columns, times)
    except LockstepError as error:
        _LOG.warning(
            "callers that move as one are not found: %s; until then, each caller has its own limits", error,
            extra={"event": "behavior_groups_missing"},
        )  # fmt: skip
        return None
    found = (FoundPool(tuple(sorted(members[number] for number in pool.members)), pool.confirmed) for pool in pools)
    return follow_groups(earlier, found, day, keys)
