"""`adapters`: the cost of a decision at each adapter, compared with the same server answering a constant."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from sys import executable
from typing import Any, TypeAlias

from bench.child import Data
from bench.machine import cores, pinned
from bench.report import Section, Target
from bench.serving.door_load import GrpcClient, HttpClient
from bench.serving.door_requests import (
    ALLOW,
    INITIALIZE,
    INITIALIZED,
    POLICY,
    SESSION_HEADER,
    UNKNOWN,
    WAYS_IN,
    DoorQuestion,
    Port,
    WayIn,
    http_request,
    mcp_request,
)
from bench.serving.servers import (
    ServerProcess,
    ServerStartError,
    free_port,
    process_seconds,
    start_process,
    wait_for_http,
    wait_for_socket,
)
from bench.trial import format_number

CONNECTIONS = 8
VARIANTS = 64  # distinct paths or arguments of each question
ROUNDS, SECONDS, WARM_UP_SECONDS = 5, 0.12, 0.03
MAX_ADDED_US = 15.0  # microseconds that a decision may add
PROGRAM = (executable, "-m", "bench.serving.constant")
DECIDED, CONSTANT = "decided", "constant"
SIGNALS = {DECIDED: signal.SIGUSR2, CONSTANT: signal.SIGUSR1}
HEALTH = http_request("GET", "/healthz", {})
Say = Callable[[str], None]


class WrongAnswerError(Exception):
    """An answer differs from the expected one, so the adapter is not timed."""


def run(say: Say, rounds: int = ROUNDS, seconds: float = SECONDS) -> Section:
    say("adapters: starting the servers")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            servers = start_servers(Path(folder), stack)
        except ServerStartError as problem:
            return section([{"skipped": str(problem)}])
        with pinned(cores()[0]):
            return measure_all(servers, rounds, seconds, say)


def measure_all(servers: Servers, rounds: int, seconds: float, say: Say) -> Section:
    return section([one for way in WAYS_IN for one in measure_way(servers, way, rounds, seconds, say)])


# ── Servers ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class DoorServer:
    """One port of a process."""

    process: ServerProcess
    port: int


Servers: TypeAlias = Mapping[Port, DoorServer]


def start_servers(folder: Path, stack: ExitStack) -> dict[Port, DoorServer]:
    """Start the decision API with Envoy's port and the MCP gateway, both on one core, and a server behind the gateway
    on another core. Raises ServerStartError."""
    policy = folder / "doors.policy"
    policy.write_text(POLICY)
    http, grpc = free_port(), free_port()
    words = ["serve", str(policy), "--port", str(http), "--envoy-grpc", str(grpc)]
    process = stack.enter_context(start_process([*PROGRAM, *words], folder / "serve.log"))
    wait_for_http(http, "/healthz", process)
    return {
        Port.HTTP: DoorServer(process, http),
        Port.GRPC: DoorServer(process, grpc),
        Port.MCP: stack.enter_context(_mcp_gateway(policy, folder)),
    }


@contextmanager
def _mcp_gateway(policy: Path, folder: Path) -> Iterator[DoorServer]:
    behind, port = free_port(), free_port()
    options = ["--no-access-log", "--log-level", "warning", "--lifespan", "off", "--port", str(behind)]
    upstream = [executable, "-m", "uvicorn", "bench.serving.mcp_upstream:app", *options]
    caller = ["--as", "agent=reader", "--as", "issuer=acme", "--as", "user=alice"]
    words = ["mcp-gateway", str(policy), "--server", "files", "--upstream", f"http://127.0.0.1:{behind}/mcp", *caller]
    with start_process(upstream, folder / "upstream.log", core=cores()[0]) as server:
        wait_for_socket(socket.AF_INET, ("127.0.0.1", behind), server)
        with start_process([*PROGRAM, *words, "--port", str(port)], folder / "mcp.log") as process:
            wait_for_socket(socket.AF_INET, ("127.0.0.1", port), process)
            yield DoorServer(process, port)


def begin_sessions(client: HttpClient) -> list[str]:
    """Start an MCP session for each connection, because ids are unique within a session."""
    sessions = []
    for lane in range(CONNECTIONS):
        session = client.ask(mcp_request(INITIALIZE), lane).headers[SESSION_HEADER]
        client.ask(mcp_request(INITIALIZED, session), lane)
        sessions.append(session)
    return sessions


# ── One way in ────────────────────────────────────────────────────────────────────────────────


class DoorTrial:
    """An adapter, its connections, and the server process, which decides or answers a constant as switched."""

    def __init__(self, way: WayIn, process: ServerProcess, client: HttpClient | GrpcClient, main: HttpClient) -> None:
        self.way, self.process, self.client = way, process, client
        self._main = main  # a request that the main thread of the process answers
        self._sessions = begin_sessions(main) if way.port is Port.MCP else []
        self._lanes: dict[DoorQuestion, list[list[Any]]] = {}

    def lanes(self, asked: DoorQuestion) -> list[list[Any]]:
        """Return the messages of each connection."""
        if asked not in self._lanes:
            self._lanes[asked] = self._write(asked)
        return self._lanes[asked]

    def _write(self, asked: DoorQuestion) -> list[list[Any]]:
        messages = [self.way.write(asked, number) for number in range(VARIANTS)]
        if self.way.port is not Port.MCP:
            return [messages] * CONNECTIONS
        return [[mcp_request(message, session) for message in messages] for session in self._sessions]

    def outcomes(self, asked: DoorQuestion) -> list[str]:
        return self.way.read(self.client.ask(self.lanes(asked)[0][0]))

    def switch(self, mode: str, asked: DoorQuestion) -> None:
        """Switch the process to deciding, or to the decision about `asked` as a constant. Raises WrongAnswerError if
        the switch fails."""
        os.kill(self.process.pid, SIGNALS[mode])
        self._main.ask(HEALTH)  # the main thread answers this request, so it has handled the signal by then
        other = other_question(asked)
        self.expect(asked, asked.outcome)
        self.expect(other, asked.outcome if mode == CONSTANT else other.outcome)

    def expect(self, asked: DoorQuestion, outcome: str) -> None:
        """Check that the question gets this outcome. Raises WrongAnswerError."""
        outcomes = self.outcomes(asked)
        if outcomes != [outcome] * self.way.size:
            words = f"{self.way.title} answers `{asked.title}` with {', '.join(outcomes)}, not {outcome}"
            raise WrongAnswerError(words)

    def load(self, asked: DoorQuestion, seconds: float) -> Data:
        lanes, is_right = self.lanes(asked), self.way.right_answer(asked.outcome)
        self.client.load(lanes, is_right, min(seconds, WARM_UP_SECONDS))
        before = process_seconds(self.process.pid)
        count = self.client.load(lanes, is_right, seconds)
        spent = process_seconds(self.process.pid) - before
        decisions = count.answers * self.way.size
        return {"decisions": decisions, "rate": decisions / count.seconds, "cpu_s": spent, "failed": count.failed}


def other_question(asked: DoorQuestion) -> DoorQuestion:
    """Return a question with another outcome, which shows whether the process answers a constant."""
    return UNKNOWN if asked.outcome == ALLOW.outcome else ALLOW


@contextmanager
def open_trial(servers: Servers, way: WayIn) -> Iterator[DoorTrial]:
    server = servers[way.port]
    main = servers[Port.HTTP] if way.port is Port.GRPC else server
    with closing(HttpClient(main.port, CONNECTIONS)) as http:
        if way.port is not Port.GRPC:
            yield DoorTrial(way, server.process, http, http)
            return
        with closing(GrpcClient(server.port, CONNECTIONS)) as grpc:
            yield DoorTrial(way, server.process, grpc, http)


def measure_way(servers: Servers, way: WayIn, rounds: int, seconds: float, say: Say) -> list[Data]:
    with open_trial(servers, way) as trial:
        return [measure_question(trial, asked, rounds, seconds, say) for asked in way.questions]


def measure_question(trial: DoorTrial, asked: DoorQuestion, rounds: int, seconds: float, say: Say) -> Data:
    """Measure in turns, reversing the order every round, so that other load on the machine affects both equally."""
    runs: dict[str, list[Data]] = {mode: [] for mode in SIGNALS}
    name = {"way": trial.way.title, "question": asked.title}
    try:
        for turn in range(rounds):
            say(f"adapters: {trial.way.title}, {asked.title}, round {turn + 1} of {rounds}")
            for mode in sorted(SIGNALS, reverse=turn % 2 == 0):
                trial.switch(mode, asked)
                runs[mode].append(trial.load(asked, seconds * trial.way.time_factor))
    except WrongAnswerError as problem:
        return {**name, "skipped": str(problem)}
    failed = sum(run["failed"] for each in runs.values() for run in each)
    if failed:
        return {**name, "skipped": f"wrong: {failed:,} answers"}
    return {**name, **compare(summary(runs[DECIDED]), summary(runs[CONSTANT]))}


def summary(runs: Sequence[Data]) -> Data:
    """Return medians of the rounds, and the rounds in order, because they are compared round by round."""
    costs = [round(run["cpu_s"] / run["decisions"] * 1e6, 2) for run in runs]
    return {
        "rate": round(median(run["rate"] for run in runs)),
        "cpu_us": round(median(costs), 2),
        "cpu_us_rounds": costs,
    }


def compare(decided: Data, constant: Data) -> Data:
    """Return medians of the rounds' differences and ratios; None where a value was not measured."""
    pairs = list(zip(decided["cpu_us_rounds"], constant["cpu_us_rounds"], strict=True))
    ratios = [ours / theirs for ours, theirs in pairs if theirs]
    return {
        DECIDED: decided,
        CONSTANT: constant,
        "added_us": round(median(ours - theirs for ours, theirs in pairs), 2),
        "ratio": round(median(ratios), 3) if ratios else None,
    }


# ── The table ─────────────────────────────────────────────────────────────────────────────────


def section(found: Sequence[Data]) -> Section:
    added = [one["added_us"] for one in found if "added_us" in one]
    return Section(
        name="adapters",
        title=f"Each adapter, {CONNECTIONS} connections, one core for the server, audit off, versus a constant answer",
        columns=(
            "way in", "question", "decisions/s", "CPU, µs", "constant: decisions/s", "CPU, µs", "deciding, µs", "ratio",
        ),
        rows=tuple(map(_row, found)),
        data=tuple(found),
        targets=(Target("cost of deciding, at most", MAX_ADDED_US, max(added, default=None), "µs"),),
        notes=(
            "Constant: the same process and connections, but the engine returns one decision from before for each "
            "question.",
            "CPU: processor time of the server's process for a decision; medians of rounds. What deciding adds, and",
            "the ratio, are of the two figures of each round. Decisions of a batch count one by one. Full garbage",
            "collections of the MCP gateway are left out: one takes as long as fifty calls. Rates by gRPC and MCP are",
            "limited by our load in Python, too.",
            *(f"Left out: {one['skipped']}" for one in found if "skipped" in one),
        ),
    )  # fmt: skip


def _row(one: Data) -> tuple[str, ...]:
    if "skipped" in one:
        return (one.get("way", "adapters"), one.get("question", ""), "left out", *[""] * 5)
    figures = [cell for mode in (DECIDED, CONSTANT) for cell in (f"{one[mode]['rate']:,}", _us(one[mode]["cpu_us"]))]
    ratio = "–" if one["ratio"] is None else f"{one['ratio']:.2f}×"
    return (one["way"], one["question"], *figures, _us(one["added_us"]), ratio)


def _us(value: float) -> str:
    return format_number(value)
