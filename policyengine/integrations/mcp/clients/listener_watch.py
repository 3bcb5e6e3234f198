"""Ends the subscription of a caller that is halted meanwhile, or whose credentials expire or are revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.runtime.decision import Decision


class ListenerWatch:
    """Checks every `seconds` whether a caller may still listen; `refusal` says why its subscription was ended."""

    def __init__(self, decider: ClientMessageDecider, facts: Facts, seconds: float) -> None:
        self._decider, self._facts, self._seconds = decider, facts, seconds
        self.refusal: Decision | None = None

    @contextmanager
    def running(self, listening: anyio.CancelScope) -> Iterator[None]:
        """Cancel the scope when the caller may no longer listen."""
        task = asyncio.get_running_loop().create_task(self._watch(listening))
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self, listening: anyio.CancelScope) -> None:
        while self.refusal is None:
            await anyio.sleep(self._seconds)
            self.refusal = await self._decider.refuse_listener(self._facts)
        listening.cancel()
