"""History in a Redis Cluster: the lines of one key are in one slot, which one script reads and changes atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import urandom
from typing import Any, NamedTuple, TypeAlias
from typing import Literal as Word

from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, HistoryRecord, OutcomeReport, ReportStatus, WindowKey
from policyengine.stores.history_rows import encode_report, outcome_deadline, watch_key
from policyengine.stores.redis.connection import RedisScript
from policyengine.stores.redis.history_cache import HistoryCache
from policyengine.stores.redis.step import PREFIX, RedisKeys, encode_record, record_key
from policyengine.stores.redis.store import FETCH, REPORT, fetch_histories
from policyengine.stores.transition import digest_parts

LINES = RedisScript.of("past.lua", "lines.lua")
SLOT_COUNT = 64  # slots of all histories; each slot has its own times after which its histories are complete
SlotTask: TypeAlias = Word["lock", "keep", "free", "once"]
RunScript: TypeAlias = Callable[..., Any]


class HistorySlot(NamedTuple):
    """The histories in one slot that a decision relies on, and the events that it records there."""

    names: RedisKeys
    relied: tuple[tuple[WindowKey, int], ...]
    records: tuple[HistoryRecord, ...]


class HistoryLock:
    """One attempt to commit a decision, which locks its slots until the commit succeeds or fails."""

    def __init__(self, run: RunScript, effects: Effects, decision: str, given: int | bool) -> None:
        self.slots = tuple(history_slots(effects))
        self._run, self._decision, self._given = run, decision, given
        self._name, self._locked, self._serial = urandom(8).hex(), list[HistorySlot](), 0

    def lock(self) -> bool:
        """Lock the slots; return whether all histories are unchanged and no other attempt has locked a slot."""
        for slot in self.slots:
            told = self._do("lock", slot, False)
            if told is None:
                return False
            self._locked.append(slot)
            self._serial = max(self._serial, int(told))
        return True

    def keep(self) -> bool:
        """Record the events; return False if another attempt was faster."""
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

    def _do(self, task: SlotTask, slot: HistorySlot, serial: int | bool) -> Any:
        names, relied, records = slot
        lines = [names.line(key) for key in (*(key for key, _ in relied), *map(record_key, records))]
        beside = names.awaited(self._decision), names.changes, names.begun, names.clock
        keys = [*lines, *(f"{line}:lock" for line in lines), *beside]
        versions, recordings = [version for _, version in relied], [encode_record(one) for one in records]
        asked = self._given, self._decision, task, self._name, versions, recordings, serial
        return self._run(LINES, keys, msgpack.encode(asked))


def history_slots(effects: Effects) -> Iterator[HistorySlot]:
    relied = {keys_of_history(key): () for key, _ in effects.relied} | {
        keys_of_history(record_key(one)): () for one in effects.records
    }
    for names in sorted(relied):
        yield HistorySlot(
            names,
            tuple(one for one in effects.relied if keys_of_history(one[0]) == names),
            tuple(one for one in effects.records if keys_of_history(record_key(one)) == names),
        )


def keys_of_history(key: WindowKey) -> RedisKeys:
    return slot_keys(int(digest_parts(key[1])[:8], 16) % SLOT_COUNT)


def slot_keys(number: int) -> RedisKeys:
    """Return the keys of a slot; the name in braces makes the Cluster keep them together."""
    return RedisKeys(f"{PREFIX}:{{h{number}}}")


def outcome_index_key(decision: str) -> str:
    return f"{PREFIX}:awaited:{digest_parts(decision)}"


def encode_outcome_index(effects: Effects, now: int) -> tuple[bytes, int] | None:
    """Return the encoded list of the slots whose histories await the outcome of a decision, with its expiry; None if no
    history awaits it."""
    until = outcome_deadline(effects.records, now)
    found = {keys_of_history(record_key(one)).prefix for one in effects.records if one.awaits}
    return (msgpack.encode(sorted(found)), until) if found else None


def begin(run: RunScript, watches: Iterable[str], given: int | bool) -> None:
    asked = msgpack.encode((given, [watch_key(one) for one in watches], (), ()))
    for number in range(SLOT_COUNT):
        run(FETCH, [slot_keys(number).begun, slot_keys(number).clock], asked)


def begun_keys() -> Iterator[str]:
    """Yield, for each slot, the key of the watches that have begun."""
    return (slot_keys(number).begun for number in range(SLOT_COUNT))


def fetch(
    run: RunScript, keys: Sequence[WindowKey], begun: frozenset[str], given: int | bool, following: HistoryCache
) -> Mapping[WindowKey, History]:
    """Fetch histories slot by slot, each by the clock of its server."""
    found: dict[WindowKey, History] = {}
    for names in sorted({keys_of_history(key) for key in keys}):
        here = [key for key in keys if keys_of_history(key) == names]
        found |= fetch_histories(run, names, here, begun, given, following)
    return found


def report(
    run: RunScript, names: RedisKeys, raw: bytes, decision: str, report: OutcomeReport, given: int | bool
) -> ReportStatus | None:
    """Report an outcome in one slot; `raw` is the encoded entry that lists the events that await the outcome. Return
    None if the wait has ended.
    """
    waiting = msgpack.decode(raw)[2]
    reports = [(number, encode_report(report, outputs)) for _, number, outputs in waiting]
    keys = [names.awaited(decision), names.changes, names.clock, *(line for line, _, _ in waiting)]
    told = run(REPORT, keys, msgpack.encode((given, decision, reports)))
    return None if told is None else "again" if told else "first"
