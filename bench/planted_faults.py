"""`diff`: faults planted in a policy, and harmless changes, with the verdicts of `policyengine diff` on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter

from bench.report import Section, Target
from policyengine.analysis import compare
from policyengine.engine import Engine
from tests.analysis.faults import BASE, FAULTS, HARMLESS, harmless_text, verdict

Say = Callable[[str], None]
COLUMNS = ("kind", "changes", "opens", "differs", "not proved", "same", "wrong", "s")


def planted_faults(say: Say) -> Section:
    base = Engine.from_text(BASE).kernel
    counts: dict[str, Counter[str]] = {}
    changes = [(one.kind, one.text, one.opens) for one in FAULTS]
    changes += [(f"harmless: {one[0]}", harmless_text(one), None) for one in HARMLESS]
    for kind, text, opens in changes:
        began = perf_counter()
        said = verdict(compare(base, Engine.from_text(text).kernel))
        found = counts.setdefault(kind, Counter())
        wrong = said in ("opens", "differs") if opens is None else said == "same" or (opens and said == "differs")
        found.update({"changes": 1, said: 1, "wrong": int(wrong)})
        found["ms"] += round((perf_counter() - began) * 1e3)
        say(f"diff: {kind}: {said}")
    rows = tuple(
        (kind, *(str(found[name]) for name in COLUMNS[1:-1]), f"{found['ms'] / 1e3:.1f}")
        for kind, found in counts.items()
    )
    every = sum(found["wrong"] for found in counts.values())
    return Section(
        "diff",
        f"{len(FAULTS)} planted faults and {len(HARMLESS)} harmless changes, by verdict",
        COLUMNS,
        rows,
        tuple({"kind": kind, **found} for kind, found in counts.items()),
        (Target("faults missed, and harmless changes reported as differences", 0, every, ""),),
        ("wrong: a fault reported as proved the same, or a harmless change reported as a difference.",),
    )
