"""Names groups: a group keeps the name of the earlier group from which most of its members come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from policyengine.behavior.events import Caller
from policyengine.behavior.lockstep.group import LockstepGroup

NAME_BYTES: Final = 12
MAX_KEY_BYTES: Final = 64
LEAST_KEPT: Final = 2  # minimum common members of a group and the earlier group whose name it keeps


def name_groups(members: Sequence[Sequence[Caller]], earlier: Iterable[LockstepGroup], key: bytes) -> list[str]:
    """Return a name for the members of each group. Each earlier name is kept by at most one group."""
    origins = {caller: group.id for group in earlier for caller in group.members}
    common = [Counter(origins[caller] for caller in callers if caller in origins) for callers in members]
    claims = sorted(
        (-count, name, place)
        for place, names in enumerate(common)
        for name, count in names.items()
        if count >= LEAST_KEPT
    )
    kept: dict[int, str] = {}
    used: set[str] = set()
    for _, name, place in claims:
        if place not in kept and name not in used:
            kept[place] = name
            used.add(name)
    return [kept.get(place) or group_digest(callers, key) for place, callers in enumerate(members)]


def group_digest(callers: Iterable[Caller], key: bytes) -> str:
    """Return a keyed digest of callers in any order."""
    digest = blake2b(digest_size=NAME_BYTES, key=key[:MAX_KEY_BYTES], person=b"lockstep group")
    for caller in sorted(callers):
        for name in caller:
            raw = name.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8) + raw)
    return digest.hexdigest()
