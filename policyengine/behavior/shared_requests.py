"""The requests in which processes that share a store search for groups: each process adds its own requests to the
store.

The store contains no names: agents are known by the keyed hashes of their names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from threading import Lock
from typing import Final

from policyengine.behavior.events import Caller
from policyengine.behavior.recent_requests import MAX_DAY_EVENTS, SEARCHED_DAYS, RecentRequests, RequestsError
from policyengine.behavior.shared_keys import SharedKeys, sign_document, verify_document
from policyengine.stores.behavior import BehaviorStore

_LOG = logging.getLogger("policyengine")
MAX_WAITING: Final = 256  # parts that are kept while the store does not answer


class StoredRequests:
    """Collects the requests of this process, and sends them to the store from time to time."""

    def __init__(self, store: BehaviorStore) -> None:
        self._store, self._lock, self._sending = store, Lock(), Lock()
        self._new = RecentRequests()
        self._waiting: list[tuple[int, bytes]] = []  # parts, each with its day
        self._sent: dict[int, int] = {}  # how many requests of each day this process has sent

    def add(self, at: int, caller: Caller, hashed: str, endpoint: int, run: int, outcome: int) -> None:
        """Add a decision; `hashed` is the hash of the agent's name."""
        with self._lock:
            self._new.add(at, Caller(caller.issuer, hashed), endpoint, run, outcome)

    def send(self, keys: SharedKeys, now: int) -> None:
        """Send the requests that were not sent yet, each once, even if several threads call this method. Raises
        StoreError."""
        with self._sending:
            with self._lock:
                taken, self._new = self._new, RecentRequests()
            self._waiting += [(day, sign_document(part, keys.requests)) for day, part in self._pack_days(taken)]
            del self._waiting[:-MAX_WAITING]
            while self._waiting:
                self._store.add_requests(*self._waiting[0], now)
                del self._waiting[0]

    def _pack_days(self, taken: RecentRequests) -> Iterator[tuple[int, bytes]]:
        """Yield the parts of the days, at most MAX_DAY_EVENTS requests of each day."""
        for day, requests in taken.days.items():
            sent = self._sent.get(day, 0)
            count = min(requests.count, MAX_DAY_EVENTS - sent)
            if count > 0:
                self._sent = {each: number for each, number in self._sent.items() if day - each <= SEARCHED_DAYS}
                self._sent[day] = sent + count
                yield day, requests.pack(0, count)

    def load(self, keys: SharedKeys, until: int) -> RecentRequests:
        """Return the requests of all processes on the days before a day. Damaged parts are left out. Raises
        StoreError."""
        found, damaged = RecentRequests(), 0
        for day in range(until - SEARCHED_DAYS, until):
            for raw in self._store.requests(day):
                part = verify_document(raw, keys.requests)
                try:
                    found.merge(part or b"")
                except RequestsError:
                    damaged += 1
        if damaged:
            _LOG.error(
                "%d parts of the recent requests in the store are damaged, and are left out", damaged,
                extra={"event": "behavior_requests_damaged"},
            )  # fmt: skip
        return found
