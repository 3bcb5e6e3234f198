"""Where the figures come from: the machine, the versions, the time; and on which core a process runs."""

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

LIBRARIES = ("agent-policyengine", "msgspec", "uvicorn", "uvloop", "httptools", "fastapi")


def describe(peers: tuple[str, ...] = ()) -> dict[str, object]:
    """Plain data for the JSON file and for the line above every table."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(cores()),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "timer_ns": timer_ns(),
        "versions": {name: version for name in (*LIBRARIES, *peers) if (version := _version(name))},
    }


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Keep this process on one core, where the system can."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {core})


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """`pin`, and afterwards the cores that this process had before."""
    before = cores()
    pin(core)
    try:
        yield
    finally:
        if sys.platform == "linux":
            os.sched_setaffinity(0, before)


def timer_ns() -> int:
    """What reading the clock twice costs: it is inside of every single call that is timed, ours and the others'."""
    return int(median(-(perf_counter_ns() - perf_counter_ns()) for _ in range(10_000)))


def rss_mb() -> float:
    """Memory of this process that is in RAM, in MB (10⁶ bytes); 0 where /proc does not say."""
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
