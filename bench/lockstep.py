"""`lockstep`: which callers with one owner are found among many, which decoys are, and what the search takes.

All traffic is seeded and simulated. What is found does not depend on the machine; time and memory do.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple

from bench.child import Data, in_child
from bench.lockstep_traffic import FARMS, MIMIC, MIMICKED, SPARSE, STEADY, Traffic, make_sparse, make_traffic
from bench.report import Section, Target
from policyengine.behavior.events import Caller
from policyengine.behavior.lockstep.detection import find_groups

KEYS, EVENTS, SEED = 100_000, 10_000_000, 1
SMALL: Final = 10_000  # callers of the other measurements
COMMON: Final = (6, 8, 10, 15, 20)  # common runs of sparse farms
TIMEOUT: Final = 1_800.0  # seconds
OWNERS: Final = {*FARMS, MIMIC, SPARSE}
Say = Callable[[str], None]


class LockstepScore(NamedTuple):
    """What was found. `precision` is the share of the callers that share limits which belong with their group; `recall`
    the share of the callers of farms that are in a group of their farm, and `steady` the same of steady farms. `mixed`
    counts groups of more than one owner, `decoys` callers without a farm in any group, and `by_kind` the found callers
    of each kind with their number. A resident that mimics follow may be reported, but not share limits."""

    precision: float
    recall: float
    steady: float
    mixed: int
    decoys: int
    pairs: int
    left_out: int
    token_callers: int
    by_kind: dict[str, tuple[int, int]]


def score(traffic: Traffic) -> LockstepScore:
    """Search a day for groups, and compare them with the farms of the day."""
    callers = [Caller("https://issuer.example", f"agent {number}") for number in range(len(traffic.kinds))]
    findings = find_groups(traffic.columns, callers, b"bench", ready=traffic.ready)
    numbers = {caller: number for number, caller in enumerate(callers)}
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    pooled = mixed = 0
    for group in findings.groups:
        members = [numbers[caller] for caller in group.pooled]
        owners = Counter(int(traffic.farms[number]) for number in members)
        owner = owners.most_common(1)[0][0] if owners else -1
        right.update(traffic.kinds[number] for number in members if traffic.farms[number] == owner >= 0)
        pooled, mixed = pooled + len(members), mixed + (len(owners) > 1)
        reported = [numbers[caller] for caller in group.reported]
        wrong.update(kind for number in members if (kind := traffic.kinds[number]) not in OWNERS)
        wrong.update(kind for number in reported if (kind := traffic.kinds[number]) not in {*OWNERS, MIMICKED})
    sizes = Counter(traffic.kinds)
    found = sum(right.values())
    of_farms = sum(sizes[kind] for kind in OWNERS)
    return LockstepScore(
        found / pooled if pooled else 1.0, found / max(of_farms, 1), right[STEADY] / max(sizes[STEADY], 1), mixed,
        wrong.total(), findings.pairs, findings.left_out, findings.token_callers,
        {kind: ((right if kind in OWNERS else wrong)[kind], sizes[kind]) for kind in sizes},
    )  # fmt: skip


def measure(keys: int, events: int, seed: int) -> Data:
    """Return the score of a day, with the CPU seconds and the peak memory of the search, on one core."""
    traffic = make_traffic(keys, events, seed)
    began, wall = process_time(), perf_counter()
    found = score(traffic)
    seconds, elapsed = process_time() - began, perf_counter() - wall
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)
    spent = {"cpu_seconds": round(seconds, 1), "seconds": round(elapsed, 1), "peak_gb": round(used, 2)}
    return {**found._asdict(), **spent, "keys": keys, "events": len(traffic.columns)}


def run(say: Say) -> Section:
    say(f"lockstep: {EVENTS:,} events")
    whole = in_child("bench.lockstep:measure", TIMEOUT, {"keys": KEYS, "events": EVENTS, "seed": SEED})
    if "error" in whole:
        raise RuntimeError(whole["error"])
    say("lockstep: farms with few common runs")
    sparse = {count: score(make_sparse(SMALL, count, SEED)) for count in COMMON}
    say("lockstep: busy callers without farms")
    busy = score(make_sparse(SMALL // 4, 0, SEED, runs=200))
    return section(whole, sparse, busy)


def section(whole: dict[str, Any], sparse: dict[int, LockstepScore], busy: LockstepScore) -> Section:
    kinds = whole["by_kind"].items()
    rows = [
        ("callers, events", f"{whole['keys']:,}, {whole['events']:,}"),
        *(
            (f"farms: {kind}", f"{right:,} of {size:,} callers found")
            for kind, (right, size) in kinds
            if kind in OWNERS
        ),
        *(
            (f"decoys: {kind}", f"{right:,} of {size:,} callers in a group")
            for kind, (right, size) in kinds
            if kind not in OWNERS
        ),
        (
            "precision, recall, of steady farms",
            f"{whole['precision']:.4f}, {whole['recall']:.4f}, {whole['steady']:.4f}",
        ),
        ("pairs, candidates left out", f"{whole['pairs']:,}, {whole['left_out']:,}"),
        ("search", f"{whole['cpu_seconds']} s CPU, {whole['peak_gb']} GB at most"),
        *(
            (f"farms of {count} common runs, half of all their runs", f"{found.recall:.1%} of callers found")
            for count, found in sparse.items()
        ),
        ("callers with 200 runs a day, no farm", f"{busy.pairs} pairs"),
    ]
    return Section(
        name="lockstep",
        title="Groups of callers that move as one, simulated callers",
        columns=("what", "measured"),
        rows=tuple(rows),
        data=(
            whole,
            {"recall_by_common_runs": {str(count): round(found.recall, 4) for count, found in sparse.items()}},
            {"pairs_of_busy_callers": busy.pairs},
        ),
        targets=(
            Target("callers in a pool that belong to its farm", 0.99, whole["precision"], "", at_least=True),
            Target("callers of farms that are found", 0.95, round(whole["recall"], 4), "", at_least=True),
            Target("callers of steady farms that are found", 0.99, round(whole["steady"], 4), "", at_least=True),
            Target("decoys in a group", 0, whole["decoys"], "callers"),
            Target("search", 180, whole["cpu_seconds"], "s CPU"),
            Target("peak memory", 2, whole["peak_gb"], "GB"),
        ),
        notes=(
            "One day on one core. The time is without the generation of the events; the memory includes the process",
            "that generated them. Decoys use the same workflows as farms and as independent callers.",
        ),
    )  # fmt: skip
