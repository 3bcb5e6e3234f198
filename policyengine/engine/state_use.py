"""Describes the state that an engine needs from its store, and checks whether the store can provide it."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from policyengine.clock import MICROSECOND
from policyengine.kernel import Confirm, Kernel
from policyengine.stores.base import Store, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore


@dataclass(frozen=True)
class StateUse:
    """The store of one engine, and the state that its policies and credentials keep there."""

    kernel: Kernel
    store: Store
    verifies_credentials: bool = False  # if true, the store records which credentials were used or revoked

    @cached_property
    def has_confirms(self) -> bool:
        """Whether a guard requests an approval."""
        return any(isinstance(effect, Confirm) for guard in self.kernel.guards for effect in guard.effects)

    @cached_property
    def keeps_state(self) -> bool:
        """Whether decisions depend on earlier decisions: on limits, approvals, history or learned behavior."""
        return self.has_confirms or bool(self.kernel.limits or self.kernel.watches or self.kernel.reads_behavior)

    @cached_property
    def uses_store(self) -> bool:
        """Whether decisions depend on earlier decisions, or on used and revoked credentials."""
        return self.keeps_state or self.verifies_credentials

    @cached_property
    def requires_store(self) -> bool:
        """Whether the engine denies while the store fails. Limits with `on store failure allow` or `local` do not
        require it."""
        stateful = self.has_confirms or bool(self.kernel.watches) or self.verifies_credentials
        return stateful or any(limit.failing == "deny" for limit in self.kernel.limits)

    @cached_property
    def is_remote(self) -> bool:
        """Whether the store is outside this process."""
        return not isinstance(self.store, MemoryStore)

    @cached_property
    def is_shared(self) -> bool:
        """Whether decisions keep state outside this process, so that a caller may wait for the store."""
        return self.keeps_state and self.is_remote

    @cached_property
    def is_ephemeral(self) -> bool:
        """Whether counts, spent approvals and revocations are lost when this process ends, and are invisible to other
        processes."""
        return self.uses_store and not self.is_remote

    @cached_property
    def history_names(self) -> frozenset[str]:
        """The events that the policies need the store to record."""
        return frozenset(watch.event.watch for watch in self.kernel.watches)

    def start_history(self, now: Callable[[], int]) -> None:
        """Start recording these events at `now()` (microseconds since 1970). Raises StoreError."""
        if self.history_names:
            self.store.begin(self.history_names, now())

    def stop_history(self, names: Set[str]) -> None:
        """Stop recording these events. A rule that needs one of these events later starts without history. Raises
        StoreError."""
        if names:
            self.store.end(names)

    def find_failure(self, now: int) -> str | None:
        """Read from the store and write to it; return the error in words for callers, or None."""
        try:
            self.store.check(now)
        except StoreError as error:
            return error.reason
        return None

    @property
    def clock_skew(self) -> timedelta | None:
        """How far the store's clock is ahead of the clock of this process, by the store's latest answer; None if the
        store has no clock."""
        offset = self.store.skew.offset if isinstance(self.store, ResilientStore) else None
        return None if offset is None else offset * MICROSECOND
