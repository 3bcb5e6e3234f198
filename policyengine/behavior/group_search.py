"""Searches the requests of the last days for groups of callers that share limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from policyengine.behavior.groups import CallerGroup, FoundPool, follow_groups
from policyengine.behavior.lockstep.columns import EventColumns
from policyengine.behavior.lockstep.detection import LockstepError
from policyengine.behavior.lockstep.pools import LockstepPool, find_pools
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
    find: Callable[[EventColumns, Sequence[int]], tuple[LockstepPool, ...]] = find_pools,
    key_of: Callable[[str, str], str] | None = None,
) -> tuple[CallerGroup, ...] | None:
    """Return the groups on a day. `ready` has the time since which each agent is ready, in milliseconds since 1970, by
    issuer and name. A member of an earlier group does not count as ready. `key_of` returns the key of an issuer and a
    name in the requests. If the search fails, for example because numpy is not installed, log the error and return
    None."""
    earlier = tuple(earlier)
    columns, callers = requests.window(day)
    key_of = key_of or keys.of
    members = [key_of(*caller) for caller in callers]
    pooled = {member.key for group in earlier for member in group.members if member.is_kept(day)}
    times = [
        NEVER if member in pooled else ready.get(caller, NEVER) for caller, member in zip(callers, members, strict=True)
    ]
    try:
        pools = find(columns, times) if len(columns) else ()
    except LockstepError as error:
        _LOG.warning(
            "callers that move as one cannot be found: %s; known groups are kept", error,
            extra={"event": "behavior_groups_missing"},
        )  # fmt: skip
        return None
    found = (FoundPool(tuple(sorted(members[number] for number in pool.members)), pool.confirmed) for pool in pools)
    return follow_groups(earlier, found, day, keys)
