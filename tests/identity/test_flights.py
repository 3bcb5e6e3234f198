"""Work that waits for somebody else."""

from __future__ import annotations

from threading import Thread

import pytest

from policyengine.identity import single_flight
from policyengine.identity.single_flight import SingleFlight, SingleFlightError
from tests.identity.finding import LONG


def test_every_waiter_gets_the_error_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: SingleFlight[str] = SingleFlight("test")
    seen = []

    class Lacking(Thread):
        def start(self) -> None:
            seen.append(asked.start("key", lambda: "from another"))
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(single_flight, "Thread", Lacking)
    seen.append(asked.start("key", lambda: "from one"))
    for flight in seen:
        with pytest.raises(SingleFlightError, match="no thread is available"):
            asked.wait(flight, LONG)
    monkeypatch.undo()
    assert not asked.busy
    assert asked.wait(asked.start("key", lambda: "found"), asked._clock() + LONG) == "found"
