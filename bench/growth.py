"""`growth`: how time and memory grow with rules, path depth, chain length, roles and entities."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.axes import AXES, Axis, GrownPolicy
from bench.child import Data, in_child
from bench.machine import rss_mb
from bench.measure import intern_keys
from bench.peers.own import FloorPeer
from bench.report import Section, Target
from bench.trial import format_number, trial
from bench.workload import workload
from policyengine import Decision, Engine

SECONDS = 300.0  # for one point; slower points are skipped
MEASURES = {"load_ms": "load, ms", "rss_mb": "memory, MB", "p50_us": "p50, µs"}


def run(largest: int | None, say: Callable[[str], None]) -> Section:
    """Measure every point in its own child process; points above `largest` are left out."""
    found = []
    for axis in AXES.values():
        for size in axis.points:
            if largest is None or size <= largest:
                say(f"growth: {size:,} {axis.title}")
                answer = in_child("bench.growth:measure", SECONDS, {"axis": axis.name, "size": size})
                found.append({"axis": axis.name, "size": size} | _skip_reason(answer))
    return section(found)


def _skip_reason(answer: Data) -> Data:
    return {"skipped": answer["error"]} if "error" in answer else answer


def measure(axis: str, size: int) -> Data:
    """Load the engine, then time it in turns with the floor of ten rules, the yardstick of the machine; runs in the
    child process."""
    grown = AXES[axis].grow(size)
    _engine(AXES[axis].grow(AXES[axis].points[0]))
    gc.collect()
    before, start = rss_mb(), perf_counter()
    engine = _engine(grown)
    loading = perf_counter() - start
    gc.collect()
    loaded = {"load_ms": round(loading * 1e3, 2), "rss_mb": round(rss_mb() - before, 2)}
    expected = grown.expected or [engine.decide(asked).allowed for asked in grown.questions]
    work = workload(10)
    return {
        **loaded,
        **trial(_EnginePeer(engine), grown.questions, expected, FloorPeer(work), work.requests, SECONDS / 3),
    }


class _EnginePeer:
    def __init__(self, engine: Engine) -> None:
        self.ask = engine.decide

    def question(self, asked: dict[str, Any]) -> Any:
        return intern_keys(asked)

    def allowed(self, answer: Decision) -> bool:
        return answer.allowed


def _engine(grown: GrownPolicy) -> Engine:
    if grown.rows is None:
        return Engine.from_text(grown.text)
    with tempfile.TemporaryDirectory() as folder:
        text, rows = Path(folder, "growth.policy"), Path(folder, "entities.json")
        text.write_text(grown.text)
        rows.write_text(json.dumps({"entities": grown.rows}))
        return Engine.load(text, entities=rows)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return e of value ≈ c · size ** e, by least squares over the logarithms; None for fewer than two points."""
    points = [(log(size), log(value)) for size, value in zip(sizes, values, strict=True) if value > 0]
    if len(points) < 2:
        return None
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread


def section(found: Sequence[Data]) -> Section:
    timed = {axis: [one for one in found if one["axis"] == axis and "p50_us" in one] for axis in AXES}
    rows = [row for axis in AXES.values() for row in _rows(axis, [one for one in found if one["axis"] == axis.name])]
    large = [one for one in timed["rules"] if one["size"] >= 1_000]
    deciding = _exponent(timed["rules"], "ratio")
    return Section(
        name="growth",
        title="Growth: value ≈ c · size ** e, and e is the exponent",
        columns=("", *(title for title in MEASURES.values()), "p50 relative to the yardstick"),
        rows=tuple(rows),
        data=(*found, *({"axis": axis, "exponents": _exponents(points)} for axis, points in timed.items() if points)),
        targets=(
            Target("exponent of loading over rules, from 1,000 on", 1.1, _exponent(large, "load_ms"), ""),
            Target("exponent of deciding over rules", 0.1, deciding, ""),
        ),
        notes=(
            "The yardstick is the floor at ten rules, in the same process, so the multiple does not depend on the "
            "machine.",
        ),
    )


def _rows(axis: Axis, found: Sequence[Data]) -> list[tuple[str, ...]]:
    rows = [(f"{one['size']:,} {axis.title}", *_values(one)) for one in found]
    timed = [one for one in found if "p50_us" in one]
    exponents = _exponents(timed)
    named = [f"e = {'–' if e is None else f'{e:.2f}'}" for e in exponents.values()]
    return [*rows, ("", *named)] if timed else rows


def _values(one: Data) -> tuple[str, ...]:
    if "skipped" in one:
        return (str(one["skipped"]), *[""] * len(MEASURES))
    return (*(format_number(one[name]) for name in MEASURES), f"{format_number(one['ratio'])}×")


def _exponents(timed: Sequence[Data]) -> dict[str, float | None]:
    return {name: _exponent(timed, name) for name in (*MEASURES, "ratio")}


def _exponent(timed: Sequence[Data], name: str) -> float | None:
    found = exponent([one["size"] for one in timed], [one[name] for one in timed])
    return None if found is None else round(found, 3)
