"""Tables say what was measured and whether the targets hold; the JSON file keeps its shape."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import decide, growth, machine, paper, startup
from bench.report import Report, Section, Target, show

VERSIONS = {"agent-policyengine": "0.1.0", "cedarpy": "4.12.2"}
MACHINE = {
    "versions": VERSIONS,
    "cpu": "a cpu",
    "cores": 2,
    "system": "Linux",
    "python": "CPython",
    "load": 0.1,
    "timer_ns": 40,
    "build": "pure",
    "at": "now",
}


def timed(engine: str, ratio: float, **more: Any) -> dict[str, Any]:
    return {"engine": engine, "p50_us": ratio, "p99_us": ratio * 2, "ratio": ratio, **more}


DECIDED = [
    timed("policyengine", 0.9, size=10),
    timed("policyengine", 0.95, size=1_000),
    timed("floor", 1.0, size=10),
    timed("cel-sliced", 18.0, size=10),
    timed("casbin", 2.0, size=10),
    {"engine": "oso", "size": 1_000, "skipped": "unverified: needs 34 s"},
]
PAPER = [
    timed("policyengine", 1.0, application="drive", allowed=0.5),
    timed("policyengine", 1.3, application="todo", allowed=0.4),
    timed("cedar", 20.0, application="drive", allowed=0.5),
]
LOADED = {"load_ms": 2_000.0, "first_ms": 1.0}
GROWN = [
    timed("policyengine", 1.0, axis="rules", size=size, load_ms=size / 10, rss_mb=size / 100)
    for size in (1_000, 10_000)
]
SECTIONS = {
    "decide": decide.section(DECIDED),
    "paper": paper.section(PAPER),
    "compile": startup.compile_section([{"engine": "policyengine", "size": 10_000, **LOADED}], [10_000]),
    "memory": startup.memory_section(
        [{"engine": "policyengine", "size": 10_000, "rss_mb": 50.0, "python_mb": 40.0}], [10_000]
    ),
    "growth": growth.section(GROWN),
}


def shown(section: Section) -> str:
    console = Console(width=132, record=True, file=StringIO())
    show(section, MACHINE, console)
    return console.export_text()


@pytest.mark.parametrize("name", SECTIONS)
def test_a_table_shows_engines_targets_and_the_machine(name: str) -> None:
    text = shown(SECTIONS[name])
    assert SECTIONS[name].title in text
    assert "holds" in text or "missed" in text
    assert "a cpu, 2 cores" in text
    assert "cedarpy 4.12.2" in text


def test_a_cell_shows_both_percentiles_and_the_multiple() -> None:
    assert "0.90 / 1.80  0.90×" in shown(SECTIONS["decide"])


def test_a_cell_states_why_an_engine_was_not_timed() -> None:
    assert "needs 34 s" in shown(SECTIONS["decide"])


def test_a_missing_peer_shows_how_to_install_it() -> None:
    section = decide.section([{"engine": "oso", "size": 10, "skipped": "not installed: pip install '.[bench]'"}])
    assert "pip install '.[bench]'" in shown(section)


def test_growth_shows_the_exponents() -> None:
    assert "e = 1.00" in shown(SECTIONS["growth"])


def test_the_nearest_peer_is_the_fastest_native_engine() -> None:
    assert decide.nearest_peer_ratio(DECIDED) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target("p50", 1.0, 0.9), "p50: ≤ 1 ×, measured 0.90 ×: holds"),
        (Target("p50", 1.0, 1.1), "p50: ≤ 1 ×, measured 1.10 ×: missed"),
        (Target("peer", 10.0, 12.0, at_least=True), "peer: ≥ 10 ×, measured 12.0 ×: holds"),
        (Target("peer", 10.0, 9.0, at_least=True), "peer: ≥ 10 ×, measured 9.00 ×: missed"),
        (Target("load", 3.0, None, "s"), "load: ≤ 3 s, not measured in this run"),
    ],
)
def test_a_target_states_whether_it_holds(target: Target, words: str) -> None:
    assert target.words() == words


def test_the_json_file_keeps_its_shape(tmp_path: Path) -> None:
    Report(MACHINE, tuple(SECTIONS.values())).write(tmp_path / "out.json")
    plain = json.loads((tmp_path / "out.json").read_text())
    assert plain["schema"] == 1
    assert plain["machine"] == MACHINE
    assert list(plain["sections"]) == list(SECTIONS)
    assert set(plain["sections"]["decide"]) == {"title", "data", "targets", "notes"}
    assert plain["sections"]["decide"]["data"] == DECIDED
    assert set(plain["sections"]["decide"]["targets"][0]) == {"what", "limit", "seen", "unit", "at_least", "holds"}


def test_the_machine_is_described_with_its_versions() -> None:
    found = machine.describe(("no-such-package",))
    assert set(found) == {"at", "cpu", "cores", "system", "python", "load", "timer_ns", "build", "versions"}
    assert found["versions"]["agent-policyengine"]
    assert "no-such-package" not in found["versions"]
