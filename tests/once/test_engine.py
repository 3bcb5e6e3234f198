"""A decision that is accounted once by its key: the same answer again, and nothing spent, whatever happens between."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.http.rate_limit_headers import rate_limit_headers
from policyengine.kernel import Kernel
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.idempotency import (
    KEEP_MICROSECONDS,
    LEASE_MICROSECONDS,
    IdempotencyClaim,
    IdempotencyKey,
    IdempotencyRecord,
    KeyInProgressError,
    KeyReuseError,
)
from policyengine.runtime.limits import ChargeResult
from policyengine.runtime.request import RequestError
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.stores.url import open_store
from tests import forking
from tests.depth import examples, scaled
from tests.once.shop import POLICY, once, pay, report, secret, slow
from tests.stores.servers import Server
from tests.trusting import TRUSTING

ROOT = Path(__file__).parents[2]
NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)


@cache
def kernel_of(policy: str) -> Kernel:
    return Engine.from_text(policy).kernel


class Playing:
    """An engine, its store, and the time."""

    def __init__(self, store: Any = None, policy: str = POLICY, **more: Any) -> None:
        self.now = NOW
        self.store = MemoryStore() if store is None else store
        self.engine = Engine(kernel_of(policy), clock=lambda: self.now, store=self.store, approvals=TRUSTING, **more)

    def asks(self, question: dict[str, object], by: IdempotencyKey | None = None) -> Decision:
        return self.engine.decide_once(question, by or once()).decision

    def left(self, question: dict[str, object] | None = None) -> int:
        looked = self.engine.evaluate(report() if question is None else question)
        return looked.rates[0].remaining + looked.allowed


@pytest.fixture
def playing() -> Playing:
    return Playing()


# ── The same answer ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("question", [report(), pay(), pay(60), secret(), slow(), pay(200)])
@pytest.mark.parametrize("make", [MemoryStore, lambda: SqliteStore(":memory:")], ids=["memory", "sqlite"])
def test_the_same_key_gets_the_same_answer(make: Callable[[], Any], question: dict[str, object]) -> None:
    playing = Playing(make())
    first, second = (playing.engine.decide_once(question, once()) for _ in range(2))
    assert (first.again, second.again) == (False, True)
    assert second.decision.to_json() == first.decision.to_json()
    assert second.decision.to_msgpack() == first.decision.to_msgpack()
    assert rate_limit_headers(second.decision) == rate_limit_headers(first.decision)


def test_a_decision_with_a_key_equals_the_decision_without_one() -> None:
    for question in (
        report(),
        pay(),
        pay(60),
        secret(),
        slow(),
        pay(200),
        {"request": {"method": "GET", "path": "/x"}},
    ):
        keyed, plain = Playing().asks(question), Playing().engine.decide(question)
        assert keyed.with_id("") == plain.with_id("")
        assert rate_limit_headers(keyed) == rate_limit_headers(plain)


def test_the_same_key_spends_once(playing: Playing) -> None:
    for _ in range(5):
        assert playing.asks(report()).allowed
    assert playing.left() == 2
    assert playing.asks(report(), once("another")).allowed
    assert playing.left() == 1


def test_the_same_key_charges_a_budget_once(playing: Playing) -> None:
    assert [playing.asks(pay()).allowed for _ in range(5)] == [True] * 5
    assert [playing.asks(pay(), once(f"key {one}")).outcome for one in range(2)] == ["allow", "throttle"]


def test_the_same_key_counts_a_denial_once(playing: Playing) -> None:
    for _ in range(3):
        assert playing.asks(secret()).outcome == "deny"
    [state] = playing.engine.evaluate(secret()).rates
    assert state.remaining == 1


def test_the_same_key_returns_the_same_throttle_later(playing: Playing) -> None:
    for one in range(3):
        playing.asks(report(), once(f"{one}"))
    assert playing.asks(report()).outcome == "throttle"
    playing.now += timedelta(seconds=1)
    assert playing.asks(report()).outcome == "throttle"


def test_reporting_the_decision_of_a_repeated_key_frees_its_concurrency_slot(playing: Playing) -> None:
    first, second = (playing.asks(slow()) for _ in range(2))
    assert playing.engine.report(second.id)
    assert first.allowed
    assert playing.asks(slow(), once("next")).allowed


def test_a_confirm_repeated_with_its_key_has_the_same_remedies(playing: Playing) -> None:
    first, second = (playing.asks(pay(60)) for _ in range(2))
    assert first.remedies == second.remedies
    assert first.outcome == "confirm"


def test_an_approval_is_spent_once_per_key(playing: Playing) -> None:
    [remedy] = playing.engine.evaluate(pay(60)).remedies
    approval = {"id": "a", "by": "carol", "granted_at": NOW.isoformat(), "binding": remedy.binding}
    carol = {"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}}
    asked = {**pay(60), "approvals": [approval], "entities": [carol]}
    assert [playing.asks(asked).outcome for _ in range(2)] == ["allow", "allow"]
    assert playing.asks(asked, once("another")).outcome == "throttle"
    playing.now += timedelta(hours=25)
    assert playing.asks(asked, once("another")).outcome == "confirm"


# ── Another question, another caller, another policy, another time ────────────────────────────


def test_a_key_reused_for_another_question_is_rejected(playing: Playing) -> None:
    playing.asks(report())
    with pytest.raises(KeyReuseError):
        playing.asks(report("10.0.0.2"), once(digest="other"))
    assert playing.left(report("10.0.0.2")) == 3


def test_gateways_have_separate_keys(playing: Playing) -> None:
    assert playing.asks(report()).id != playing.asks(report(), once(gateway="another")).id
    assert playing.left() == 1


def test_a_key_does_not_apply_to_another_policy() -> None:
    store = MemoryStore()
    shut = Playing(store, POLICY.replace("may GET /report, ", "may "))
    assert Playing(store).asks(report()).allowed
    assert shut.asks(report()).outcome == "deny"


def test_an_answer_is_stored_under_its_key_for_ten_minutes(playing: Playing) -> None:
    first = playing.asks(report())
    playing.now += timedelta(microseconds=KEEP_MICROSECONDS - 1)
    assert playing.asks(report()).id == first.id
    playing.now += timedelta(microseconds=1)
    assert playing.asks(report()).id != first.id


def test_a_question_with_consume_false_ignores_its_key(playing: Playing) -> None:
    looking = {**report(), "options": {"consume": False}}
    assert playing.asks(looking).id != playing.asks(looking).id
    assert not playing.engine.decide_once(looking, once(digest="other")).again


def test_an_invalid_question_does_not_use_up_its_key(playing: Playing) -> None:
    for bad in ({"agnet": {}}, {**report(), "options": {"at": "2027-01-01T00:00:00Z"}}):
        with pytest.raises(RequestError):
            playing.asks(bad)
    assert playing.asks(report(), once(digest="other")).allowed


# ── While it is decided, and when somebody dies over it ───────────────────────────────────────


class Died(BaseException):
    """The process is gone."""


class Breaking(MemoryStore):
    """Does something before or after the next commit."""

    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        doing, self.before = self.before, None
        if doing is not None:
            doing()
        told = super().commit(effects, decision, now, peek=peek)
        doing, self.after = self.after, None
        if doing is not None:
            doing()
        return told


def dies() -> None:
    raise Died


def fails() -> None:
    raise StoreError("no answer in time")


def test_a_key_that_is_in_progress_raises_key_in_progress_error() -> None:
    playing = Playing(Breaking())
    said: list[object] = []

    def asked_again() -> None:
        with pytest.raises(KeyInProgressError):
            playing.asks(report())
        with pytest.raises(KeyReuseError):
            playing.asks(report(), once(digest="other"))
        said.append("both")

    playing.store.before = asked_again
    assert playing.asks(report()).allowed
    assert said == ["both"]
    assert playing.left() == 2


def test_a_key_of_a_process_that_died_before_it_spent_is_free_after_the_lease() -> None:
    playing = Playing(Breaking())
    playing.store.before = dies
    with pytest.raises(Died):
        playing.asks(report())
    with pytest.raises(KeyInProgressError):
        playing.asks(report())
    playing.now += timedelta(microseconds=LEASE_MICROSECONDS)
    assert playing.asks(report()).allowed
    assert playing.left() == 2


def test_a_key_of_a_process_that_died_after_it_spent_returns_its_decision() -> None:
    playing = Playing(Breaking())
    playing.store.after = dies
    with pytest.raises(Died):
        playing.asks(report())
    found = playing.engine.decide_once(report(), once())
    assert (found.again, found.decision.allowed) == (True, True)
    assert playing.left() == 2


def test_a_process_that_lost_its_lease_spends_nothing_and_returns_the_other_decision() -> None:
    playing = Playing(Breaking())
    others: list[Decision] = []

    def meanwhile() -> None:
        playing.now += timedelta(microseconds=LEASE_MICROSECONDS)
        others.append(playing.asks(report()))

    playing.store.before = meanwhile
    late = playing.asks(report())
    assert late.id == others[0].id
    assert playing.left() == 2


def test_a_failed_decision_is_not_stored_under_its_key() -> None:
    playing = Playing(Breaking())
    playing.store.before = fails
    failed = playing.asks(report())
    assert failed.gate == "failure"
    assert playing.asks(report()).allowed
    assert playing.left() == 2


def test_a_retry_after_a_lost_store_answer_returns_the_stored_decision() -> None:
    playing = Playing(Breaking())
    playing.store.after = fails
    assert playing.asks(report()).gate == "failure"
    assert playing.engine.decide_once(report(), once()).again
    assert playing.left() == 2


class Unsaying(MemoryStore):
    """Knows nothing of keys at the moment."""

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        raise StoreError("down")

    def probe(self) -> None:
        return


@pytest.mark.parametrize(("words", "outcome"), [("", "deny"), ("on store failure allow", "allow")])
def test_on_store_failure_decides_the_outcome_of_a_keyed_question(words: str, outcome: str) -> None:
    class Down(Unsaying):
        def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
            raise StoreError("down")

    playing = Playing(ResilientStore(Down()), POLICY.replace("{ 3/1d }", f"{{ 3/1d {words} }}"))
    assert [playing.asks(report()).outcome for _ in range(2)] == [outcome] * 2


def test_a_repeated_question_spends_again_if_keys_are_unavailable() -> None:
    playing = Playing(Unsaying())
    assert [playing.asks(report()).outcome for _ in range(4)] == ["allow"] * 3 + ["throttle"]


def test_on_store_failure_local_allows_a_keyed_question() -> None:
    class Half(MemoryStore):
        def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
            raise StoreError("down")

        def probe(self) -> None:
            raise StoreError("down")

    playing = Playing(ResilientStore(Half()), POLICY.replace("{ 3/1d }", "{ 3/1d on store failure local }"))
    assert playing.asks(report()).allowed


def test_an_unexpected_store_exception_is_a_deny() -> None:
    class Broken(MemoryStore):
        def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
            raise ZeroDivisionError

    playing = Playing(Broken())
    assert playing.asks(report()).gate == "failure"
    assert playing.engine.failures == 1


@pytest.mark.parametrize("draft", [b"", b"\x80", b"\xff", b"\x91\x01"])
def test_an_unreadable_stored_answer_is_a_deny(draft: bytes) -> None:
    class Odd(MemoryStore):
        def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
            return IdempotencyRecord(claim.digest, draft, ChargeResult((), now))

    assert Playing(Odd()).asks(report()).gate == "failure"


# ── On record ─────────────────────────────────────────────────────────────────────────────────


def test_each_repetition_of_an_answer_is_logged(tmp_path: Path) -> None:
    playing = Playing(log=DecisionLog(tmp_path / "log"))
    first, _ = (playing.asks(report()) for _ in range(2))
    playing.now += timedelta(minutes=1)
    playing.asks(report())
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert json.loads(lines[0])["decision"]["id"] == first.id


def test_a_repeated_answer_that_cannot_be_logged_is_denied(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    playing = Playing(log=log)
    assert playing.asks(report()).allowed
    log.write_decisions = lambda lines: 0  # type: ignore[method-assign]
    assert playing.asks(report()).gate == "failure"


# ── In any order ──────────────────────────────────────────────────────────────────────────────

CALLS = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from([report(), report("10.0.0.2"), pay(), pay(30), secret()]),
    st.sampled_from([0, 0, 1, KEEP_MICROSECONDS // 2, KEEP_MICROSECONDS]),
)


@scaled
@settings(max_examples=examples(12, 100))
@given(calls=st.lists(CALLS, max_size=20))
def test_random_keyed_calls_agree_with_a_dictionary_of_keys(calls: list[Any]) -> None:
    """Beside an engine that is asked, without a key, only for what a dictionary of keys does not know."""
    keyed, plain = Playing(), Playing()
    known: dict[str, tuple[datetime, object, Decision]] = {}
    for key, question, step in calls:
        keyed.now = plain.now = plain.now + timedelta(microseconds=step)
        digest = json.dumps(question)
        until, first, decision = known.get(key, (plain.now, None, None))
        if until <= plain.now:
            decision = plain.engine.decide(question)
            known[key] = (plain.now + timedelta(microseconds=KEEP_MICROSECONDS), digest, decision)
        elif first != digest:
            with pytest.raises(KeyReuseError):
                keyed.asks(question, once(key, digest))
            continue
        assert decision is not None
        assert keyed.asks(question, once(key, digest)).with_id("") == decision.with_id("")


# ── At once ───────────────────────────────────────────────────────────────────────────────────


def persistently(ask: Callable[[], Decision]) -> str:
    """Its id, asked for until it is decided."""
    while True:
        try:
            return ask().id
        except KeyInProgressError:
            time.sleep(0.01)


def test_concurrent_threads_with_one_key_spend_once(playing: Playing) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: persistently(lambda: playing.asks(report())), range(64)))
    assert len(ids) == 1
    assert playing.left() == 2


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db?timeout=30s"
    import redis

    if request.param == "cluster":
        servers: list[Server] = request.getfixturevalue("redis_cluster")
        for one in servers:
            redis.Redis(port=one.port, protocol=2).flushall()
        return f"redis+cluster://127.0.0.1:{servers[0].port}?timeout=5s"
    server: Server = request.getfixturevalue("redis_server")
    redis.Redis(port=server.port, protocol=2).flushall()
    return f"{server.url}?timeout=5s"


def processes(url: str, many: int) -> Iterator[subprocess.Popen[str]]:
    command = [*forking.module("tests.once.asking"), url]
    for _ in range(many):
        yield subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


CLUSTER = pytest.param("cluster", marks=pytest.mark.deep)


@pytest.mark.parametrize("url", ["sqlite", "redis", CLUSTER], indirect=True)
def test_concurrent_processes_spend_once_per_key(url: str) -> None:
    """Each of them asks by the same keys, in an order of its own."""
    with ExitStack() as stack:
        crew = [stack.enter_context(process) for process in processes(url, 2)]
        told = [json.loads(process.communicate()[0]) for process in crew]
    assert told[0] == told[1]
    assert sorted(told[0].values()) == sorted(set(told[0].values()))
    looked = Engine.from_text(POLICY.replace("3/1d", "1000/1d"), store=open_store(url)).evaluate(report())
    assert looked.rates[0].remaining + 1 == 1_000 - len(told[0])
