"""`compile` and `memory`: time until an engine is ready, and the memory it holds."""

from __future__ import annotations

import atexit
import gc
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import policy
from bench.child import Data, in_child
from bench.machine import rss_mb
from bench.peers import BARE, ENTRIES, OURS, PEERS, PeerEntry
from bench.report import Section, Target
from bench.trial import format_number
from bench.workload import workload
from policyengine import Engine, __version__
from policyengine.compiler.bundle.file import write_bundle

SIZES = (100, 1_000, 10_000)
SECONDS = 90.0  # slower loads are skipped; counting memory takes up to four times as long
AT = 10_000  # number of rules of the targets
BUNDLE = PeerEntry("policyengine-bundle", "policyengine, from a bundle", "", "", indexed=True)
TITLES = {entry.name: entry.title for entry in (OURS, BUNDLE, BARE, *PEERS)}
Say = Callable[[str], None]


def run_compile(sizes: Sequence[int], say: Say) -> Section:
    """Measure milliseconds from text (for policyengine also from a bundle) to an engine that can decide."""
    return compile_section(_measure_all("bench.startup:measure_load", SECONDS * 3, sizes, say), sizes)


def compile_section(found: Sequence[Data], sizes: Sequence[int]) -> Section:
    from_text, from_bundle = _value_at(found, OURS, "load_ms"), _value_at(found, BUNDLE, "load_ms")
    return Section(
        name="compile",
        title="From the text of the rules to an engine that can decide, ms; the first decision in parentheses, ms",
        columns=("engine", *(f"{size:,} rules" for size in sizes)),
        rows=_rows(found, sizes, lambda one: f"{format_number(one['load_ms'])} ({format_number(one['first_ms'])})"),
        data=tuple(found),
        targets=(
            Target(f"{AT:,} rules from text", 3_000, from_text, "ms"),
            Target(f"{AT:,} rules from a bundle", 60, from_bundle, "ms"),
        ),
        notes=("One load in a fresh process that has loaded ten other rules before. The floor builds its dictionary.",),
    )


def run_memory(sizes: Sequence[int], say: Say) -> Section:
    """Measure the megabytes that remain after loading and garbage collection."""
    return memory_section(_measure_all("bench.startup:measure_memory", SECONDS * 5, sizes, say), sizes)


def memory_section(found: Sequence[Data], sizes: Sequence[int]) -> Section:
    return Section(
        name="memory",
        title="Memory of an engine: resident memory / count of Python's allocator, MB",
        columns=("engine", *(f"{size:,} rules" for size in sizes)),
        rows=_rows(found, sizes, lambda one: f"{format_number(one['rss_mb'])} / {format_number(one['python_mb'])}"),
        data=tuple(found),
        targets=(
            Target(f"{AT:,} rules", 60, _value_at(found, OURS, "rss_mb"), "MB"),
            Target(f"{AT:,} rules from a bundle", 15, _value_at(found, BUNDLE, "python_mb"), "MB"),
        ),
        notes=(
            "Resident memory includes what the allocator did not return after loading; native engines appear only "
            "there.",
            "Two loads in two processes: counting slows loading down. 1 MB is 10⁶ bytes.",
        ),
    )


def measure_load(engine: str, size: int) -> Data:
    """Return the milliseconds of loading and of the first decision; runs in the child process."""
    build, ask = builder(engine, size)
    gc.collect()
    start = perf_counter()
    built = build()
    loaded = perf_counter()
    ask(built)
    first = perf_counter()
    return {"load_ms": round((loaded - start) * 1e3, 2), "first_ms": round((first - loaded) * 1e3, 2)}


def measure_memory(engine: str, size: int) -> Data:
    """Return resident memory; runs in the child process. Python's own count comes from another child."""
    counted = in_child("bench.startup:measure_allocations", SECONDS * 4, {"engine": engine, "size": size})
    build, ask = builder(engine, size)
    gc.collect()
    before = rss_mb()
    built = build()
    ask(built)
    gc.collect()
    return {"rss_mb": round(rss_mb() - before, 2), "python_mb": counted.get("python_mb")}


def measure_allocations(engine: str, size: int) -> Data:
    build, ask = builder(engine, size)
    gc.collect()
    tracemalloc.start()
    built = build()
    ask(built)
    gc.collect()
    return {"python_mb": round(tracemalloc.get_traced_memory()[0] / 1e6, 2)}


Build = Callable[[], object]


def builder(engine: str, size: int) -> tuple[Build, Callable[[Any], object]]:
    """Return a function that loads the engine from text in memory, with everything imported, and one that asks the
    first question."""
    work = workload(size, requests=20)
    if engine != BUNDLE.name:
        entry = ENTRIES[engine].loader()
        entry(workload(10, requests=20))
        return lambda: entry(work), lambda peer: peer.ask(peer.question(work.requests[0]))
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = _bundle(size, folder)
    Engine.from_bundle(_bundle(10, folder))
    question = policy.question(work.requests[0])
    return lambda: Engine.from_bundle(file), lambda made: made.decide(question)


def _bundle(size: int, folder: str) -> Path:
    """Return a bundle that another process wrote, so that this one holds nothing of the text. Raises RuntimeError."""
    file = Path(folder, f"{size}.policybundle")
    answer = in_child("bench.startup:compile_to_file", SECONDS * 2, {"size": size, "file": str(file)})
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return file


def compile_to_file(size: int, file: str) -> Data:
    """Write the bundle; runs in a child process."""
    made = Engine.from_text(policy.policy(workload(size, requests=20)))
    return {"bytes": Path(file).write_bytes(write_bundle(made.kernel, __version__))}


def _measure_all(function: str, seconds: float, sizes: Sequence[int], say: Say) -> list[Data]:
    found = []
    for entry in (OURS, BUNDLE, BARE, *PEERS):
        for size in sizes:
            say(f"loading: {entry.title}, {size:,} rules")
            asked = {"engine": entry.name, "size": size}
            answer = _missing_package(entry) or in_child(function, seconds, asked)
            found.append({**asked, **({"skipped": answer["error"]} if "error" in answer else answer)})
    return found


def _missing_package(entry: PeerEntry) -> Data | None:
    return {"error": "not installed: pip install '.[bench]'"} if entry.version is None else None


def _value_at(found: Sequence[Data], entry: PeerEntry, name: str) -> float | None:
    values = [one.get(name) for one in found if (one["engine"], one["size"]) == (entry.name, AT)]
    return values[0] if values else None


def _rows(found: Sequence[Data], sizes: Sequence[int], words: Callable[[Data], str]) -> tuple[tuple[str, ...], ...]:
    cells = {(one["engine"], one["size"]): str(one["skipped"]) if "skipped" in one else words(one) for one in found}
    return tuple((title, *(cells.get((name, size), "") for size in sizes)) for name, title in TITLES.items())
