"""Threads for what waits for somebody else, so that an event loop does not: more of them than may wait for issuers."""

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

SWITCH_SECONDS = 0.001  # seconds until a thread that calculates lets an event loop have its turn
MAX_THREADS = (
    64  # the loop's own are as few as there are processors, and whoever waits for an issuer would have all of them
)
P = ParamSpec("P")
T = TypeVar("T")
_pools: list[ThreadPoolExecutor] = []
_long_queue = FairQueue("policyengine-long")
_requester: ContextVar[Requester | None] = ContextVar("requester", default=None)


def thread_pool() -> ThreadPoolExecutor:
    """That of this process."""
    if not _pools:
        _pools.append(ThreadPoolExecutor(MAX_THREADS, "policyengine"))
    return _pools[0]


@dataclass(frozen=True, slots=True)
class Requester:
    """Who waits for an answer: the `name` by which it has its turn, and whether it `is_gone`."""

    name: Callable[[], str]
    is_gone: Callable[[], bool]


def enter_requester(requester: Requester) -> None:
    """What this task begins from now on is bounded, has its turn by that name, and is dropped when that is gone."""
    _requester.set(requester)


def is_requester_gone() -> bool:
    """Whether nobody waits any more for what is done here."""
    requester = _requester.get()
    return requester is not None and requester.is_gone()


def submit_long(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> Future[T]:
    """Does what takes long, one after the other, as an event loop that shares its interpreter with more threads waits
    longer for its turn. Callers have it in turn; who asks in this process itself may ask for as much as it likes.

    Raises WorkRefusedError.
    """
    whole = partial(copy_context().run, without_gc, partial(work, *args, **given))
    requester = _requester.get()
    if requester is None:
        return _long_queue.submit("", whole, never_gone, bounded=False)
    return _long_queue.submit(requester.name(), whole, requester.is_gone)


def without_gc(work: Callable[[], T]) -> T:
    """While much is read, nobody looks for garbage in it: all threads would wait for that."""
    before = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if before:
            gc.enable()


async def run_in_turn(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """The same, for an event loop. Raises WorkRefusedError."""
    return await wrap_future(submit_long(work, *args, **given))


async def run_in_thread(work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """As `asyncio.to_thread`."""
    return await get_running_loop().run_in_executor(thread_pool(), partial(copy_context().run, work, *args, **given))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads stay where they began
    os.register_at_fork(after_in_child=_long_queue.reset)
