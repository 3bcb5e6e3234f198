"""History in a Redis Cluster: the lines of one key are in one slot, which one script reads and changes as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import urandom
from typing import Any, NamedTuple, TypeAlias
from typing import Literal as Word

from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, Record, Report, Reported, WindowKey
from policyengine.stores.history_rows import awaited_until, told_of, watch_of
from policyengine.stores.redis.connection import Script
from policyengine.stores.redis.history_cache import Following
from policyengine.stores.redis.store import FETCH, PREFIX, REPORT, Names, fetched, key_of, recording
from policyengine.stores.transition import digest_of

LINES = Script.of("past.lua", "lines.lua")
SHARES = 64  # of all histories: so many slots, each of which knows since when it knows all
Task: TypeAlias = Word["lock", "keep", "free", "once"]
Run: TypeAlias = Callable[..., Any]


class Slot(NamedTuple):
    """What a decision relies on, and is remembered by, in one slot."""

    names: Names
    relied: tuple[tuple[WindowKey, int], ...]
    records: tuple[Record, ...]


class Try:
    """One attempt to decide: its slots are locked until it is known what becomes of it."""

    def __init__(self, run: Run, effects: Effects, decision: str, given: int | bool) -> None:
        self.slots = tuple(slots_of(effects))
        self._run, self._decision, self._given = run, decision, given
        self._name, self._locked, self._serial = urandom(8).hex(), list[Slot](), 0

    def lock(self) -> bool:
        """Whether all histories are as they were, and nobody else is about to change them."""
        for slot in self.slots:
            told = self._do("lock", slot, False)
            if told is None:
                return False
            self._locked.append(slot)
            self._serial = max(self._serial, int(told))
        return True

    def keep(self) -> bool:
        """Whether it is remembered; it is not where somebody else was quicker."""
        if not self._locked:
            return all(self._do("once", slot, False) is not None for slot in self.slots)
        while self._locked:
            if self._do("keep", self._locked[-1], self._serial) is None:
                return False
            self._locked.pop()
        return True

    def free(self) -> None:
        while self._locked:
            self._do("free", self._locked.pop(), False)

    def _do(self, task: Task, slot: Slot, serial: int | bool) -> Any:
        names, relied, records = slot
        lines = [names.line(key) for key in (*(key for key, _ in relied), *map(key_of, records))]
        beside = names.awaited(self._decision), names.changes, names.begun, names.clock
        keys = [*lines, *(f"{line}:lock" for line in lines), *beside]
        versions, recordings = [version for _, version in relied], [recording(one) for one in records]
        asked = self._given, self._decision, task, self._name, versions, recordings, serial
        return self._run(LINES, keys, msgpack.encode(asked))


def slots_of(effects: Effects) -> Iterator[Slot]:
    relied = {names_of(key): () for key, _ in effects.relied} | {names_of(key_of(one)): () for one in effects.records}
    for names in sorted(relied):
        yield Slot(
            names,
            tuple(one for one in effects.relied if names_of(one[0]) == names),
            tuple(one for one in effects.records if names_of(key_of(one)) == names),
        )


def names_of(key: WindowKey) -> Names:
    return share(int(digest_of(key[1])[:8], 16) % SHARES)


def share(number: int) -> Names:
    """A name in braces says in which slot all of it is."""
    return Names(f"{PREFIX}:{{h{number}}}")


def index_of(decision: str) -> str:
    return f"{PREFIX}:awaited:{digest_of(decision)}"


def index(effects: Effects, now: int) -> tuple[bytes, int] | None:
    """Where the outcome of a decision is waited for, and until when; None where it is not."""
    until = awaited_until(effects.records, now)
    found = {names_of(key_of(one)).prefix for one in effects.records if one.awaits}
    return (msgpack.encode(sorted(found)), until) if found else None


def begin(run: Run, watches: Iterable[str], given: int | bool) -> None:
    asked = msgpack.encode((given, [watch_of(one) for one in watches], (), ()))
    for number in range(SHARES):
        run(FETCH, [share(number).begun, share(number).clock], asked)


def all_begun() -> Iterator[str]:
    """Where each slot has what was begun."""
    return (share(number).begun for number in range(SHARES))


def fetch(
    run: Run, keys: Sequence[WindowKey], begun: frozenset[str], given: int | bool, following: Following
) -> Mapping[WindowKey, History]:
    """Each slot by the clock of the server that has it."""
    found: dict[WindowKey, History] = {}
    for names in sorted({names_of(key) for key in keys}):
        here = [key for key in keys if names_of(key) == names]
        found |= fetched(run, names, here, begun, given, following)
    return found


def report(run: Run, names: Names, raw: bytes, decision: str, report: Report, given: int | bool) -> Reported | None:
    """In one slot, where `raw` is waited for."""
    waiting = msgpack.decode(raw)[2]
    reports = [(number, told_of(report, outputs)) for _, number, outputs in waiting]
    keys = [names.awaited(decision), names.changes, names.clock, *(line for line, _, _ in waiting)]
    told = run(REPORT, keys, msgpack.encode((given, decision, reports)))
    return None if told is None else "again" if told else "first"
