"""Threads for what waits for somebody else, so that an event loop does not: more of them than may wait for issuers."""

from __future__ import annotations

import os
from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

MOST = 64  # the loop's own are as few as there are processors, and whoever waits for an issuer would have all of them
P = ParamSpec("P")
T = TypeVar("T")
_pools: list[ThreadPoolExecutor] = []
_lanes: list[ThreadPoolExecutor] = []


def pool() -> ThreadPoolExecutor:
    """That of this process."""
    if not _pools:
        _pools.append(ThreadPoolExecutor(MOST, "policyengine"))
    return _pools[0]


async def in_thread(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """As `asyncio.to_thread`."""
    return await get_running_loop().run_in_executor(pool(), partial(copy_context().run, work, *args, **given))


def lane() -> ThreadPoolExecutor:
    """One thread for what takes long by itself: two of them would take the processor from the event loop by turns."""
    if not _lanes:
        _lanes.append(ThreadPoolExecutor(1, "policyengine-lane"))
    return _lanes[0]


async def in_lane(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """One after the other, in a thread beside the event loop."""
    return await get_running_loop().run_in_executor(lane(), partial(copy_context().run, work, *args, **given))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads stay where they began
    os.register_at_fork(after_in_child=_lanes.clear)
