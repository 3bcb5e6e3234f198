"""Marks in Redis or Valkey, alone or in a Cluster, shared by machines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from policyengine.stores.credential_marks import LINGER_SECONDS
from policyengine.stores.redis.connection import RedisScript
from policyengine.stores.transition import digest_parts

MARK = RedisScript.of("mark.lua")


class RedisMarks:
    """Each call is one script in one round trip; `run` calls it, with its keys and its arguments.

    Ends are compared by the clock of whoever asks, as those of the credentials are; where that is too far from the
    clock of the server, which tells it with each answer, nobody asks any more (`resilient_store.py`). How long the
    server keeps a mark is counted from when it is told.
    """

    remote = True
    version = 0

    def __init__(self, run: Callable[..., Any], timed: Callable[[int, int], None], clock: Callable[[], int]) -> None:
        """`timed` is told when it was asked, by the `clock` of this process, and the time that the server answered."""
        self._call, self._timed, self._clock = run, timed, clock

    def _run(self, what: str, keys: Sequence[str], now: int, until: int = 0, lasts: int = 0) -> Any:
        before = self._clock()
        told, seconds, micros = self._call(MARK, keys, what, now, until, lasts)
        self._timed(before, int(seconds) * 1_000_000 + int(micros))
        return told

    def once(self, name: str, until: int, now: int) -> bool:
        return bool(self._run("once", [marked_key(name)], now, until, mark_ttl(until, now)))

    def marked(self, name: str, now: int) -> bool:
        return bool(self._run("marked", [marked_key(name)], now))

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        if names:
            self._run("revoke", [revoked_key(one) for one in names], now, until, mark_ttl(until, now))

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        asked = list(names)
        if not asked:
            return frozenset()
        places = self._run("revoked", [revoked_key(one) for one in asked], now)
        return frozenset(asked[place - 1] for place in places)


def mark_ttl(until: int, now: int) -> int:
    return (max(0, until - now) + LINGER_SECONDS) * 1_000


def marked_key(name: str) -> str:
    return f"policyengine:marked:{digest_parts(name)}"


def revoked_key(name: str) -> str:
    """In one slot, so that a Cluster answers for all names of a credential at once."""
    return f"policyengine:{{revoked}}:{digest_parts(name)}"
