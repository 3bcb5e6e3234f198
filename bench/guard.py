"""`guard`: compares the code with that of a baseline commit in the same run, to find slowdowns.

What is compared are ratios to the floor. With the same code they differ between machines by up to 45 %, and from
process to process by up to 25 % (`paper, drive`: 14 to 26). So the code of the commit in `bench/baseline.json` is
measured beside the code of today, and a ratio counts as worse only if it exceeds that of the commit by more than its
band in the best of up to six measurements of each. Where the commit is missing (no git history), and in the compiled
build, the ratios kept in the file are used, with wider bands. Each build has a baseline of its own.
"""

from __future__ import annotations

import gc
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from re import fullmatch
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

from bench import kinds, policy
from bench.child import Data, in_child
from bench.kind_questions import load_engine
from bench.measure import duel, fresh_questions, time_calls
from bench.paper import NAMES, SCALE, VERIFY_SECONDS
from bench.peers.own import FloorPeer
from bench.report import Section, Target
from bench.startup import builder
from bench.trial import format_number
from bench.workload import workload
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.evaluator import is_compiled

ROOT = Path(__file__).parent.parent
BASELINE = ROOT / "bench" / ("baseline-compiled.json" if is_compiled() else "baseline.json")
SIZES = (10, 1_000)
KIND_PREFIX, KIND_SIZE = "kind", 1_000
KINDS = (
    "fact absent", "wrong type", "deny with message", "obligations", "confirm", "approval used up", "throttle",
    "chain of 2", "chain of 8", "history", "quantifier over 100",
)  # fmt: skip
LOAD_PREFIX, LOAD_SIZE = "load", 1_000
BEHAVIOR_PREFIX, BEHAVIOR_SIZE, BEHAVIOR_REQUESTS, BEHAVIOR_SECONDS = "behavior", 10, 1_000, 5.0
BAND, KIND_BAND, LOAD_BAND = 0.25, 0.35, 0.6
BEHAVIOR_BAND = 0.1  # also in another run, because the ratio is that of two engines in one process
OTHER_RUN_BAND = 0.5  # added where the baseline was measured in another run, perhaps on another machine
MEASUREMENTS, PAUSE_SECONDS = 6, 5.0
LOADS = 5
SECONDS = 60.0

Say = Callable[[str], None]
Measure = Callable[[Path | None], Data]  # measures the code in a folder, by default this code


@dataclass(frozen=True, slots=True)
class Finding:
    """One ratio: `before` of the baseline (None if missing), `now` the best measurement (None if all failed).

    `is_same_run`: the code of the baseline commit was measured in this run.
    """

    name: str
    before: float | None
    now: float | None
    why: str = ""
    is_same_run: bool = False

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.now is None else self.now / self.before - 1

    @property
    def band(self) -> float:
        prefix = self.name.partition(" ")[0].rstrip(",")
        if prefix == BEHAVIOR_PREFIX:
            return BEHAVIOR_BAND
        band = {LOAD_PREFIX: LOAD_BAND, KIND_PREFIX: KIND_BAND}.get(prefix, BAND)
        return band if self.is_same_run else band + OTHER_RUN_BAND

    @property
    def worse(self) -> bool:
        """Whether the ratio became worse; a ratio that could not be measured counts as worse."""
        return self.now is None or (self.change is not None and self.change > self.band)

    @property
    def better(self) -> bool:
        return self.change is not None and self.change < -self.band


@dataclass(frozen=True, slots=True)
class ChildMeasurement:
    """Calls a function in a child process, which uses the code in a folder; the answer has `ratio`, or why not."""

    function: str
    seconds: float
    arguments: Data = field(default_factory=dict)

    def __call__(self, code: Path | None = None) -> Data:
        return in_child(self.function, self.seconds, self.arguments, folder=code)


def _measurements() -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for size in SIZES:
        asked: Data = {"engine": "policyengine", "size": size, "cap": SECONDS}
        found[f"decide, {size:,} rules"] = ChildMeasurement("bench.decide:measure", 3 * SECONDS + 120, asked)
    for application, title in NAMES.items():
        asked = {"engine": "policyengine", "application": application, "scale": SCALE, "cap": VERIFY_SECONDS}
        found[f"paper, {title}"] = ChildMeasurement("bench.paper.measure:measure", 3 * VERIFY_SECONDS, asked)
    for kind in KINDS:
        found[f"{KIND_PREFIX}, {kind}"] = ChildMeasurement("bench.guard:kind_ratio", SECONDS, {"kind": kind})
    found[f"{BEHAVIOR_PREFIX}, a learner that no policy asks"] = ChildMeasurement("bench.guard:learner_ratio", SECONDS)
    for engine, title in {"policyengine": "text", "policyengine-bundle": "a bundle"}.items():
        asked = {"engine": engine, "size": LOAD_SIZE}
        found[f"{LOAD_PREFIX} {LOAD_SIZE:,} rules from {title}"] = ChildMeasurement(
            "bench.guard:load_ratio", SECONDS, asked
        )
    return found


def kind_ratio(kind: str) -> Data:
    """Return the multiple of the floor of one kind of question; runs in the child process."""
    return {"ratio": kinds.measure(KIND_SIZE, only=(kind,))["kinds"][0]["ratio"]}


def learner_ratio(seconds: float = BEHAVIOR_SECONDS, requests: int = BEHAVIOR_REQUESTS) -> Data:
    """Return the time of a decision with a learner as a multiple of the time without, for a policy that reads no
    learned facts; runs in the child process."""
    work = workload(BEHAVIOR_SIZE, requests=requests)
    engine, learning = load_engine(work), load_engine(work)
    learning.use_behavior(BehaviorTracker())
    fresh = fresh_questions(policy.question, work.requests)
    return {"ratio": round(duel(learning.decide, fresh, engine.decide, fresh, seconds).ratio, 3)}


def load_ratio(engine: str, size: int) -> Data:
    """Return milliseconds to load per microsecond of a floor decision, the best of five each; runs in the child
    process."""
    build, _ = builder(engine, size)
    work = workload(10)
    floor = FloorPeer(work)
    fresh = fresh_questions(floor.question, work.requests)
    yardstick = min(time_calls(floor.ask, fresh).p50 for _ in range(LOADS))
    return {"ratio": round(min(_milliseconds(build) for _ in range(LOADS)) / yardstick, 3)}


def _milliseconds(build: Callable[[], object]) -> float:
    gc.collect()
    start = perf_counter()
    build()
    return (perf_counter() - start) * 1e3


def run(say: Say, measures: Mapping[str, Measure] | None = None) -> list[Finding]:
    """Measure everything, then repeat the measurements that look worse, with pauses because other programs may have
    disturbed some that follow each other. Return the best of each."""
    kept, made = baseline(), measures or _measurements()
    found = {name: Finding(name, kept.get(name), None) for name in made}
    with baseline_code() as code:
        for turn in range(1, MEASUREMENTS + 1):
            wanted = [name for name in made if turn == 1 or found[name].worse]
            if turn > 1 and wanted and measures is None:
                sleep(PAUSE_SECONDS)
            for name in wanted:
                say(f"guard: {name}, measurement {turn}")
                if code is not None:
                    found[name] = _with_baseline(found[name], made[name](code))
                found[name] = _better(found[name], made[name](None))
    return list(found.values())


def _with_baseline(finding: Finding, answer: Data) -> Finding:
    """Return a finding after one more measurement of the baseline's code; one that failed changes nothing."""
    if "ratio" not in answer:
        return finding
    best = min(finding.before, answer["ratio"]) if finding.is_same_run and finding.before else answer["ratio"]
    return replace(finding, before=best, is_same_run=True)


def _better(finding: Finding, answer: Data) -> Finding:
    """Return a finding after one more measurement."""
    if "ratio" not in answer:
        return replace(finding, why=str(answer.get("skipped") or answer.get("error")))
    return replace(finding, now=answer["ratio"] if finding.now is None else min(finding.now, answer["ratio"]))


def baseline() -> dict[str, float]:
    ratios: dict[str, float] = _baseline_file().get("ratios", {})
    return ratios


def _baseline_file() -> Data:
    kept: Data = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    return kept


@contextmanager
def baseline_code() -> Iterator[Path | None]:
    """Unpack the code of the baseline commit into a temporary folder; None if it cannot be had or measured."""
    commit = _baseline_file().get("commit") or ""
    is_usable = fullmatch("[0-9a-f]{40}", commit) and not is_compiled()
    packed = _git("archive", commit) if is_usable else None
    if packed is None:
        yield None
        return
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def _git(*arguments: str) -> bytes | None:
    """Return the output of git in this checkout; None if it fails or is not installed."""
    if (git := shutil.which("git")) is None:
        return None
    done = subprocess.run([git, "-C", str(ROOT), *arguments], capture_output=True, check=False)
    return None if done.returncode else done.stdout


def update(say: Say, machine: Mapping[str, object], measures: Mapping[str, Measure] | None = None) -> None:
    """Write the current commit, and medians of several measurements, to the baseline. Raises ValueError if one cannot
    be measured, or if the measured code is not committed."""
    commit = current_commit()
    ratios = {name: _median(name, measure, say) for name, measure in (measures or _measurements()).items()}
    bands = {"decide, paper": BAND, KIND_PREFIX: KIND_BAND, LOAD_PREFIX: LOAD_BAND, BEHAVIOR_PREFIX: BEHAVIOR_BAND}
    kept = {"commit": commit, "ratios": ratios, "bands": bands, "machine": dict(machine)}
    BASELINE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def current_commit() -> str | None:
    """Return the commit of the measured code; None without git history. Raises ValueError if something is not
    committed."""
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "policyengine", "bench")
    if changed and not all(line.endswith(BASELINE.name.encode()) for line in changed.splitlines()):
        raise ValueError("policyengine/ or bench/ has changes that are not committed: commit them first")
    return None if commit is None else commit.decode().strip()


def _median(name: str, measure: Measure, say: Say) -> float:
    ratios: list[float] = []
    for turn in range(1, MEASUREMENTS + 1):
        say(f"baseline: {name}, measurement {turn}")
        answer = measure(None)
        if "ratio" not in answer:
            raise ValueError(f"{name}: {answer.get('skipped') or answer.get('error')}")
        ratios.append(answer["ratio"])
    return median(ratios)


def section(findings: list[Finding]) -> Section:
    rows = [(one.name, format_number(one.before), format_number(one.now), _change(one)) for one in findings]
    return Section(
        name="guard",
        title="Ratios to the floor, of this code and of the baseline",
        columns=("what", "baseline", "now", "change"),
        rows=tuple(rows),
        data=tuple({"what": one.name, "baseline": one.before, "now": one.now, "worse": one.worse} for one in findings),
        targets=(Target("ratios that became worse", 0, sum(one.worse for one in findings), ""),),
        notes=(
            f"Worse: more than {BAND:.0%} above the baseline ({KIND_BAND:.0%} for kinds of questions, {LOAD_BAND:.0%} "
            f"for loading, {BEHAVIOR_BAND:.0%} for behavior) in the best of {MEASUREMENTS} measurements.",
            "The code of the baseline commit was measured in the same run."
            if all(one.is_same_run for one in findings)
            else f"Where the code of the baseline commit was not measured in this run, {OTHER_RUN_BAND:.0%} is added.",
            "If this is intended, update the baseline with `python -m bench guard --update` and give the reason in the "
            "commit.",
        ),
    )


def _change(one: Finding) -> str:
    if one.now is None:
        return f"not measured: {one.why}"
    if one.change is None:
        return "new"
    return f"{one.change:+.0%}" + (" worse" if one.worse else " better: update the baseline" if one.better else "")
