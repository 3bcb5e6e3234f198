"""`decide`: one decision in process, from request to verdict, for the floor, for policyengine and for every peer."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from bench.child import Data, in_child
from bench.machine import rss_mb
from bench.peers import BARE, ENTRIES, FLOOR, OURS, PEERS, PeerEntry
from bench.peers.own import FloorPeer
from bench.report import Section, Target
from bench.trial import format_cell, format_number, trial
from bench.workload import workload
from policyengine.evaluator import is_compiled

SIZES = (10, 100, 1_000, 10_000)
LARGEST = 100_000  # for the floor and policyengine
COMPILED_RATIO, PURE_RATIO = 1.5, 5.0  # relative to the floor
CAP, CAP_FULL = 20.0, 600.0  # seconds to load, and again to verify all requests


def run(sizes: Sequence[int], full: bool, say: Callable[[str], None], engines: Sequence[str] = ()) -> Section:
    """Measure every engine, or only some, at every size, each in its own child process."""
    cap = CAP_FULL if full else CAP
    found = []
    for entry in (OURS, FLOOR, BARE, *PEERS):
        if engines and entry.name not in engines:
            continue
        largest = (LARGEST,) if full and entry in (OURS, FLOOR) else ()
        for size in (*sizes, *largest):
            say(f"decide: {entry.title}, {size:,} rules")
            found.append(run_entry(entry, size, cap))
    return section(found)


def run_entry(entry: PeerEntry, size: int, cap: float) -> Data:
    asked = {"engine": entry.name, "size": size}
    if entry.version is None:
        return {**asked, "skipped": "not installed: pip install '.[bench]'"}
    answer = in_child("bench.decide:measure", 3 * cap + 120, {**asked, "cap": cap})
    return {**asked, **({"skipped": answer["error"]} if "error" in answer else answer)}


def measure(engine: str, size: int, cap: float) -> Data:
    """Load and verify the engine, then time it in turns with the floor; runs in the child process."""
    load = ENTRIES[engine].loader()
    load(workload(10, requests=20))  # imports and one-time work
    work = workload(size)
    gc.collect()
    before, start = rss_mb(), perf_counter()
    try:
        with time_limit(cap):
            peer = load(work)
    except TimeoutError:
        return {"skipped": f"not loaded in {cap:,.0f} s"}
    loading = perf_counter() - start
    gc.collect()
    loaded = {"load_ms": round(loading * 1e3, 2), "rss_mb": round(rss_mb() - before, 1)}
    return {**loaded, **trial(peer, work.requests, work.expected, FloorPeer(work), work.requests, cap)}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block when the seconds are over; native code is interrupted only when it returns to
    Python."""

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def section(found: Sequence[Data]) -> Section:
    sizes = sorted({one["size"] for one in found})
    cells = {(one["engine"], one["size"]): one for one in found}
    engines = list(dict.fromkeys(one["engine"] for one in found))
    rows = [(ENTRIES[name].title, *(format_cell(cells.get((name, size))) for size in sizes)) for name in engines]
    return Section(
        name="decide",
        title="One decision, request in, verdict out: p50 / p99 in µs, and p50 as a multiple of the floor's",
        columns=("engine", *(f"{size:,} rules" for size in sizes)),
        rows=tuple(rows),
        data=tuple(found),
        targets=targets(found),
        notes=(
            "Half of the 2,000 requests are allowed. No engine is timed unless it agrees on all of them.",
            f"Verifying and loading may take {CAP:.0f} s each (with --full {CAP_FULL:.0f} s).",
            "Sliced: the caller's own code selects the rules by path. Other engines search by themselves.",
            "Every question is new; their collections (a path up to its last slash) repeat, and both engine and floor "
            "cache them.",
            "Floor and engine take turns in one process on one core; multiples compare within one run. Nothing is "
            "subtracted.",
            f"The fastest native peer takes {format_number(nearest_peer_ratio(found))} × as long, at the worst size.",
        ),
    )


def targets(found: Sequence[Data]) -> tuple[Target, ...]:
    ours = [one for one in found if one["engine"] == OURS.name and "ratio" in one]
    ratio, tail = max((one["ratio"] for one in ours), default=None), [one["p99_us"] / one["p50_us"] for one in ours]
    most = COMPILED_RATIO if is_compiled() else PURE_RATIO
    growth = ours[-1]["ratio"] / ours[0]["ratio"] if len(ours) > 1 else None
    return (
        Target("p50 relative to the floor's, at the worst size", most, ratio),
        Target("p99 relative to our p50, at the worst size", 2.5, max(tail, default=None)),
        Target("growth from the fewest to the most rules, relative to the floor's", 1.0, growth),
    )


def nearest_peer_ratio(found: Sequence[Data]) -> float | None:
    """Return the ratio of the fastest native peer's p50 to ours; both are multiples of their process's floor. Return
    None if no native peer was timed.
    """
    timed = [one for one in found if "ratio" in one]
    ours = {one["size"]: one["ratio"] for one in timed if one["engine"] == OURS.name}
    native = {entry.name for entry in PEERS if entry.native}
    beside = [one["ratio"] / ours[one["size"]] for one in timed if one["engine"] in native and one["size"] in ours]
    return min(beside, default=None)
