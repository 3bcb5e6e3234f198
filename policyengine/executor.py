"""A thread pool for blocking calls, and a queue for long calculations, so that event loops do not wait."""

from __future__ import annotations

import gc
import os
from asyncio import get_running_loop, wrap_future
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from policyengine.fair_queue import FairQueue, never_gone

SWITCH_SECONDS = 0.001  # seconds until a calculating thread yields to the event loop
# The default pool of asyncio has few threads (about as many as CPUs), which calls to slow issuers would occupy.
MAX_THREADS = 64
P = ParamSpec("P")
T = TypeVar("T")
_pools: list[ThreadPoolExecutor] = []
_long_queue = FairQueue("policyengine-long")
_requester: ContextVar[Requester | None] = ContextVar("requester", default=None)


def thread_pool() -> ThreadPoolExecutor:
    """Return the pool of this process."""
    if not _pools:
        _pools.append(ThreadPoolExecutor(MAX_THREADS, "policyengine"))
    return _pools[0]


@dataclass(frozen=True, slots=True)
class Requester:
    """The caller that waits for an answer: its `name`, by which callers take turns, and whether it `is_gone`."""

    name: Callable[[], str]
    is_gone: Callable[[], bool]


def enter_requester(requester: Requester) -> None:
    """Assign the long work of this task to a caller. The amount of work is bounded; each item waits for the caller's
    turn, and is dropped if the caller is gone.
    """
    _requester.set(requester)


def is_requester_gone() -> bool:
    """Return whether the caller no longer waits for this work."""
    requester = _requester.get()
    return requester is not None and requester.is_gone()


def submit_long(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> Future[T]:
    """Run long work in the queue, one item at a time, because more calculating threads would delay the event loop
    further.

    Callers take turns. Work without a caller comes from this process itself and is not bounded. Raises
    WorkRefusedError.
    """
    whole = partial(copy_context().run, without_gc, partial(work, *args, **given))
    requester = _requester.get()
    if requester is None:
        return _long_queue.submit("", whole, never_gone, bounded=False)
    return _long_queue.submit(requester.name(), whole, requester.is_gone)


def without_gc(work: Callable[[], T]) -> T:
    """Run without garbage collection, which would stop all threads while many objects are created."""
    before = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if before:
            gc.enable()


async def run_in_turn(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """Run long work from an event loop when its turn comes. Raises WorkRefusedError."""
    return await wrap_future(submit_long(work, *args, **given))


async def run_in_thread(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """Run blocking work in the pool, like `asyncio.to_thread`."""
    return await get_running_loop().run_in_executor(thread_pool(), partial(copy_context().run, work, *args, **given))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork
    os.register_at_fork(after_in_child=_long_queue.reset)
