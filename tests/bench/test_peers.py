"""Every peer that is installed reads the rules as they are meant; a trial times none that does not."""

from collections.abc import Callable
from typing import Any

import pytest

from bench import decide
from bench import trial as module
from bench.floor import Verdict
from bench.paper.data import APPLICATIONS
from bench.paper.engines import CedarPaperPeer, PolicyenginePaperPeer
from bench.peers import ENTRIES, PeerEntry
from bench.peers.own import FloorPeer
from bench.trial import trial
from bench.workload import workload

SMALL = workload(12, 30)
FLOOR = FloorPeer(SMALL)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_peer_agrees_with_every_label(name: str) -> None:
    entry = ENTRIES[name]
    if entry.version is None:
        pytest.skip(f"{entry.package} is missing: make tools")
    peer = entry.loader()(SMALL)
    answers = [bool(peer.allowed(peer.ask(peer.question(asked)))) for asked in SMALL.requests]
    assert answers == list(SMALL.expected)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_policyengine_and_cedar_agree_on_the_applications_of_the_paper(name: str) -> None:
    pytest.importorskip("cedarpy")
    made = APPLICATIONS[name](30)
    ours, cedar = PolicyenginePaperPeer(made), CedarPaperPeer(made)
    some = made.requests[:150]
    verdicts = [cedar.allowed(cedar.ask(cedar.question(asked))) for asked in some]
    assert [ours.allowed(ours.ask(ours.question(asked))) for asked in some] == verdicts
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8


@pytest.mark.parametrize("name", APPLICATIONS)
def test_generated_data_are_deterministic(name: str) -> None:
    assert APPLICATIONS[name](20) == APPLICATIONS[name](20)


class Wrong(FloorPeer):
    def allowed(self, answer: Verdict) -> bool:
        return True


def on_trial(peer: Any, cap: float = 60) -> dict[str, Any]:
    return trial(peer, SMALL.requests, SMALL.expected, FLOOR, SMALL.requests, cap)


def test_an_engine_that_agrees_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.01)
    found = on_trial(FloorPeer(SMALL))
    assert found["verified"] == 30
    assert found["p50_us"] > 0
    assert found["p99_us"] >= found["p50_us"]


def test_an_engine_that_disagrees_is_not_timed() -> None:
    first = SMALL.expected.index(False) + 1
    assert on_trial(Wrong(SMALL)) == {"skipped": f"wrong: request {first} should be denied"}


def test_an_engine_that_would_take_too_long_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "perf_counter", seconds())
    assert on_trial(FloorPeer(SMALL), cap=20) == {"skipped": "unverified: needs 30 s"}


class Lazy(FloorPeer):
    """Prepares for a long time when it is first asked."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__(SMALL)
        self.now, self.decide, self.prepared = clock, self.ask, False
        self.ask = self.prepare

    def prepare(self, question: Any) -> Verdict:
        self.now[0] += 0.001 if self.prepared else 1_000
        self.prepared = True
        return self.decide(question)


def test_a_slow_first_answer_does_not_fail_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    lazy = Lazy(clock)
    questions = [lazy.question(asked) for asked in SMALL.requests]
    assert module.verification_problem(lazy, questions, SMALL.expected, cap=20) is None


def seconds() -> Callable[[], float]:
    """A clock on which every reading comes a second after the one before."""
    ticks = iter(range(1_000))
    return lambda: float(next(ticks))


def test_an_engine_that_does_not_load_in_time_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(_: object) -> None:
        while True:
            pass

    entry = PeerEntry("slow", "slow", "", "")
    monkeypatch.setattr(PeerEntry, "loader", lambda _: lambda work: None if work.size == 10 else forever(work))
    monkeypatch.setitem(ENTRIES, "slow", entry)
    assert decide.measure("slow", 20, cap=0.05) == {"skipped": "not loaded in 0 s"}
