"""The interface of all transports of sinks, which send lines or report why they cannot send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from policyengine.audit.record_summary import RecordSummary, find_record, kind_of, summarize


class SinkError(Exception):
    """The error for lines that could not be sent, and will be sent again later; `why` contains nothing secret.
    `retry_after` is the number of seconds that the receiver asks to wait."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.why, self.retry_after = why, retry_after


class LinesRefusedError(SinkError):
    """The error for lines that the receiver refuses, and would refuse again."""


@dataclass(frozen=True)
class SinkLine:
    """A line of the log to send, without its newline, and its decoded members."""

    raw: bytes
    tree: Mapping[str, Any]

    @cached_property
    def summary(self) -> RecordSummary:
        """The members that other systems index."""
        return summarize(self.tree)

    @cached_property
    def severity(self) -> str:
        """The severity of the record: `info`, `notice`, `warning` or `error`."""
        if self.summary.kind in ("system", "seal"):
            return "error" if (self.summary.event or "").endswith(("_failure", "_refused")) else "notice"
        if self.summary.gate == "failure" or (self.summary.status or 0) >= 500:
            return "error"
        if self.summary.outcome == "deny" or self.summary.kind == "not_issued":
            return "warning"
        return "notice" if self.summary.outcome in ("confirm", "throttle") or self.summary.kind == "ended" else "info"


class Transport(Protocol):
    """Sends lines to one receiver."""

    def send(self, lines: Sequence[SinkLine]) -> int:
        """Send the lines; return how many of them the receiver dropped although it accepted the batch. Raises
        SinkError, LinesRefusedError."""
        ...

    def close(self) -> None:
        """Close the connection; the next `send` opens another one."""
        ...


def read_sink_line(raw: bytes) -> SinkLine | None:
    """Return the line, or None if it is not to be sent, because it has entity rows, or because a killed process left it
    incomplete."""
    found = None if is_directory_start(raw) else find_record(raw)
    if found is None:
        return None
    return None if kind_of(found[1]) == "directory" else SinkLine(*found)


def is_directory_start(line: bytes) -> bool:
    """Return whether a line has entity rows, which sinks do not send."""
    return line.startswith((b'{"v":1,"directory":', b'{"v":2,"directory":'))
