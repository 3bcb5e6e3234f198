"""Between the engine and a store that may fail: nobody waits long, and what then happens each rule says."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Protocol, TypeVar

from policyengine.runtime.claims import Claim, Found
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, Record, Report, Reported, Unread, WindowKey
from policyengine.runtime.limits import Settled, Standing, untouched
from policyengine.stores.clock_skew import ClockSkew, ClockSkewError
from policyengine.stores.marks import Marks
from policyengine.stores.memory import MemoryStore
from policyengine.stores.store import Asked, Committed, Store, StoreError

FAILS_BEFORE_OPEN = 3  # in a row
PAUSE = 0.25  # seconds that nobody asks a store that fails
LOGS_EVERY = 10.0  # seconds
MOST_LATE = 10_000  # denied requests that are remembered when the store answers again
LATE_AT_ONCE = 16  # of them by one caller, who waits for it
T = TypeVar("T")
_LOG = logging.getLogger("policyengine")


class Remote(Store, Protocol):
    """What is begun in vain, `fetch` begins when it can. `skew` is measured whenever it answers."""

    skew: ClockSkew

    def ping(self) -> None:
        """Raises StoreError."""
        ...

    def about(self) -> str:
        """Which store it is (`Valkey 8.1.1`). Raises StoreError."""
        ...

    def close(self) -> None: ...


class Breaker:
    """Opens when a store failed several times in a row. Once it paused, one caller tries; all others go on without."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._fails, self._again = 0, 0.0
        self.failures = 0  # since the beginning
        self._logged, self._unsaid = -LOGS_EVERY, 0

    @property
    def open(self) -> bool:
        return self._fails >= FAILS_BEFORE_OPEN

    def __enter__(self) -> None:
        """Around one call. Raises StoreError at once while nobody is to call."""
        if self._fails >= FAILS_BEFORE_OPEN:
            self._try()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, StoreError) and not isinstance(error, ClockSkewError):
            self._failed(error)
        elif (error is None or isinstance(error, ClockSkewError)) and self._fails:
            self._answered()

    def _try(self) -> None:
        with self._lock:
            now = self._clock()
            if now < self._again:
                self.failures += 1
                raise StoreError("the store did not answer lately")
            self._again = now + PAUSE  # this caller tries for all

    def _failed(self, error: StoreError) -> None:
        with self._lock:
            now = self._clock()
            self._fails += 1
            self.failures += 1
            self._again = now + PAUSE
            self._unsaid += 1
            if now - self._logged < LOGS_EVERY:
                return
            many, self._unsaid, self._logged = self._unsaid, 0, now
        _LOG.error(
            "the store did not answer (%d times since this was said last): %s", many, error,
            extra={"event": "store_fails", "failures": self.failures},
        )  # fmt: skip

    def _answered(self) -> None:
        with self._lock:
            was_open, self._fails = self.open, 0
        if was_open:
            _LOG.warning("the store answers again", extra={"event": "store_answers"})


class GuardedMarks:
    """Asks for them as long as the store answers, and agrees on the time; where it does not, nobody guesses. What it
    answers counts only if the clocks agree then, too."""

    def __init__(self, marks: Marks, breaker: Breaker, agree: Callable[[], None], skew: ClockSkew) -> None:
        self._marks, self._breaker, self._agree, self._skew = marks, breaker, agree, skew
        self.remote = marks.remote

    @property
    def version(self) -> int:
        with self._breaker:
            return self._marks.version

    def once(self, name: str, until: int, now: int) -> bool:
        return self._asked(lambda: self._marks.once(name, until, now))

    def marked(self, name: str, now: int) -> bool:
        return self._asked(lambda: self._marks.marked(name, now))

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        with self._breaker:
            self._marks.revoke(names, until, now, by_operator=by_operator)

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        return self._asked(lambda: self._marks.revoked(names, now))

    def _asked(self, ask: Callable[[], T]) -> T:
        self._agree()
        with self._breaker:
            told = ask()
        self._skew.check()
        return told


class GuardedStore:
    """Asks a store that may be down, slow or full. Where it does not answer, each charge is answered as its rule says:
    `deny`, `local` by what this process counts, or `allow`. Approvals are then never spent, and that is a deny; so is
    whatever history is to remember, and what rests on it: of a history that cannot be read nothing is known.

    A store whose clock is too far from that of this process counts as one that does not answer. Somebody asks it for
    its time now and then, until both agree.
    """

    def __init__(self, store: Remote, *, clock: Callable[[], float] = monotonic) -> None:
        self._store, self._local = store, MemoryStore()
        self.skew = store.skew
        self.breaker = Breaker(clock)
        self._clock, self._lock, self._looks = clock, Lock(), 0.0
        self._late: deque[tuple[tuple[Record, ...], str]] = deque(maxlen=MOST_LATE)

    @property
    def failures(self) -> int:
        """Calls that were not answered by the store."""
        return self.breaker.failures

    def ping(self) -> None:
        """Whether it answers, asked for itself: it raises StoreError where it does not."""
        with self.breaker:
            self._store.ping()

    def close(self) -> None:
        """Gives its connections back."""
        self._store.close()

    def follow(self, clock: Callable[[], int]) -> None:
        """From now on the clock of the store is compared with this one (microseconds), beginning at once. Where it does
        not answer, whoever asks it next finds out."""
        self.skew.clock = clock
        with suppress(StoreError):
            self.check(clock())

    def about(self) -> str:
        """Which store it is. Raises StoreError."""
        return self._store.about()

    def check(self, now: int) -> None:
        with self.breaker:
            self._store.check(now)

    @property
    def marks(self) -> GuardedMarks:
        return GuardedMarks(self._store.marks, self.breaker, self._agree, self.skew)

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        names = list(approvals)
        if not names:
            return frozenset()
        with self.breaker:
            return self._store.spent_among(names)

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> Settled | None:
        try:
            self._agree()
            with self.breaker:
                told = self._store.commit(effects, decision, now, peek=peek)
        except StoreError as error:
            return self._without(effects, decision, now, peek, error)
        if self._late:
            self._remember_late(now)
        return told

    def commit_many(self, asked: Sequence[Asked], now: int) -> list[Settled | None]:
        told: Sequence[Committed]
        try:
            self._agree()
            with self.breaker:
                told = self._store.commit_many(asked, now)
        except StoreError as error:
            told = [error] * len(asked)

        def answered(one: Asked, answer: Committed) -> Settled | None:
            if isinstance(answer, StoreError):
                return self._without(one.effects, one.decision, now, one.peek, answer)
            return answer

        return [answered(*pair) for pair in zip(asked, told, strict=True)]

    def begin(self, watches: Iterable[str], now: int) -> None:
        """Where it is not answered, it begins when somebody first asks and is."""
        try:
            with self.breaker:
                self._store.begin(list(watches), now)
        except StoreError:
            return

    def end(self, watches: Iterable[str]) -> None:
        with self.breaker:
            self._store.end(list(watches))

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        """Of a key that is not in it nothing is known."""
        try:
            self._agree()
            with self.breaker:
                found = self._store.fetch(list(keys), now)
            self.skew.check()
            return found
        except ClockSkewError as error:
            return Unread(error.reason)
        except StoreError:
            return {}

    def report(self, decision: str, report: Report, now: int) -> Reported | None:
        with self.breaker:
            return self._store.report(decision, report, now)

    def finish(self, decision: str, now: int, *, refund: bool = False) -> bool:
        """Of what this process counted by itself, too."""
        here = self._local.finish(decision, now, refund=refund)
        with self.breaker:
            return self._store.finish(decision, now, refund=refund) or here

    def claim(self, claim: Claim, now: int) -> Found | None:
        with self.breaker:
            return self._store.claim(claim, now)

    def release(self, claim: Claim, now: int) -> None:
        with self.breaker:
            self._store.release(claim, now)

    def _agree(self) -> None:
        """Raises StoreError while the clocks differ by too much: whoever comes after a pause looks whether they do."""
        if not self.skew.exceeded:
            return
        with self._lock:
            looks = self._clock() >= self._looks
            if looks:
                self._looks = self._clock() + PAUSE
        if looks:
            self.check(self.skew.clock())
        self.skew.check()

    def _without(self, effects: Effects, decision: str, now: int, peek: bool, error: StoreError) -> Settled | None:
        if effects.denied and effects.records and not peek:
            self._late.append((effects.records, decision))
        history = (effects.records or effects.relied) and not effects.denied
        denied = effects.spends or history or any(one.charge.failing == "deny" for one in effects.limits)
        if denied:
            stands = tuple(untouched(None, one.charge, now)._replace(admitted=False) for one in effects.limits)
            return Settled(stands, now, str(error), error.reason)
        local = [one for one in effects.limits if one.charge.failing == "local"]
        counted = Effects(limits=tuple(local), denied=effects.denied, opens=effects.opens, confirms=effects.confirms)
        told = self._local.commit(counted, decision, now, peek=peek)
        answers: Iterator[Standing] = iter(told.standings if told is not None else ())
        return Settled(
            tuple(
                next(answers) if one.charge.failing == "local" else untouched(None, one.charge, now)
                for one in effects.limits
            ),
            now,
        )

    def _remember_late(self, now: int) -> None:
        """What was denied meanwhile happened, and counts where rules ask for it."""
        for _ in range(LATE_AT_ONCE):
            try:
                records, decision = self._late.popleft()
            except IndexError:
                return
            try:
                with self.breaker:
                    self._store.commit(Effects(denied=True, records=records), decision, now)
            except StoreError:
                self._late.appendleft((records, decision))
                return
