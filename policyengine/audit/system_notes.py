"""Writes lines about the server itself: start and stop, reloads, observe mode, and failures of the systems that it
depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import time_ns

from policyengine.audit.event_records import SystemEvent
from policyengine.log_throttle import LogThrottle

MAX_ITEMS = 50  # maximum items of a list in a line
# Events without a limit here: the actions of identified people, and the reports of pins, which have their own limit.
UNLIMITED_EVENTS = frozenset(
    {
        SystemEvent.APPROVAL,
        SystemEvent.HALT,
        SystemEvent.CONSOLE_SIGNED_IN,
        SystemEvent.CONSOLE_SIGNED_OUT,
        SystemEvent.CONSOLE_ANSWERED,
        SystemEvent.CONSOLE_HALTED,
        SystemEvent.CONSOLE_LIFTED,
        SystemEvent.TOOL_CHANGED,
    }
)
MAX_TEXT = 2_000  # maximum characters of a text in a line

WriteSystemLine = Callable[[Mapping[str, object], int], bool]


class SystemNotes:
    """Writes the lines about one server, at most 20 lines of each event per minute; the next line after that says how
    many were `suppressed`. UNLIMITED_EVENTS have no limit. `worker` is the number of the process, from 0, if there are
    several processes."""

    def __init__(self, write: WriteSystemLine) -> None:
        self._write, self._throttle = write, LogThrottle()
        self.worker: int | None = None
        self._log_failure: tuple[int, str] | None = None

    def write(self, event: SystemEvent | str, moment: int | None = None, /, **details: object) -> bool:
        """Write a line at a time in nanoseconds, by default now; details that are None or empty are left out. Return
        whether the line was written: a line above the limit is not. The log counts and reports a failure.
        """
        events = 1 if event in UNLIMITED_EVENTS else self._throttle.admit(event)
        if events is None:
            return False
        found: dict[str, object] = {"event": str(event)}
        found |= {name: bound_detail(value) for name, value in details.items() if value not in (None, "", (), [])}
        if self.worker is not None:
            found["worker"] = self.worker
        if events > 1:
            found["suppressed"] = events - 1
        return self._write(found, time_ns() if moment is None else moment)

    def remember_log_failure(self, error: OSError) -> None:
        """Remember a failure of the log itself, which can be written once the log works again."""
        self._log_failure = time_ns(), error.strerror or str(error)

    def write_log_failure(self, failures: int) -> None:
        """Write a line about the failure that has just ended; `failures` is the number of lines that this process could
        not write during it."""
        failure, self._log_failure = self._log_failure, None
        if failure is not None:
            began, why = failure
            self.write(SystemEvent.LOG_FAILURE, began, why=why)
            self.write(SystemEvent.LOG_RECOVERED, failures=failures)


def bound_detail(value: object) -> object:
    """Return a detail of bounded size. A list that is cut ends with a text that says how many items were left out."""
    match value:
        case str():
            return value if len(value) <= MAX_TEXT else f"{value[: MAX_TEXT - 1]}…"
        case Sequence() if len(value) > MAX_ITEMS:
            return [*map(bound_detail, value[:MAX_ITEMS]), f"{len(value) - MAX_ITEMS:,} more"]
        case Sequence():
            return list(map(bound_detail, value))
        case _:
            return value
