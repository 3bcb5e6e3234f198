"""`worst`: latency of the slowest permitted questions, and of `/healthz` while they are decided."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any

from bench.report import Section, Target
from bench.serving.servers import POLICYENGINE, free_port, start_process, wait_for_http
from bench.trial import format_number

ASKERS = 4  # connections that send the slowest question repeatedly
SECONDS, PAUSE = 3.0, 0.005
PATIENCE = 30.0  # seconds to wait for a decision
MAX_HEALTH_MILLISECONDS = 50.0
FACTS = """\
facts { body.a: list<int>  body.b: list<int>  body.text: string?  body.texts: list<string>?  body.note: int? }
anyone { may POST /x }
"""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WorstCase:
    """A rule and its slowest question. The unknown `body.note` keeps the question off the fast path."""

    name: str
    rule: str
    body: dict[str, Any]

    @property
    def policy(self) -> str:
        return f'{FACTS}guard "g" {{ {self.rule}  deny when body.note > 5 }}\n'

    @property
    def question(self) -> bytes:
        asked = {"request": {"method": "POST", "path": "/x"}, "body": self.body}
        return json.dumps(asked, separators=(",", ":")).encode()


def worst_cases() -> Iterator[WorstCase]:
    ten, more = list(range(10_000)), list(range(10_000, 20_000))
    apart = {"a": ten, "b": more}
    yield WorstCase("a overlaps b, 10,000 each", "deny when body.a overlaps body.b", apart)
    yield WorstCase("a subset of b, 10,000 each", "deny when body.a subset of body.b", {"a": ten, "b": ten[::-1]})
    yield WorstCase("a loop and `in`, 10,000 each", "deny when (any x in body.a: x in body.b)", apart)
    cubic = "deny when (any x in body.a: (any y in body.a: (any z in body.a: x + y == z + 1_000_000)))"
    yield WorstCase("three loops, 30 elements", cubic, {"a": ten[:30]})
    yield WorstCase("three loops, 10,000 elements", cubic, {"a": ten})
    long = 'deny when (any x in body.a: body.text like "*b*c*")'
    yield WorstCase("a loop over a long text", long, {"a": ten, "text": "a" * 65_000})
    yield WorstCase("`matches` on long texts", 'deny when (any x in body.texts: x matches "[a-z]*[0-9]")',
               {"texts": ["a" * 60_000 + str(place) + "." for place in range(16)]})  # fmt: skip
    yield WorstCase("1 MiB that no rule reads", "deny when body.a overlaps body.b",
               {"a": [1], "b": [2], "deep": [[{"a": [{"b": {}}]}] * 10_000] * 4})  # fmt: skip


def run(say: Say) -> Section:
    found = [measure_case(case, say) for case in worst_cases()]
    worst = max(one["healthz_p99_ms"] for one in found)
    return Section(
        "worst",
        f"The worst questions, {ASKERS} connections at a time, and `/healthz` meanwhile",
        ("question", "bytes", "a decision, s", "/healthz p99, ms", "… of an idle server", "gate"),
        tuple(
            (
                one["case"],
                f"{one['bytes']:,}",
                one["shown"],
                format_number(one["healthz_p99_ms"]),
                format_number(one["idle_p99_ms"]),
                one["gate"],
            )
            for one in found
        ),
        tuple(found),
        (Target("/healthz p99 while the worst question is decided", MAX_HEALTH_MILLISECONDS, worst, "ms"),),
        (f"First a decision alone; decisions longer than {PATIENCE:g} s are abandoned.",),
    )


def measure_case(case: WorstCase, say: Say) -> dict[str, Any]:
    say(f"worst: {case.name}")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "worst.policy").write_text(case.policy)
        command = [*POLICYENGINE, "serve", str(folder / "worst.policy"), "--port", str(port)]
        with start_process(command, folder / "log") as process:
            wait_for_http(port, "/healthz", process)
            idle = health_latency(port)
            seconds, gate = ask_server(port, case.question)
            with ask_in_background(port, case.question):
                p99 = health_latency(port)
    shown = f"> {PATIENCE:g}" if seconds is None else f"{seconds:.3f}"
    return {
        "case": case.name, "bytes": len(case.question), "seconds": seconds, "shown": shown, "healthz_p99_ms": p99,
        "idle_p99_ms": idle,
        "gate": gate,
    }  # fmt: skip


def ask_server(port: int, question: bytes) -> tuple[float | None, str]:
    """Return the duration in seconds (None after a timeout), and the gate of the decision, or `allow` without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    began = perf_counter()
    try:
        connection.request("POST", "/decide", question, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    except TimeoutError:
        return None, "–"
    finally:
        connection.close()
    return perf_counter() - began, answer.get("gate") or "allow"


@contextmanager
def ask_in_background(port: int, question: bytes) -> Iterator[None]:
    """Send the question from several clients in the background."""
    over = Event()

    def ask() -> None:
        while not over.is_set():
            with suppress(OSError):  # the server is stopping
                ask_server(port, question)

    askers = [Thread(target=ask, daemon=True) for _ in range(ASKERS)]
    for one in askers:
        one.start()
    yield
    over.set()


def health_latency(port: int) -> float:
    """Return the 99th percentile of the latency of `/healthz`, in milliseconds."""
    took: list[float] = []
    ends = perf_counter() + SECONDS
    while perf_counter() < ends or len(took) < 2:
        began = perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except TimeoutError:
            pass
        finally:
            connection.close()
        took.append((perf_counter() - began) * 1e3)
        sleep(PAUSE)
    return quantiles(took, n=100)[98]
