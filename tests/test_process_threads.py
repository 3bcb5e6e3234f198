"""Threads that a process starts when it first needs them."""

from __future__ import annotations

from threading import Event, Thread

import pytest

from policyengine.process_threads import ProcessThreads


def test_threads_start_once_and_end_when_stopped() -> None:
    ran: list[int] = []

    def run(stop: Event) -> None:
        ran.append(1)
        stop.wait()

    threads = ProcessThreads("work", lambda: [run, run], pytest.fail)
    assert not threads.stop(1.0)
    for _ in range(3):
        threads.wake()
    assert threads.stop(10.0)
    assert len(ran) == 2
    assert not threads.stop(1.0)


def test_an_event_for_which_a_thread_waits_is_set() -> None:
    ready, ended = Event(), Event()

    def run(stop: Event) -> None:
        ready.wait()
        ended.set()

    threads = ProcessThreads("work", lambda: [run], pytest.fail)
    threads.wake()
    threads.stop(10.0, [ready])
    assert ended.is_set()


def test_a_process_without_room_for_threads_reports_that_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    reported: list[str] = []
    threads = ProcessThreads("work", lambda: [Event.wait], lambda error: reported.append(str(error)))
    monkeypatch.setattr(Thread, "start", refuse)
    threads.wake()
    threads.wake()
    assert reported == ["can't start new thread"]
    assert threads.stop(1.0)


def test_a_child_process_starts_its_own_threads() -> None:
    started: list[Event] = []
    threads = ProcessThreads("work", lambda: [started.append], pytest.fail)
    threads.wake()
    threads.stop(10.0)
    threads.forget()
    threads.wake()
    threads.stop(10.0)
    assert len(started) == 2
