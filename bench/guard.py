"""`guard`: compares ratios to the floor of the same run with those of a committed baseline, to find slowdowns.

On a machine whose two cores were shared by six processes, ratios of decisions varied by up to 22 % from run to run, and
those of loading by up to 33 %. On another quiet machine, those of `paper, drive` were between 14 and 26 from process to
process, with the same code. So a ratio counts as worse only if it exceeds the baseline by more than its band in each of
six measurements. Absolute times are not compared: machines differ. Each build has a baseline of its own.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

from bench import kinds
from bench.child import Data, in_child
from bench.decide import run_entry as decided
from bench.measure import fresh_questions, time_calls
from bench.paper import NAMES
from bench.paper import run_application as translated
from bench.peers import OURS
from bench.peers.own import FloorPeer
from bench.report import Section, Target
from bench.startup import builder
from bench.trial import format_number
from bench.workload import workload
from policyengine.evaluator import is_compiled

BASELINE = Path(__file__).parent / ("baseline-compiled.json" if is_compiled() else "baseline.json")
SIZES = (10, 1_000)
KIND_PREFIX, KIND_SIZE = "kind", 1_000
KINDS = (
    "fact absent", "wrong type", "deny with message", "obligations", "confirm", "approval used up", "throttle",
    "chain of 2", "chain of 8", "history", "quantifier over 100",
)  # fmt: skip
LOAD_PREFIX, LOAD_SIZE = "load", 1_000
BAND, KIND_BAND, LOAD_BAND = 0.25, 0.35, 0.6
MEASUREMENTS, PAUSE_SECONDS = 6, 5.0
LOADS = 5
SECONDS = 60.0

Say = Callable[[str], None]
Measure = Callable[[], Data]


@dataclass(frozen=True, slots=True)
class Finding:
    """One ratio: `before` from the baseline (None if missing), `now` the best measurement (None if all failed)."""

    name: str
    before: float | None
    now: float | None
    why: str = ""

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.now is None else self.now / self.before - 1

    @property
    def band(self) -> float:
        prefix = self.name.partition(" ")[0].rstrip(",")
        return {LOAD_PREFIX: LOAD_BAND, KIND_PREFIX: KIND_BAND}.get(prefix, BAND)

    @property
    def worse(self) -> bool:
        """Whether the ratio became worse; a ratio that could not be measured counts as worse."""
        return self.now is None or (self.change is not None and self.change > self.band)

    @property
    def better(self) -> bool:
        return self.change is not None and self.change < -self.band


def _measure_functions() -> dict[str, Measure]:
    """Return measurements by name; each returns `ratio`, or the reason why it is missing."""
    found: dict[str, Measure] = {}
    for size in SIZES:
        found[f"decide, {size:,} rules"] = partial(decided, OURS, size, SECONDS)
    for application, title in NAMES.items():
        found[f"paper, {title}"] = partial(translated, "policyengine", application)
    for kind in KINDS:
        found[f"{KIND_PREFIX}, {kind}"] = partial(in_child, "bench.guard:kind_ratio", SECONDS, {"kind": kind})
    for engine, title in {"policyengine": "text", "policyengine-bundle": "a bundle"}.items():
        asked = {"engine": engine, "size": LOAD_SIZE}
        found[f"{LOAD_PREFIX} {LOAD_SIZE:,} rules from {title}"] = partial(
            in_child, "bench.guard:load_ratio", SECONDS, asked
        )
    return found


def kind_ratio(kind: str) -> Data:
    """Return the multiple of the floor of one kind of question; runs in the child process."""
    return {"ratio": kinds.measure(KIND_SIZE, only=(kind,))["kinds"][0]["ratio"]}


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
    before, made = baseline(), measures or _measure_functions()
    found: dict[str, Finding] = {}
    for turn in range(1, MEASUREMENTS + 1):
        wanted = [name for name in made if name not in found or found[name].worse]
        if turn > 1 and wanted and measures is None:
            sleep(PAUSE_SECONDS)
        for name in wanted:
            say(f"guard: {name}, measurement {turn}")
            found[name] = _better(found.get(name) or Finding(name, before.get(name), None), made[name]())
    return [found[name] for name in made]


def _better(finding: Finding, answer: Data) -> Finding:
    """Return a finding after one more measurement."""
    if "ratio" not in answer:
        return replace(finding, why=str(answer.get("skipped") or answer.get("error")))
    return replace(finding, now=answer["ratio"] if finding.now is None else min(finding.now, answer["ratio"]))


def baseline() -> dict[str, float]:
    if not BASELINE.exists():
        return {}
    ratios: dict[str, float] = json.loads(BASELINE.read_text(encoding="utf-8"))["ratios"]
    return ratios


def update(say: Say, machine: Mapping[str, object], measures: Mapping[str, Measure] | None = None) -> None:
    """Write the medians of several measurements to the baseline. Raises ValueError if one cannot be measured."""
    ratios = {name: _median(name, measure, say) for name, measure in (measures or _measure_functions()).items()}
    bands = {"decide, paper": BAND, KIND_PREFIX: KIND_BAND, LOAD_PREFIX: LOAD_BAND}
    kept = {"ratios": ratios, "bands": bands, "machine": dict(machine)}
    BASELINE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _median(name: str, measure: Measure, say: Say) -> float:
    ratios: list[float] = []
    for turn in range(1, MEASUREMENTS + 1):
        say(f"baseline: {name}, measurement {turn}")
        answer = measure()
        if "ratio" not in answer:
            raise ValueError(f"{name}: {answer.get('skipped') or answer.get('error')}")
        ratios.append(answer["ratio"])
    return median(ratios)


def section(findings: list[Finding]) -> Section:
    rows = [(one.name, format_number(one.before), format_number(one.now), _change(one)) for one in findings]
    return Section(
        name="guard",
        title="Ratios to the floor of the same run, compared with the baseline",
        columns=("what", "baseline", "now", "change"),
        rows=tuple(rows),
        data=tuple({"what": one.name, "baseline": one.before, "now": one.now, "worse": one.worse} for one in findings),
        targets=(Target("ratios that became worse", 0, sum(one.worse for one in findings), ""),),
        notes=(
            f"Worse: more than {BAND:.0%} above the baseline ({KIND_BAND:.0%} for kinds of questions, {LOAD_BAND:.0%} "
            f"for loading) in each of {MEASUREMENTS} measurements.",
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
