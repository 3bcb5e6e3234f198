"""`learn`: what it takes to learn a large log in a thread, with DuckDB, and on Spark. All must give the same model.

The log is seeded and simulated; its lines are those that a server writes. Time and memory depend on the machine.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, process_time, sleep
from typing import Final

from bench.child import Data, in_child
from bench.learn_traffic import DAYS, write_log
from bench.report import Section, Target
from policyengine.behavior.bulk.duckdb_learner import learn_with_duckdb
from policyengine.behavior.bulk.line_filter import LineFilter
from policyengine.behavior.bulk.log_lines import LineDecoder, read_learned
from policyengine.behavior.events import Tagger
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.learn_logs import learn_lines
from policyengine.behavior.row import pack_row
from policyengine.behavior.state import BehaviorState

EVENTS, AGENTS, SEED = 10_000_000, 10_000, 1
SPARK_EVENTS: Final = 1_000_000
TIMEOUT: Final = 3_600.0  # seconds
KEY: Final = b"a key of the bench"
NOW: Final = 2_000_000_000_000  # milliseconds
SETTINGS: Final = ProfileSettings()
SAMPLE_SECONDS: Final = 0.1
THREAD, DUCKDB, SPARK = "thread", "duckdb", "spark"
Say = Callable[[str], None]


class BenchPolicies:
    """The default settings for all classes."""

    revision = ""

    def settings_of(self, group: str) -> ProfileSettings:
        return SETTINGS

    def reader(self, state: BehaviorState) -> None:
        return None


def load_bench_policies(paths: tuple[str, ...]) -> BenchPolicies:
    return BenchPolicies()


def measure(way: str, path: str) -> Data:
    """Learn a log, and return the digest of the model and the rows, with the seconds and the peak memory."""
    state, peak = BehaviorState(Tagger(KEY)), PeakMemory(with_children=way == SPARK)
    began, wall = process_time(), perf_counter()
    with peak:
        learned = learn(way, Path(path), state)
    seconds, elapsed = process_time() - began, perf_counter() - wall
    digest = sha256(state.model.payload)
    for caller, kept in state.rows.items():
        digest.update(repr((caller, kept.group)).encode() + pack_row(kept.row))
    return {
        "way": way, "learned": learned, "cpu_seconds": round(seconds, 1), "seconds": round(elapsed, 1),
        "peak_mb": peak.megabytes, "digest": digest.hexdigest(), "callers": len(state.rows),
        "models": state.model.content.serial, "ready": all(each.is_ready for each in state.model.content.classes),
    }  # fmt: skip


def learn(way: str, path: Path, state: BehaviorState) -> int:
    """Learn a log into a state, and return the number of decisions."""
    if way == SPARK:
        from policyengine.behavior.bulk.spark_learner import learn_on_spark
        from policyengine.behavior.bulk.spark_partitions import WorkerSetup
        from policyengine.behavior.bulk.spark_session import open_session

        setup = WorkerSetup(load_bench_policies, (), KEY, "")
        with open_session() as session:
            return learn_on_spark(session, [path], setup, state, NOW, print).learned
    filter = LineFilter({}, NOW)
    lines = read_learned([path], LineDecoder(None), print)
    (learn_lines if way == THREAD else learn_with_duckdb)(lines, filter, state, BenchPolicies().settings_of)
    return filter.tally.learned


class PeakMemory:
    """The peak of the memory of this process, or of it and all processes that it starts while the block runs."""

    def __init__(self, *, with_children: bool) -> None:
        self.megabytes, self._with_children = 0, with_children
        self._done, self._thread = Event(), Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._with_children:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._with_children:
            self._done.set()
            self._thread.join()
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)
        self.megabytes = max(self.megabytes, round(own))

    def _watch(self) -> None:
        while not self._done.is_set():
            self.megabytes = max(self.megabytes, round(family_bytes(os.getpid()) / 1e6))
            sleep(SAMPLE_SECONDS)


def family_bytes(root: int) -> int:
    """Return the memory of a process and its descendants; 0 on systems without /proc."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except OSError:
            continue  # it ended
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {one for one, parent in parents.items() if parent in family}
    return sum(pages.get(one, 0) for one in family) * resource.getpagesize()


def run(say: Say) -> Section:
    with tempfile.TemporaryDirectory(prefix="policyengine-bench-") as name:
        large = measure_all(Path(name) / "large.jsonl", EVENTS, AGENTS, (THREAD, DUCKDB), say)
        ways = (THREAD, DUCKDB, SPARK) if find_spec("pyspark") else (THREAD, DUCKDB)
        small = measure_all(Path(name) / "small.jsonl", SPARK_EVENTS, AGENTS // 10, ways, say)
    return section(large, small)


def measure_all(path: Path, events: int, agents: int, ways: tuple[str, ...], say: Say) -> list[Data]:
    """Learn the same log in several ways, and check that the results are the same."""
    say(f"learn: writing {events:,} events")
    write_log(path, events, agents, SEED)
    found = []
    for way in ways:
        say(f"learn: {events:,} events, {way}")
        found.append(in_child("bench.learn:measure", TIMEOUT, {"way": way, "path": str(path)}))
        if "error" in found[-1]:
            raise RuntimeError(found[-1]["error"])
    path.unlink()
    if len({(each["digest"], each["learned"]) for each in found}) > 1:
        raise RuntimeError(f"the ways of learning differ: {found}")
    return found


def row(each: Data) -> tuple[str, ...]:
    seconds = "-" if each["way"] == SPARK else str(each["cpu_seconds"])
    return (
        each["way"],
        f"{each['learned']:,}",
        f"{each['callers']:,}",
        seconds,
        str(each["seconds"]),
        f"{each['peak_mb']:,}",
    )


def section(large: list[Data], small: list[Data]) -> Section:
    thread, duckdb = large
    return Section(
        name="learn",
        title="Learning the behavior of callers from a log, on one core",
        columns=("way", "events", "callers", "CPU s", "s", "peak MB"),
        rows=tuple(map(row, (*large, *small))),
        data=(*large, *small),
        targets=(
            Target("thread", 180, thread["cpu_seconds"], "s CPU"),
            Target("thread, peak memory", 2_000, thread["peak_mb"], "MB"),
            Target("DuckDB", 180, duckdb["cpu_seconds"], "s CPU"),
            Target("DuckDB, peak memory", 2_000, duckdb["peak_mb"], "MB"),
        ),
        notes=(
            f"Decisions of {DAYS} days in one log of about 920 bytes a line. All ways that learn the same log gave the",
            "same model and the same rows, byte for byte. Spark runs on one core of this machine; its memory includes",
            "Java, and its CPU time is not known.",
        ),
    )  # fmt: skip
