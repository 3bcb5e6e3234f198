"""Forces log lines to disk (fsync), so that they survive a power failure."""

from __future__ import annotations

import os
from enum import StrEnum
from threading import Event, Thread

FSYNC_INTERVAL_SECONDS = 1.0  # seconds between two writes to disk


class Sync(StrEnum):
    """When to force lines to disk. NEVER: leave it to the system, which usually does so within 30 seconds; SECOND:
    every second; ALWAYS: before each answer."""

    NEVER = "never"
    SECOND = "second"
    ALWAYS = "always"


class FileSyncer:
    """Forces the lines of one process to disk. A line that cannot be forced counts as not written."""

    def __init__(self, sync: Sync, every: float) -> None:
        self.sync, self._every = sync, every
        self._process = 0  # the process that the thread belongs to
        self._dirty, self._file, self._failed = Event(), -1, None

    _failed: OSError | None

    def wrote(self, file: int, *, at_once: bool = False) -> None:
        """Record a write, and force it to disk as configured. Raises OSError, also for an earlier failure in the thread
        that forces lines every second. `at_once` forces the line in this thread instead, because a process with threads
        cannot be forked into workers."""
        if self.sync is Sync.ALWAYS or (at_once and self.sync is Sync.SECOND):
            os.fdatasync(file)
        elif self.sync is Sync.SECOND:
            self._file = file
            if self._process != os.getpid():  # threads do not survive a fork
                self._process, self._dirty = os.getpid(), Event()
                Thread(target=self._run, args=(self._dirty,), name="log sync", daemon=True).start()
            self._dirty.set()
            if self._failed is not None:
                raise self._failed

    def sync_old_file(self, file: int) -> None:
        """Force the old file to disk before a new file replaces it. Raises OSError."""
        if self.sync is not Sync.NEVER:
            os.fdatasync(file)

    def _run(self, dirty: Event) -> None:
        pause = Event()
        while True:
            dirty.wait()
            pause.wait(self._every)
            dirty.clear()
            try:
                os.fdatasync(self._file)
                self._failed = None
            except OSError as error:
                self._failed = error
