"""Abuse of five kinds against a static and an adaptive rate, both counted as the engine counts rates, denials too."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

from bench.behavior_traffic import DAY, HOUR, KINDS, MINUTE, caller_days
from policyengine.behavior.events import ALLOWED, DENIED, HELD, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import CallerFacts, ProfileSettings
from policyengine.behavior.row import HOURS_OF_DAY
from policyengine.behavior.state import BehaviorState, CallerRow

BEGAN: Final = 20_000 * DAY
SETTINGS: Final = ProfileSettings(burst_days=500)
LATCH: Final = 10 * MINUTE
RATES: Final = 1, 2, 4, 8, 15, 30, 60, 120  # requests per minute
LOWER: Final = 4  # the base of the adaptive rate is so much lower
KEYS, KEY_REQUESTS, KEY_RATE = 10, 200, 100
USUAL: Final = "GET /usual"
MAX_HARM: Final = 0.0005  # of the benign requests
SETTLED: Final = 24  # days after which callers have full histories


class Pace(NamedTuple):
    """Requests per minute, and how many at once."""

    rate: float
    burst: float


CLAMPED: Final = Pace(0.1, 1)
NOT_READY: Final = Pace(20, 60)


class LeakyRate:
    """A bucket that drains at the pace in force, and that holds at most its burst."""

    def __init__(self) -> None:
        self.level, self.at = 0.0, 0

    def admit(self, at: int, pace: Pace) -> bool:
        self.level = max(self.level - pace.rate * max(at - self.at, 0) / MINUTE, 0.0)
        self.at = max(at, self.at)
        admits = self.level + 1 <= pace.burst
        self.level += admits
        return admits


class AdaptiveRate(LeakyRate):
    """A quarter of the static pace; raised to it when trust > 0.9, clamped to CLAMPED for ten minutes when burst or
    novelty > 0.3, and to NOT_READY when not ready."""

    def __init__(self, base: Pace, raised: Pace) -> None:
        super().__init__()
        self.base, self.raised, self.until = base, raised, 0

    def pace_of(self, reading: CallerFacts, at: int) -> Pace:
        if reading.burst or reading.novelty > 300:
            self.until = at + LATCH
        if at < self.until:
            return CLAMPED
        if not reading.ready:
            return NOT_READY
        return self.raised if reading.trust > 900 else self.base


class World:
    """The state, and the adaptive rate of each caller."""

    def __init__(self, state: BehaviorState, pace: Pace) -> None:
        self.state = state
        self.base, self.raised = Pace(pace.rate / LOWER, pace.burst), pace
        self.rates: dict[Caller, AdaptiveRate] = {}

    def admit(self, caller: Caller, group: str, at: int, endpoint: str = USUAL, outcome: int = ALLOWED) -> bool:
        rate = self.rates.get(caller)
        if rate is None:
            rate = self.rates[caller] = AdaptiveRate(self.base, self.raised)
        row = self.state.row_at(caller, at, SETTINGS)
        pace = rate.pace_of(
            self.state.read(row, caller.issuer, group, RequestTags(self.state.tagger.tag(endpoint)), at, SETTINGS), at
        )
        admits = rate.admit(at, pace)
        clamped = pace is CLAMPED or pace is NOT_READY
        event = BehaviorEvent(at, caller, group, endpoint, at // (10 * MINUTE), outcome if admits else HELD, clamped)
        self.state.fold(event, lambda _: SETTINGS)
        return admits


class AbusePart(NamedTuple):
    """Requests of one day or key, each with its endpoint, and how many of them are the victim's own."""

    requests: list[tuple[int, str]]
    own: float = 0
    caller: Caller | None = None  # other than the victim
    outcome: int = ALLOWED  # of the requests that no limit throttles


class Victim(NamedTuple):
    """A benign caller, the hour in which it does most, and its requests in that hour."""

    caller: Caller
    kind: str
    hour: int
    rate: float
    day: int  # the first one after its history

    @classmethod
    def of(cls, kind: str, number: int, days: Sequence[list[int]]) -> Victim:
        counts = [0] * HOURS_OF_DAY
        for moments in days[-14:]:
            for moment in moments:
                counts[moment // HOUR] += 1
        hour = max(range(HOURS_OF_DAY), key=counts.__getitem__)
        return cls(caller_of(kind, number), kind, hour, max(counts[hour] / 14, 1.0), len(days))

    def spread(self, day: int, count: float, endpoint: str = USUAL) -> list[tuple[int, str]]:
        """Return requests that are spread evenly over the hour."""
        began, number = BEGAN + (self.day + day) * DAY + self.hour * HOUR, max(int(count), 1)
        return [(began + place * HOUR // number, endpoint) for place in range(number)]


def caller_of(kind: str, number: int) -> Caller:
    return Caller("https://issuer.example", f"{kind} {number}")


def hijack(victim: Victim) -> Iterator[AbusePart]:
    yield AbusePart(victim.spread(0, 20 * victim.rate), victim.rate)


def slow_frog(victim: Victim) -> Iterator[AbusePart]:
    for day in range(30):
        yield AbusePart(victim.spread(day, victim.rate * 1.1**day), victim.rate)


def fast_frog(victim: Victim) -> Iterator[AbusePart]:
    for day in range(14):
        yield AbusePart(victim.spread(day, victim.rate * 1.25**day), victim.rate)


def scraper(victim: Victim) -> Iterator[AbusePart]:
    for day in range(5):
        requests = victim.spread(day, victim.rate * 0.8)
        yield AbusePart([(at, f"GET /scraped/{day}/{number}") for number, (at, _) in enumerate(requests)])


def fresh_keys(victim: Victim) -> Iterator[AbusePart]:
    began = BEGAN + victim.day * DAY + victim.hour * HOUR
    for key in range(KEYS):
        first = began + key * KEY_REQUESTS * MINUTE // KEY_RATE
        requests = [(first + number * MINUTE // KEY_RATE, USUAL) for number in range(KEY_REQUESTS)]
        yield AbusePart(requests, 0, victim.caller._replace(instance=f"fresh {key}"))


def probing(victim: Victim) -> Iterator[AbusePart]:
    """Yield requests for what the victim may not do. Those that are not throttled are answered with a denial."""
    began = BEGAN + victim.day * DAY + victim.hour * HOUR
    yield AbusePart([(began + 1_000 * number, f"GET /admin/{number}") for number in range(300)], outcome=DENIED)


ABUSE: Final[dict[str, Callable[[Victim], Iterator[AbusePart]]]] = {
    "a stolen key, × 20": hijack,
    "10 % more every day": slow_frog,
    "25 % more every day": fast_frog,
    "a scraper below the pace": scraper,
    "fresh keys, rotated": fresh_keys,
    "denied probing": probing,
}
FROGS: Final = "10 % more every day", "25 % more every day"  # one kind of abuse


class Admitted(NamedTuple):
    """Requests of abuse: those that are admitted, and all attempts. The victim's own requests are not abuse."""

    admitted: float
    attempted: float

    @classmethod
    def of(cls, parts: Iterable[AbusePart], victim: Victim, admit: Callable[[Caller, int, str, int], bool]) -> Admitted:
        admitted = attempted = 0.0
        for part in parts:
            who = part.caller or victim.caller
            count = sum(admit(who, at, endpoint, part.outcome) for at, endpoint in part.requests)
            admitted += max(count - part.own, 0)
            attempted += max(len(part.requests) - part.own, 0)
        return cls(admitted, attempted)


def share(found: Iterable[Admitted]) -> float:
    admitted, attempted = map(sum, zip(*found, strict=True))
    return admitted / attempted


def with_static(name: str, victim: Victim, pace: Pace) -> Admitted:
    rates: defaultdict[Caller, LeakyRate] = defaultdict(LeakyRate)
    return Admitted.of(ABUSE[name](victim), victim, lambda who, at, *_: rates[who].admit(at, pace))


def with_adaptive(name: str, victim: Victim, world: World) -> Admitted:
    """Return what the adaptive rate admits of the abuse, on a copy of the victim's learned state."""
    state = BehaviorState(world.state.tagger, model=world.state.model, learns=False)
    known = world.state.rows[victim.caller]
    state.rows[victim.caller] = CallerRow(known.group, known.row.copy())
    copy = World(state, world.raised)
    return Admitted.of(ABUSE[name](victim), victim, lambda who, at, *more: copy.admit(who, victim.kind, at, *more))


class LimitsResult(NamedTuple):
    """The best static rate, the base of the best adaptive one, the benign requests and those that the adaptive rate
    throttles (of all days, and of those after the first 24), and what each rate admits of each kind of abuse."""

    static: Pace
    base: Pace
    benign: int
    harmed: int
    settled: int
    settled_harmed: int
    admitted: dict[str, tuple[float, float]]

    def mean(self, place: int) -> float:
        """Return the mean of the five kinds: 0 for the static rate, 1 for the adaptive one."""
        return mean_share({name: both[place] for name, both in self.admitted.items()})


def mean_share(shares: dict[str, float]) -> float:
    others = [one for name, one in shares.items() if name not in FROGS]
    return fmean([fmean(shares[name] for name in FROGS), *others])


def limits(callers: int, days: int, victims: int) -> LimitsResult:
    """Compare the best static rate that throttles no benign request with the best adaptive one that throttles at most
    MAX_HARM of them.
    """
    traffic = {(kind, number): caller_days(kind, number, days, 7) for kind in KINDS for number in range(callers)}
    chosen = [Victim.of(kind, number, traffic[kind, number]) for kind in KINDS for number in range(victims)]
    paces = [Pace(rate, harmless_burst(traffic.values(), rate)) for rate in RATES]
    static = [(pace, {name: share(with_static(name, one, pace) for one in chosen) for name in ABUSE}) for pace in paces]
    best, static_shares = min(static, key=lambda found: mean_share(found[1]))
    worlds = [
        (world := World(BehaviorState(Tagger(b"limits")), pace), play(world, traffic, days)) for pace in paces[:3]
    ]
    harmless = [found for found in worlds if found[1][3] <= MAX_HARM * found[1][2]]
    adaptive = [
        (world, counts, {name: share(with_adaptive(name, one, world) for one in chosen) for name in ABUSE})
        for world, counts in harmless or [min(worlds, key=lambda found: found[1][3])]
    ]
    world, counts, shares = min(adaptive, key=lambda found: mean_share(found[2]))
    return LimitsResult(best, world.base, *counts, {name: (static_shares[name], shares[name]) for name in ABUSE})


def harmless_burst(callers: Iterable[Sequence[list[int]]], rate: float) -> int:
    """Return the smallest burst with which a rate throttles no request."""
    highest = 0.0
    for days in callers:
        level, last = 0.0, 0
        for day, moments in enumerate(days):
            for moment in moments:
                at = day * DAY + moment
                level, last = max(level - rate * max(at - last, 0) / MINUTE, 0.0) + 1, at
                highest = max(highest, level)
    return math.ceil(highest)


def play(world: World, traffic: Mapping[tuple[str, int], Sequence[list[int]]], days: int) -> tuple[int, int, int, int]:
    """Run the traffic of all callers; return the numbers of requests and of throttled requests, of all days and of the
    later ones.
    """
    counts, harms = [0, 0], [0, 0]
    for day in range(days):
        for (kind, number), moments in traffic.items():
            caller = caller_of(kind, number)
            throttled = sum(not world.admit(caller, kind, BEGAN + day * DAY + moment) for moment in moments[day])
            counts[day >= SETTLED] += len(moments[day])
            harms[day >= SETTLED] += throttled
    return sum(counts), sum(harms), counts[1], harms[1]
