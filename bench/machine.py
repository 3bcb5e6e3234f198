"""The machine of a run: hardware, versions, time, and the core that a process runs on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from policyengine.evaluator import is_compiled

LIBRARIES = ("agent-policyengine", "msgspec", "uvicorn", "uvloop", "httptools", "fastapi")


def describe(peers: tuple[str, ...] = ()) -> dict[str, object]:
    """Return the machine as JSON data, for the file and for the line above every table."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(cores()),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "timer_ns": timer_ns(),
        "build": "compiled" if is_compiled() else "pure",
        "versions": {name: version for name in (*LIBRARIES, *peers) if (version := _version(name))},
    }


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Keep this process on one core, where the system supports it."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {core})


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin the process inside the block, and restore its cores afterwards."""
    before = cores()
    pin(core)
    try:
        yield
    finally:
        if sys.platform == "linux":
            os.sched_setaffinity(0, before)


def timer_ns() -> int:
    """Return the cost of reading the clock twice, which is part of every timed call of every engine."""
    return int(median(-(perf_counter_ns() - perf_counter_ns()) for _ in range(10_000)))


def rss_mb() -> float:
    """Return the resident memory of this process in MB (10⁶ bytes), or 0 without /proc."""
    return rss_of(os.getpid())


def rss_of(pid: int) -> float:
    statm = Path(f"/proc/{pid}/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if statm.exists() else 0.0


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
