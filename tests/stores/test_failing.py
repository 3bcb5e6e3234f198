"""A store that fails is a policy: what each rule says happens, within a bounded time, and it is over by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier, Event, Thread
from time import monotonic
from typing import Any, cast

import httpx
import pytest

from policyengine.circuit_breaker import FAILURES_BEFORE_OPEN, PAUSE_SECONDS
from policyengine.engine import Engine
from policyengine.runtime.decision import Decision, Gate
from policyengine.server import create_app
from policyengine.stores.base import Store, StoreError
from policyengine.stores.circuit_breaker import StoreBreaker
from policyengine.stores.clock_skew import ClockSkew
from policyengine.stores.halts import HaltStore
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import RemoteStore, ResilientStore
from policyengine.stores.url import (
    CLUSTER_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    _connection_options,
    open_store,
    parse_store_url,
)
from tests.processes import wait_until
from tests.stores.charges import START, asks, budget, rate
from tests.stores.servers import Server, open_patiently, running

SLOWEST = 10 * TIMEOUT_SECONDS  # for one decision: it may connect and ask, on a machine that others use
POLICY = """
language 1
package shop
anyone { may GET /deny, GET /local, GET /allow, GET /free }
rate "denies" per request.path on GET /deny { 1000/1d }
rate "counts here" per request.path on GET /local { 2/1d   on store failure local }
rate "lets through" per request.path on GET /allow { 2/1d   on store failure allow }
"""


def ask(path: str) -> dict[str, Any]:
    return {"request": {"method": "GET", "path": path}}


def decided(engine: Engine, path: str) -> str:
    decision = engine.decide(ask(path))
    return f"{decision.outcome.value} by {decision.gate.value}" if decision.gate else decision.outcome.value


# ── The circuit ───────────────────────────────────────────────────────────────────────────────


@dataclass
class Broken:
    """A store that does not answer until it is mended; it counts how often it is asked."""

    inner: MemoryStore
    broken: bool = True
    asked: int = 0

    @property
    def skew(self) -> ClockSkew:
        return self.inner.skew

    @property
    def halts(self) -> HaltStore:
        return self.inner.halts

    def probe(self) -> None:
        self.asked += 1
        if self.broken:
            raise StoreError("gone")

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.asked += 1
            if self.broken:
                raise StoreError("gone")
            return getattr(self.inner, name)(*args, **options)

        return call


@dataclass
class Time:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def inner() -> Broken:
    return Broken(MemoryStore())


@pytest.fixture
def guarded(inner: Broken, time: Time) -> ResilientStore:
    return ResilientStore(inner, clock=time)  # type: ignore[arg-type]


def test_a_store_that_failed_repeatedly_is_paused(guarded: ResilientStore, inner: Broken, time: Time) -> None:
    for _ in range(100):
        assert guarded.commit(asks(rate()), "one", START).failed  # type: ignore[union-attr]
    assert (inner.asked, guarded.failures) == (FAILURES_BEFORE_OPEN, 100)
    time.now += PAUSE_SECONDS
    for _ in range(100):
        guarded.commit(asks(rate()), "one", START)
    assert inner.asked == FAILURES_BEFORE_OPEN + 1  # one of them tried for all


def test_a_recovered_store_is_used_again(guarded: ResilientStore, inner: Broken, time: Time) -> None:
    for _ in range(10):
        guarded.commit(asks(rate()), "one", START)
    inner.broken = False
    time.now += PAUSE_SECONDS
    assert [guarded.commit(asks(rate()), f"{n}", START).failed for n in range(9)] == [None] * 9  # type: ignore[union-attr]
    assert not guarded.failing


def test_log_lines_about_a_failing_store_are_rate_limited(
    guarded: ResilientStore, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "policyengine"):
        for _ in range(500):
            guarded.commit(asks(rate()), "one", START)
            time.now += 0.05
    told = [one.getMessage() for one in caplog.records]  # of 25 seconds
    assert len(told) == 3
    assert told[0] == "the store did not accept a write (failed calls since the last report: 1): gone"


def test_an_approval_is_not_spent_while_the_store_fails(guarded: ResilientStore) -> None:
    allowing = asks(rate(failing="allow"), spends=("a",))
    assert guarded.commit(allowing, "one", START).failed == "gone"  # type: ignore[union-attr]
    with pytest.raises(StoreError):
        guarded.spent_among(["a"])
    assert guarded.spent_among([]) == frozenset()


def test_each_charge_on_a_failing_store_follows_its_rule(guarded: ResilientStore) -> None:
    mixed = asks(rate(9, failing="allow"), budget(1, failing="local"))
    told = [guarded.commit(mixed, f"{number}", START) for number in range(2)]
    assert [one.admitted for one in told if one] == [True, False]
    assert told[1] is not None
    assert [one.admitted for one in told[1].standings] == [True, False]
    denying = guarded.commit(asks(rate(9, failing="allow"), budget(1)), "three", START)
    assert denying is not None
    assert denying.failed


@dataclass
class HeldStore:
    """A store whose commits wait until it is released; it keeps whether that happened before each of them gave up."""

    inner: MemoryStore
    released: Event = field(default_factory=Event)
    was_released: list[bool] = field(default_factory=list)

    def commit(self, *args: Any, **options: Any) -> Any:
        self.was_released.append(self.released.wait(timeout=20))
        return self.inner.commit(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


# ── Real servers ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running("redis-server", tmp_path) as server:
        yield server


@pytest.fixture
def engine(server: Server) -> Engine:
    """An engine that waits for a slow server; one that is gone refuses connections immediately."""
    return Engine.from_text(POLICY, store=open_store(f"{server.url}?timeout=20s"))


@dataclass
class TimedStore:
    """A store, and how many seconds each call took that failed."""

    inner: Any
    waits: list[float] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            began = monotonic()
            try:
                return found(*args, **options)
            except StoreError:
                self.waits.append(monotonic() - began)
                raise

        return call


@pytest.fixture
def timed(server: Server) -> TimedStore:
    """The store with the default timeout, for a server that answered in time at least once."""
    return TimedStore(open_patiently(server.url)._store)


@pytest.fixture
def impatient(timed: TimedStore) -> Engine:
    """An engine that waits for the server as long as it does by default."""
    engine = Engine.from_text(POLICY, store=ResilientStore(cast(RemoteStore, timed)))
    wait_until(lambda: decided(engine, "/deny") == "allow")
    return engine


def test_a_killed_server_applies_each_failure_rule_and_recovers(engine: Engine, server: Server) -> None:
    assert [decided(engine, path) for path in ("/deny", "/local", "/allow")] == ["allow"] * 3
    server.kill()
    assert {decided(engine, "/deny") for _ in range(20)} == {"deny by failure"}
    assert [decided(engine, "/local") for _ in range(3)] == ["allow", "allow", "throttle by rate"]
    assert {decided(engine, "/allow") for _ in range(5)} == {"allow"}
    assert decided(engine, "/free") == "allow"
    server.start()
    wait_until(lambda: decided(engine, "/deny") == "allow")


def test_a_deny_for_an_unavailable_store_names_the_rule(engine: Engine, server: Server) -> None:
    server.kill()
    decision: Decision = engine.decide(ask("/deny"))
    [reason] = decision.reasons
    assert (reason.gate, reason.rule) == (Gate.FAILURE, "denies")
    assert reason.message.endswith("the store did not answer")
    assert engine.evaluate(ask("/deny")).gate is Gate.FAILURE


def test_a_paused_server_delays_few_decisions_and_these_only_briefly(
    impatient: Engine, timed: TimedStore, server: Server
) -> None:
    server.pause()
    began, waited = monotonic(), 0
    timed.waits.clear()
    for _ in range(250):
        calls = len(timed.waits)
        assert decided(impatient, "/deny") == "deny by failure"
        waited += len(timed.waits) > calls
    assert waited <= FAILURES_BEFORE_OPEN + (monotonic() - began) / PAUSE_SECONDS + 1
    assert min(timed.waits) < SLOWEST  # the machine may stall in some of them
    server.resume()
    wait_until(lambda: decided(impatient, "/deny") == "allow")


def test_a_redis_server_out_of_memory_denies(engine: Engine, server: Server) -> None:
    import redis

    with redis.Redis(port=server.port, protocol=2) as client:
        client.config_set("maxmemory", "1")
        assert decided(engine, "/deny") == "deny by failure"
        client.config_set("maxmemory", "0")
    wait_until(lambda: decided(engine, "/deny") == "allow")


def test_a_report_that_cannot_be_stored_returns_503(engine: Engine, server: Server) -> None:
    server.kill()

    async def reported() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/events", json={"decision": "01J", "status": 200})

    answer = asyncio.run(reported())
    assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")


def statuses_while_deciding(engine: Engine, alive: Callable[[], None] = lambda: None) -> list[int]:
    """Ask `/healthz` while three questions are decided, call `alive`, and return the statuses of all answers; the last
    is that of `/readyz`."""

    async def ask_all() -> list[int]:
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            deciding = [asyncio.create_task(client.post("/decide", json=ask("/deny"))) for _ in range(3)]
            await asyncio.sleep(0)
            answers = [await client.get("/healthz")]
            alive()
            answers += [*await asyncio.gather(*deciding), await client.get("/readyz")]
            return [answer.status_code for answer in answers]

    return asyncio.run(ask_all())


def test_a_paused_store_makes_the_server_alive_and_not_ready(engine: Engine, impatient: Engine, server: Server) -> None:
    assert statuses_while_deciding(engine) == [200, 200, 200, 200, 200]
    server.pause()
    statuses = statuses_while_deciding(impatient)
    server.resume()
    assert statuses == [200, 200, 200, 200, 503]


def test_a_store_that_does_not_answer_does_not_block_healthz() -> None:
    """The store answers only after `/healthz` has been answered."""
    store = HeldStore(MemoryStore())
    engine = Engine.from_text(POLICY, store=cast(Store, store))
    assert statuses_while_deciding(engine, store.released.set) == [200, 200, 200, 200, 200]
    assert store.was_released == [True, True, True]


# ── Many at once ──────────────────────────────────────────────────────────────────────────────


def test_concurrent_store_failures_count_once_for_the_circuit_breaker() -> None:
    """A moment in which a machine did something else met all of them, and was no reason to ask nobody any more."""
    callers = 8
    together, breaker = Barrier(callers), StoreBreaker()

    def fails() -> None:
        with suppress(StoreError), breaker:
            together.wait(timeout=20)
            raise StoreError("late")

    threads = [Thread(target=fails) for _ in range(callers)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (breaker.failing, breaker.open, breaker.failures) == (True, False, callers)
    for _ in range(FAILURES_BEFORE_OPEN - 1):
        with suppress(StoreError), breaker:
            raise StoreError("late")
    assert breaker.open


def test_a_cluster_has_a_longer_default_timeout() -> None:
    """Of its servers some are on a busy machine."""
    urls = ("redis://h", "redis+sentinel://h/s", "redis+cluster://h", "redis+cluster://h?timeout=70ms")
    assert [_connection_options(parse_store_url(one))["socket_timeout"] for one in urls] == [
        TIMEOUT_SECONDS,
        TIMEOUT_SECONDS,
        CLUSTER_TIMEOUT_SECONDS,
        0.07,
    ]
