"""Work of many callers is done in turn, bounded, and dropped where nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from threading import Event

import pytest

from policyengine.fair_queue import FairQueue, WorkRefusedError, never_gone

SECONDS = 30


class Gated:
    """A queue whose thread is at work until `open`; `order` is what was done since."""

    def __init__(self) -> None:
        self.queue = FairQueue("policyengine-test", most_of_caller=3, most_in_all=5)
        self.order: list[str] = []
        self.gate = Event()
        self.first: Future[bool] = self.queue.submit("gate", partial(self.gate.wait, SECONDS), never_gone)
        while not self.first.running():
            time.sleep(0.01)

    def submit(self, caller: str, gone: bool = False, *, bounded: bool = True) -> Future[None]:
        return self.queue.submit(caller, lambda: self.order.append(caller), lambda: gone, bounded=bounded)

    def done(self, *waiting: Future[None]) -> list[str]:
        self.gate.set()
        for one in waiting:
            one.result(SECONDS)
        return self.order


@pytest.fixture
def gated() -> Iterator[Gated]:
    found = Gated()
    yield found
    found.gate.set()


def test_the_fair_queue_serves_callers_in_turn(gated: Gated) -> None:
    waiting = [gated.submit(caller) for caller in "aaabb"]
    assert gated.done(*waiting) == list("ababa")


def test_cancelled_work_is_not_run(gated: Gated) -> None:
    waiting = [gated.submit(caller) for caller in "abc"]
    assert waiting[1].cancel()
    assert gated.done(waiting[0], waiting[2]) == ["a", "c"]


def test_work_of_a_disconnected_client_is_not_run(gated: Gated) -> None:
    gone, waiting = gated.submit("a", gone=True), gated.submit("b")
    assert gated.done(waiting) == ["b"]
    with pytest.raises(WorkRefusedError, match="the client has disconnected"):
        gone.result(SECONDS)


def test_the_fair_queue_rejects_work_over_the_bound_of_a_caller(gated: Gated) -> None:
    waiting = [gated.submit("a") for _ in range(3)]
    with pytest.raises(WorkRefusedError, match="from this caller"):
        gated.submit("a")
    assert gated.done(*waiting, gated.submit("b")) == ["a", "b", "a", "a"]


def test_the_fair_queue_rejects_work_over_the_total_bound(gated: Gated) -> None:
    waiting = [gated.submit(caller) for caller in "aabbc"]
    with pytest.raises(WorkRefusedError, match="too many questions are waiting"):
        gated.submit("d")
    gated.done(*waiting)
    assert gated.done(gated.submit("d"))[-1] == "d"


def test_abandoned_work_takes_no_room_in_the_queue(gated: Gated) -> None:
    gated.submit("a").cancel()
    for caller in "aabb":
        gated.submit(caller, gone=True)
    waiting = [gated.submit(caller) for caller in "aaabc"]
    assert gated.done(*waiting) == list("abcaa")


def test_unbounded_work_is_never_rejected(gated: Gated) -> None:
    assert gated.done(*(gated.submit("", bounded=False) for _ in range(9))) == [""] * 9


def test_failing_work_does_not_stop_other_work(gated: Gated) -> None:
    failing: Future[float] = gated.queue.submit("a", lambda: 1 / 0, never_gone)
    assert gated.done(gated.submit("a")) == ["a"]
    with pytest.raises(ZeroDivisionError):
        failing.result(SECONDS)
