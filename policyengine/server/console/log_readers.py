"""A small pool of processes that read the log for pages; each process answers one question at a time."""

from __future__ import annotations

from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from policyengine.audit.query.log_process import LogReader

MAX_READERS = 2


class LogReaderPool:
    """A pool of readers, whose processes start when they are first used."""

    def __init__(self) -> None:
        self._turns = Semaphore(MAX_READERS)
        self._all = tuple(LogReader() for _ in range(MAX_READERS))
        self._free = list(self._all)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[LogReader]:
        """Wait until a reader is free, and keep it until the end of the block."""
        async with self._turns:
            reader = self._free.pop()
            try:
                yield reader
            finally:
                self._free.append(reader)

    def close(self) -> None:
        """End the processes of all readers."""
        for reader in self._all:
            reader.close()
