"""The constants of the search for groups: what counts as evidence, and how much memory and work any input can take."""

from __future__ import annotations

from typing import Final

from policyengine.behavior.row import HOUR, HOURS_OF_DAY

SECOND: Final = 1_000  # milliseconds
MINUTE: Final = 60 * SECOND
DAY: Final = HOURS_OF_DAY * HOUR

# Two requests are at the same time if they are at most half a slot apart. Longer slots find callers with more jitter.
SLOTS: Final = (4 * SECOND, 20 * SECOND, 60 * SECOND)
# Shifts that measure chance: longer than every slot, and not close to a multiple of a usual period.
LAGS: Final = tuple(
    sign * seconds * SECOND for seconds in (97, 163, 229, 331, 463, 571) for sign in (1, -1)
)  # fmt: skip
PERIODS: Final = (HOUR, -HOUR, DAY, -DAY)  # shifts at which scheduled jobs repeat

RUN_PAUSE: Final = 5 * MINUTE  # a longer pause ends a run
MAX_RUN_EVENTS: Final = 32  # the rest of a longer run is another run
MAX_RUN_TIME: Final = 15 * MINUTE

LEAST_COMMON: Final = 5  # minimum common runs of a pair, beyond those that a period explains
LEAST_SHARE: Final = 0.2  # minimum share of the common runs in the runs of each of the two callers
MAX_EXPLAINED: Final = 0.5  # maximum share of the common runs that a period explains
CROWD_MINUTES: Final = 10  # before and after the minute of a crowd, to compare with
CROWD_DEVIATIONS: Final = 4
FALSE_SHARE: Final = 0.01  # maximum expected share of pairs that are found by chance
LEAST_MEMBERS: Final = 3
LEAST_PARTNERS: Final = 0.6  # minimum share of the other members that each member moves with

MAX_CALLERS: Final = 2**20
MAX_EVENTS: Final = 2**24
MAX_WINDOW: Final = 31 * DAY
MAX_CALLER_EVENTS: Final = 2_048  # later events of a caller are left out
MAX_TOKEN_CALLERS: Final = 60  # more callers at one time use a popular workflow, or a popular time
MAX_SHARED: Final = 20_000_000  # shared tokens of pairs, per grid
MAX_CANDIDATES: Final = 100_000  # pairs, per slot
MAX_LOOKUPS: Final = 15_000_000  # compared events of candidates, per slot and shift
MAX_PEELS: Final = 100  # groups in one connected part of the graph of pairs
MAX_GROUPS: Final = 10_000
MAX_CROWDS: Final = 100
MAX_CROWD_MEMBERS: Final = 1_000
MAX_MOMENTS: Final = 12  # examples of a group
