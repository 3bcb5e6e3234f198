"""`commands`: CPU time of commands on inputs that grow along one axis, at n and 2n."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import command_inputs as inputs
from bench import command_policies as policies
from bench.report import Section, Target
from bench.serving.servers import POLICYENGINE
from bench.trial import format_number

SECONDS = 60  # of CPU; a command that takes longer is terminated
MEMORY = 4 * 2**30  # bytes of address space
MAX_GROWTH = 3.0  # from n to 2n, where n takes more than a moment: quadratic growth would be four
MOMENT = 0.25  # seconds on top of the start of a command
CHECKOUT = "POLICYENGINE_CHECKOUT"  # a folder whose `policyengine` is measured instead of this one
Say = Callable[[str], None]
Write = Callable[[Path, int], None]


@dataclass(frozen=True, slots=True)
class CommandCase:
    name: str
    size: int
    write: Write
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommandRun:
    """A run of a command: `seconds` of CPU (None if terminated), peak memory, and the first line of its output."""

    seconds: float | None
    megabytes: float
    line: str


CHECK = ("check", "old.policy")
DIFF = ("diff", "old.policy", "new.policy")
INIT = ("init", "made", "--openapi", "api.json")
ENTITIES = ("--entities", "rows.json")
DECIDE = ("decide", "old.policy")
REQUEST_OPTION = ("--request", "request.json")


def named_cases() -> Iterator[CommandCase]:
    yield CommandCase("diff of guards at one endpoint", 400, inputs.write_policy(policies.guards_together), DIFF)
    yield CommandCase("init of overlapping paths", 4_096, inputs.write_api(inputs.api_overlapping), INIT)
    yield CommandCase("JSON with a duplicate key", 40_000, inputs.duplicate_key, INIT)
    yield CommandCase("check of scopes", 60_000, inputs.write_policy(policies.scopes), CHECK)
    yield CommandCase("decide --request /dev/zero", 1, inputs.write_request(inputs.body_members),
               ("decide", "old.policy", "--request", "/dev/zero"))  # fmt: skip


def survey() -> Iterator[CommandCase]:
    for name, text in policies.POLICIES.items():
        yield CommandCase(f"check: {name}", 500, inputs.write_policy(text), CHECK)
    for name in ("grants", "agents", "issuers", "guard_effects", "one_door", "acting_for"):
        yield CommandCase(f"lint: {name}", 500, inputs.write_policy(policies.POLICIES[name]), ("lint", "old.policy"))
    for name in ("grants", "guards", "users", "guard_effects"):
        yield CommandCase(f"diff: {name}", 200, inputs.write_policy(policies.POLICIES[name]), DIFF)
    for command in (("fmt",), ("test",), ("test", "--coverage"), ("compile", "-o", "x.policybundle"), ("graph",)):
        yield CommandCase(" ".join(command), 500, inputs.write_policy(policies.tests), (*command, "old.policy"))
    for text in (policies.test_lines, policies.test_cases, policies.test_entities):
        yield CommandCase(f"test: {text.__name__}", 500, inputs.write_policy(text), ("test", "old.policy"))
    words = ("compile", "-o", "x.policybundle", "old.policy")
    yield CommandCase("compile: overlapping_paths", 500, inputs.write_policy(policies.overlapping_paths), words)
    yield CommandCase("test --mutate", 20, inputs.write_policy(policies.tests), ("test", "--mutate", "old.policy"))
    yield CommandCase("test: properties", 4, inputs.write_policy(policies.properties), ("test", "old.policy"))
    yield from imports()
    yield from questions()


def imports() -> Iterator[CommandCase]:
    for api in inputs.APIS:
        yield CommandCase(f"init: {api.__name__}", 200, inputs.write_api(api), INIT)
    for api in (inputs.api_paths, inputs.api_deletes, inputs.api_tags, inputs.api_scopes):
        yield CommandCase(f"init, the second half: {api.__name__}", 200, after_import(api), INIT)
    yield CommandCase("init: YAML", 200, inputs.write_yaml(inputs.api_paths), ("init", "made", "--openapi", "api.yaml"))
    yield CommandCase("init: tools", 500, inputs.write_api(inputs.mcp_tools),
               ("init", "made", "--mcp", "api.json", "--name", "srv"))  # fmt: skip


def questions() -> Iterator[CommandCase]:
    for rows in inputs.ROWS:
        size = 4_000 if rows is inputs.team_chain else 1_000
        yield CommandCase(f"check --entities: {rows.__name__}", size, inputs.write_rows(rows), (*CHECK, *ENTITIES))
    yield CommandCase(
        "decide --entities", 5_000, inputs.write_rows(inputs.people), (*DECIDE, *REQUEST_OPTION, *ENTITIES)
    )
    for request in inputs.REQUESTS:
        words = ("explain", "old.policy", *REQUEST_OPTION)
        yield CommandCase(f"explain: {request.__name__}", 20_000, inputs.write_request(request), words)
    yield CommandCase("decide: lines", 5_000, inputs.request_lines, (*DECIDE, "--request", "requests.jsonl"))
    for log in inputs.LOGS:
        for command in (("record", "old.policy"), ("suggest", "old.policy"), ("why", "@id", "old.policy"), DIFF):
            words = (*command, "--log", "log.jsonl")
            yield CommandCase(f"{command[0]}: {log.__name__}", 500, inputs.write_log(log), words)
        yield CommandCase(f"simulate: {log.__name__}", 500, inputs.write_log(log),
                   ("simulate", "old.policy", "--trace", "log.jsonl"))  # fmt: skip


def after_import(make: Callable[[int], dict[str, Any]]) -> Write:
    """Run `init` on a specification of which half was imported before."""

    def write(folder: Path, count: int) -> None:
        inputs.write_json(folder / "api.json", make(count // 2))
        run_command(INIT, folder)
        inputs.write_json(folder / "api.json", make(count))

    return write


def run(say: Say) -> Section:
    checkout = measured_checkout()
    start = measure_case(CommandCase("start", 1, inputs.write_policy(policies.scopes), CHECK), 1).seconds or 0.0
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # CPU time is measured, so cases may run side by side
        found = list(threads.map(lambda case: measure_two_sizes(case, start, say), (*named_cases(), *survey())))
    grown = [one["growth"] for one in found if one["growth"] is not None]
    return Section(
        "commands",
        "CPU and memory of commands, on inputs of n and 2n",
        ("input", "n", "s at n", "s at 2n", "growth", "MB", "says"),
        tuple(result_row(one) for one in found),
        tuple(found),
        (
            Target("most growth from n to 2n", MAX_GROWTH, max(grown, default=0.0)),
            Target("most seconds", SECONDS, max((one["seconds_2n"] or SECONDS + 1 for one in found), default=0.0), "s"),
        ),
        (
            *([f"Measured: {checkout}."] if os.environ.get(CHECKOUT) else []),
            f"Seconds are CPU time, including {format_number(start)} s to start; growth excludes the start.",
            f"Commands are terminated after {SECONDS} s or at {MEMORY // 2**30} GiB.",
        ),
    )


def measure_two_sizes(case: CommandCase, start: float, say: Say) -> dict[str, Any]:
    runs = []
    for size in (case.size, 2 * case.size):
        say(f"commands: {case.name}, {size:,}")
        runs.append(measure_case(case, size))
        if runs[0].seconds is None:
            runs.append(runs[0])
            break
    first, second = runs[:2]
    growth = None
    if first.seconds is not None and second.seconds is not None and first.seconds > start + MOMENT:
        growth = round((second.seconds - start) / (first.seconds - start), 2)
    return {
        "case": case.name, "n": case.size, "seconds": first.seconds, "seconds_2n": second.seconds, "growth": growth,
        "megabytes": round(second.megabytes), "says": second.line,
    }  # fmt: skip


def result_row(one: dict[str, Any]) -> tuple[str, ...]:
    seconds = (f"> {SECONDS}" if some is None else f"{some:.2f}" for some in (one["seconds"], one["seconds_2n"]))
    growth = "–" if one["growth"] is None else f"{one['growth']:.2f}×"
    return one["case"], f"{one['n']:,}", *seconds, growth, f"{one['megabytes']:,}", one["says"][:60]


def measure_case(case: CommandCase, size: int) -> CommandRun:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder, size)
        return run_command(case.command, folder)


def run_command(command: tuple[str, ...], folder: Path) -> CommandRun:
    words = [(folder / "id").read_text() if word == "@id" else word for word in command]
    output = folder / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*POLICYENGINE, *words],
            cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, preexec_fn=set_limits,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    lines = output.read_text(errors="replace").split("\n", 1)
    seconds = None if process.returncode < 0 else round(used.ru_utime + used.ru_stime, 2)
    return CommandRun(seconds, used.ru_maxrss / (1024 if sys.platform == "linux" else 2**20), lines[0])


def environment() -> dict[str, str]:
    """Return the environment of commands. They run in a separate folder, so relative paths are made absolute."""
    checkout = os.environ.get(CHECKOUT)
    return {**os.environ, **({"PYTHONPATH": str(Path(checkout).resolve(strict=True))} if checkout else {})}


def measured_checkout() -> Path:
    """Return the folder of the code that commands run. Raises SystemExit if it is not the requested folder."""
    words = (sys.executable, "-c", "import policyengine; print(policyengine.__file__)")
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    found = Path(printed.stdout.strip()).parents[1]
    if os.environ.get(CHECKOUT) and found != Path(os.environ[CHECKOUT]).resolve():
        raise SystemExit(f"{CHECKOUT}: commands run the code of {found}")
    return found


def set_limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
