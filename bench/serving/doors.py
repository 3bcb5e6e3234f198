"""`doors`: requests per second at each door, compared with a floor that reads the same messages and decides nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from socket import AF_INET
from statistics import median
from sys import executable
from typing import NamedTuple

from bench import policy
from bench.child import Data, in_child
from bench.machine import cores
from bench.report import Section, Target
from bench.serving import door_requests as requests
from bench.serving import frames, load
from bench.serving.door_load import HttpClient
from bench.serving.grpc_load import CHECK_VARIANTS, serialized_answer
from bench.serving.servers import (
    POLICYENGINE,
    ServerStartError,
    free_port,
    process_seconds,
    start_process,
    wait_for_http,
    wait_for_socket,
)
from bench.trial import format_number
from bench.workload import Workload, workload

RULES = 1_000
CONNECTIONS = (1, 32)
ROUNDS, SECONDS = 3, 1.0
BATCH_SIZE = 10
GRPC, FRAMES = "ext_authz, gRPC", f"frames of {frames.BATCH_SIZE}"
HAS_GRPC = find_spec("grpc") is not None
OURS, ASGI, BARE, ECHO = "policyengine", "raw ASGI", "bare protocol", "echo"
TIMES_ASGI = "× raw ASGI"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DoorCase:
    """A kind of request. `of_workload`: it is asked of the policy with many rules, otherwise of that for gateways."""

    name: str
    messages: tuple[bytes, ...]
    mark: bytes  # what a right answer has
    of_workload: bool
    is_question: bool = False  # its body has the shape of one question of the workload
    denied: bool = False


def http_cases(work: Workload) -> Iterator[DoorCase]:
    questions = [policy.question(asked) for asked, right in zip(work.requests, work.expected, strict=True) if right]
    batches = [questions[at : at + BATCH_SIZE] for at in range(0, len(questions) - BATCH_SIZE, BATCH_SIZE)]
    for path in ("/decide", "/evaluate"):
        asked = tuple(requests.json_request(path, question) for question in questions)
        yield DoorCase(path, asked, b'"allowed":true', True, is_question=True)
    asked = tuple(requests.json_request("/decide/batch", {"requests": batch}) for batch in batches)
    yield DoorCase(f"/decide/batch, {BATCH_SIZE}", asked, b'"allowed":true', True)
    for name, write, mark in (
        ("/forward-auth", requests.write_forward_auth, b"x-decision: allow"),
        ("/envoy/…", requests.write_envoy, b"x-decision: allow"),
        ("AuthZEN evaluation", requests.write_evaluation, b'"decision":true'),
        ("AuthZEN evaluations, 16", requests.write_evaluations, b'"decision":true'),
    ):
        yield DoorCase(name, tuple(write(requests.ALLOW, number) for number in range(CHECK_VARIANTS)), mark, False)
    denied = tuple(requests.write_forward_auth(requests.UNKNOWN, number) for number in range(CHECK_VARIANTS))
    yield DoorCase("/forward-auth, denied", denied, b"x-decision: deny", False, denied=True)


def run(say: Say, rounds: int = ROUNDS, seconds: float = SECONDS) -> Section:
    work = workload(RULES)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        say(f"doors: starting the servers, {RULES:,} rules")
        try:
            servers = DoorServers.start(work, folder, stack)
            found = [
                row for case in http_cases(work) for row in measure_case(case, servers, folder, rounds, seconds, say)
            ]
            found += measure_grpc(servers, folder, stack, rounds, seconds, say)
        except ServerStartError as problem:
            return section([{"door": "doors", "skipped": str(problem)}])
    frame_rows = frames.run(say, rounds, seconds).data
    return section([*found, *map(frame_row, frame_rows)])


# ── Servers ───────────────────────────────────────────────────────────────────────────────────


class LoadedPort(NamedTuple):
    """A port, and the process that listens on it."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class DoorServers:
    """Our servers: the port for the workload, that for gateways, and that for Envoy by gRPC."""

    of_workload: LoadedPort
    of_gateways: LoadedPort
    grpc: LoadedPort

    @classmethod
    def start(cls, work: Workload, folder: Path, stack: ExitStack) -> DoorServers:
        """Start both, on one core. Raises ServerStartError."""
        (folder / "rules.policy").write_text(policy.policy(work))
        (folder / "doors.policy").write_text(requests.POLICY)
        ports = [free_port() for _ in range(3)]
        envoy = ["--envoy-grpc", str(ports[2])] if HAS_GRPC else []
        pids = []
        for file, port, more in (("rules", ports[0], []), ("doors", ports[1], envoy)):
            command = [*POLICYENGINE, "serve", str(folder / f"{file}.policy"), "--port", str(port), *more]
            process = stack.enter_context(start_process(command, folder / f"{file}.log"))
            wait_for_http(port, "/healthz", process)
            pids.append(process.pid)
        return cls(*map(LoadedPort, ports, (pids[0], pids[1], pids[1])))

    def port(self, case: DoorCase) -> LoadedPort:
        return self.of_workload if case.of_workload else self.of_gateways


def start_floors(case: DoorCase, size: int, folder: Path, stack: ExitStack) -> dict[str, LoadedPort]:
    """Start a raw ASGI application and a bare protocol that answer with as many bytes."""
    found = {}
    ports = {name: free_port() for name in (ASGI, BARE)}
    options = ["--no-access-log", "--log-level", "warning", "--lifespan", "off", "--port", str(ports[ASGI])]
    environment = {"ANSWER": str(size), "SHAPE": "question" if case.is_question else "any"}
    for name, command in (
        (ASGI, [executable, "-m", "uvicorn", "bench.serving.floor:app", *options]),
        (BARE, [executable, "-m", "bench.serving.bare_http", str(ports[BARE])]),
    ):
        process = stack.enter_context(start_process(command, folder / "floor.log", **environment))
        wait_for_socket(AF_INET, ("127.0.0.1", ports[name]), process)
        found[name] = LoadedPort(ports[name], process.pid)
    return found


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────


def measure_case(
    case: DoorCase, servers: DoorServers, folder: Path, rounds: int, seconds: float, say: Say
) -> Iterator[Data]:
    """Measure our server and both floors in turns, so that other load on the machine affects all of them."""
    with closing(HttpClient(servers.port(case).port, 1)) as client:
        answers = [client.ask(message) for message in case.messages]
        head = b"".join(f"{name}: {value}\r\n".encode() for name, value in answers[0].headers.items())
        wrong = sum(case.mark not in raw_answer(answer.headers, answer.body) for answer in answers)
    if wrong:
        yield {"door": case.name, "skipped": f"wrong: {wrong:,} of {len(answers):,} answers, such as {head!r}"}
        return
    file = load.write_requests(folder / "requests", case.messages)
    runs: dict[tuple[str, int], list[Data]] = {}
    with ExitStack() as stack:
        floors = start_floors(case, len(answers[0].body), folder, stack)
        ports = {OURS: servers.port(case), **floors}
        for turn, connections, (name, target) in product(range(rounds + 1), CONNECTIONS, ports.items()):
            say(f"doors: {case.name}, {name}, {connections} connections, round {turn} of {rounds}")
            before = process_seconds(target.pid)
            one = load.run(target.port, file, connections, seconds, denied=case.denied)
            if turn:  # the first round warms up
                spent = process_seconds(target.pid) - before
                runs.setdefault((name, connections), []).append({**one, "cpu_s": spent})
    yield from (summary(case.name, name, connections, each) for (name, connections), each in runs.items())


def raw_answer(headers: Mapping[str, str], body: bytes) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + body


# ── gRPC ──────────────────────────────────────────────────────────────────────────────────────


def measure_grpc(
    servers: DoorServers, folder: Path, stack: ExitStack, rounds: int, seconds: float, say: Say
) -> Iterator[Data]:
    """Measure Envoy's door by gRPC beside an echo of the same messages, with a client in another process."""
    if not HAS_GRPC:
        yield {"door": GRPC, "skipped": "not installed: pip install 'agent-policyengine[envoy]'"}
        return
    port, answer = free_port(), folder / "answer"
    answer.write_bytes(serialized_answer(servers.grpc.port))
    command = [executable, "-m", "bench.serving.grpc_echo", str(port), str(answer)]
    process = stack.enter_context(start_process(command, folder / "echo.log"))
    wait_for_socket(AF_INET, ("127.0.0.1", port), process)
    runs: dict[tuple[str, int], list[Data]] = {}
    ports = {OURS: servers.grpc, ECHO: LoadedPort(port, process.pid)}
    for turn, connections, (name, target) in product(range(rounds + 1), CONNECTIONS, ports.items()):
        say(f"doors: {GRPC}, {name}, {connections} in flight, round {turn} of {rounds}")
        before = process_seconds(target.pid)
        arguments = {"port": target.port, "lanes": connections, "seconds": seconds}
        one = in_child("bench.serving.grpc_load:measure", seconds + 60, arguments, core=cores()[0])
        if "error" in one:
            yield {"door": GRPC, "skipped": one["error"]}
            return
        if turn:
            spent = process_seconds(target.pid) - before
            runs.setdefault((name, connections), []).append({**one, "cpu_s": spent})
    yield from (summary(GRPC, name, lanes, each) for (name, lanes), each in runs.items())


# ── Results ───────────────────────────────────────────────────────────────────────────────────


def summary(door: str, server: str, connections: int, runs: Sequence[Data]) -> Data:
    """Return medians of the rounds, and the rounds in order, because they are compared round by round."""
    return {
        "door": door,
        "server": server,
        "connections": connections,
        "rps": round(median(run["rps"] for run in runs)),
        "p50_us": median(run["p50_us"] for run in runs),
        "p99_us": median(run["p99_us"] for run in runs),
        "cpu_us": round(median(run["cpu_s"] / run["requests"] * 1e6 for run in runs), 1),
        "failed": sum(run["failed"] for run in runs),
        "rps_rounds": [run["rps"] for run in runs],
    }


def frame_row(one: Data) -> Data:
    door = f"frames of {one.get('a_frame', frames.BATCH_SIZE)}"
    if "skipped" in one:
        return {"door": door, "skipped": one["skipped"]}
    server = OURS if one["engine"] == "policyengine" else ECHO
    rates = {"rps": one["rate"], "rps_rounds": [one["rate"]], "failed": 0}
    return {
        "door": door, "server": server, "connections": 1, "p50_us": one["p50_us"], "p99_us": one["p99_us"],
        "cpu_us": one["cpu_us"], **rates,
    }  # fmt: skip


def ratio(found: Sequence[Data], door: str, floor: str, connections: int) -> float | None:
    """Return requests per second as a multiple of a floor's: the median of the rounds' multiples. Return None if either
    was not measured.
    """
    rounds = {
        one["server"]: one["rps_rounds"]
        for one in found
        if (one["door"], one.get("connections")) == (door, connections)
    }
    if OURS not in rounds or floor not in rounds:
        return None
    return round(median(ours / theirs for ours, theirs in zip(rounds[OURS], rounds[floor], strict=True)), 3)


def section(found: Sequence[Data]) -> Section:
    busy = max(CONNECTIONS)
    measured = [one for one in found if "skipped" not in one]
    skipped = [(str(one["door"]), "left out", *[""] * 7) for one in found if "skipped" in one]
    many = [one["rps"] for one in measured if one["door"] == FRAMES and one["server"] == OURS]
    return Section(
        name="doors",
        title=f"Each door, {RULES:,} rules at /decide, one core for the server, audit off, beside floors",
        columns=(
            "door", "server", "connections", "req/s", "of raw ASGI", "of the floor", "p50, µs", "p99, µs", "CPU, µs",
        ),
        rows=(*(_row(one, measured) for one in measured), *skipped),
        data=tuple(found),
        targets=(
            *(
                Target(f"{door}, {busy} connections", 1.0, ratio(measured, door, ASGI, busy), TIMES_ASGI, at_least=True)
                for door in ("/decide", "/forward-auth", "/envoy/…")
            ),
            Target(f"{GRPC}, {busy} in flight", 0.7, ratio(measured, GRPC, ECHO, busy), "× echo", at_least=True),
            Target(FRAMES, 150_000, max(many, default=None), "decisions/s", at_least=True),
        ),
        notes=(
            f"Load by {load.generator()} on another core. Raw ASGI, on uvicorn, and the bare protocol, on httptools,",
            "decode the same body and answer as many bytes. The floor of gRPC is an echo of the same messages, that of",
            "frames an asyncio protocol. Rates by gRPC are limited by our client in Python, too; those of frames are",
            "decisions per second.",
            *(f"Left out: {one['door']}: {one['skipped']}" for one in found if "skipped" in one),
        ),
    )  # fmt: skip


def _row(one: Data, found: Sequence[Data]) -> tuple[str, ...]:
    title = f"policyengine {one['door']}" if one["server"] == OURS else str(one["door"])
    shares = [ratio(found, one["door"], ASGI, one["connections"])]
    shares.append(
        ratio(found, one["door"], BARE, one["connections"]) or ratio(found, one["door"], ECHO, one["connections"])
    )
    shown = ["–" if share is None or one["server"] != OURS else f"{share:.2f}×" for share in shares]
    times = (format_number(one[name]) for name in ("p50_us", "p99_us", "cpu_us"))
    return (title, one["server"], str(one["connections"]), f"{one['rps']:,}", *shown, *times)
