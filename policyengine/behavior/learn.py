"""Learns the model of all classes from the rows of their callers."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, overload

import msgspec
from msgspec import Struct

from policyengine.behavior.events import Caller
from policyengine.behavior.fold import LEAST_LIMIT, ProfileSettings, is_ready, maturity
from policyengine.behavior.grams import NO_GRAMS, GramSums, ScoreTails, unpack_sums, unpack_tails
from policyengine.behavior.known_shapes import class_shapes, shared_tags
from policyengine.behavior.model import (
    EMPTY_MODEL,
    FORMAT,
    MODEL_VERSION,
    BehaviorModel,
    ClassModel,
    ClassName,
    ModelContent,
)
from policyengine.behavior.row import (
    DAYS_KEPT,
    HOUR,
    HOURS_OF_DAY,
    MAX_SHORT,
    SCORE_BUCKETS,
    SCORE_LENGTHS,
    BehaviorRow,
)

LEAST_DAYS: Final = 20  # minimum caller-days to learn margins
MAX_WEIGHT: Final = 20  # a principal has at most 1/20 of the weight, if there are that many principals
MAX_PART: Final = 4  # a principal counts for at most 1/4 of the allowed alarms
WEIGHT_UNIT: Final = 2**20
SPARE: Final = 2  # with too few caller-days to calibrate, the margin is the highest ratio times this factor
LEAST_MARGIN: Final = LEAST_LIMIT
MAX_MARGIN: Final = MAX_SHORT  # the highest ratio that rows contain

MAX_GRAMS: Final = 16_384  # of a class
MATURITIES: Final = 3
CLASS_SCORES: Final = SCORE_LENGTHS * SCORE_BUCKETS  # scores to the class, which come first in a row
CELL_SCORES: Final = 400  # scores of one class of lengths and numbers of runs that suffice on their own
LEAST_SCORES: Final = 20  # scores of runs, without which there is no deviation

SettingsOf = Callable[[str], ProfileSettings]


class CallerDay(NamedTuple):
    """A day of a caller: its highest levels relative to the days before it, in 1/1024, its weight, and the number of
    its principal."""

    slow: int
    fast: int
    weight: int
    principal: int


class DayColumns(Sequence[CallerDay]):
    """Days in columns, because the garbage collector would traverse a list of objects and block all threads."""

    def __init__(self) -> None:
        self._slow, self._fast = array("H"), array("H")
        self._weights, self._principals = array("I"), array("I")

    def add(self, slow: int, fast: int, weight: int, principal: int) -> None:
        self._slow.append(slow)
        self._fast.append(fast)
        self._weights.append(weight)
        self._principals.append(principal)

    def __len__(self) -> int:
        return len(self._slow)

    def __iter__(self) -> Iterator[CallerDay]:
        return map(CallerDay, self._slow, self._fast, self._weights, self._principals)

    @overload
    def __getitem__(self, at: int) -> CallerDay: ...
    @overload
    def __getitem__(self, at: slice) -> list[CallerDay]: ...
    def __getitem__(self, at: int | slice) -> CallerDay | list[CallerDay]:
        if isinstance(at, slice):
            return list(self)[at]
        return CallerDay(self._slow[at], self._fast[at], self._weights[at], self._principals[at])


class Margins(NamedTuple):
    slow: int
    fast: int
    days: int
    declared: bool


NO_MARGINS: Final = Margins(0, 0, 0, False)


def learn_model(
    rows: Iterable[tuple[Caller, str, BehaviorRow]],
    settings_of: SettingsOf,
    now: int,
    serial: int,
    tags: str,
    before: BehaviorModel = EMPTY_MODEL,
) -> BehaviorModel:
    """Learn a model from the rows of callers, each with the name of its class. The groups are copied from the model
    `before`. No reference to a row is kept."""
    sums = ModelSums(settings_of, now)
    for caller, group, row in rows:
        sums.add(caller, group, row)
    return sums.learn(serial, tags, before)


class ModelSums:
    """Collects what the rows of callers teach, and learns a model from it at the time `now`. Classes are learned only
    from callers that are ready by their own runs and days, and that were active within the `learn` period. All
    instances and versions of an agent are one principal; their rows are added in the order of their latest activity.

    Sums of different principals are merged: `merge` is associative, an empty sum changes nothing, and the model does
    not depend on how principals are distributed over sums, nor on the order in which the sums are merged.
    """

    def __init__(self, settings_of: SettingsOf, now: int) -> None:
        self._settings_of, self._now = settings_of, now
        self._classes: dict[ClassName, ClassLearner] = {}

    def add(self, caller: Caller, group: str, row: BehaviorRow) -> None:
        """Add the row of a caller."""
        settings = self._settings_of(group)
        if is_ready(row, settings) and self._now - row.level_at <= settings.learn_days * HOURS_OF_DAY * HOUR:
            self._class((caller.issuer, group), settings).add(caller.agent, row)

    def _class(self, name: ClassName, settings: ProfileSettings) -> ClassLearner:
        learner = self._classes.get(name)
        if learner is None:
            learner = self._classes[name] = ClassLearner(settings, self._now)
        return learner

    def merge(self, other: ModelSums) -> None:
        """Add the sums of other principals. Raises ValueError if a principal is in both sums."""
        for name, learner in other._classes.items():
            self._class(name, self._settings_of(name[1])).merge(learner)

    def learn(self, serial: int, tags: str, before: BehaviorModel = EMPTY_MODEL) -> BehaviorModel:
        """Return the model, with the groups of the model `before`."""
        classes = sorted(self._classes.items(), key=lambda item: item[0])
        learned = tuple(learner.learn(name) for name, learner in classes)
        groups, grouped = before.content.groups, before.content.grouped
        return BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, serial, self._now, tags, learned, groups, grouped))

    def pack(self) -> bytes:
        """Return the sums as bytes, for another process."""
        return msgspec.msgpack.encode([(*name, learner.parts()) for name, learner in self._classes.items()])

    def merge_packed(self, raw: bytes) -> None:
        """Add sums that `pack` returned in another process. Raises ValueError if a principal is in both sums."""
        for issuer, group, parts in msgspec.msgpack.decode(raw, type=list[tuple[str, str, ClassParts]]):
            settings = self._settings_of(group)
            self._class((issuer, group), settings).merge(ClassLearner(settings, self._now, parts))


class ClassParts(Struct, array_like=True):
    """The content of a ClassLearner, for another process. `principals` have the bytes of their ratios, endpoints and
    structures, and the number of their rows."""

    runs: int = 0
    principals: dict[str, tuple[bytes, bytes, bytes, int]] = {}
    grams: tuple[bytes, bytes, bytes, int] | None = None
    scores: tuple[bytes, bytes] | None = None


class ClassLearner:
    """Collects what the principals of a class teach, and learns the class."""

    def __init__(self, settings: ProfileSettings, now: int, parts: ClassParts | None = None) -> None:
        self._settings, self._today, self._runs = settings, now // HOUR // HOURS_OF_DAY, 0
        self._ratios: dict[str, array[int]] = {}  # of each principal, those of its days: slow, fast, slow, fast, …
        self._seen: dict[str, array[int]] = {}  # the tags of endpoints
        self._shapes: dict[str, array[int]] = {}  # the tags of structures of payloads
        self._rows: dict[str, int] = {}  # how many rows of each principal were added
        self._numbers: dict[str, int] = {}  # the number of each principal, from 1
        self._grams: GramSums | None = None
        self._scores = ScoreTails(MATURITIES)
        if parts is not None:
            self._restore(parts)

    def parts(self) -> ClassParts:
        """Return the content, for another process."""
        principals = {
            name: (ratios.tobytes(), self._seen[name].tobytes(), self._shapes[name].tobytes(), self._rows.get(name, 0))
            for name, ratios in self._ratios.items()
        }
        grams = None if self._grams is None else self._grams.pack()
        return ClassParts(self._runs, principals, grams, self._scores.pack())

    def _restore(self, parts: ClassParts) -> None:
        """Set the content that `parts` returned. Principals are numbered in their order."""
        self._runs = parts.runs
        for name, (ratios, seen, shapes, rows) in parts.principals.items():
            self._ratios[name], self._seen[name], self._shapes[name] = array("H"), array("I"), array("I")
            self._ratios[name].frombytes(ratios)
            self._seen[name].frombytes(seen)
            self._shapes[name].frombytes(shapes)
            if rows:
                self._rows[name] = rows
                self._numbers[name] = len(self._numbers) + 1
        self._grams = None if parts.grams is None else unpack_sums(parts.grams)
        if parts.scores is not None:
            self._scores.merge(unpack_tails(MATURITIES, parts.scores))

    def merge(self, other: ClassLearner) -> None:
        """Add the principals of another learner of the class. Raises ValueError if a principal is in both learners."""
        if not self._ratios.keys().isdisjoint(other._ratios):
            raise ValueError("a principal is in both sums")
        self._runs += other._runs
        self._ratios |= other._ratios
        self._seen |= other._seen
        self._shapes |= other._shapes
        self._rows |= other._rows
        before = len(self._numbers)
        self._numbers |= {name: before + number for name, number in other._numbers.items()}
        if other._grams is not None:
            self._grams = self._grams or GramSums()
            self._grams.merge(other._grams, before)
        self._scores.merge(other._scores)

    def add(self, principal: str, row: BehaviorRow) -> None:
        """Add a row of a principal."""
        self._runs += row.runs
        if principal not in self._ratios:
            self._ratios[principal], self._seen[principal] = array("H"), array("I")
            self._shapes[principal] = array("I")
        self._ratios[principal].extend(row_ratios(row, self._today, self._settings))
        self._seen[principal].extend(row.seen)
        self._shapes[principal].extend(row.shapes)
        if self._settings.sequences:
            self._add_sequences(principal, row)

    def _add_sequences(self, principal: str, row: BehaviorRow) -> None:
        """Add the sequences and scores of a row. The nth row of a principal has a weight of 1/n², so that all of its
        rows together have at most 1.65 times the weight of one."""
        self._numbers.setdefault(principal, len(self._numbers) + 1)
        number = self._rows[principal] = self._rows.get(principal, 0) + 1
        if self._grams is None:
            self._grams = GramSums()
        self._grams.add(row, self._numbers[principal], number * number)
        if number == 1:
            self._scores.add(row.scores, maturity(row))

    def _tails(self) -> tuple[int, ...]:
        """Return the tails of all scores; none if there are too few. Where few callers have as many runs as a class of
        maturity requires, the scores of callers with fewer runs are added. These scores are higher, so they tighten no
        limit."""
        found, scores = list[int](), self._scores
        for cell in range(scores.cells):
            if cell >= 2 * SCORE_LENGTHS and scores.tails(cell)[0] < CELL_SCORES:
                scores.extend(cell, cell - SCORE_LENGTHS)
            found += scores.tails(cell)
        return tuple(found) if found[0] + found[SCORE_BUCKETS] >= LEAST_SCORES else ()

    def learn(self, name: ClassName) -> ClassModel:
        """Return the model of the class."""
        shapes, free_form = class_shapes(list(map(set, self._shapes.values())))
        margins, grams, tails = learn_margins(self.days(), self._settings.burst_days), self._grams, self._tails()
        return ClassModel(
            *name, self._runs, len(self._seen),
            shared_tags(list(map(set, self._seen.values()))),
            margins.slow, margins.fast, margins.days, margins.declared,
            NO_GRAMS if grams is None else grams.shared_counts(MAX_GRAMS), tails[:CLASS_SCORES], tails[CLASS_SCORES:],
            shapes, free_form,
        )  # fmt: skip

    def days(self) -> DayColumns:
        """Return the weighted days to learn from. The weight of each principal is limited (MAX_WEIGHT)."""
        found = [ratios for ratios in self._ratios.values() if ratios]
        total = sum(map(len, found)) // 2
        most = max(-(-total // min(MAX_WEIGHT, max(len(found), 1))), 1)
        days = DayColumns()
        for number, ratios in enumerate(found):
            count = len(ratios) // 2
            weight = min(count, most) * WEIGHT_UNIT // count
            for place in range(0, len(ratios), 2):
                days.add(ratios[place], ratios[place + 1], weight, number)
        return days


def row_ratios(row: BehaviorRow, today: int, settings: ProfileSettings) -> list[int]:
    """Return the ratios of the learned days of a row: slow, fast, slow, fast, …"""
    day = row.hour // HOURS_OF_DAY
    found: list[int] = []
    for each in range(max(day - DAYS_KEPT, today - settings.learn_days) + 1, day):
        place = 2 * (each % DAYS_KEPT)
        if row.ratios[place]:
            found += row.ratios[place : place + 2]
    return found


def days_to_calibrate(burst_days: int) -> int:
    """Return how many caller-days of equal weight `learn_margins` needs for the declared rate of false alarms."""
    return 2 * burst_days - 1


def learn_margins(days: Sequence[CallerDay], burst_days: int) -> Margins:
    """Return the smallest margins that at most one caller-day in `burst_days` exceeds, if the next caller-day is
    counted as an excess of each bucket (conformal ranks). If there are too few days for that, the margins are the
    highest ratios times SPARE. Margins are bounded."""
    if len(days) < LEAST_DAYS:
        return NO_MARGINS._replace(days=len(days))
    total = sum(day.weight for day in days)
    allowed = (total + WEIGHT_UNIT) // burst_days - 2 * WEIGHT_UNIT
    if allowed < 0:
        slow, fast = max(day.slow for day in days), max(day.fast for day in days)
        return Margins(bound_margin(SPARE * slow), bound_margin(SPARE * fast), len(days), declared=False)
    slows, fasts = RatioWeights(days, 0), RatioWeights(days, 1)
    part = max(allowed // MAX_PART, WEIGHT_UNIT)

    def at(above: int) -> tuple[int, int]:
        """Return the smallest margin of each bucket such that the weight of the ratios above it is at most `above`."""
        return slows.quantile(above), fasts.quantile(above)

    low, high = 0, max(allowed, WEIGHT_UNIT)
    while high < total and excess(days, *at(high), part) <= allowed:
        low, high = high, 2 * high
    slow, fast = at(high)
    tail = [day for day in days if day.slow > slow or day.fast > fast]
    best = at(0)
    while low <= high:
        above = (low + high) // 2
        if excess(tail, *at(above), part) <= allowed:
            best, low = at(above), above + 1
        else:
            high = above - 1
    return Margins(bound_margin(best[0]), bound_margin(best[1]), len(days), declared=True)


def excess(days: Iterable[CallerDay], slow: int, fast: int, part: int) -> int:
    """Return the weight of the days with a level above a margin. Each principal counts for at most `part`."""
    above: defaultdict[int, int] = defaultdict(int)
    for day in days:
        if day.slow > slow or day.fast > fast:
            above[day.principal] += day.weight
    return sum(min(weight, part) for weight in above.values())


class RatioWeights:
    """The weights of the ratios of one bucket. The ratios are counted, not sorted, because a sort in Python blocks all
    other threads, which decide requests."""

    def __init__(self, days: Sequence[CallerDay], column: int) -> None:
        weights = [0] * (max(day[column] for day in days) + 1)
        for day in days:
            weights[day[column]] += day.weight
        self._least = next((ratio for ratio, weight in enumerate(weights) if weight), 0)
        # For each ratio, the negative weight of all higher ratios; the values ascend.
        self._above = [-weight for weight in accumulate(reversed(weights[1:]), initial=0)][::-1]

    def quantile(self, weight: int) -> int:
        """Return the smallest ratio such that the weight of all higher ratios is at most `weight`."""
        return max(bisect_left(self._above, -weight), self._least)


def bound_margin(margin: int) -> int:
    return min(max(margin, LEAST_MARGIN), MAX_MARGIN)
