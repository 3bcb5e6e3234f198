"""Sample times inside and outside time windows. Windows open and close at local minutes of the week."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from policyengine.runtime import calendar_windows
from policyengine.runtime.calendar_windows import MINUTES_PER_DAY, Window
from policyengine.solver.witness.values import MONDAY, SECOND

DAYS_TRIED = 8
# Both are more than a week from the limits of every calendar.
MIN_TIME, MAX_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
WINTER_SUMMER_LATER = (timedelta(0), timedelta(weeks=26), timedelta(weeks=160))


def candidate_times(start: datetime, every: Sequence[Window]) -> Iterator[datetime]:
    """Yield the start, then every time in the following week at which a window opens or closes, and the second before.
    A window of dates adds such a week after each of its edges, and a week before the earliest edge of all windows.
    """
    edges = sorted(edge.astimezone(UTC) for window in every if isinstance(window, calendar_windows.Absolute)
                   for edge in (window.start, window.end))  # fmt: skip
    for anchor in (start, *edges, *(edge - timedelta(days=DAYS_TRIED) for edge in edges[:1])):
        yield anchor
        yield from week_edges(anchor, every)
    yield from (edge - SECOND for edge in edges)


def week_edges(start: datetime, every: Iterable[Window]) -> list[datetime]:
    """Return the times in the week after the start when a window may open or close, and the second before each."""
    found = {edge - before for window in every if not isinstance(window, calendar_windows.Absolute)
             for edge in wall_times(start, window_minutes((window,)), window.zone)
             for before in (timedelta(0), SECOND)}  # fmt: skip
    return sorted(moment for moment in found if moment > start)


def wall_times(start: datetime, minutes: Iterable[int], zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the UTC times of these minutes of the day, on the local day of `start` and on the days after it."""
    midnight = start.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    for minute in minutes:
        yield from ((midnight + timedelta(days=day, minutes=minute)).astimezone(UTC) for day in range(DAYS_TRIED))


def window_minutes(every: Iterable[Window]) -> list[int]:
    """Return the minutes of the day when windows open or close, including midnight."""
    return sorted({0, *(minute % MINUTES_PER_DAY for window in every for minute in edge_minutes(window))})


def edge_minutes(window: Window) -> tuple[int, ...]:
    match window:
        case calendar_windows.Daily() | calendar_windows.Weekly():
            return window.start_minute, window.end_minute
        case _:
            return ()


def fitting_time(start: datetime, wanted: Sequence[tuple[Window, bool]]) -> datetime | None:
    """Return the first candidate that is inside and outside the windows as required, or None if no candidate is."""
    for moment in candidate_times(start, [window for window, _ in wanted]):
        if all(calendar_windows.contains(window, moment) is inside for window, inside in wanted):
            return moment
    return None


@lru_cache(maxsize=256)
def window_times(window: Window, monday: datetime) -> tuple[tuple[datetime, ...], tuple[datetime, ...]]:
    """Return candidates from the week after a Monday: those in the window, and those outside."""
    every = [(moment, calendar_windows.contains(window, moment)) for moment in candidate_times(monday, (window,))]
    return tuple(moment for moment, inside in every if inside), tuple(moment for moment, inside in every if not inside)


def candidate_mondays(moment: object) -> tuple[datetime, ...]:
    """Return the Monday of the week of a known time, and three other Mondays: in winter, in summer, and some years
    later.
    """
    known = (monday_of(moment),) if isinstance(moment, datetime) and MIN_TIME <= moment < MAX_TIME else ()
    return (*known, *(monday_of(MONDAY) + later for later in WINTER_SUMMER_LATER))


def monday_of(moment: datetime) -> datetime:
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())
