"""Looks for signs of attacks and of wrong clocks in new models: margins that are too high, and gaps between the days of
models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from policyengine.behavior.events import Caller
from policyengine.behavior.fold import ProfileSettings, is_ready
from policyengine.behavior.learn import SettingsOf
from policyengine.behavior.model import BehaviorModel, ClassModel
from policyengine.behavior.row import DAYS_KEPT, HOURS_OF_DAY, USUAL_DAYS, BehaviorRow
from policyengine.behavior.state import DAY
from policyengine.time_formats import format_epoch_seconds

_LOG = logging.getLogger("policyengine")
MARGIN_UNIT: Final = 1_024
MAX_USUAL_MARGIN: Final = 16 * MARGIN_UNIT  # traffic without attacks seldom has higher margins
DAY_SECONDS: Final = 86_400

TaughtRow: TypeAlias = tuple[Caller, str, BehaviorRow]  # a caller, the name of its class, and its row
RowsOf: TypeAlias = Callable[[], Iterable[TaughtRow]]


class HighestLevel(NamedTuple):
    """The caller whose level is the highest relative to its base, and the day of this level, as a number since 1970."""

    caller: Caller
    day: int

    def __str__(self) -> str:
        issuer = f" of {self.caller.issuer}" if self.caller.issuer else ""
        return f"{self.caller.agent}{issuer} on {format_day(self.day)}"


class HighMargin(NamedTuple):
    """A class with a margin that usual traffic does not have. `level` is the level that determined the margin; None if
    the names of the callers are not known."""

    issuer: str
    group: str
    slow: float
    fast: float
    level: HighestLevel | None

    def __str__(self) -> str:
        issuer = f" of {self.issuer}" if self.issuer else ""
        found = f"the margins of `{self.group or 'callers without a class'}`{issuer} are × {self.slow:.2f}, "
        found += f"× {self.fast:.2f}: smaller bursts are not found"
        return found if self.level is None else f"{found}. The highest level is that of {self.level}"


def format_day(day: int) -> str:
    return format_epoch_seconds(day * DAY_SECONDS)[:10]


def high_classes(model: BehaviorModel) -> list[ClassModel]:
    """Return the classes with a margin above MAX_USUAL_MARGIN."""
    return [found for found in model.content.classes if max(found.margin_slow, found.margin_fast) > MAX_USUAL_MARGIN]


def describe_margins(
    found: ClassModel, model: BehaviorModel, rows: Iterable[TaughtRow], settings_of: SettingsOf
) -> HighMargin:
    """Return the high margins of a class. `rows` are those from which the model was learned."""
    level = highest_level(model, found, rows, settings_of(found.name))
    return HighMargin(found.issuer, found.name, found.margin_slow / MARGIN_UNIT, found.margin_fast / MARGIN_UNIT, level)


def highest_level(
    model: BehaviorModel, found: ClassModel, rows: Iterable[TaughtRow], settings: ProfileSettings
) -> HighestLevel | None:
    """Return the highest level of the callers of a class that teach the model."""
    name = found.issuer, found.name
    begin = model.content.made // DAY - settings.learn_days + 1
    levels = (
        (ratio, HighestLevel(caller, day))
        for caller, group, row in rows
        if (caller.issuer, group) == name and is_ready(row, settings)
        for ratio, day in day_ratios(row, begin)
    )
    return max(levels, key=lambda found: found[0], default=(0, None))[1]


def day_ratios(row: BehaviorRow, begin: int) -> Iterator[tuple[int, int]]:
    """Yield the higher ratio of each complete day of a row from the day `begin` on, with the day."""
    today = row.hour // HOURS_OF_DAY
    for day in range(max(today - DAYS_KEPT + 1, begin), today):
        place = 2 * (day % DAYS_KEPT)
        yield max(row.ratios[place : place + 2]), day


class DayJump(NamedTuple):
    """Two consecutive models whose days are further apart than a class learns, which is `learned` days."""

    before: int
    after: int
    learned: int

    def __str__(self) -> str:
        return (
            f"no decision is dated between {format_day(self.before)} and {format_day(self.after)}, which is longer "
            f"than the {self.learned} days that are learned: callers count as new, and classes are not ready"
        )


def find_jump(before: BehaviorModel, model: BehaviorModel, settings_of: SettingsOf) -> DayJump | None:
    """Return the jump from a model to the next one; None if the days of both are close enough."""
    if not before.content.serial:
        return None
    days = before.content.made // DAY, model.content.made // DAY
    learned = min((settings_of(found.name).learn_days for found in before.content.classes), default=USUAL_DAYS)
    return DayJump(*days, learned) if days[1] - days[0] > learned else None


class ModelWatch:
    """Logs classes with high margins, each class once until its margins are usual again, and gaps between the days of
    models."""

    def __init__(self) -> None:
        self._warned: set[tuple[str, str]] = set()  # issuers and names of classes

    def look(self, before: BehaviorModel, model: BehaviorModel, rows: RowsOf, settings_of: SettingsOf) -> None:
        """Look at a new model. `rows` returns the rows from which it was learned."""
        jump = find_jump(before, model, settings_of)
        if jump is not None:
            _LOG.warning(
                "%s. If a clock was wrong, correct it, and learn from the log into a new folder", jump,
                extra={"event": "behavior_day_jump"},
            )  # fmt: skip
        high = {(found.issuer, found.name): found for found in high_classes(model)}
        for name in high.keys() - self._warned:
            _LOG.warning(
                "%s. If this was an attack, learn from the log without it (`behavior learn --until`)",
                describe_margins(high[name], model, rows(), settings_of), extra={"event": "behavior_high_margin"},
            )  # fmt: skip
        self._warned = set(high)
