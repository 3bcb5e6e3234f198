"""The facts that an evaluation scores: the score of each fact for a run, and its alarm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from policyengine.behavior.fold import FLAGGED, LEVEL_UNIT, MARGIN_UNIT, PEAK_UNIT, CallerFacts, highest_usual
from policyengine.behavior.model import ClassModel
from policyengine.behavior.row import MILLION, BehaviorRow


class RunMoment(NamedTuple):
    """A run after one of its events: the facts of the event, the caller's row after the event, the number of `events`
    so far, and how many of them were at new endpoints (`fresh`), or had payloads of a new structure (`odd`). `trust` is
    the caller's trust before the run."""

    reading: CallerFacts
    row: BehaviorRow
    model: ClassModel
    events: int
    fresh: int
    odd: int
    trust: int


class FactScore(NamedTuple):
    """A scored fact. `value` returns its score for a run after an event; a higher score is more suspicious. The score
    of the whole run is the highest of these or, with `uses_last`, the last. `alarm` returns whether the fact raises an
    alarm at an event; None for a fact without alarms. With `per_day`, the rate of false alarms counts days of callers
    instead of runs. `declared` is the rate of false alarms that the fact promises, if it is the same for all runs."""

    name: str
    title: str
    value: Callable[[RunMoment], int]
    alarm: Callable[[RunMoment], bool] | None = None
    uses_last: bool = False
    per_day: bool = False
    declared: float | None = None


def level_ratio(moment: RunMoment) -> int:
    """Return the maximum of the slow and the fast level, each relative to the highest level that is not a burst."""
    reading, row, model = moment.reading, moment.row, moment.model
    slow = (reading.level_slow + reading.level_denied) * MILLION * MARGIN_UNIT
    fast = reading.level_fast * MILLION * MARGIN_UNIT
    return max(
        slow // max(highest_usual(row.base_slow, row.ceiling_slow, model.margin_slow) * PEAK_UNIT, LEVEL_UNIT),
        fast // max(highest_usual(row.base_fast, row.ceiling_fast, model.margin_fast) * PEAK_UNIT, LEVEL_UNIT),
    )


def raises_burst(moment: RunMoment) -> bool:
    return moment.reading.burst


def raises_novelty(moment: RunMoment) -> bool:
    return moment.reading.is_new


def raises_new_endpoint(moment: RunMoment) -> bool:
    return moment.reading.is_new and not moment.reading.has_new_shape


def raises_new_shape(moment: RunMoment) -> bool:
    return moment.reading.has_new_shape


def raises_deviation(moment: RunMoment) -> bool:
    return moment.reading.deviation > FLAGGED


def raises_any(moment: RunMoment) -> bool:
    return moment.reading.burst or moment.reading.is_new


FACTS: Final = (
    FactScore("burst", "highest level against its ceiling", level_ratio, raises_burst, per_day=True),
    FactScore(
        "novelty", "highest average of new endpoints and payloads", lambda moment: moment.reading.novelty * 1_000,
        raises_novelty,
    ),
    FactScore(
        "new_endpoints", "share of the run at new endpoints", lambda moment: moment.fresh * MILLION // moment.events,
        raises_new_endpoint, uses_last=True,
    ),
    FactScore(
        "new_shapes", "share of the run with new structures of payloads",
        lambda moment: moment.odd * MILLION // moment.events, raises_new_shape, uses_last=True,
    ),
    FactScore("error_rate", "highest average of denials and failures", lambda moment: moment.row.errors),
    FactScore(
        "deviation", "highest deviation of the order of requests", lambda moment: moment.reading.deviation * 1_000,
        raises_deviation, declared=0.01,
    ),
    FactScore(
        "trust_loss", "trust that the run lost", lambda moment: max(moment.trust - moment.row.trust, 0), raises_any
    ),
)  # fmt: skip
