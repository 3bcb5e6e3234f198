"""Opens the tracker of learned behavior: in this process, or in the store that processes share."""

from __future__ import annotations

from pathlib import Path

from policyengine.behavior.folder import BehaviorFolderError
from policyengine.behavior.model_watch import ModelWatch
from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.stores.base import Store


def open_tracker(given: BehaviorTracker | SharedTracker | Path | None, store: Store) -> BehaviorTracker | SharedTracker:
    """Return the tracker for a store: the given one, or one that continues with the given folder. Raises
    BehaviorFolderError."""
    if store.behavior is None:
        if isinstance(given, SharedTracker):
            raise BehaviorFolderError(
                "a memory store does not keep what another store learned",
                "pass no tracker, or the tracker of the memory store",
            )
        if isinstance(given, BehaviorTracker):
            return given
        tracker = BehaviorTracker() if given is None else BehaviorTracker.open(given)
        tracker.state.on_model = ModelWatch().look
        return tracker
    if isinstance(given, Path | BehaviorTracker):
        raise BehaviorFolderError(
            "the store keeps what is learned about callers, for all processes that share the store",
            "do not name a folder",
        )
    return given or SharedTracker(store.behavior)
