"""Verifies the servers, then loads them in turns from one core while they run on another."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import product
from pathlib import Path
from statistics import median

from bench.child import Data
from bench.report import Section, Target
from bench.serving import cerbos, load, servers
from bench.serving.servers import Server, ServerStartError
from bench.trial import format_number
from bench.workload import Workload, workload

RULES = 1_000
CONNECTIONS = (1, 32)
ROUNDS, SECONDS = 3, 2.0
WORKERS = 2
USUAL_ANSWER = 300  # bytes, where our server does not report the size
SEVERAL = f"policyengine-{WORKERS}"
TITLES = {
    "policyengine": "policyengine serve",
    SEVERAL: f"policyengine serve --workers {WORKERS}",
    "floor": "floor: raw ASGI",
    "cerbos": "Cerbos",
}
Say = Callable[[str], None]


def run(say: Say, rounds: int = ROUNDS, seconds: float = SECONDS) -> Section:
    work = workload(RULES)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        say(f"serve: starting the servers, {RULES:,} rules")
        started, skipped = _start_servers(work, folder, stack)
        verified, wrong = _verify_servers(started, work, say)
        measured = _measure(verified, work, folder, rounds, seconds, say)
    return section([*measured, *skipped, *wrong])


def _start_servers(work: Workload, folder: Path, stack: ExitStack) -> tuple[list[Server], list[Data]]:
    """Return the servers that started, which run until the stack is closed, and why the others did not start."""
    running: list[Server] = []
    skipped: list[Data] = []

    def start(name: str, server: AbstractContextManager[Server]) -> None:
        try:
            running.append(stack.enter_context(server))
        except ServerStartError as problem:
            skipped.append({"engine": name, "skipped": str(problem)})

    start("policyengine", servers.policyengine_server(work, folder))
    size = len(_ask_all(running[0], [running[0].body(work.requests[0])])[0]) if running else USUAL_ANSWER
    start(SEVERAL, servers.policyengine_server(work, folder, WORKERS))
    start("floor", servers.floor_server(size, folder))
    program = cerbos.binary()
    if program is None:
        skipped.append({"engine": "cerbos", "skipped": f"not installed: {cerbos.INSTALL}"})
    else:
        start("cerbos", cerbos.cerbos(work, folder, program))
    return running, skipped


def _verify_servers(started: Sequence[Server], work: Workload, say: Say) -> tuple[list[Server], list[Data]]:
    """Return the servers whose 2,000 verdicts are right, and why the others are excluded."""
    right, wrong = [], []
    for server in started:
        say(f"serve: verifying {server.title}")
        answers = _ask_all(server, [server.body(asked) for asked in work.requests])
        read = server.allowed
        verdicts = None if read is None else [
            read(asked, json.loads(answer)) for asked, answer in zip(work.requests, answers, strict=True)
        ]  # fmt: skip
        if verdicts is None or verdicts == list(work.expected):
            right.append(server)
        else:
            count = sum(one != other for one, other in zip(verdicts, work.expected, strict=True))
            wrong.append({"engine": server.name, "skipped": f"wrong: {count:,} of 2,000 verdicts"})
    return right, wrong


def _ask_all(server: Server, bodies: Sequence[bytes]) -> list[bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    answers = []
    for body in bodies:
        connection.request("POST", server.path, body, {"Content-Type": "application/json"})
        answers.append(connection.getresponse().read())
    return answers


def _measure(
    verified: Sequence[Server], work: Workload, folder: Path, rounds: int, seconds: float, say: Say
) -> list[Data]:
    requests = {}
    for server in verified:
        asked = (load.post_request(server.path, server.body(one)) for one in work.requests)
        requests[server.name] = load.write_requests(folder / f"{server.name}.requests", asked)
    found: dict[tuple[str, int], list[Data]] = {}
    for turn, connections, server in product(range(rounds + 1), CONNECTIONS, verified):  # the first round warms up
        say(f"serve: {server.title}, {connections} connections, round {turn} of {rounds}")
        with _processor_time(server) as spent:
            one = load.run(server.port, requests[server.name], connections, seconds if turn else 1)
        if turn:
            found.setdefault((server.name, connections), []).append({**one, "cpu_s": spent[0]})
    return [summary(name, connections, runs) for (name, connections), runs in found.items()]


@contextmanager
def _processor_time(server: Server) -> Iterator[list[float]]:
    before = servers.cpu_seconds(server.pid)
    spent: list[float] = []
    yield spent
    spent.append(servers.cpu_seconds(server.pid) - before)


def summary(name: str, connections: int, runs: Sequence[Data]) -> Data:
    """Return medians of the rounds; `rps_rounds` keeps their order, because they are compared round by round."""
    asked = sum(run["requests"] for run in runs)
    return {
        "engine": name,
        "connections": connections,
        "rps": round(median(run["rps"] for run in runs)),
        "p50_us": median(run["p50_us"] for run in runs),
        "p99_us": median(run["p99_us"] for run in runs),
        "cpu_us": round(sum(run["cpu_s"] for run in runs) / asked * 1e6, 1) if asked else None,
        "failed": sum(run["failed"] for run in runs),
        "rps_rounds": [run["rps"] for run in runs],
    }


def section(found: Sequence[Data]) -> Section:
    measured = [one for one in found if "connections" in one]
    skipped = [(TITLES[one["engine"]], one["skipped"], *[""] * 5) for one in found if "skipped" in one]
    ordered = [one for connections in CONNECTIONS for one in measured if one["connections"] == connections]
    busy = max(CONNECTIONS)
    return Section(
        name="serve",
        title=f"POST /decide, {RULES:,} rules, one core for the server, audit off",
        columns=("server", "connections", "req/s", "of the floor", "p50, µs", "p99, µs", "CPU a request, µs"),
        rows=(*(_row(one, found) for one in ordered), *skipped),
        data=tuple(found),
        targets=(
            Target(
                f"requests/s relative to the floor, {busy} connections",
                0.85,
                relative_rate(found, "floor"),
                at_least=True,
            ),
            Target(
                f"requests/s relative to Cerbos, {busy} connections", 8.0, relative_rate(found, "cerbos"), at_least=True
            ),
        ),
        notes=(
            f"Load by {load.generator()} on another core; the floor decodes the same body and answers as many bytes.",
            "CPU: processor time of all processes of a server. The servers that decide were right on all 2,000 "
            "requests.",
            f"{WORKERS} workers share the one core: what a request costs should stay, requests/s cannot double here.",
        ),
    )


def _row(one: Data, found: Sequence[Data]) -> tuple[str, ...]:
    share = relative_rate(found, "floor", one["engine"], one["connections"])
    times = (format_number(one["p50_us"]), format_number(one["p99_us"]), format_number(one["cpu_us"]))
    of_floor = "–" if share is None else f"{share:.0%}"
    return (TITLES[one["engine"]], str(one["connections"]), f"{one['rps']:,}", of_floor, *times)


def relative_rate(
    found: Sequence[Data], other: str, engine: str = "policyengine", connections: int = max(CONNECTIONS)
) -> float | None:
    """Return requests per second as a multiple of another server's: the median of the rounds' multiples. Return None if
    either was not measured.
    """
    rounds: dict[str, list[float]] = {
        one["engine"]: one["rps_rounds"] for one in found if one.get("connections") == connections
    }
    if engine not in rounds or other not in rounds:
        return None
    return round(median(mine / theirs for mine, theirs in zip(rounds[engine], rounds[other], strict=True)), 3)
