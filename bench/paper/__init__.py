"""`paper`: the three applications of the Cedar paper (Cutler et al., OOPSLA 2024), in policyengine and in Cedar.

The rules are the paper's; data and requests are generated. Cedar's answers are the expected ones: without Cedar,
nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from bench.child import Data, in_child
from bench.report import Section, Target
from bench.trial import format_cell

NAMES = {"drive": "drive", "codehost": "code host", "todo": "to-do list"}
ENGINES = {"policyengine": "policyengine", "cedar": "Cedar"}
SCALE = 100
VERIFY_SECONDS = 60.0


def run(say: Callable[[str], None]) -> Section:
    found = []
    for engine in ENGINES:
        for application in NAMES:
            say(f"paper: {ENGINES[engine]}, {NAMES[application]}")
            found.append(run_application(engine, application))
    return section(found)


def run_application(engine: str, application: str, scale: int = SCALE) -> Data:
    asked = {"engine": engine, "application": application, "scale": scale}
    if find_spec("cedarpy") is None:
        return {**asked, "skipped": "Cedar is not installed: pip install '.[bench]'"}
    answer = in_child("bench.paper.measure:measure", 3 * VERIFY_SECONDS, {**asked, "cap": VERIFY_SECONDS})
    return {**asked, **({"skipped": answer["error"]} if "error" in answer else answer)}


def section(found: Sequence[Data]) -> Section:
    cells = {(one["engine"], one["application"]): one for one in found}
    rows = [(title, *(format_cell(cells.get((engine, name))) for name in NAMES)) for engine, title in ENGINES.items()]
    allowed = {NAMES[one["application"]]: one["allowed"] for one in found if "allowed" in one}
    ours = [one["p50_us"] for one in found if one["engine"] == "policyengine" and "p50_us" in one]
    return Section(
        name="paper",
        title="The Cedar paper's applications: p50 / p99 in µs, and p50 as a multiple of the floor at 10 rules",
        columns=("engine", *NAMES.values()),
        rows=tuple(rows),
        data=tuple(found),
        targets=(Target("p50 at the worst application, compiled build", 1.8, max(ours, default=None), "µs"),),
        notes=(
            "2,000 requests each, verdicts equal to Cedar's on all of them; allowed: "
            + ", ".join(f"{name} {share:.0%}" for name, share in allowed.items())
            + ".",
            "The floor is only a yardstick of the machine here: it decides the gateway workload.",
        ),
    )
