"""Callers of the tests of behavior: a clock of their own, models of one class, and a limiter that behavior moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import NamedTuple

from policyengine.behavior.events import ALLOWED, HELD, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import CallerFacts, ProfileSettings
from policyengine.behavior.model import (
    FORMAT,
    MODEL_VERSION,
    BehaviorModel,
    ClassModel,
    ModelContent,
)
from policyengine.behavior.row import HOUR, HOURS_OF_DAY, BehaviorRow
from policyengine.behavior.state import BehaviorState
from policyengine.stores.base import StoreError

MINUTE = 60_000
DAY = HOURS_OF_DAY * HOUR
START = 20_000 * DAY
SETTINGS = ProfileSettings()
KEY = b"a key of the tests"
ISSUER, GROUP = "https://issuer.example", "profile reporting"
USUAL = "GET /reports/{id}"


def caller(number: int = 0, **members: str) -> Caller:
    return Caller(ISSUER, f"agent-{number}", **members)


def class_model(margin: float = 1.5, endpoints: Iterable[str] = ()) -> BehaviorModel:
    """Return a model of the class, whose two margins are equal."""
    tagger, units = Tagger(KEY), int(margin * 1_024)
    seen = frozenset(map(tagger.tag, endpoints))
    found = ClassModel(ISSUER, GROUP, 1_000, 10, seen, units, units, 1_000, declared=True)
    return BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, 1, START, "", (found,)))


class Callers:
    """The state of some callers, and the time. With a model, nothing else is learned of the class."""

    def __init__(self, model: BehaviorModel | None = None, settings: ProfileSettings = SETTINGS) -> None:
        self.settings, self.now = settings, START
        known = {} if model is None else {"model": model, "learns": False}
        self.state = BehaviorState(Tagger(KEY), **known)

    def send(
        self, who: Caller, endpoint: str = USUAL, *, outcome: int = ALLOWED, clamped: bool = False, run: int = 0
    ) -> CallerFacts:
        """Fold a request of now. Without a run, every ten minutes are one."""
        run = run or self.now // (10 * MINUTE) % 1_000 + 1
        event = BehaviorEvent(self.now, who, GROUP, endpoint, run, outcome, clamped)
        return self.state.fold(event, lambda _: self.settings)

    def read(self, who: Caller, endpoint: str = USUAL) -> CallerFacts:
        row = self.state.row_at(who, self.now, self.settings)
        tags = RequestTags(self.state.tagger.tag(endpoint))
        return self.state.read(row, who.issuer, GROUP, tags, self.now, self.settings)

    def row(self, who: Caller) -> BehaviorRow:
        return self.state.row_at(who, self.now, self.settings)

    def work(self, who: Iterable[Caller] | Caller, days: int, rate: int = 6, hours: int = 8) -> None:
        """Let callers work: `rate` requests an hour, from eight o'clock on. Ends at eight o'clock of the next day."""
        callers = [who] if isinstance(who, Caller) else list(who)
        day = self.now // DAY
        for each in range(day, day + days):
            for step in range(hours * rate):
                self.now = each * DAY + 8 * HOUR + step * HOUR // rate
                for one in callers:
                    self.send(one)
        self.now = (day + days) * DAY + 8 * HOUR

    def steps(self, count: int, per_minute: float) -> Iterator[int]:
        """Move the clock on with each step."""
        began = self.now
        for number in range(count):
            self.now = began + int(number * MINUTE / per_minute)
            yield number


def jittered(random: Random, rate: int, hours: Iterable[int] = range(8, 16)) -> list[int]:
    """Return the moments of a day's requests, `rate` an hour on average."""
    return sorted(
        hour * HOUR + int(random.random() * HOUR)
        for hour in hours
        for _ in range(max(0, round(random.gauss(rate, rate**0.5))))
    )


class Pace(NamedTuple):
    """A pace of a rate: requests per minute, and how many at once."""

    rate: int
    burst: int


class AdaptiveLimiter:
    """The rate of the design, as the engine counts it: a bucket that drains at the pace in force, and that may be as
    full as its burst. Trust raises the pace; a burst or novelty clamps it for ten minutes. A caller that is not ready
    is clamped too."""

    BASE, RAISED, CLAMPED, NOT_READY = Pace(40, 80), Pace(120, 120), Pace(2, 2), Pace(30, 30)

    def __init__(self) -> None:
        self.level, self.at, self.until, self.admitted = 0.0, 0, 0, 0

    def pace_of(self, reading: CallerFacts, now: int) -> Pace:
        if reading.burst or reading.novelty > 300:
            self.until = now + 10 * MINUTE
        if now < self.until:
            return self.CLAMPED
        if not reading.ready:
            return self.NOT_READY
        return self.RAISED if reading.trust > 900 else self.BASE

    def ask(self, callers: Callers, who: Caller, endpoint: str = USUAL) -> CallerFacts:
        """Decide a request, and let the state learn from it."""
        reading = callers.read(who, endpoint)
        pace = self.pace_of(reading, callers.now)
        admits = self.admit(callers.now, pace)
        clamped = pace in (self.CLAMPED, self.NOT_READY)
        callers.send(who, endpoint, outcome=ALLOWED if admits else HELD, clamped=clamped)
        return reading

    def admit(self, now: int, pace: Pace) -> bool:
        self.level = max(self.level - pace.rate * max(now - self.at, 0) / MINUTE, 0)
        self.at = max(now, self.at)
        admits = self.level + 1 <= pace.burst
        self.level += admits
        self.admitted += admits
        return admits


class UnreadableBehavior:
    """A reader of learned facts whose store does not answer."""

    def __init__(self, reader: object) -> None:
        self.reader = reader

    def __getattr__(self, name: str) -> object:
        return getattr(self.reader, name)

    def read(self, *_: object) -> None:
        raise StoreError("down")
