"""The counts of a report: by condition, class, caller and day."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from policyengine.behavior.events import Caller

MAX_EXAMPLES: Final = 5  # maximum examples of each condition: the first decision that it hits on each caller-day
LEVEL_BOUNDS: Final = (0.25, 0.5, 0.75, 0.9, 1.0)  # the highest level of a caller-day, as a share of the alarm level


class ExampleDecision(NamedTuple):
    """A decision that a condition would have hit."""

    id: str
    at: int
    caller: Caller
    endpoint: str
    facts: dict[str, object]


@dataclass(slots=True)
class ConditionTally:
    """The requests for which a condition was true, how many of them were allowed, and the days and caller-days on which
    they arrived. `unknown` counts requests for which the condition was unknown, and `within` counts requests of the
    same caller that arrived while a clamp still acted. `callers` counts only callers whose CallerTally was evicted;
    each CallerTally has the hits of its caller.
    """

    requests: int = 0
    allowed: int = 0
    unknown: int = 0
    within: int = 0
    caller_days: int = 0
    callers: int = 0
    days: set[int] = field(default_factory=set)
    examples: list[ExampleDecision] = field(default_factory=list)


@dataclass(slots=True)
class ClassTally:
    """The caller-days of a class on which an alarm of a burst was possible (`days`), and those with such an alarm
    (`bursts`). `levels` counts these days by their highest level: below each bound of LEVEL_BOUNDS, and above the last
    bound.
    """

    ready_days: int = 0
    days: int = 0
    bursts: int = 0
    levels: list[int] = field(default_factory=lambda: [0] * (len(LEVEL_BOUNDS) + 1))

    def add_level(self, share: float) -> None:
        place = sum(share > bound for bound in LEVEL_BOUNDS)
        self.levels[place] += 1


@dataclass(slots=True)
class DayTally:
    decisions: int = 0
    callers: int = 0
    ready: int = 0
    bursts: int = 0  # requests
    new_endpoints: int = 0  # requests
    new_shapes: int = 0  # requests


@dataclass(slots=True)
class EndpointTally:
    """The requests of ready callers to an endpoint that neither they nor their class had used before, or with payloads
    of new structures there, and the last of these callers.
    """

    caller: Caller
    first: int
    last: int = 0
    requests: int = 0


@dataclass(slots=True)
class CallerTally:
    """The requests of a caller, its alarms, its hits by the number of the condition, and its current day."""

    group: str
    requests: int = 0
    bursts: int = 0
    new_endpoints: int = 0
    new_shapes: int = 0
    hits: Counter[int] = field(default_factory=Counter)
    clamped_until: dict[int, int] = field(default_factory=dict)
    day: int = -1
    is_ready: bool = False
    has_margins: bool = False
    has_burst: bool = False
    level: float = 0.0
    day_hits: int = 0  # a bit for each condition

    def begin_day(self, day: int) -> None:
        self.day, self.day_hits, self.level = day, 0, 0.0
        self.is_ready = self.has_margins = self.has_burst = False

    @property
    def alarms(self) -> int:
        return self.bursts + self.new_endpoints + self.new_shapes


def caller_data(caller: Caller) -> dict[str, Any]:
    return {
        "agent": caller.agent, "issuer": caller.issuer or None,
        **({"instance": caller.instance} if caller.instance else {}),
        **({"version": caller.version} if caller.version else {}),
    }  # fmt: skip
