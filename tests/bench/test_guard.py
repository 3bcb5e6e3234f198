"""The guard fails on a ratio that became worse, every time it is measured, and on one it cannot see."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import guard, machine
from bench.guard import BAND, MEASUREMENTS, Finding
from bench.kind_questions import APPROVED, kinds
from bench.workload import workload


def silent(_: str) -> None:
    pass


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps({"ratios": {"x": 1.0}}))
    monkeypatch.setattr(guard, "BASELINE", file)
    monkeypatch.setattr(guard, "PAUSE_SECONDS", 0)
    return file


def measured(*answers: dict[str, Any]) -> dict[str, Callable[[], dict[str, Any]]]:
    """A measurement that gives these answers, one after the other, and the last one again and again."""

    def each() -> Iterator[dict[str, Any]]:
        yield from answers
        while True:
            yield answers[-1]

    answering = each()
    return {"x": lambda: next(answering)}


@pytest.mark.parametrize(("ratio", "worse"), [(0.5, False), (1.0, False), (1 + BAND, False), (1.01 + BAND, True)])
def test_a_ratio_above_the_band_is_worse(kept: Path, ratio: float, worse: bool) -> None:
    assert guard.run(silent, measured({"ratio": ratio}))[0].worse is worse


def test_one_good_measurement_of_three_is_enough(kept: Path) -> None:
    found = guard.run(silent, measured({"ratio": 9.0}, {"ratio": 9.0}, {"ratio": 1.1}))[0]
    assert (found.now, found.worse) == (1.1, False)


def test_a_worse_ratio_is_measured_again_and_the_best_counts(kept: Path) -> None:
    worse = [{"ratio": 4.0}, {"ratio": 3.0}, *[{"ratio": 5.0}] * (MEASUREMENTS - 2)]
    found = guard.run(silent, measured(*worse, {"ratio": 1.0}))[0]
    assert (found.now, found.worse) == (3.0, True)


def test_a_failed_measurement_counts_as_worse(kept: Path) -> None:
    found = guard.run(silent, measured({"skipped": "wrong: request 7 should be denied"}))[0]
    assert found.worse
    assert "request 7" in guard.section([found]).rows[0][-1]


def test_a_ratio_without_a_baseline_is_new(kept: Path) -> None:
    kept.unlink()
    found = guard.run(silent, measured({"ratio": 3.0}))[0]
    assert not found.worse
    assert guard.section([found]).rows[0][-1] == "new"


@pytest.mark.parametrize(("ratio", "code"), [(1.0, 0), (2.0, 1)])
def test_the_exit_code_is_1_when_a_ratio_became_worse(
    kept: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, code: int
) -> None:
    monkeypatch.setattr(guard, "_measure_functions", lambda: measured({"ratio": ratio}))
    assert command.main(["guard"]) == code


def test_update_writes_the_new_baseline(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_measure_functions", lambda: measured({"ratio": 2.0}))
    assert command.main(["guard", "--update"]) == 0
    assert guard.baseline() == {"x": 2.0}
    assert command.main(["guard"]) == 0


def test_a_much_better_ratio_suggests_an_update(kept: Path) -> None:
    assert "update the baseline" in guard.section([Finding("x", 2.0, 1.0)]).rows[0][-1]


def test_the_baseline_keeps_medians_bands_and_machine(kept: Path) -> None:
    guard.update(silent, machine.describe(), measured({"ratio": 1.0}, {"ratio": 9.0}, {"ratio": 2.0}))
    plain = json.loads(kept.read_text())
    assert plain["ratios"] == {"x": 2.0}
    assert plain["bands"]["decide, paper"] == BAND
    assert plain["machine"]["python"]


def test_every_guarded_kind_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(guard, "in_child", lambda function, seconds, asked_for: asked.append(asked_for["kind"]) or {})
    monkeypatch.setattr(guard, "decided", lambda *_: {})
    functions = guard._measure_functions()
    for name in functions:
        if name.startswith(guard.KIND_PREFIX):
            functions[name]()
    assert set(asked) == set(guard.KINDS) <= {kind.name for kind in kinds(workload(12, 40))} | set(APPROVED)


def test_update_fails_when_a_measurement_fails(kept: Path) -> None:
    with pytest.raises(ValueError, match="request 7"):
        guard.update(silent, machine.describe(), measured({"skipped": "wrong: request 7 should be denied"}))


def test_loading_and_kinds_of_questions_have_wider_bands() -> None:
    assert not Finding("kind, confirm", 1.0, 1.3).worse
    assert Finding("kind, confirm", 1.0, 1.4).worse
    assert not Finding("load 1,000 rules from text", 1.0, 1.5).worse
    assert Finding("load 1,000 rules from text", 1.0, 1.7).worse
