"""`mcp`: a `tools/call` through `mcp-gateway`, compared with a relay of the same bytes that decides nothing."""

from __future__ import annotations

import gc
import json
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from statistics import median
from sys import executable
from time import perf_counter
from typing import Any

from bench.machine import cores, pinned
from bench.report import Section, Target
from bench.serving.door_load import HttpClient
from bench.serving.door_requests import (
    ALLOW,
    INITIALIZE,
    INITIALIZED,
    MCP_HEADERS,
    POLICY,
    SESSION_HEADER,
    json_request,
    mcp_request,
    write_call,
)
from bench.serving.load import pin_command
from bench.serving.servers import POLICYENGINE, free_port, process_seconds, start_process, wait_for_socket
from bench.trial import format_number

ROUNDS, CALLS = 15, 150
MAX_RATIO = 1.3
MODERN = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
CALLER = ("--as", "agent=reader", "--as", "issuer=acme", "--as", "user=alice")
GATEWAY, RELAY = "mcp-gateway", "bare relay"
LEAN_RELAY = "relay with the connections of the gateway"  # over HTTP
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class McpServerProgram:
    """A server: its application for uvicorn, and its module for stdio."""

    app: tuple[str, ...]
    command: tuple[str, ...]


CONSTANT = "constant"
QUICK = ("--no-access-log", "--log-level", "warning")
SERVERS = {
    CONSTANT: McpServerProgram(
        ("bench.serving.mcp_upstream:app", *QUICK, "--lifespan", "off"), ("bench.serving.mcp_pipe", "answer")
    ),
    "SDK": McpServerProgram(("bench.serving.mcp_sdk_server:app", *QUICK), ("bench.serving.mcp_sdk_server",)),
}


def run(say: Say, rounds: int = ROUNDS, calls: int = CALLS) -> Section:
    data = []
    with tempfile.TemporaryDirectory() as name:
        for (transport, open_both), server, era in product(TRANSPORTS.items(), SERVERS, ("modern", "legacy")):
            say(f"mcp: {transport}, {server}, {era}")
            with open_both(Path(name), era, server) as pair:
                found = compare(pair, rounds, calls)
            data.append({"transport": transport, "server": server, "era": era, **found})
    return section(data)


@dataclass(frozen=True, slots=True)
class McpWay:
    """A way to the server: makes one call, through the process `pid`."""

    ask: Callable[[int], None]
    pid: int


def compare(pair: dict[str, McpWay], rounds: int, calls: int) -> dict[str, Any]:
    """Return the medians of the microseconds of a call, and of the ratios of each round, measured in turns: by the
    clock, and of the processor in the process between client and server."""
    took: dict[str, list[float]] = {name: [] for name in pair}
    spent: dict[str, list[float]] = {name: [] for name in pair}
    numbers = count(1)
    with pinned(cores()[0]):
        for turn in range(rounds + 1):
            for name, way in pair.items():
                gc.collect()
                began, before = perf_counter(), process_seconds(way.pid)
                for _ in range(calls):
                    way.ask(next(numbers))
                if turn:  # the first round warms up
                    took[name].append((perf_counter() - began) / calls * 1e6)
                    spent[name].append((process_seconds(way.pid) - before) / calls * 1e6)
    lean = {"lean_relay_cpu_us": round(median(spent[LEAN_RELAY]), 1)} if LEAN_RELAY in spent else {}
    return lean | {
        "gateway_us": round(median(took[GATEWAY]), 1),
        "relay_us": round(median(took[RELAY]), 1),
        "ratio": ratio(took),
        "gateway_cpu_us": round(median(spent[GATEWAY]), 1),
        "relay_cpu_us": round(median(spent[RELAY]), 1),
        "cpu_ratio": ratio(spent),
    }


def ratio(of: dict[str, list[float]]) -> float:
    return round(median(ours / bare for ours, bare in zip(of[GATEWAY], of[RELAY], strict=True) if bare), 3)


def section(data: list[dict[str, Any]]) -> Section:
    rows = tuple(
        (
            one["transport"],
            one["server"],
            one["era"],
            f"{format_number(one['gateway_us'])} µs",
            f"{format_number(one['relay_us'])} µs",
            f"{one['ratio']:.2f} ×",
            f"{format_number(one['gateway_cpu_us'])} µs",
            f"{format_number(one['relay_cpu_us'])} µs",
            f"{one['cpu_ratio']:.2f} ×",
            f"{format_number(one['lean_relay_cpu_us'])} µs" if "lean_relay_cpu_us" in one else "",
        )
        for one in data
    )
    return Section(
        "mcp",
        "A tool call through the MCP gateway, and through a relay of the same bytes",
        (
            "transport",
            "server",
            "era",
            GATEWAY,
            RELAY,
            "ratio",
            f"{GATEWAY}, processor",
            f"{RELAY}, processor",
            "ratio",
            "lean relay, processor",
        ),
        rows,
        tuple(data),
        tuple(Target(f"{one['transport']}, {one['server']}, {one['era']}", MAX_RATIO, one["ratio"]) for one in data),
        (
            "One client makes one call after the other, to a server that answers a constant or is built with the SDK.",
            "The client and the server run on the first core, the gateway and the relay on the last.",
            "The bare relay sends HTTP requests with httpx2; the lean relay uses the connections of the gateway, which"
            " cost less.",
            "On a busy machine, the ratio of processor times says more: every wait adds to both times of the clock.",
        ),
    )


def modern_call(number: int) -> dict[str, Any]:
    message = write_call(ALLOW, number)
    return {**message, "params": {**message["params"], "_meta": META}}


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def http_pair(folder: Path, era: str, server: str = CONSTANT) -> Iterator[dict[str, McpWay]]:
    """Start the server, and the gateway and the relay in front of it."""
    (folder / "files.policy").write_text(POLICY)
    behind, gateway, relay, lean = (free_port() for _ in range(4))
    url = f"http://127.0.0.1:{behind}/mcp"
    words = ["mcp-gateway", str(folder / "files.policy"), "--server", "files", "--upstream", url, *CALLER]
    start_relay = [executable, "-m", "uvicorn", *QUICK, "--lifespan", "off"]
    with ExitStack() as stack:
        pids = {}
        for command, port, core, variables in (
            ([executable, "-m", "uvicorn", *SERVERS[server].app], behind, cores()[0], {}),
            ([*start_relay, "bench.serving.mcp_relay:app"], relay, None, {"UPSTREAM": url}),
            ([*start_relay, "bench.serving.mcp_relay:lean_app"], lean, None, {"UPSTREAM": url}),
            ([*POLICYENGINE, *words], gateway, None, {}),
        ):
            log = folder / f"{port}.log"
            process = stack.enter_context(start_process([*command, "--port", str(port)], log, core=core, **variables))
            wait_for_socket(socket.AF_INET, ("127.0.0.1", port), process)
            pids[port] = process.pid
        pair = {}
        for name, port in ((GATEWAY, gateway), (RELAY, relay), (LEAN_RELAY, lean)):
            client = stack.enter_context(closing(HttpClient(port, 1)))
            pair[name] = McpWay(http_ask(client, era), pids[port])
        yield pair


def http_ask(client: HttpClient, era: str) -> Callable[[int], None]:
    if era == "legacy":
        session = client.ask(mcp_request(INITIALIZE)).headers.get(SESSION_HEADER, "none")
        client.ask(mcp_request(INITIALIZED, session))

    def ask(number: int) -> None:
        if era == "legacy":
            request = mcp_request(write_call(ALLOW, number), session)
        else:
            named = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": ALLOW.word}
            request = json_request("/mcp", modern_call(number), {**MCP_HEADERS, **named})
        answer = client.ask(request)
        if b'"result":' not in answer.body:
            raise SystemExit(f"mcp: a wrong answer: {answer.body[:300]!r}")

    return ask


# ── stdio ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def stdio_pair(folder: Path, era: str, server: str = CONSTANT) -> Iterator[dict[str, McpWay]]:
    """Start the gateway and the relay, each with its server."""
    (folder / "files.policy").write_text(POLICY)
    command_line = [*pin_command(cores()[0]), executable, "-m", *SERVERS[server].command]
    words = [
        "mcp-gateway",
        str(folder / "files.policy"),
        "--server",
        "files",
        "--upstream",
        shlex.join(command_line),
        *CALLER,
    ]
    relay = [executable, "-m", "bench.serving.mcp_pipe", "relay", *command_line]
    with ExitStack() as stack:
        pair = {}
        for name, command in ((GATEWAY, [*POLICYENGINE, *words]), (RELAY, relay)):
            process = stack.enter_context(stdio_process([*pin_command(cores()[-1]), *command]))
            pair[name] = McpWay(stdio_ask(process, era), process.pid)
        yield pair


@contextmanager
def stdio_process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def stdio_ask(process: subprocess.Popen[bytes], era: str) -> Callable[[int], None]:
    to_process, from_process = process.stdin, process.stdout
    assert to_process is not None
    assert from_process is not None

    def send(message: object) -> None:
        to_process.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        to_process.flush()

    if era == "legacy":
        send(INITIALIZE)
        from_process.readline()
        send(INITIALIZED)

    def ask(number: int) -> None:
        send(write_call(ALLOW, number) if era == "legacy" else modern_call(number))
        line = from_process.readline()
        if b'"result":' not in line:
            raise SystemExit(f"mcp: a wrong answer: {line[:300]!r}")

    return ask


TRANSPORTS = {"HTTP": http_pair, "stdio": stdio_pair}
