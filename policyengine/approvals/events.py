"""The events of approvals, and the protocol of their listeners, such as webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from policyengine.approvals.model import ApprovalRequest


class ApprovalEventKind(StrEnum):
    """The kind of an event. `approved` means that enough people have approved the request; `test` is an event that an
    operator requests; it is not about a real approval."""

    OPENED = "opened"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    TEST = "test"


class ApprovalEvent(NamedTuple):
    """An event of an approval. `approval` has the state after the event; `at` is the time in microseconds since
    1970."""

    kind: ApprovalEventKind
    approval: ApprovalRequest
    at: int


class ApprovalListener(Protocol):
    """A receiver of events. Decisions call `notify`, so it must not wait."""

    def notify(self, event: ApprovalEvent) -> None:
        """Take an event. Never raises an error."""
        ...

    def wake(self) -> None:
        """Start the threads of this process."""
        ...

    def stop(self) -> None:
        """End the threads of this process."""
        ...

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return the counts of this process by metric key and name."""
        ...

    def gauges(self) -> Mapping[tuple[str, str], int]:
        """Return the current values by metric key and name."""
        ...
