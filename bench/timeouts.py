"""`timeouts`: share of decisions that a busy machine denies, by the timeout of its store.

It starts a server and a Redis Cluster on free ports of this machine, and two busy processes for each processor, and
stops them all.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product
from logging import ERROR, getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter
from typing import Any

from bench.machine import cores
from bench.report import Section, Target
from bench.stores import answers, start_redis
from policyengine import Engine
from policyengine.stores.url import open_store

Say = Callable[[str], None]
DECISIONS, THREADS, KEYS = 4_000, 16, 500
TIMEOUTS = ("50ms", "100ms", "250ms", "500ms")
BUSY = "while True: pass"
SLOTS = 16_384
PATIENCE = 20.0  # seconds until the Cluster is ready
POLICY = """
language 1
package shop
anyone { may GET /report/{id} }
rate "reports" per request.path on GET /report/{id} { 1000000/1d }
rate "all" per request.method on GET /report/{id} { 1000000000/1d }
"""


@contextmanager
def busy_machine() -> Iterator[None]:
    """Run processes that use all processors of this machine."""
    burning = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2 * len(cores()))]
    try:
        yield
    finally:
        for one in burning:
            one.kill()
            one.wait()


@contextmanager
def start_cluster(folder: Path) -> Iterator[int]:
    """Start three servers that share all slots, yield the port of one, and stop them at the end."""
    import redis

    with ExitStack() as stack:
        ports = [stack.enter_context(start_member(folder / str(number))) for number in range(3)]
        clients = [redis.Redis(port=port, protocol=2) for port in ports]
        for number, client in enumerate(clients):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", ports[0], bus_port(ports[0]))
        until = monotonic() + PATIENCE
        while not all(is_cluster_ready(client) for client in clients) and monotonic() < until:
            pass
        for client in clients:
            client.close()
        yield ports[0]


def is_cluster_ready(client: Any) -> bool:
    told = client.execute_command("CLUSTER INFO")
    return bool(told["cluster_state"] == "ok" and told["cluster_known_nodes"] == "3")


def bus_port(port: int) -> int:
    """Return a bus port near the server's port: most ports are far below the largest."""
    return port - 10_000 if port > 30_000 else port + 10_000


@contextmanager
def start_member(folder: Path) -> Iterator[int]:
    import socket

    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    words += ["--cluster-enabled", "yes", "--cluster-port", str(bus_port(port))]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = monotonic() + PATIENCE
        while not answers(port) and monotonic() < until:
            pass
        yield port
    finally:
        process.kill()
        process.wait()


def measure_denials(url: str) -> tuple[int, float]:
    """Return the number of denied decisions and the decisions per second."""
    made = Engine.from_text(POLICY, store=open_store(url))

    def ask(number: int) -> str:
        decision = made.decide({"request": {"method": "GET", "path": f"/report/{number % KEYS}"}})
        return decision.gate.value if decision.gate else "allow"

    with ThreadPoolExecutor(THREADS) as pool:
        began = perf_counter()
        found = Counter(pool.map(ask, range(DECISIONS)))
        took = perf_counter() - began
    made.store.close()  # type: ignore[attr-defined]
    return DECISIONS - found["allow"], DECISIONS / took


def run(say: Say) -> Section:
    getLogger("policyengine").setLevel(ERROR + 1)
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder, ExitStack() as stack:
        alone = stack.enter_context(start_redis("redis-server", Path(folder)))
        shared = stack.enter_context(start_cluster(Path(folder)))
        urls = ("Redis", f"redis://127.0.0.1:{alone}"), ("Cluster", f"redis+cluster://127.0.0.1:{shared}")
        stack.enter_context(busy_machine())
        for (where, url), timeout in product(urls, (None, *TIMEOUTS)):
            say(f"timeouts: {where}, {timeout or 'as by default'}")
            many, pace = measure_denials(url if timeout is None else f"{url}?timeout={timeout}")
            rows.append((where, timeout or "as by default", f"{DECISIONS:,}", f"{many:,}", f"{pace:,.0f}"))
            data.append({"where": where, "timeout": timeout, "decisions": DECISIONS, "denied": many})
    worst = next(one["denied"] for one in data if one["timeout"] is None and one["where"] == "Cluster")
    return Section(
        name="timeouts",
        title="Decisions that a busy machine denies, by timeout of the store",
        columns=("store", "timeout", "decisions", "denied", "a second"),
        rows=tuple(rows),
        data=tuple(data),
        targets=(Target("a Cluster, denied as by default", DECISIONS / 1_000, float(worst), "decisions"),),
        notes=(f"{THREADS} callers, two rates each; {2 * len(cores())} busy processes next to them.",),
    )
