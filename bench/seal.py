"""`seal`: the cost of a sealed log for a decision and for `/decide`, and the speed of verification and of proofs."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time

from bench import policy
from bench.child import Data
from bench.report import Section, Target
from bench.serving import load, servers
from bench.trial import format_number
from bench.workload import workload
from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.seal.find_line import LogIndex
from policyengine.audit.seal.notes import Verifier
from policyengine.audit.seal.options import SealOptions
from policyengine.audit.seal.proofs import prove_line
from policyengine.audit.seal.sealed_files import default_folder
from policyengine.audit.seal.verify import verify_log

RULES = 1_000
CALLS, ROUNDS = 20_000, 25  # single rounds differ by up to 30 %, so that few rounds show only noise
RECORDS = 300_000  # of the log to verify
PROVED = 10_000_000  # records of the log in which decisions are proved; their lines are shorter
PROOFS = 1_000
SECONDS, SERVE_ROUNDS, CONNECTIONS = 3.0, 5, 32
SEALED, UNSEALED, NONE = "sealed log", "log without a seal", "no log"
ADDED, CREATED = "added by a seal", "created file"
Say = Callable[[str], None]
BEGAN = 1_800_000_000  # seconds since 1970
BATCH = 10_000  # lines
# A file system in memory: to create a file on a disk can cost a microsecond or a millisecond of processor time, by the
# file system, and a seal creates two files for 256 records.
MEMORY = Path("/dev/shm")
CREATED_FILES, FILE_BYTES = 500, 8_192


def run(say: Say, records: int = RECORDS, proved: int = PROVED) -> Section:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("seal: processor time of a decision, log on disk")
        disk, created = decision_costs(folder), file_cost(folder)
        say("seal: processor time of a decision, log in memory")
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as memory:
            costs = decision_costs(Path(memory))
        say(f"seal: verifying {records:,} records")
        rate = verification_rate(folder, records)
        say("seal: `/decide` with and without a log")
        rates = serving_rates(folder, say)
    with tempfile.TemporaryDirectory() as name:
        say(f"seal: writing {proved:,} records")
        times = proof_times(Path(name), proved)
    return section(costs, {**disk, CREATED: created}, rate, rates, times, proved)


def file_cost(folder: Path) -> float:
    """Return the processor time in µs of creating and writing a small file, as for a tile."""
    began = process_time()
    for number in range(CREATED_FILES):
        file = os.open(folder / f"created-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, bytes(FILE_BYTES))
        os.close(file)
    return (process_time() - began) / CREATED_FILES * 1e6


def decision_costs(folder: Path) -> dict[str, float]:
    """Return the processor time of a decision in µs, of all threads, with each kind of log, and what a seal adds to
    it: the median of the differences between a round with a seal and the round after it without one."""
    work = workload(RULES)
    questions = [json.loads(servers.question(each)) for each in work.requests]
    logs = {
        SEALED: DecisionLog(folder / "sealed.jsonl"),
        UNSEALED: DecisionLog(folder / "unsealed.jsonl", seal=None),
        NONE: None,
    }
    text = policy.policy(work)
    engines = {name: Engine.from_text(text, log=log) for name, log in logs.items()}
    found: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(ROUNDS + 1):
        for name, engine in engines.items():
            asked, log = itertools.islice(itertools.cycle(questions), CALLS), logs[name]
            began = process_time()
            for question in asked:
                engine.decide(question)
            if log is not None:
                log.seal()  # what the thread has not sealed yet
            if turn:
                found[name].append((process_time() - began) / CALLS * 1e6)
    for log in logs.values():
        if log is not None:
            log.close()
    added = median(sealed - unsealed for sealed, unsealed in zip(found[SEALED], found[UNSEALED], strict=True))
    return {ADDED: added, **{name: median(times) for name, times in found.items()}}


def verification_rate(folder: Path, records: int) -> float:
    """Return verified records per second."""
    path = folder / "verified.jsonl"
    line = (folder / "sealed.jsonl").read_bytes().splitlines()[1]
    with path.open("wb") as file:
        for number in range(records):
            file.write(line + b"%08d\n" % number)
    seal(path)
    key = Verifier.parse((default_folder(path) / "vkey").read_text())
    began = perf_counter()
    result = verify_log(path, [key])
    spent = perf_counter() - began
    assert result.is_whole
    assert result.size == records + 1
    return records / spent


def seal(path: Path) -> None:
    """Seal a log that exists."""
    log = DecisionLog(path, seal=SealOptions(interval=3_600))
    log.note("issued", {}, BEGAN)  # a log is sealed once it is written to
    assert log.sealer is not None
    while log.seal() and not log.sealer.pause:
        pass
    log.close()


def proof_times(folder: Path, records: int) -> list[float]:
    """Return the time in ms from the ID of a decision to its checked proof, each with a fresh index."""
    path = folder / "proved.jsonl"
    with path.open("wb") as file:
        for begin in range(0, records, BATCH):
            file.write(b"".join(map(short_line, range(begin, min(records, begin + BATCH)))))
    seal(path)
    random, times, tlog = Random(7), [], default_folder(path)
    for _ in range(PROOFS):
        wanted = ulid(random.randrange(records))
        began = perf_counter()
        found = LogIndex(path, tlog).find(wanted)
        assert found is not None
        prove_line(tlog, found.line, found.index)
        times.append((perf_counter() - began) * 1e3)
    return sorted(times)


def ulid(number: int) -> str:
    """Return an ID with the time of the number in milliseconds, in Crockford's base 32."""
    digits, left = "", BEGAN * 1_000 + number
    for _ in range(10):
        digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"[left % 32] + digits
        left //= 32
    return f"{digits}{number:016d}"


def short_line(number: int) -> bytes:
    seconds, milliseconds = divmod(number, 1_000)
    time = f"{datetime.fromtimestamp(BEGAN + seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}000Z"
    return f'{{"v":1,"time":"{time}","decision":{{"outcome":"allow","id":"{ulid(number)}"}}}}\n'.encode()


def serving_rates(folder: Path, say: Say) -> dict[str, Data]:
    """Return requests per second at `/decide`, with a sealed log, with an unsealed one and without, in turns."""
    work = workload(RULES)
    arguments = {
        SEALED: ("--log", str(folder / "served.jsonl")),
        UNSEALED: ("--log", str(folder / "served-unsealed.jsonl"), "--log-seal", "off"),
        NONE: (),
    }
    found: dict[str, list[Data]] = {name: [] for name in arguments}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(servers.policyengine_server(work, folder, arguments=more))
            for name, more in arguments.items()
        }
        server = running[NONE]
        requests = load.write_requests(
            folder / "requests", (load.post_request(server.path, server.body(each)) for each in work.requests)
        )
        for turn in range(SERVE_ROUNDS + 1):
            for name, server in running.items():
                say(f"seal: {name}, round {turn} of {SERVE_ROUNDS}")
                one = load.run(server.port, requests, CONNECTIONS, SECONDS if turn else 1)
                if turn:
                    found[name].append(one)
    return {
        name: {"rps": round(median(run["rps"] for run in runs)), "p99_us": median(run["p99_us"] for run in runs)}
        for name, runs in found.items()
    }


def section(
    costs: dict[str, float],
    disk: dict[str, float],
    rate: float,
    rates: dict[str, Data],
    times: list[float],
    proved: int,
) -> Section:
    kept = rates[SEALED]["rps"] / rates[NONE]["rps"]
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    rows = [
        *((f"a decision, {name}", f"{format_number(costs[name])} µs CPU") for name in (SEALED, UNSEALED, NONE)),
        ("what a seal adds to a decision", f"{format_number(costs[ADDED])} µs CPU"),
        *((f"a decision, {name}, on disk", f"{format_number(disk[name])} µs CPU") for name in (SEALED, UNSEALED)),
        ("what a seal adds to a decision, on disk", f"{format_number(disk[ADDED])} µs CPU"),
        ("creating a file of 8 KiB on that disk", f"{format_number(disk[CREATED])} µs CPU"),
        *(
            (f"`/decide`, {name}", f"{one['rps']:,}/s, p99 {format_number(one['p99_us'])} µs")
            for name, one in rates.items()
        ),
        ("verification", f"{rate:,.0f} records/s"),
        (f"a proof at {proved:,} records, p50 / p99", f"{format_number(p50)} / {format_number(p99)} ms"),
    ]
    return Section(
        name="seal",
        title=f"A sealed log, {RULES:,} rules",
        columns=("what", "measured"),
        rows=tuple(rows),
        data=(
            {
                "costs_us": costs,
                "disk_us": disk,
                "rates": rates,
                "verified_per_s": round(rate),
                "proofs_ms": [p50, p99],
                "proved": proved,
            },
        ),
        targets=(
            Target("what a seal adds to a logged decision", 4.0, round(costs[ADDED], 2), "µs CPU"),
            Target("`/decide` with a sealed log, of its rate without a log", 0.8, round(kept, 3), "×", at_least=True),
            Target("verification", 300_000, round(rate), "records/s", at_least=True),
            Target(f"a proof at {proved:,} records, p99", 5.0, round(p99, 2), "ms"),
        ),
        notes=(
            "Processor time is that of all threads of the process, the sealer included. What a seal adds is the median",
            f"of {ROUNDS} differences between {CALLS:,} decisions with a seal and the next ones without. The log is in",
            "memory (/dev/shm), except in rows that say `on disk`: those depend on what it costs to create a file.",
        ),
    )
