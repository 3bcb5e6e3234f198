"""Threads for what waits for somebody else, so that an event loop does not: more of them than may wait for issuers."""

from __future__ import annotations

import gc
import os
from asyncio import get_running_loop, wrap_future
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

SWITCH = 0.001  # seconds until a thread that calculates lets an event loop have its turn
MOST = 64  # the loop's own are as few as there are processors, and whoever waits for an issuer would have all of them
P = ParamSpec("P")
T = TypeVar("T")
_pools: list[ThreadPoolExecutor] = []
_one: list[ThreadPoolExecutor] = []


def pool() -> ThreadPoolExecutor:
    """That of this process."""
    if not _pools:
        _pools.append(ThreadPoolExecutor(MOST, "policyengine"))
    return _pools[0]


def begin(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> Future[T]:
    """Does what takes long without waiting for anybody: one after the other, as an event loop that shares its
    interpreter with more threads waits longer for its turn."""
    if not _one:
        _one.append(ThreadPoolExecutor(1, "policyengine-long"))
    return _one[0].submit(copy_context().run, uncollected, partial(work, *args, **given))


def uncollected(work: Callable[[], T]) -> T:
    """While much is read, nobody looks for garbage in it: all threads would wait for that."""
    before = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if before:
            gc.enable()


async def in_turn(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """The same, for an event loop."""
    return await wrap_future(begin(work, *args, **given))


async def in_thread(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """As `asyncio.to_thread`."""
    return await get_running_loop().run_in_executor(pool(), partial(copy_context().run, work, *args, **given))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads stay where they began
    os.register_at_fork(after_in_child=_one.clear)
