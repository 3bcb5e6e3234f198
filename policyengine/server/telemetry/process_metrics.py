"""Metrics of the process itself, which its worker publishes every second and on each scrape."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from time import process_time

from policyengine.circuit_breaker import PAUSE_SECONDS
from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.engine import Engine
from policyengine.executor import run_in_thread
from policyengine.reload import ReloadableEngine
from policyengine.server.telemetry.behavior_counts import publish_behavior
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import INSPECTION_INTERVAL_SECONDS, ResilientStore

PROC = Path("/proc/self")


def rule_names(engine: Engine) -> Iterator[str]:
    """Yield the names of guards and limits, as reasons cite them, in the order of the policies."""
    yield from (one.name for one in (*engine.kernel.guards, *engine.kernel.limits))


def publish_metrics(tally: ServerCounters, reloading: ReloadableEngine) -> None:
    engine, reloads = reloading.current, reloading.reloads
    if tally.engine is not engine:
        tally.learn(rule_names(engine))
        tally.engine = engine
    tally.reached("failures", count=engine.failures, of=engine)
    tally.only("revision", engine.revision, ",".join(engine.packages))
    halts = engine.halting.status
    tally.now("halts", value=len(halts.halts))
    tally.now("halts_unreadable", value=int(bool(halts.unreadable)))
    tally.now("observing", value=int(engine.observing is not None))
    if reloading.origin is not None:
        tally.now("reloads", "done", value=reloads.done)
        tally.now("reloads", "refused", value=reloads.refused)
        tally.now("reloads_widened", value=reloads.widened)
        for reason, count in reloads.reasons:
            tally.now("reload_refusals", reason, value=count)
    store, log, lookups = engine.store, engine.log, engine.directory.lookups
    if isinstance(store, ResilientStore):
        tally.reached("store_failures", count=store.failures, of=store)
        for breaker in (store.reads, store.writes):
            tally.now("store_failing", breaker.operation.name, value=int(breaker.failing))
        tally.now("clock_skew", value=abs(store.skew.offset or 0))
    if isinstance(store, ResilientStore | MemoryStore):
        tally.now("clock_skew_exceeded", value=int(store.skew.exceeded))
    if isinstance(store, MemoryStore):
        tally.reached("store_full", count=store.fullness.refusals, of=store)
    if log is not None:
        tally.reached("log_failures", count=log.failures, of=log)
        if log.sealer is not None:
            tally.reached("seal_failures", count=log.sealer.failures, of=log.sealer)
            with suppress(OSError):
                tally.now("unsealed", value=int(log.sealer.unsealed_seconds * MICROSECONDS_PER_SECOND))
        for sink in log.sinks.sinks if log.sinks is not None else ():
            for key, count in sink.counts.items():
                tally.reached(key, sink.name, count=count, of=sink)
            tally.now("sink_lag", sink.name, value=sink.lag)
    listener = engine.approval_settings.listener
    if listener is not None:
        for (key, name), count in listener.counts().items():
            tally.reached(key, name, count=count, of=listener)
        for (key, name), value in listener.gauges().items():
            tally.now(key, name, value=value)
    if engine.identity is not None:
        for code, count in list(engine.identity.counts.items()):
            tally.reached("credentials", code, count=count, of=engine.identity)
    if lookups is not None:
        tally.reached("directory_failures", count=lookups.failures, of=lookups)
    publish_behavior(tally, engine)
    tally.reached("cpu", count=int(process_time() * MICROSECONDS_PER_SECOND))
    publish_memory(tally)


async def inspect_store(engine: Engine, *, at_once: bool = False) -> None:
    """Check that the store accepts writes, even if there are no decisions. The store itself logs failures."""
    store = engine.store
    if isinstance(store, ResilientStore) and engine.state.uses_store:
        with suppress(StoreError):
            await run_in_thread(
                store.inspect, 0 if at_once else PAUSE_SECONDS if store.failing else INSPECTION_INTERVAL_SECONDS
            )


def publish_memory(tally: ServerCounters) -> None:
    """Publish the memory, the open files and their limit, as far as the system reports them."""
    with suppress(OSError, ValueError, IndexError):
        pages = int((PROC / "statm").read_text().split()[1])
        tally.now("memory", value=pages * os.sysconf("SC_PAGE_SIZE"))
        tally.now("open_files", value=len(os.listdir(PROC / "fd")))
    if find_spec("resource"):
        import resource

        tally.now("most_files", value=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
