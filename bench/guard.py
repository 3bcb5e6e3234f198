"""`guard`: has anything become slower? Ratios to the floor of the same run, beside those of a committed baseline.

A ratio moves by some per cent from run to run even on a quiet machine, so it counts as worse only when it is above the
baseline by more than the band in each of three measurements. Times are not compared: machines differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.child import in_child
from bench.decide import one as decided
from bench.paper import NAMES
from bench.paper import one as translated
from bench.peers import OURS
from bench.report import Section, Target
from bench.trial import Data, number

BASELINE = Path(__file__).parent / "baseline.json"
SIZES = (10, 1_000)
LOADED = 1_000
BAND = 0.25
MEASUREMENTS = 3
SECONDS = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One ratio: `before` from the baseline (None: not in it), `now` the best of the measurements (None: none)."""

    name: str
    before: float | None
    now: float | None
    why: str = ""

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.now is None else self.now / self.before - 1

    @property
    def worse(self) -> bool:
        """A ratio that could not be measured is worse: what is not seen is not good."""
        return self.now is None or (self.change is not None and self.change > BAND)

    @property
    def better(self) -> bool:
        return self.change is not None and self.change < -BAND


def _measures() -> dict[str, Callable[[], Data]]:
    """Each gives `ratio`, or says why not."""
    found: dict[str, Callable[[], Data]] = {}
    for size in SIZES:
        found[f"decide, {size:,} rules"] = lambda size=size: decided(OURS, size, SECONDS)
    for application, title in NAMES.items():
        found[f"paper, {title}"] = lambda application=application: translated("policyengine", application)
    for engine, title in {"policyengine": "text", "policyengine-bundle": "a bundle"}.items():
        found[f"load {LOADED:,} rules from {title}"] = lambda engine=engine: in_child(
            "bench.guard:load_ratio", SECONDS, engine=engine, size=LOADED
        )
    return found


def load_ratio(engine: str, size: int) -> Data:
    """In the child: milliseconds to load for each microsecond that the floor takes to decide on this machine."""
    from bench.loading import load
    from bench.measure import timed
    from bench.peers.own import Floor
    from bench.workload import workload

    loaded = load(engine, size)["load_ms"]
    work = workload(10)
    floor = Floor(work)
    questions = [floor.question(asked) for asked in work.requests]
    yardstick = min(timed(floor.ask, questions).p50 for _ in range(5))
    return {"ratio": round(loaded / yardstick, 3)}


def run(say: Say, measures: Mapping[str, Callable[[], Data]] | None = None) -> list[Finding]:
    """Measure everything; what looks worse, again."""
    before = baseline()
    return [_finding(name, measure, before.get(name), say) for name, measure in (measures or _measures()).items()]


def _finding(name: str, measure: Callable[[], Data], before: float | None, say: Say) -> Finding:
    best, why = None, ""
    for turn in range(1, MEASUREMENTS + 1):
        say(f"guard: {name}, measurement {turn}")
        answer = measure()
        if "ratio" in answer:
            best = answer["ratio"] if best is None else min(best, answer["ratio"])
        else:
            why = str(answer.get("skipped") or answer.get("error"))
        finding = Finding(name, before, best, why)
        if not finding.worse:
            break
    return finding


def baseline() -> dict[str, float]:
    if not BASELINE.exists():
        return {}
    ratios: dict[str, float] = json.loads(BASELINE.read_text(encoding="utf-8"))["ratios"]
    return ratios


def update(findings: list[Finding], machine: Mapping[str, object]) -> None:
    """Make what was found the baseline."""
    ratios = {finding.name: finding.now for finding in findings if finding.now is not None}
    kept = {"ratios": ratios, "band": BAND, "machine": dict(machine)}
    BASELINE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def section(findings: list[Finding]) -> Section:
    rows = [(one.name, number(one.before), number(one.now), _change(one)) for one in findings]
    return Section(
        name="guard",
        title="Ratios to the floor of the same run, beside the baseline",
        columns=("what", "baseline", "now", "change"),
        rows=tuple(rows),
        data=tuple({"what": one.name, "baseline": one.before, "now": one.now, "worse": one.worse} for one in findings),
        targets=(Target("ratios that became worse", 0, sum(one.worse for one in findings), ""),),
        notes=(
            f"Worse: more than {BAND:.0%} above the baseline in each of {MEASUREMENTS} measurements.",
            "Meant to be so? `python -m bench guard --update` makes it the baseline: say why in the commit.",
        ),
    )


def _change(one: Finding) -> str:
    if one.now is None:
        return f"not measured: {one.why}"
    if one.change is None:
        return "new"
    return f"{one.change:+.0%}" + (" worse" if one.worse else " better: update the baseline" if one.better else "")
