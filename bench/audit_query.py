"""`query`: seconds for a question about a log of ten million records: packed, with DuckDB from JSON Lines, streamed."""

from __future__ import annotations

import resource
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from bench.audit_logs import write_log
from bench.report import Section, Target
from bench.serving.servers import POLICYENGINE
from bench.trial import format_number
from policyengine.audit.query.query import AuditQuery
from policyengine.audit.query.stream import StreamReader

RECORDS = 10_000_000
STREAMED_RECORDS = 1_000_000
MAX_SECONDS = 5.0
TRIES = 3  # of questions about a packed log; the fastest counts
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
PACKED = "packed"
Say = Callable[[str], None]


class CommandTime(NamedTuple):
    """Durations in seconds: elapsed, and of all processors."""

    seconds: float
    cpu: float


def time_command(*arguments: str) -> CommandTime:
    """Run a command and return its duration, with the start of the program."""
    command = [*POLICYENGINE, "audit", *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return CommandTime(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def time_streaming(log: Path, scale: float) -> CommandTime:
    """Return the duration of a question that the streaming reader answers, times `scale`."""
    start, cpu = perf_counter(), process_time()
    StreamReader([log]).answer([AuditQuery(count_by=("rule",)).where("kind", "decision").where("outcome", "deny")])
    return CommandTime((perf_counter() - start) * scale, (process_time() - cpu) * scale)


def measure_questions(records: int, say: Say, folder: Path) -> list[dict[str, Any]]:
    """Make the logs in a folder, unless they are there, and measure."""
    log, packed, short = folder / f"{records}.jsonl", folder / f"{records}.parquet", folder / "short.jsonl"
    if not log.exists():
        say(f"query: writing {records:,} records")
        write_log(log, records)
    say("query: packing")
    found = [("audit pack", "JSON Lines", time_command("pack", str(log), "-o", str(packed)))]
    for what, options in QUESTIONS.items():
        say(f"query: {what}")
        best = min(time_command("query", str(packed), *options) for _ in range(TRIES))
        found.append((what, PACKED, best))
    for what in OF_JSON_LINES:
        say(f"query: {what}, of JSON Lines")
        found.append((what, "JSON Lines, DuckDB", time_command("query", str(log), *QUESTIONS[what])))
    say("query: streaming")
    streamed = min(records, STREAMED_RECORDS)
    write_log(short, streamed)
    found.append(("most denied rules", "JSON Lines, streamed", time_streaming(short, records / streamed)))
    sizes = {"bytes": log.stat().st_size, "packed_bytes": packed.stat().st_size, "records": records}
    return [{"what": what, "of": of, **time._asdict(), **sizes} for what, of, time in found]


def section(data: list[dict[str, Any]]) -> Section:
    first = data[0]
    slowest = max(one["seconds"] for one in data if one["of"] == PACKED)
    target = Target("the slowest question about a packed log", MAX_SECONDS, slowest, "s")
    sizes = f"{first['bytes'] / 1e9:.1f} GB of JSON Lines, {first['packed_bytes'] / 1e9:.2f} GB packed"
    return Section(
        name="query",
        title=f"Questions about a log of {first['records']:,} records",
        columns=("question", "of", "seconds", "of CPU"),
        rows=tuple((one["what"], one["of"], format_number(one["seconds"]), format_number(one["cpu"])) for one in data),
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
