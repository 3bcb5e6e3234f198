"""`query`: seconds for a question to a log of ten million records: packed, as JSON Lines with DuckDB, and streamed."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.audit_logs import write_log
from bench.report import Section, Target
from bench.serving.servers import POLICYENGINE
from bench.trial import format_number
from policyengine.audit.query.query import AuditQuery
from policyengine.audit.query.stream import StreamReader

RECORDS = 10_000_000
STREAMED_RECORDS = 1_000_000
MAX_SECONDS = 5.0
TRIES = 3  # of questions to a packed log; the fastest counts
QUESTIONS = {
    "denials of one agent": ("--agent=bot-7", "--outcome=deny"),
    "one decision by its ID": ("--id=01KE0000000000000000000000",),
    "most denied rules": ("--outcome=deny", "--count-by=rule"),
    "decisions by hour and outcome": ("--count-by=hour", "--count-by=outcome"),
    "a resource, with a wildcard": ("--resource=/v1/invoices/4242*",),
    "one day of a user": ("--user=user-4242", "--since=2026-01-03", "--until=2026-01-04"),
    "latency by endpoint": ("--kind=outcome", "--measure=latency_ms", "--count-by=endpoint"),
}
OF_JSON_LINES = ("denials of one agent", "most denied rules")
Say = Callable[[str], None]


def seconds_of(*arguments: str) -> float:
    """Run a command and return its duration, with the start of the program."""
    start = perf_counter()
    subprocess.run(
        [*POLICYENGINE, "audit", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return perf_counter() - start


def stream_seconds(log: Path) -> float:
    """Return the duration of a question that the streaming reader answers."""
    start = perf_counter()
    StreamReader([log]).answer([AuditQuery(count_by=("rule",)).where("kind", "decision").where("outcome", "deny")])
    return perf_counter() - start


def measure_questions(records: int, say: Say, folder: Path) -> list[dict[str, Any]]:
    """Make the logs in a folder, unless they are there, and measure."""
    log, packed, short = folder / f"{records}.jsonl", folder / f"{records}.parquet", folder / "short.jsonl"
    if not log.exists():
        say(f"query: writing {records:,} records")
        write_log(log, records)
    say("query: packing")
    found = [{"what": "audit pack", "of": "JSON Lines", "seconds": seconds_of("pack", str(log), "-o", str(packed))}]
    for what, options in QUESTIONS.items():
        say(f"query: {what}")
        best = min(seconds_of("query", str(packed), *options) for _ in range(TRIES))
        found.append({"what": what, "of": "packed", "seconds": best})
    for what in OF_JSON_LINES:
        say(f"query: {what}, of JSON Lines")
        seconds = seconds_of("query", str(log), *QUESTIONS[what])
        found.append({"what": what, "of": "JSON Lines, DuckDB", "seconds": seconds})
    say("query: streaming")
    write_log(short, min(records, STREAMED_RECORDS))
    scale = records / min(records, STREAMED_RECORDS)
    seconds = stream_seconds(short) * scale
    found.append({"what": "most denied rules", "of": "JSON Lines, streamed", "seconds": seconds})
    sizes = {"bytes": log.stat().st_size, "packed_bytes": packed.stat().st_size, "records": records}
    return [{**one, **sizes} for one in found]


def section(data: list[dict[str, Any]]) -> Section:
    first = data[0]
    slowest = max(one["seconds"] for one in data if one["of"] == "packed")
    target = Target("the slowest question to a packed log", MAX_SECONDS, slowest, "s")
    sizes = f"{first['bytes'] / 1e9:.1f} GB of JSON Lines, {first['packed_bytes'] / 1e9:.2f} GB packed"
    return Section(
        name="query",
        title=f"Questions to a log of {first['records']:,} records",
        columns=("question", "of", "seconds"),
        rows=tuple((one["what"], one["of"], format_number(one["seconds"])) for one in data),
        data=tuple(data),
        targets=(target,) if first["records"] == RECORDS else (),
        notes=(
            f"{sizes}. Whole commands, with the start of the program.",
            f"Streamed: {STREAMED_RECORDS:,} records, and the time in proportion.",
        ),
    )


def run(records: int, say: Say, folder: Path | None = None) -> Section:
    if folder is not None:
        return section(measure_questions(records, say, folder))
    with tempfile.TemporaryDirectory() as name:
        return section(measure_questions(records, say, Path(name)))
