"""Requests of one client that are answered in tasks of their own, at the lowest cost that keeps them cancellable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio

from policyengine.install_hints import install_command

try:
    from mcp.shared.message import ClientMessageMetadata
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error


class RequestTasks:
    """The tasks of the requests in progress. The scope of each request cancels its task, so that a report of its
    outcome is still shielded: a task group would add a second scope to each.
    """

    def __init__(self) -> None:
        self._scopes: dict[asyncio.Future[None], anyio.CancelScope] = {}

    def start(self, answer: Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]) -> anyio.CancelScope:
        """Start a task, which enters the scope that it gets; return the scope."""
        scope = anyio.CancelScope()
        task = asyncio.create_task(answer(scope))
        self._scopes[task] = scope
        task.add_done_callback(self._scopes.pop)
        return scope

    async def run(self, answer: Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]) -> None:
        """Answer a request in this task, which continues if the request is cancelled."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        scope = self._scopes[ended] = anyio.CancelScope()
        try:
            await answer(scope)
        finally:
            del self._scopes[ended]
            ended.set_result(None)

    async def cancel(self) -> None:
        """Cancel all requests, and wait until they have ended."""
        if self._scopes:
            for scope in self._scopes.values():
                scope.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait(tuple(self._scopes))


class RequestStart:
    """The moment at which a request is sent, is answered or begins to wait; then the next message is read."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def started(self) -> None:
        """Record that the request has started; later calls have no effect."""
        if not self._future.done():
            self._future.set_result(None)

    @property
    def is_over(self) -> bool:
        return self._future.done()

    async def wait(self) -> None:
        await self._future


@dataclass
class AwaitedRequest(ClientMessageMetadata):
    """The metadata of a request whose sender has nothing else to do until it is answered. `start` is the moment from
    which on the sender waits."""

    start: RequestStart | None = None


class AnswerWait:
    """A wait for one answer, at most for `limit` seconds, without a scope or a task."""

    def __init__(self) -> None:
        self._future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        return self._future.done()

    def end(self, *, in_time: bool = True) -> None:
        if not self._future.done():
            self._future.set_result(in_time)

    async def wait(self, limit: float) -> bool:
        """Return whether the answer came in time."""
        timer = asyncio.get_running_loop().call_later(limit, self._time_out)
        try:
            return await self._future
        finally:
            timer.cancel()

    def _time_out(self) -> None:
        self.end(in_time=False)
