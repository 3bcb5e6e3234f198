"""`socket`: MessagePack frames over a Unix socket, with one question and with sixty-four questions in a frame."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import msgspec

from bench import policy
from bench.child import Data, in_child
from bench.machine import cores
from bench.measure import percentile
from bench.report import Section, Target
from bench.serving.servers import (
    POLICYENGINE,
    ServerProcess,
    ServerStartError,
    cpu_seconds,
    start_process,
    wait_for_socket,
)
from bench.serving.socket_floor import HEADER
from bench.trial import format_number
from bench.workload import Workload, workload
from policyengine.client.socket import SocketClient, SocketError

RULES = 1_000
BATCH_SIZE = 64
ROUNDS, SECONDS = 3, 2.0
TITLES = {"policyengine": "policyengine serve --socket", "floor": "floor: asyncio protocol"}
LOADS = {"one": (1, 1), "many": (BATCH_SIZE, 4)}  # questions in a frame, frames in flight
Say = Callable[[str], None]

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(tuple[int | None, int, msgspec.Raw]).decode


def run(say: Say, rounds: int = ROUNDS, seconds: float = SECONDS) -> Section:
    work = workload(RULES)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        say(f"socket: starting the servers, {RULES:,} rules")
        try:
            ours = stack.enter_context(_ours(work, folder))
        except ServerStartError as problem:
            return section([{"engine": "policyengine", "skipped": str(problem)}])
        if wrong := _verdict_problem(folder / "ours.sock", work):
            return section([{"engine": "policyengine", "skipped": wrong}])
        floor = stack.enter_context(_floor(work, folder))
        (folder / "questions").write_bytes(encode([policy.question(asked) for asked in work.requests]))
        return section(_measure({"policyengine": ours, "floor": floor}, folder, rounds, seconds, say))


@contextmanager
def _ours(work: Workload, folder: Path) -> Iterator[ServerProcess]:
    file, path = folder / "gateway.policy", folder / "ours.sock"
    file.write_text(policy.policy(work))
    with start_process([*POLICYENGINE, "serve", str(file), "--socket", str(path)], folder / "ours.log") as process:
        wait_for_socket(socket.AF_UNIX, str(path), process)
        yield process


@contextmanager
def _floor(work: Workload, folder: Path) -> Iterator[ServerProcess]:
    """Start the floor, which sends our server's answers to the first questions."""
    path, files = folder / "floor.sock", [folder / "one", folder / "many"]
    questions = [policy.question(asked) for asked in work.requests[:BATCH_SIZE]]
    with _connect(folder / "ours.sock") as one:
        for file, asked in zip(files, (questions[0], questions), strict=True):
            _send(one, 1, asked)
            file.write_bytes(bytes(decode(_FrameReader(one).frame())[2]))
    command = [POLICYENGINE[0], "-m", "bench.serving.socket_floor", str(path), *map(str, files)]
    with start_process(command, folder / "floor.log") as process:
        wait_for_socket(socket.AF_UNIX, str(path), process)
        yield process


def _verdict_problem(path: Path, work: Workload) -> str | None:
    """Return why our server is not timed, or None."""
    try:
        with SocketClient(path, timeout=60) as client:
            answers = client.decide_many(policy.question(asked) for asked in work.requests)
    except SocketError as problem:
        return str(problem)
    wrong = sum(answer.allowed is not verdict for answer, verdict in zip(answers, work.expected, strict=True))
    return f"wrong: {wrong:,} of 2,000 verdicts" if wrong else None


def _measure(processes: dict[str, ServerProcess], folder: Path, rounds: int, seconds: float, say: Say) -> list[Data]:
    sockets = {"policyengine": folder / "ours.sock", "floor": folder / "floor.sock"}
    found: dict[tuple[str, str], list[Data]] = {}
    # the first round warms up
    for turn, kind, (engine, process) in product(range(rounds + 1), LOADS, processes.items()):
        say(f"socket: {TITLES[engine]}, {LOADS[kind][0]} a frame, round {turn} of {rounds}")
        before = cpu_seconds(process.pid)
        arguments = {
            "path": str(sockets[engine]), "questions": str(folder / "questions"), "kind": kind, "seconds": seconds,
        }  # fmt: skip
        one = in_child("bench.serving.frames:load", seconds + 60, arguments, core=cores()[0])
        if turn and "error" in one:
            return [{"engine": engine, "skipped": one["error"]}]
        if turn:
            found.setdefault((engine, kind), []).append({**one, "cpu_s": cpu_seconds(process.pid) - before})
    return [summary(engine, kind, runs) for (engine, kind), runs in found.items()]


# ── The load: frames made beforehand, a fixed number of them on their way ─────────────────────


def load(path: str, questions: str, kind: str, seconds: float) -> Data:
    """Return decisions per second, and µs from a frame to its answer; runs in a child on another core."""
    a_frame, ahead = LOADS[kind]
    frames = _frames(msgspec.msgpack.decode(Path(questions).read_bytes()), a_frame)
    sent: list[int] = []
    times: list[int] = []
    with _connect(Path(path)) as one:
        reader = _FrameReader(one)
        start = perf_counter_ns()
        end = start + int(seconds * 1e9)
        while perf_counter_ns() < end:
            while len(sent) - len(times) < ahead:
                sent.append(perf_counter_ns())
                one.sendall(frames[len(sent) % len(frames)])
            _, status, _ = decode(reader.frame())
            if status != 200:
                return {"error": f"a frame was answered with {status}"}
            times.append(perf_counter_ns() - sent[len(times)])
        took = perf_counter_ns() - start
    times.sort()
    return {
        "rate": round(len(times) * a_frame / took * 1e9),
        "decisions": len(times) * a_frame,
        "p50_us": round(percentile(times, 0.5) / 1e3, 1),
        "p99_us": round(percentile(times, 0.99) / 1e3, 1),
    }


def _frames(questions: Sequence[Any], a_frame: int) -> list[bytes]:
    asked = questions if a_frame == 1 else [
        questions[at : at + a_frame] for at in range(0, len(questions) - a_frame + 1, a_frame)
    ]  # fmt: skip
    return [_frame(place, one) for place, one in enumerate(asked)]


def _frame(place: int, asked: object) -> bytes:
    payload = encode((place, "decide", asked))
    return HEADER.pack(len(payload)) + payload


def _send(one: socket.socket, place: int, asked: object) -> None:
    one.sendall(_frame(place, asked))


@contextmanager
def _connect(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(30)
        one.connect(str(path))
        yield one


class _FrameReader:
    """Reads frames from a socket, in order."""

    def __init__(self, one: socket.socket) -> None:
        self.socket = one
        self.rest = b""

    def frame(self) -> bytes:
        head = self._exactly(HEADER.size)
        return self._exactly(HEADER.unpack(head)[0])

    def _exactly(self, size: int) -> bytes:
        while len(self.rest) < size:
            piece = self.socket.recv(1 << 18)
            if not piece:
                raise ConnectionError("the server closed the connection")
            self.rest += piece
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


# ── The table ─────────────────────────────────────────────────────────────────────────────────


def summary(engine: str, kind: str, runs: Sequence[Data]) -> Data:
    decisions = sum(run["decisions"] for run in runs)
    return {
        "engine": engine,
        "a_frame": LOADS[kind][0],
        "rate": round(median(run["rate"] for run in runs)),
        "p50_us": median(run["p50_us"] for run in runs),
        "p99_us": median(run["p99_us"] for run in runs),
        "cpu_us": round(sum(run["cpu_s"] for run in runs) / decisions * 1e6, 2),
    }


def section(found: Sequence[Data]) -> Section:
    batched = {one["engine"]: one["rate"] for one in found if one.get("a_frame") == BATCH_SIZE}
    return Section(
        name="socket",
        title=f"MessagePack frames over a Unix socket, {RULES:,} rules, one core for the server, audit off",
        columns=(
            "server",
            "a frame",
            "decisions/s",
            "of the floor",
            "frame p50, µs",
            "frame p99, µs",
            "CPU a decision, µs",
        ),
        rows=tuple(_row(one, found) for one in sorted(found, key=lambda one: one.get("a_frame", 0))),
        data=tuple(found),
        targets=(
            Target(
                f"decisions/s, {BATCH_SIZE} a frame", 300_000, batched.get("policyengine"), "decisions/s", at_least=True
            ),
        ),
        notes=(
            f"One connection; {BATCH_SIZE} a frame with {LOADS['many'][1]} frames on their way, "
            "one a frame without load.",
            "The floor decodes the same frames into types and sends the answers of our server. All 2,000 verdicts are "
            "right.",
        ),
    )


def _row(one: Data, found: Sequence[Data]) -> tuple[str, ...]:
    title = TITLES[one["engine"]]
    if "skipped" in one:
        return (title, "", str(one["skipped"]), "", "", "", "")
    floors = [other["rate"] for other in found if (other["engine"], other.get("a_frame")) == ("floor", one["a_frame"])]
    of_floor = f"{one['rate'] / floors[0]:.0%}" if floors else "–"
    times = (format_number(one["p50_us"]), format_number(one["p99_us"]), format_number(one["cpu_us"]))
    return (title, str(one["a_frame"]), f"{one['rate']:,}", of_floor, *times)
