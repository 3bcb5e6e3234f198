"""When what was written is forced to the disk, so that it is still there when the machine loses power."""

from __future__ import annotations

import os
from enum import StrEnum
from threading import Event, Thread

FSYNC_INTERVAL_SECONDS = 1.0  # seconds


class Sync(StrEnum):
    """NEVER: when the system does, mostly within half a minute; SECOND: each second; ALWAYS: before it is answered."""

    NEVER = "never"
    SECOND = "second"
    ALWAYS = "always"


class FileSyncer:
    """What one process does about it. What cannot be forced to the disk is as if it was not written."""

    def __init__(self, sync: Sync, every: float) -> None:
        self.sync, self._every = sync, every
        self._process = 0  # whose thread it is
        self._dirty, self._file, self._failed = Event(), -1, None

    _failed: OSError | None

    def wrote(self, file: int, *, at_once: bool = False) -> None:
        """Raises OSError: also for what was written in the second before. `at_once` starts no thread: a process that
        has one cannot be forked into workers."""
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

    def leaving(self, file: int) -> None:
        """Before another file takes its place. Raises OSError."""
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
