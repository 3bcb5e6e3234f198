"""The groups of callers that move as one, as a report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyengine.analysis.behavior_report.tallies import caller_data
from policyengine.behavior.events import Caller
from policyengine.behavior.lockstep.bounds import MAX_TOKEN_CALLERS, SECOND
from policyengine.behavior.lockstep.group import (
    LockstepCrowd,
    LockstepFindings,
    LockstepGroup,
    MemberEvidence,
    SharedMoment,
)
from policyengine.time_formats import format_epoch_seconds

MAX_GROUPS: Final = 100  # the largest groups are listed
MAX_CROWDS: Final = 10
MAX_CROWD_CALLERS: Final = 10
MAX_RASTERS: Final = 10
MAX_RASTER_CALLERS: Final = 60


@dataclass(frozen=True, slots=True)
class MoveRequests:
    """The numbers of compared requests and of their callers, and the numbers of requests that were left out: denied
    requests, requests beyond the maximum number, and requests before the window."""

    compared: int
    callers: int
    denied: int
    crowded: int
    earlier: int


@dataclass(frozen=True, slots=True)
class MoveEvidence:
    """The evidence of the members of a group: the lowest and the highest number of common runs of a member and its
    partner, the highest number expected by chance, the highest q-value, and the longest lag in milliseconds."""

    least_common: int
    most_common: int
    expected: float
    q_value: float
    lag: int


@dataclass(frozen=True, slots=True)
class GroupReport:
    """The groups in a window, in milliseconds since 1970. The largest groups are first."""

    begin: int
    end: int
    requests: MoveRequests
    findings: LockstepFindings

    @property
    def groups(self) -> list[LockstepGroup]:
        """The groups that are listed."""
        return sorted(self.findings.groups, key=lambda group: (-len(group.members), group.id))[:MAX_GROUPS]

    @property
    def crowds(self) -> Sequence[LockstepCrowd]:
        """The crowds that are listed."""
        return self.findings.crowds[:MAX_CROWDS]

    @property
    def rasters(self) -> list[LockstepGroup]:
        """The groups whose moments are listed."""
        return self.groups[:MAX_RASTERS]

    @property
    def reduced_token_callers(self) -> int | None:
        """The maximum number of callers at the same endpoint and time that were compared; None if the number was not
        reduced."""
        count = self.findings.token_callers
        return count if self.requests.compared and count < MAX_TOKEN_CALLERS else None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON that `docs/behavior.md` describes."""
        requests, findings = self.requests, self.findings
        has_requests = self.begin < self.end
        return {
            "begin": format_milliseconds(self.begin) if has_requests else None,
            "end": format_milliseconds(self.end) if has_requests else None,
            "requests": requests.compared, "callers": requests.callers, "pairs": findings.pairs,
            "left_out": {"denied": requests.denied, "too_many": requests.crowded, "earlier": requests.earlier,
                         "pairs": findings.left_out, "endpoints_with_callers_above": self.reduced_token_callers},
            "groups": len(findings.groups), "found": [group_data(group) for group in self.groups],
            "crowds": [crowd_data(crowd) for crowd in self.crowds],
            "rasters": [raster_data(group) for group in self.rasters],
        }  # fmt: skip


def sum_evidence(group: LockstepGroup) -> MoveEvidence:
    members = group.evidence
    common = [member.common for member in members]
    return MoveEvidence(
        min(common), max(common), max(member.expected for member in members),
        max(member.q_value for member in members), max(abs(member.lag) for member in members),
    )  # fmt: skip


def raster_callers(group: LockstepGroup) -> Sequence[Caller]:
    """Return the callers of a group that a raster shows: newcomers first."""
    return [*sorted(group.pooled), *sorted(group.reported)][:MAX_RASTER_CALLERS]


def group_data(group: LockstepGroup) -> dict[str, Any]:
    found, minutes, pooled = sum_evidence(group), group.minutes, frozenset(group.pooled)
    return {
        "group": group.id, "newcomers": len(group.pooled), "residents": len(group.reported),
        "common": [found.least_common, found.most_common], "expected": round(found.expected, 3),
        "q_value": found.q_value, "slot": group.slot / SECOND, "lag": found.lag / SECOND,
        "minutes": minutes.total,
        "first": format_milliseconds(minutes.first) if minutes.total else None,
        "last": format_milliseconds(minutes.last) if minutes.total else None,
        "members": [member_data(member, is_newcomer=member.caller in pooled) for member in group.evidence],
    }  # fmt: skip


def member_data(member: MemberEvidence, *, is_newcomer: bool) -> dict[str, Any]:
    return {
        **caller_data(member.caller), "newcomer": is_newcomer, "partners": member.partners, "runs": member.runs,
        "partner": caller_data(member.partner), "common": member.common, "expected": round(member.expected, 3),
        "q_value": member.q_value, "lag": member.lag / SECOND, "confirmed": format_milliseconds(member.confirmed),
    }  # fmt: skip


def crowd_data(crowd: LockstepCrowd) -> dict[str, Any]:
    return {
        "callers": crowd.size, "times": len(crowd.times), "first": format_milliseconds(min(crowd.times)),
        "last": format_milliseconds(max(crowd.times)),
        "some": [caller_data(caller) for caller in crowd.callers[:MAX_CROWD_CALLERS]],
    }  # fmt: skip


def raster_data(group: LockstepGroup) -> dict[str, Any]:
    """Return the moments of a group, each with the indexes of its members in the list of callers."""
    numbers = {caller: number for number, caller in enumerate(raster_callers(group))}
    return {
        "group": group.id,
        "callers": [caller_data(caller) for caller in numbers],
        "moments": [moment_data(moment, numbers) for moment in group.moments],
    }


def moment_data(moment: SharedMoment, numbers: dict[Caller, int]) -> dict[str, Any]:
    members = sorted(numbers[caller] for caller, _ in moment.members if caller in numbers)
    return {"at": format_milliseconds(moment.at), "callers": members}


def format_milliseconds(at: int) -> str:
    return format_epoch_seconds(at // SECOND)
