"""Credential marks in Redis, Valkey or a Redis Cluster, shared by machines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from policyengine.stores.credential_marks import LINGER_SECONDS
from policyengine.stores.redis.connection import RedisScript
from policyengine.stores.transition import digest_parts

MARK = RedisScript.of("mark.lua")


class RedisMarks:
    """Credential marks in Redis.

    Each call is one script in one round trip; `run` calls a script with keys and arguments. Ends are compared with the
    clock of the caller, like the expiry of credentials. Each answer contains the server's time; if the caller's clock
    differs too much from it, the marks are not used (`resilient_store.py`). The lifetime of a mark on the server begins
    when the mark is written.
    """

    remote = True
    version = 0

    def __init__(self, run: Callable[..., Any], timed: Callable[[int, int], None], clock: Callable[[], int]) -> None:
        """Create the marks. `timed` is called with the time of the call, by the `clock` of this process, and the time
        in the server's answer."""
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
    """Return the key of a revocation; all are in one slot, so a Cluster checks all names in one call."""
    return f"policyengine:{{revoked}}:{digest_parts(name)}"
