"""`kill -9` at random moments, while processes open, approve, deny and spend approvals and set and lift halts: nothing
that was acknowledged is lost, and nothing is spent twice."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from random import Random
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from traceback import print_exc
from typing import Any

import pytest

from policyengine import ApprovalSettings
from policyengine.approvals.eligibility import ProvedPerson
from policyengine.approvals.model import ApprovalChangeError
from policyengine.engine import Engine
from policyengine.halts.control import HaltControl
from policyengine.stores.url import open_store
from tests.stores.servers import Server
from tests.stores.test_approval_desk import HEAD, PEOPLE, RULE

CAROL = ProvedPerson("carol", "acme")
WORKERS = 2  # processes at a time, which work on the same requests
MOST = ApprovalSettings(most_per_requester=1_000_000, most_per_approver=1_000_000)
LONGEST_SECONDS = 0.12  # until a process is killed, from its first acknowledgement


def create_engine(url: str) -> Engine:
    return Engine.from_text(HEAD + RULE, store=open_store(url), directory=PEOPLE, approvals=MOST)


def question(number: int, **options: object) -> dict[str, Any]:
    return {
        "request": {"method": "POST", "path": "/refund"}, "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": "alice"}, "credential": {}, "body": {"amount": 1_000 + number, "to": "x"}, "options": options,
    }  # fmt: skip


def work_until_killed(url: str, seed: int, first: int, pipe: int) -> None:
    """Work on requests from number `first` on. Each line is written before something is tried, or when it is done."""

    def tell(*words: object) -> None:
        os.write(pipe, (" ".join(map(str, words)) + "\n").encode())

    random, engine, halt = Random(seed), create_engine(url), ""
    desk = engine.approvals
    assert desk is not None
    for number in count(first):
        decision = engine.decide(question(number, request_approval=True))
        if decision.allowed:  # the other process has approved it
            tell("allowed", "-", number)
        for id in [one.approval.id for one in decision.remedies if one.approval is not None and one.approval.id]:
            tell("opened", id, number)
            denies = number % 4 == 3
            tell("denying" if denies else "approving", id, number)
            with suppress(ApprovalChangeError):  # the other process was faster
                found = desk.deny(id, CAROL) if denies else desk.approve(id, CAROL)
                tell(found.state.value, id, number)
        if engine.decide(question(number)).allowed:
            tell("allowed", "-", number)
        if random.random() < 0.5:
            if halt:  # so that there are never too many
                tell("lifting", halt, number)
                engine.lift(halt, reason="test")
                tell("lifted", halt, number)
            halt = engine.halt(reason="test", end=timedelta(hours=1), agent=f"other {seed} {number}").id
            tell("halted", halt, number)


@dataclass
class KilledWork:
    """What processes have said until they were killed."""

    url: str
    random: Random
    said: list[tuple[str, str, int]] = field(default_factory=list)
    kills: int = 0

    def run(self, first: int) -> None:
        """Run processes, and kill each at a random moment."""
        pipes = dict(self.start(first) for _ in range(WORKERS))
        selector, heard = DefaultSelector(), dict.fromkeys(pipes, b"")
        for pipe in pipes:
            selector.register(pipe, EVENT_READ)
        moments: dict[int, float] = {}
        began = monotonic()
        while selector.get_map():
            assert monotonic() - began < 120, "a process does not work"
            for key, _ in selector.select(0.002):
                data = os.read(key.fd, 1 << 16)
                heard[key.fd] += data
                if data:
                    moments.setdefault(key.fd, monotonic() + self.random.uniform(0, LONGEST_SECONDS))
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
            for pipe in [pipe for pipe, moment in moments.items() if monotonic() >= moment]:
                os.kill(pipes[pipe], signal.SIGKILL)
                moments[pipe] = float("inf")
        for pipe, process in pipes.items():
            assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL, "a process failed"
            self.kills += 1
            for line in heard[pipe].decode().split("\n")[:-1]:
                verb, id, number = line.split(" ")
                self.said.append((verb, id, int(number)))

    def start(self, first: int) -> tuple[int, int]:
        """Start a process; return the pipe from it and its id."""
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                os.close(reading)
                work_until_killed(self.url, self.random.randrange(1 << 32), first, writing)
            except BaseException:
                print_exc()
                raise
            finally:
                os._exit(1)
        self.random.random()  # so that the next process gets another seed
        os.close(writing)
        return reading, process

    def ids(self, *verbs: str) -> set[str]:
        return {id for verb, id, _ in self.said if verb in verbs}

    def check(self) -> None:
        """Check that nothing acknowledged is lost, and that nothing was spent twice."""
        engine = create_engine(self.url)
        desk = engine.approvals
        assert desk is not None
        states = {id: desk.find(id).state.value for id in self.ids("opened")}
        lost = {id for id in self.ids("approved") if states[id] not in ("approved", "spent")}
        lost |= {id for id in self.ids("denied") if states[id] != "denied"}
        assert lost == set()
        # Nobody else has answered, and nothing has expired.
        assert {id for id in states if states[id] in ("approved", "spent")} <= self.ids("approving")
        assert {id for id in states if states[id] == "denied"} <= self.ids("denying")
        assert set(states.values()) <= {"pending", "approved", "denied", "spent"}
        spent = Counter(number for id, number in self.approvals() if states[id] == "spent")
        allowed = Counter(number for verb, _, number in self.said if verb == "allowed")
        assert {number for number in allowed if allowed[number] > spent[number]} == set(), "spent twice"
        assert spent.total() - allowed.total() <= self.kills  # allowed, but killed before it was said
        for number in {number for id, number in self.approvals() if states[id] == "approved"}:
            asked = [engine.decide(question(number)).allowed for _ in range(2)]
            assert asked == [True, False], "an approval was lost, or counts twice"
        in_effect = {one.id for one in HaltControl(open_store(self.url).halts).status.halts}
        assert self.ids("halted") - self.ids("lifting") <= in_effect
        assert self.ids("lifted") & in_effect == set()

    def approvals(self) -> set[tuple[str, int]]:
        return {(id, number) for verb, id, number in self.said if verb == "opened"}


# Another store adds a function that returns its URL.
STORES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "sqlite": lambda request: f"sqlite:///{request.getfixturevalue('tmp_path')}/state.db?timeout=20s",
    "redis": lambda request: redis_url(request.getfixturevalue("redis_server")),
}


def redis_url(server: Server) -> str:
    import redis

    with redis.Redis(port=server.port) as client:
        client.flushall()
    return f"{server.url}?timeout=20s"


def kill_workers(url: str, seed: int, moments: int) -> KilledWork:
    create_engine(url)  # also so that the processes have the compiled policy
    work = KilledWork(url, Random(seed))
    for number in range(0, moments, WORKERS):
        work.run(number * 1_000)
    work.check()
    return work


@pytest.mark.parametrize("store", STORES)
def test_killed_processes_lose_no_acknowledged_approval_or_halt(store: str, request: pytest.FixtureRequest) -> None:
    work = kill_workers(STORES[store](request), 25, 10)
    assert work.kills == 10
    assert min(len(work.ids(verb)) for verb in ("approved", "denied", "halted", "lifted")) > 0
    assert any(verb == "allowed" for verb, _, _ in work.said)


@pytest.mark.deep
@pytest.mark.parametrize("store", STORES)
def test_processes_killed_at_200_moments_lose_no_acknowledged_approval_or_halt(
    store: str, request: pytest.FixtureRequest
) -> None:
    work = kill_workers(STORES[store](request), 26, 200)
    assert work.kills == 200
    assert len(work.ids("approved")) > 200
