"""What of a store an engine's decisions need: told from its kernel, its store, and whether it verifies credentials."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from policyengine.kernel import Confirm, Kernel
from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore


@dataclass(frozen=True)
class StateUse:
    """The parts that stay as they are while an engine decides."""

    kernel: Kernel
    store: Store

    @cached_property
    def confirms(self) -> bool:
        """Whether some guard asks for an approval."""
        return any(isinstance(effect, Confirm) for guard in self.kernel.guards for effect in guard.effects)

    @cached_property
    def keeps_state(self) -> bool:
        """Whether decisions depend on earlier ones: on limits, on approvals, or on history."""
        return self.confirms or bool(self.kernel.limits) or bool(self.kernel.watches)

    @cached_property
    def denies_without_store(self) -> bool:
        """Whether decisions are denied where the store fails: not where they only keep limits that say what else holds
        then, `local` or `allow`."""
        return self.confirms or bool(self.kernel.watches) or any(lim.failing == "deny" for lim in self.kernel.limits)

    @cached_property
    def is_remote(self) -> bool:
        """Whether the store is outside of this process."""
        return not isinstance(self.store, MemoryStore)

    @cached_property
    def shares_state(self) -> bool:
        """Whether decisions keep state in a store outside of this process: a caller may wait for it."""
        return self.keeps_state and self.is_remote

    @cached_property
    def watches(self) -> frozenset[str]:
        """Names of the histories that its rules ask for."""
        return frozenset(watch.event.watch for watch in self.kernel.watches)
