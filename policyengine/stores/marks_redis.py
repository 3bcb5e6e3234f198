"""Marks in Redis or Valkey, alone or in a Cluster, shared by machines."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from policyengine.stores.marks import LINGERS
from policyengine.stores.step import digest_of
from policyengine.stores.wires import Script

MARK = Script.of("mark.lua")


class RedisMarks:
    """Each call is one script in one round trip; `run` calls it, with its keys and its arguments.

    Ends are compared by the clock of whoever asks. How long the server keeps a mark is counted from when it is told, so
    that its own clock may be any.
    """

    remote = True
    version = 0

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def once(self, name: str, until: int, now: int) -> bool:
        return bool(self._run(MARK, [marked_key(name)], "once", now, until, lasts(until, now)))

    def take(self, name: str, now: int) -> bool:
        return bool(self._run(MARK, [marked_key(name)], "take", now, 0, 0))

    def revoke(self, names: Collection[str], until: int, now: int) -> None:
        if names:
            self._run(MARK, [revoked_key(one) for one in names], "revoke", now, until, lasts(until, now))

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        asked = list(names)
        if not asked:
            return frozenset()
        places = self._run(MARK, [revoked_key(one) for one in asked], "revoked", now, 0, 0)
        return frozenset(asked[place - 1] for place in places)


def lasts(until: int, now: int) -> int:
    return (max(0, until - now) + LINGERS) * 1_000


def marked_key(name: str) -> str:
    return f"policyengine:marked:{digest_of(name)}"


def revoked_key(name: str) -> str:
    """In one slot, so that a Cluster answers for all names of a credential at once."""
    return f"policyengine:{{revoked}}:{digest_of(name)}"
