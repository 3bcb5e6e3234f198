"""Several decisions at once are what they would be one after another, in as few round trips as there can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from policyengine.engine import Engine
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import RequestError
from policyengine.server.socket.answers import answer_frame
from policyengine.stores.base import CommitRequest, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.url import open_store
from tests.depth import examples, scaled
from tests.stores.charges import START, asks, budget, rate
from tests.stores.conftest import Fresh
from tests.stores.servers import Server, running
from tests.stores.test_histories_failing import begun_long_ago
from tests.stores.test_stores_alike import LIMITS

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
language 1
package shop
issuer acme { scopes none }
agent "*" { issued by acme   acts alone   may GET /rate, GET /budget, GET /past, GET /free, GET /denied }
rate "rate" per agent.id on GET /rate { 3/1h }
rate "all" per request.path on GET /rate { 7/1h }
budget "budget" per agent.id on GET /budget { count <= 2 within 1h }
guard "past" on GET /past { deny when count of GET /past within 1h per (agent.id) >= 2 }
guard "no" on GET /denied { deny }
"""


def ask(path: str, agent: str = "a", **options: Any) -> dict[str, Any]:
    asked = {"request": {"method": "GET", "path": path}, "agent": {"id": agent, "issuer": "acme"}, "credential": {}}
    return {**asked, "options": options} if options else asked


PATHS = st.sampled_from(["/rate", "/rate", "/rate", "/budget", "/past", "/free", "/denied", "/nowhere"])
OPTIONS = st.sampled_from([{}, {}, {}, {"consume": False}, {"consume": True}, {"at": "2027-01-04T11:00:00Z"}, {"x": 1}])
QUESTIONS = st.lists(
    st.builds(lambda path, agent, options: ask(path, agent, **options), PATHS, st.sampled_from("ab"), OPTIONS),
    max_size=25,
)


def told(engine: Engine, question: dict[str, Any]) -> Decision | RequestError:
    try:
        return engine.decide(question)
    except RequestError as error:
        return error


def plainly(found: Decision | RequestError) -> object:
    return str(found) if isinstance(found, RequestError) else {**found.to_dict(), "id": ""}


@scaled
@settings(max_examples=examples(4, 32), suppress_health_check=list(HealthCheck), deadline=None)
@given(questions=QUESTIONS)
def test_a_batch_gets_the_same_decisions_as_sequential_questions(fresh: Fresh, questions: list[dict[str, Any]]) -> None:
    one = Engine.from_text(POLICY, clock=lambda: NOW, store=MemoryStore())
    expected = [plainly(told(one, question)) for question in questions]
    many = Engine.from_text(POLICY, clock=lambda: NOW, store=fresh())
    assert [plainly(found) for found in many.decide_many(questions)] == expected


@scaled
@settings(max_examples=examples(4, 32), suppress_health_check=list(HealthCheck), deadline=None)
@given(many=st.lists(st.tuples(LIMITS, st.sampled_from([False, False, True])), max_size=20))
def test_commit_many_agrees_with_the_memory_store(fresh: Fresh, many: Any) -> None:
    asked = [CommitRequest(asks(*limits), str(number), peek) for number, (limits, peek) in enumerate(many)]
    assert list(fresh().commit_many(asked, START)) == list(MemoryStore().commit_many(asked, START))


def test_a_batch_larger_than_a_script_chunk_is_counted_exactly(fresh: Fresh) -> None:
    asked = [CommitRequest(asks(rate(200, 3_600_000_000), rate(1_000, key=str(n))), "") for n in range(400)]
    found = [one for one in fresh().commit_many(asked, START) if one and not isinstance(one, StoreError)]
    assert [one.admitted for one in found] == [True] * 200 + [False] * 200


# ── Round trips ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def trips(server: Server) -> Iterator[list[str]]:
    """The commands that clients send to a server meanwhile; those of scripts are none."""
    import redis

    found: list[str] = []
    client, other = (redis.Redis(port=server.port, protocol=2) for _ in range(2))
    other.ping()
    with client, other, client.monitor() as monitor:
        yield found
        other.ping()
        while (seen := monitor.next_command())["command"] != "PING":
            if seen["client_type"] != "lua":
                found.append(seen["command"].split()[0])


@pytest.fixture
def engine(redis_server: Server) -> Engine:
    import redis

    client = redis.Redis(port=redis_server.port, protocol=2)
    client.flushall()
    engine = Engine.from_text(POLICY, store=open_store(f"{redis_server.url}?timeout=5s"))
    begun_long_ago(engine, client)
    for path in ("/rate", "/budget", "/past"):
        engine.decide(ask(path, "before"))  # connects, and tells the scripts
    return engine


@pytest.mark.parametrize(
    ("path", "commands"),
    [("/rate", ["EVALSHA"]), ("/budget", ["EVALSHA"]), ("/past", ["EVALSHA"] * 2), ("/free", []), ("/denied", [])],
)
def test_a_decision_takes_a_minimal_number_of_round_trips(
    engine: Engine, redis_server: Server, path: str, commands: list[str]
) -> None:
    with trips(redis_server) as sent:
        engine.decide(ask(path))
    assert sent == commands


def test_a_batch_of_decisions_takes_a_single_script_call(engine: Engine, redis_server: Server) -> None:
    with trips(redis_server) as sent:
        engine.decide_many([ask("/rate", f"{number}") for number in range(100)])
    assert sent == ["EVALSHA"]


def test_a_frame_of_questions_takes_two_script_calls(engine: Engine, redis_server: Server) -> None:
    questions = [ask("/rate", "a")] * 5 + [{"agent": 1}, ask("/budget", "a")]
    with trips(redis_server) as sent:
        content, many = answer_frame(engine, msgpack.encode((7, "decide", questions)))
    number, status, answers = msgpack.decode(content)
    assert (number, status, many) == (7, 200, 7)
    assert [one["outcome"] for one in answers] == ["allow"] * 3 + ["throttle"] * 2 + ["deny", "allow"]
    assert answers[5]["error"]["member"].startswith("[5]")
    assert sent == ["EVALSHA"] * 2


# ── Failure ───────────────────────────────────────────────────────────────────────────────────


def test_each_question_of_a_batch_follows_its_failure_rule_without_a_store(tmp_path: Path) -> None:
    with running("redis-server", tmp_path) as server:
        policy = POLICY.replace("{ count <= 2 within 1h }", "{ count <= 2 within 1h   on store failure local }")
        engine = Engine.from_text(policy, store=open_store(f"{server.url}?timeout=20s"))
        server.kill()
        questions = [ask("/rate"), ask("/budget"), ask("/budget"), ask("/budget"), ask("/free"), ask("/past")]
        outcomes = [plainly(one) for one in engine.decide_many(questions)]
    assert [one["outcome"] for one in outcomes] == ["deny", "allow", "allow", "throttle", "allow", "deny"]  # type: ignore[index]


def test_a_failed_commit_in_a_batch_does_not_affect_the_others(redis_server: Server) -> None:
    import redis

    from policyengine.stores.redis.step import state_key
    from policyengine.stores.redis.store import RedisStore

    with redis.Redis(port=redis_server.port, protocol=2) as client:
        client.flushall()
        client.lpush(state_key(budget(1)), "what nobody understands")
        store = RedisStore(client)
        first, second, third = store.commit_many(
            [CommitRequest(asks(one), "x") for one in (rate(), budget(1), rate())], 0
        )
    assert isinstance(second, StoreError)
    assert not isinstance(first, StoreError)
    assert not isinstance(third, StoreError)
