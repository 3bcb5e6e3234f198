"""Limits the requests that one caller has in progress at an upstream server, so that others still reach it."""

from __future__ import annotations

import anyio

from policyengine.integrations.mcp.busy_errors import CALLER_BUSY, busy_error
from policyengine.integrations.mcp.clients.sessions import Owner


class CallerPlaces:
    """The requests in progress, at most `most` of each caller. Further requests wait for at most `seconds`."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._taken: dict[Owner, int] = {}
        self._freed: dict[Owner, anyio.Event] = {}

    def __len__(self) -> int:
        return len(self._taken)

    async def take(self, owner: Owner) -> None:
        """Take a place. Raises MCPError if no place becomes free in time."""
        taken = self._taken.get(owner, 0)
        if taken >= self._most:
            taken = await self._wait(owner)
        self._taken[owner] = taken + 1

    async def _wait(self, owner: Owner) -> int:
        with anyio.move_on_after(self._seconds):
            while (taken := self._taken.get(owner, 0)) >= self._most:
                await self._freed.setdefault(owner, anyio.Event()).wait()
            return taken
        raise busy_error(
            CALLER_BUSY,
            f"{self._most} requests of this caller are in progress",
            "wait until one of them has ended",
        )

    def give_back(self, owner: Owner) -> None:
        left = self._taken.pop(owner) - 1
        if left:
            self._taken[owner] = left
        if (freed := self._freed.pop(owner, None)) is not None:
            freed.set()
