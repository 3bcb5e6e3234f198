"""`stores`: the cost of a decision with a shared counter, compared with a bare read and with libraries that only count.

It starts the servers on free ports of this machine, and stops them. An implementation that admits another number of
requests than the others is not timed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from time import monotonic, perf_counter, time
from typing import Any

from bench.measure import percentile
from bench.rates import FEW, HEAD, MANY, Ask, Say, count_admitted, question
from bench.report import Section, Target
from bench.trial import format_number
from policyengine import Engine
from policyengine.stores.credential_marks import CredentialMarks
from policyengine.stores.url import open_store

CALLS, ROUNDS = 1_000, 15
DISK_CALLS = 200  # calls in a round of a store that waits for its disk
BATCH = 1_000
NAMES = 6  # names by which a credential can be revoked
CALLERS = 250
SERVERS = ("redis-server", "valkey-server")
PATIENCE = 20.0  # seconds until a server answers
PAST = 'guard "first" on GET /v1/things/42 { require after GET /v1/things/1 within 1h per (agent.issuer) }\n'
BARE, ONE, BATCHES = "redis-py, a bare GET", "policyengine, one rate", "policyengine, one rate, in batches"
AT_ONCE, THREADS = "policyengine, one rate, four callers at once", 4
Row = tuple[str, str, Callable[[], int]]  # store, case, and a round that returns its number of decisions


@contextmanager
def start_redis(program: str, folder: Path) -> Iterator[int]:
    """Start a Redis without persistence, yield its port, and stop it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder))
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = monotonic() + PATIENCE
        while not answers(port) and monotonic() < until:
            pass
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def start_postgres() -> Iterator[str | None]:
    """Start a PostgreSQL that writes to the disk, yield its URL, and stop it at the end; None without one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        yield None
        return
    # The server refuses to run as root, and its socket needs a short path.
    user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    place = Path(mkdtemp(prefix="pg"))
    if user:
        shutil.chown(place, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
    subprocess.run([initdb, "-D", f"{place}/data", "-U", "postgres", "--auth=trust", "-E", "UTF8"], check=True, **quiet)
    options = ("-D", f"{place}/data", "-p", str(port), "-k", str(place), "-c", "listen_addresses=127.0.0.1")
    process = subprocess.Popen([str(Path(initdb).with_name("postgres")), *options], **quiet)
    try:
        until = monotonic() + PATIENCE
        while not answers(port) and monotonic() < until:
            pass
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(place, ignore_errors=True)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# ── What is timed ─────────────────────────────────────────────────────────────────────────────


def engine(url: str, *limits: int, guard: str = "") -> Engine:
    rates = (f'rate "{name}" per {("agent.id", "agent.issuer")[name]} on /v1/** {{ {limit}/1m }}\n'
             for name, limit in enumerate(limits))  # fmt: skip
    return Engine.from_text(HEAD + "".join(rates) + guard, store=open_store(f"{url}?timeout=2s"))


def decide_singly(made: Engine, times: list[float], calls: int) -> Callable[[], int]:
    """Return a round that also adds the time of each decision to `times`."""
    asked = [question(f"caller {n}") for n in range(CALLERS)]
    if not made.decide(asked[0]).allowed:
        raise RuntimeError("what is timed is to be allowed")

    def ask() -> int:
        for n in range(calls):
            start = perf_counter()
            made.decide(asked[n % CALLERS])
            times.append(perf_counter() - start)
        return calls

    return ask


def decide_in_threads(made: Engine, calls: int) -> Callable[[], int]:
    """Decide as a serving process does: several callers, each waiting for its answer."""
    pool = ThreadPoolExecutor(THREADS)
    asked = [[question(f"caller {n}") for n in range(first, CALLERS, THREADS)] for first in range(THREADS)]

    def ask(questions: list[dict[str, Any]]) -> int:
        for n in range(calls // THREADS):
            made.decide(questions[n % len(questions)])
        return calls // THREADS

    return lambda: sum(pool.map(ask, asked))


def decide_in_batches(made: Engine) -> Callable[[], int]:
    asked = [question(f"caller {n % CALLERS}") for n in range(BATCH)]
    return lambda: len(made.decide_many(asked))


def repeat_call(ask: Callable[[], object], calls: int = CALLS) -> Callable[[], int]:
    def round() -> int:
        for _ in range(calls):
            ask()
        return calls

    return round


def engine_rows(where: str, url: str, times: dict[str, list[float]]) -> Iterator[Row]:
    limited, calls = engine(url, MANY), DISK_CALLS if where == "PostgreSQL" else CALLS
    yield where, ONE, decide_singly(limited, times[where], calls)
    yield where, AT_ONCE, decide_in_threads(limited, calls)
    yield where, "policyengine, two rates", decide_singly(engine(url, MANY, MANY), [], calls)
    yield where, BATCHES, decide_in_batches(limited)
    asking = engine(url, MANY, guard=PAST)
    asking.decide({**question("first"), "request": {"method": "GET", "path": "/v1/things/1"}})
    yield where, "policyengine, one rate and the past", decide_singly(asking, [], calls)
    yield from credential_rows(where, open_store(url).marks, calls)


def credential_rows(where: str, marks: CredentialMarks, calls: int) -> Iterator[Row]:
    """Yield the calls that the store adds to a proof that must be new, and to a credential that was verified before."""
    names, now = [f"agent:acme/{number}" for number in range(NAMES)], lambda: int(time())
    marks.revoke(("agent:acme/other",), now() + 600, now())
    new = count()
    yield (
        where,
        "policyengine, a proof that must be unused",
        repeat_call(lambda: marks.once(f"{next(new)}", now() + 300, now()), calls),
    )
    asked = f"policyengine, which of {NAMES} names are revoked"
    yield where, asked, repeat_call(lambda: marks.revoked(names, now()), calls)
    if not marks.remote:
        yield where, "policyengine, whether anything was revoked since", repeat_call(lambda: marks.version)


def bare_get(port: int) -> Callable[[], int]:
    client = import_module("redis").Redis(port=port, protocol=2)
    return repeat_call(lambda: client.get("nothing"))


def pypi_limits(port: int) -> Callable[[int], Ask]:
    def make(limit: int) -> Ask:
        limits = import_module("limits")
        storage = import_module("limits.storage").RedisStorage(f"redis://127.0.0.1:{port}")
        found, item = (
            import_module("limits.strategies").FixedWindowRateLimiter(storage),
            limits.RateLimitItemPerMinute(limit),
        )
        return lambda caller: bool(found.hit(item, f"{limit} {caller}"))

    return make


def throttled_py(port: int) -> Callable[[int], Ask]:
    def make(limit: int) -> Ask:
        module = import_module("throttled")
        store = module.RedisStore(server=f"redis://127.0.0.1:{port}/0")
        found = module.Throttled(using="gcra", quota=module.per_min(limit, burst=limit), store=store)
        return lambda caller: not found.limit(f"{limit} {caller}").limited

    return make


def policyengine_limits(url: str) -> Callable[[int], Ask]:
    def make(limit: int) -> Ask:
        made = engine(url, limit)
        return lambda caller: made.decide(question(f"{limit} {caller}")).allowed

    return make


PEERS: dict[str, Callable[[int], Callable[[int], Ask]]] = {
    "limits, fixed window": pypi_limits,
    "throttled-py, GCRA": throttled_py,
}


def peer_rows(where: str, port: int, skipped: list[str]) -> Iterator[Row]:
    for name, of in PEERS.items():
        try:
            make = of(port)
            admitted = count_admitted(make(FEW))
        except ImportError:
            skipped.append(f"{name.split(',')[0]} is not installed.")
            continue
        if admitted == FEW:
            ask = make(MANY)
            yield where, f"{name}, counting alone", repeat_call(lambda ask=ask: ask("caller"))  # type: ignore[misc]
        else:
            skipped.append(f"{name} admits {admitted} of {FEW} on {where} and is not timed.")


# ── The section ───────────────────────────────────────────────────────────────────────────────


def time_in_turns(rows: list[Row], say: Say) -> list[float]:
    """Return decisions per second of each, in turns, so that other load on the machine affects all equally."""
    found: list[list[float]] = [[] for _ in rows]
    for one in range(ROUNDS):
        say(f"stores: round {one + 1} of {ROUNDS}")
        for rates, (_, _, ask) in zip(found, rows, strict=True):
            start = perf_counter()
            found_many = ask()
            rates.append(found_many / (perf_counter() - start))
    return [median(rates) for rates in found]


def run(say: Say) -> Section:
    skipped: list[str] = []
    times: dict[str, list[float]] = defaultdict(list)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        file = f"sqlite:///{folder}/store.db"
        rows = list(engine_rows("SQLite", file, times)) if counts_exactly("SQLite", file, skipped) else []
        postgres = stack.enter_context(start_postgres())
        if postgres is None:
            skipped.append("`postgres` is not installed.")
        elif counts_exactly("PostgreSQL", postgres, skipped):
            rows += engine_rows("PostgreSQL", postgres, times)
        for program in SERVERS:
            if shutil.which(program) is None:
                skipped.append(f"`{program}` is not installed.")
                continue
            where, port = program.split("-")[0].title(), stack.enter_context(start_redis(program, Path(folder)))
            rows.append((where, BARE, bare_get(port)))
            if counts_exactly(where, f"redis://127.0.0.1:{port}", skipped):
                rows += engine_rows(where, f"redis://127.0.0.1:{port}", times)
            rows += peer_rows(where, port, skipped)
        found = time_in_turns(rows, say)
    return section(rows, found, {where: sorted(each) for where, each in times.items()}, skipped)


def counts_exactly(where: str, url: str, skipped: list[str]) -> bool:
    admitted = count_admitted(policyengine_limits(url)(FEW))
    if admitted != FEW:
        skipped.append(f"policyengine admits {admitted} of {FEW} on {where} and is not timed.")
    return admitted == FEW


def section(rows: list[Row], found: list[float], times: dict[str, list[float]], skipped: list[str]) -> Section:
    many = {(where, what): each for (where, what, _), each in zip(rows, found, strict=True)}
    bares = {where: each for (where, what), each in many.items() if what == BARE}
    return Section(
        name="stores",
        title="Decisions per second of one process on a shared store, compared with libraries that only count",
        columns=("what", "on", "a second", "µs", "p50 / p99 in µs", "of bare GETs"),
        rows=tuple(
            (
                what,
                where,
                format_number(each),
                format_number(1e6 / each),
                " / ".join(format_number(1e6 * percentile(times[where], part)) for part in (0.5, 0.99))
                if what == ONE
                else "",
                f"{each / bares[where]:.2f}" if where in bares else "",
            )
            for (where, what), each in many.items()
        ),
        data=tuple(
            {"where": where, "what": what, "per_second": round(each)}
            | (
                {f"p{part}_us": round(1e6 * percentile(times[where], part / 100)) for part in (50, 99)}
                if what == ONE
                else {}
            )
            for (where, what), each in many.items()
        ),
        targets=(
            Target("Redis, one by one", 8_000, many.get(("Redis", ONE)), "a second", at_least=True),
            Target("Redis, in batches", 40_000, many.get(("Redis", BATCHES)), "a second", at_least=True),
        ),
        notes=(
            f"Medians of {ROUNDS} rounds of {CALLS:,} calls ({DISK_CALLS} on PostgreSQL), in turns; {CALLERS} callers; "
            f"batches of {BATCH:,}.",
            f"Every implementation admits {FEW} of {FEW + 5} requests at first. Libraries count and decide nothing "
            "else.",
            "PostgreSQL waits for its disk at each commit; SQLite and Redis do not.",
            *dict.fromkeys(skipped),
        ),
    )
