"""`sinks`: how fast records are sent and exported, and what a sink costs each decision."""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import perf_counter, perf_counter_ns, thread_time_ns

from bench import policy
from bench.report import Section, Target
from bench.trial import format_number
from bench.workload import workload
from policyengine.audit import DecisionLog
from policyengine.audit.exports.json_events import encode_json
from policyengine.audit.exports.ocsf import encode_ocsf
from policyengine.audit.record_summary import find_record, summarize
from policyengine.audit.sinks.cursor import SinkCursor, write_cursor
from policyengine.audit.sinks.sender import SinkSender
from policyengine.audit.sinks.sink_set import open_transport
from policyengine.audit.sinks.targets import OnLag, parse_sink
from policyengine.engine import Engine

RULES, RECORDS, ROUNDS, CALLS = 100, 20_000, 7, 50_000
MAX_MICROSECONDS = 1.0  # of a decision
MIN_RECORDS = 2_000  # a second, on a busy machine, to a receiver on this machine
Say = Callable[[str], None]


class Swallow(BaseHTTPRequestHandler):
    """Accepts every batch."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: object) -> None:
        pass


def run(say: Say) -> Section:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = write_log(folder, say)
        cost = decision_cost(folder, say)
        rates = {kind: send_rate(folder, log, url, say) for kind, url in receivers()}
        rates["export as OCSF"] = export_rate(log, say)
        size = log.stat().st_size // RECORDS
    rows = (
        ("a sink, for each decision", f"{format_number(cost)} µs"),
        *((kind, f"{rate:,.0f} records/s") for kind, rate in rates.items()),
    )
    slowest = min(rates.values())
    return Section(
        "sinks",
        f"Sinks: {RECORDS:,} records of a log, each of about {size:,} bytes",
        ("what", "measured"),
        rows,
        ({"what": "decision", "microseconds": cost}, *({"what": kind, "rate": rate} for kind, rate in rates.items())),
        (
            Target("a sink adds to a decision", MAX_MICROSECONDS, cost, "µs"),
            Target("a second per million records at the slowest sink", 1e6 / MIN_RECORDS, 1e6 / slowest, "s"),
        ),
        (
            "The receivers are in the same process, so that the rates are lower bounds.",
            "The threads of a sink take processor time from decisions in the same process while they send.",
        ),
    )


def write_log(folder: Path, say: Say) -> Path:
    say(f"sinks: a log of {RECORDS:,} records")
    path = folder / "sent.jsonl"
    work, log = workload(RULES), DecisionLog(path, seal=None)
    engine = Engine.from_text(policy.policy(work), log=log)
    questions = [policy.question(asked) for asked in work.requests]
    for number in range(RECORDS):
        engine.decide(questions[number % len(questions)])
    log.close()
    return path


def decision_cost(folder: Path, say: Say) -> float:
    """Return the microseconds of processor time of the two calls that a sink adds to each decision."""
    say("sinks: the calls of a decision")
    log = DecisionLog(folder / "calls.jsonl", seal=None, sinks=["http://127.0.0.1:9/#name=s&on_lag=deny"])
    sinks, took = log.sinks, []
    assert sinks is not None
    sinks.wake()
    for _ in range(ROUNDS):
        began = thread_time_ns()
        for _ in range(CALLS):
            sinks.admits()
            sinks.wake()
        took.append((thread_time_ns() - began) / CALLS / 1e3)
    log.close()
    return min(took)


def receivers() -> Iterator[tuple[str, str]]:
    with http_server() as port:
        yield "HTTP, JSON Lines", f"http://127.0.0.1:{port}/"
        yield "HTTP, OCSF", f"http://127.0.0.1:{port}/#records=ocsf"
        yield "OTLP", f"otlp+http://127.0.0.1:{port}"
    with syslog_server() as port:
        yield "syslog over TCP", f"syslog+tcp://127.0.0.1:{port}"


def send_rate(folder: Path, log: Path, url: str, say: Say) -> float:
    """Return the records a second of one sender."""
    target = parse_sink(url)
    say(f"sinks: {target.place}")
    found = log.stat()
    write_cursor(folder, target.name, SinkCursor(log.name, found.st_dev, found.st_ino, 0))
    sender = SinkSender(target, lambda: open_transport(target), log, folder, on_lag=OnLag.CONTINUE)
    began = perf_counter()
    while not sender.step():
        pass
    took = perf_counter() - began
    sender.close()
    if sender.sent != RECORDS:
        sys.exit(f"{sender.sent:,} of {RECORDS:,} records were sent")
    return RECORDS / took


def export_rate(log: Path, say: Say) -> float:
    say("sinks: export")
    began = perf_counter_ns()
    with log.open("rb") as file:
        for line in file:
            record = find_record(line)
            if record is not None:
                encode_json(encode_ocsf(summarize(record[1])))
    return RECORDS / ((perf_counter_ns() - began) / 1e9)


@contextmanager
def http_server() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Swallow)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def syslog_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def swallow() -> None:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(1 << 20):
                    pass

        Thread(target=swallow, daemon=True).start()
        yield listener.getsockname()[1]
