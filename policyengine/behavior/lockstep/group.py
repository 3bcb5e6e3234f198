"""Groups of callers that move as one, with the evidence that a report shows."""

from __future__ import annotations

from typing import NamedTuple

from policyengine.behavior.events import Caller


class MemberEvidence(NamedTuple):
    """Why a caller belongs to a group.

    `partners` counts the members with which the caller moves. The other numbers compare the caller with the partner
    with which it has the most common runs: of the `runs` of the caller, `common` are common runs, `expected` are
    expected by chance, and `q_value` is the expected share of such pairs that are found by chance. `lag` is the median
    time from the caller to the partner, in milliseconds. There was enough evidence from `confirmed` on, in milliseconds
    since 1970.
    """

    caller: Caller
    partners: int
    partner: Caller
    runs: int
    common: int
    expected: float
    q_value: float
    lag: int
    confirmed: int


class SharedMoment(NamedTuple):
    """A time at which members used the same endpoints, with the time of each member, in milliseconds since 1970."""

    at: int
    members: tuple[tuple[Caller, int], ...]


class CommonMinutes(NamedTuple):
    """The minutes in which members used the same endpoints at the same time: how many there are, and the first and the
    last of them, in milliseconds since 1970."""

    total: int
    first: int
    last: int


class LockstepGroup(NamedTuple):
    """Callers that move as one. `pooled` are newcomers, which may share limits. `reported` are callers that keep their
    own limits: they were known before there was evidence, or there are too few newcomers. `slot` is the slot in which
    most pairs were found, in milliseconds. `moments` are examples from the common `minutes`."""

    id: str
    pooled: tuple[Caller, ...]
    reported: tuple[Caller, ...]
    slot: int
    evidence: tuple[MemberEvidence, ...]
    moments: tuple[SharedMoment, ...]
    minutes: CommonMinutes

    @property
    def members(self) -> tuple[Caller, ...]:
        return self.pooled + self.reported


class LockstepCrowd(NamedTuple):
    """Many callers that start the same run in the same minutes: after a popular event, or because they are more keys of
    one owner than a group can have. They are only reported. `callers` are some of the `size` callers, and `times` are
    in milliseconds since 1970."""

    callers: tuple[Caller, ...]
    size: int
    times: tuple[int, ...]


class LockstepFindings(NamedTuple):
    """The groups and the crowds of a window. `pairs` counts the pairs that were found, and `left_out` those that were
    not compared because there were too many. `token_callers` is the maximum number of callers that can use the same
    endpoints at one time and still be compared; it is reduced if there are too many pairs."""

    groups: tuple[LockstepGroup, ...]
    crowds: tuple[LockstepCrowd, ...]
    pairs: int
    left_out: int
    token_callers: int
