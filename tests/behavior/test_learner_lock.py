"""The lock of a learner: one thread at a time has it, and no thread waits for a lock that is free."""

import sys
from threading import Barrier, Event, Thread

import pytest

from policyengine.behavior.learner_lock import LearnerLock, make_lock
from policyengine.evaluator import is_compiled
from tests.evaluator.faults import interpreted_only


@pytest.fixture
def _often_interrupted():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run(threads):
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not any(each.is_alive() for each in threads)


@pytest.mark.usefixtures("_often_interrupted")
def test_one_thread_at_a_time_has_the_lock():
    lock, together, inside, most = make_lock(), Barrier(4), [], []

    def work():
        together.wait(60)
        for _ in range(500):
            with lock:
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    run([Thread(target=work) for _ in range(4)])
    assert most == [1] * 2_000


def test_a_thread_waits_until_the_lock_is_free():
    lock, taken = LearnerLock(), Event()

    def work():
        with lock:
            taken.set()

    lock.acquire()
    waiting = Thread(target=work)
    waiting.start()
    assert not taken.is_set()
    lock.release()
    waiting.join(60)
    assert taken.is_set()
    with lock:  # free again
        pass


def test_an_error_frees_the_lock():
    lock = make_lock()
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    with lock:
        pass


def test_only_compiled_learners_use_it():
    assert isinstance(make_lock(), LearnerLock) == is_compiled()


class InterruptedTurn:
    """A lock for which the waiting thread is interrupted. With `comes`, the thread that has the lock releases it at the
    same moment."""

    def __init__(self, lock: LearnerLock, comes: bool) -> None:
        self.lock, self.comes, self.freed = lock, comes, 0

    def acquire(self, blocking: bool = True) -> bool:
        if not blocking:
            return self.comes
        if self.comes:
            self.lock.release()
        raise KeyboardInterrupt

    def release(self) -> None:
        self.freed += 1


@interpreted_only  # compiled code takes no other lock
@pytest.mark.parametrize(("comes", "users"), [(False, 1), (True, 0)])
def test_a_thread_that_is_interrupted_waits_no_longer(comes, users):
    lock = LearnerLock()
    lock.acquire()
    lock._turn = turn = InterruptedTurn(lock, comes)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    assert (lock._users, turn.freed) == (users, int(comes))
