"""The guard fails on a ratio that became worse than that of the baseline's code, and on one that it cannot measure."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import guard, machine
from bench.guard import BAND, MEASUREMENTS, OTHER_RUN_BAND, Finding
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
    monkeypatch.setattr(guard, "current_commit", lambda: "0" * 40)
    return file


@pytest.fixture
def baseline_folder(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the code of the baseline stands."""

    @contextmanager
    def unpacked() -> Iterator[Path]:
        yield kept.parent

    monkeypatch.setattr(guard, "baseline_code", unpacked)
    return kept.parent


def measured(*answers: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, guard.Measure]:
    """A measurement that gives these answers, one after the other, and the last one again and again.

    It answers `before` for the code of the baseline.
    """

    def each() -> Iterator[dict[str, Any]]:
        yield from answers
        while True:
            yield answers[-1]

    answering = each()
    return {"x": lambda code: next(answering) if code is None else before or {"error": "cannot be measured"}}


EDGES = [(0.5, False), (1.0, False), (0.99 + BAND, False), (1.01 + BAND, True)]


@pytest.mark.parametrize(("ratio", "worse"), EDGES)
def test_a_ratio_above_the_band_of_the_baselines_code_is_worse(
    baseline_folder: Path, ratio: float, worse: bool
) -> None:
    found = guard.run(silent, measured({"ratio": 7 * ratio}, before={"ratio": 7.0}))[0]
    assert (found.before, found.worse) == (7.0, worse)


@pytest.mark.parametrize(("ratio", "worse"), EDGES)
def test_the_band_is_wider_where_the_baselines_code_is_missing(kept: Path, ratio: float, worse: bool) -> None:
    assert guard.run(silent, measured({"ratio": ratio + OTHER_RUN_BAND}))[0].worse is worse


def test_the_kept_ratio_counts_where_the_baselines_code_cannot_be_measured(baseline_folder: Path) -> None:
    found = guard.run(silent, measured({"ratio": 1.5}))[0]
    assert (found.before, found.worse, found.is_same_run) == (1.0, False, False)
    assert "not measured in this run" in " ".join(guard.section([found]).notes)


def test_the_code_of_the_baseline_commit_is_unpacked_and_measured(kept: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=guard.ROOT, capture_output=True, text=True, check=False)
    if commit.returncode or guard.is_compiled():
        pytest.skip("the code of a commit needs git history and the pure build")
    kept.write_text(json.dumps({"commit": commit.stdout.strip()}))
    with guard.baseline_code() as code:
        assert code is not None
        assert code != guard.ROOT
        assert (code / "policyengine" / "__init__.py").is_file()
        answer = guard.in_child("bench.machine:describe", 60, {}, folder=code)
    assert answer["build"] == "pure"
    assert not code.exists()


@pytest.mark.parametrize("commit", [None, "", "0" * 40, "--help"])
def test_a_baseline_commit_that_is_missing_gives_no_code(kept: Path, commit: str | None) -> None:
    kept.write_text(json.dumps({"commit": commit}))
    with guard.baseline_code() as code:
        assert code is None


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
    monkeypatch.setattr(guard, "_measurements", lambda: measured({"ratio": ratio}))
    assert command.main(["guard"]) == code


def test_update_writes_the_new_baseline(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_measurements", lambda: measured({"ratio": 2.0}))
    assert command.main(["guard", "--update"]) == 0
    assert guard.baseline() == {"x": 2.0}
    assert command.main(["guard"]) == 0


def test_a_much_better_ratio_suggests_an_update(kept: Path) -> None:
    assert "update the baseline" in guard.section([Finding("x", 2.0, 0.4)]).rows[0][-1]


def test_the_baseline_keeps_medians_bands_and_machine(kept: Path) -> None:
    guard.update(silent, machine.describe(), measured({"ratio": 1.0}, {"ratio": 9.0}, {"ratio": 2.0}))
    plain = json.loads(kept.read_text())
    assert plain["ratios"] == {"x": 2.0}
    assert plain["bands"]["decide, paper"] == BAND
    assert plain["machine"]["python"]
    assert plain["commit"] == "0" * 40


def test_every_guarded_kind_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(guard, "in_child", lambda function, seconds, asked_for, folder: asked.append(asked_for) or {})
    functions = guard._measurements()
    for name in functions:
        if name.startswith(guard.KIND_PREFIX):
            functions[name](None)
    assert (
        {one["kind"] for one in asked}
        == set(guard.KINDS)
        <= {kind.name for kind in kinds(workload(12, 40))} | set(APPROVED)
    )


def test_code_that_is_not_committed_cannot_be_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": b"1234\n", "status": f" M bench/{guard.BASELINE.name}\n".encode()}
    monkeypatch.setattr(guard, "_git", lambda what, *_: answers[what])
    assert guard.current_commit() == "1234"
    answers["status"] += b" M policyengine/engine.py\n"
    with pytest.raises(ValueError, match="not committed"):
        guard.current_commit()


def test_update_fails_when_a_measurement_fails(kept: Path) -> None:
    with pytest.raises(ValueError, match="request 7"):
        guard.update(silent, machine.describe(), measured({"skipped": "wrong: request 7 should be denied"}))


def test_a_learner_that_no_policy_asks_is_measured_beside_an_engine_without() -> None:
    assert 0.3 < guard.learner_ratio(0.01, requests=20)["ratio"] < 3


@pytest.mark.parametrize("is_same_run", [True, False])
def test_the_band_of_a_learner_is_small_in_every_run(is_same_run: bool) -> None:
    name = next(name for name in guard._measurements() if name.startswith(guard.BEHAVIOR_PREFIX))
    assert not Finding(name, 1.0, 1.09, is_same_run=is_same_run).worse
    assert Finding(name, 1.0, 1.11, is_same_run=is_same_run).worse


def test_loading_and_kinds_of_questions_have_wider_bands() -> None:
    def worse(name: str, now: float) -> bool:
        return Finding(name, 1.0, now, is_same_run=True).worse

    assert not worse("kind, confirm", 1.3)
    assert worse("kind, confirm", 1.4)
    assert not worse("load 1,000 rules from text", 1.5)
    assert worse("load 1,000 rules from text", 1.7)
