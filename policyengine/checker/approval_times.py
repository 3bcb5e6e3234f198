"""The confirms without `within`, whose approvals count for the default time; `check` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policyengine import kernel as k
from policyengine.time_formats import format_duration


class DefaultApprovalTime(NamedTuple):
    """A guard with a confirm without `within`, its position, and how long its approvals count."""

    rule: str
    at: str
    within: str

    @property
    def file(self) -> str:
        return self.at.rpartition(":")[0]

    @property
    def line(self) -> int:
        return int(self.at.rpartition(":")[2])


def default_approval_times(kernel: k.Kernel) -> Iterator[DefaultApprovalTime]:
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Confirm) and effect.within is None:
                yield DefaultApprovalTime(guard.name, effect.span.at, format_duration(effect.lasts))
