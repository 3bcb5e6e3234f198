"""Searches for pools in another process, so that neither the work nor the memory of the search delays decisions.

The process reads the events from its input, and writes the pools to its output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Final

from msgspec import MsgspecError, Struct, msgpack

from policyengine.behavior.lockstep.columns import EventColumns
from policyengine.behavior.lockstep.detection import LockstepError
from policyengine.behavior.lockstep.pools import LockstepPool, find_pools
from policyengine.child_processes import child_environment, python_command

NICENESS: Final = 10
TIMEOUT_SECONDS: Final = 1_800.0
COMMAND: Final = "from policyengine.behavior.lockstep.search_process import main; main()"


class SearchedEvents(Struct, array_like=True):
    """The events of a window in columns, and the time since which each caller is ready."""

    begin: int
    end: int
    times: bytes
    callers: bytes
    endpoints: bytes
    runs: bytes
    ready: tuple[int, ...]


class PoolSearch:
    """Runs the search process. Another thread may call `stop`, which ends the process and refuses later searches."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def find(self, columns: EventColumns, ready: Sequence[int]) -> tuple[LockstepPool, ...]:
        """Return the pools that `find_pools` returns. Raises LockstepError."""
        events = SearchedEvents(
            columns.begin, columns.end, columns.times.tobytes(), columns.callers.tobytes(),
            columns.endpoints.tobytes(), columns.runs.tobytes(), tuple(ready),
        )  # fmt: skip
        try:
            process = self._start()
            output, errors = process.communicate(msgpack.encode(events), TIMEOUT_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LockstepError(f"the search failed: {error}") from None
        finally:
            self._end()
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines()
            raise LockstepError(lines[-1] if lines else f"the search ended with code {process.returncode}")
        try:
            return msgpack.decode(output, type=tuple[LockstepPool, ...])
        except MsgspecError as error:
            raise LockstepError(f"the search failed: {error}") from None

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_stopped:
                raise LockstepError("the search was stopped")
            self._process = subprocess.Popen(
                python_command(COMMAND), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True, env=child_environment(),
            )  # fmt: skip
            return self._process

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End the process, if it runs, and refuse further searches."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def restart(self) -> None:
        """Allow searches again."""
        self._is_stopped = False


def search(raw: bytes) -> bytes:
    """Return the encoded pools of encoded events. Raises LockstepError."""
    events = msgpack.decode(raw, type=SearchedEvents)
    columns = EventColumns(events.begin, events.end)
    columns.times, columns.callers = array("I", events.times), array("I", events.callers)
    columns.endpoints, columns.runs = array("I", events.endpoints), array("I", events.runs)
    return msgpack.encode(find_pools(columns, events.ready))


def main() -> None:
    with suppress(OSError):
        os.nice(NICENESS)
    try:
        sys.stdout.buffer.write(search(sys.stdin.buffer.read()))
    except LockstepError as error:
        sys.exit(str(error))
