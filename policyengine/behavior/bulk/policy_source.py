"""The policies of callers, as each way of learning needs them."""

from __future__ import annotations

from typing import Protocol

from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.reader import BehaviorReader
from policyengine.behavior.state import BehaviorState


class PolicySource(Protocol):
    """The settings of classes, and the reader of requests, which is None without policies. `revision` is the revision
    of the policies; empty without policies."""

    @property
    def revision(self) -> str: ...
    def settings_of(self, group: str, /) -> ProfileSettings: ...
    def reader(self, state: BehaviorState) -> BehaviorReader | None: ...
