"""What takes long is decided one after the other, in a thread of its own, also where a store is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from policyengine import executor
from policyengine.engine import Engine
from policyengine.engine.decider import WouldBlockError
from policyengine.engine.wait_forecast import WaitForecast
from policyengine.fair_queue import FairQueue, WorkRefusedError
from policyengine.runtime.decision import Gate
from policyengine.runtime.request import RequestError
from policyengine.server.adapters import responses
from policyengine.server.decide_requests import MAX_ITEMS_PER_COMMIT, decide_together
from policyengine.server.socket import answers as socket_answers
from policyengine.stores.url import open_store
from tests.server.conftest import client_of

LONG_THREAD = "policyengine-long"
POLICY = """
facts { body.a: list<int>  body.b: list<int>?  context.a: list<int>? }
issuer login { scopes none }
anyone { may POST /x, ACTION see document }
entity document
rate "often" per request.path on POST /x { 1000/1s }
guard "cubic" on POST /x { deny when (any x in body.a: (any y in body.a: (any z in body.a: x + y == z + 1_000))) }
guard "seen" on ACTION see document { deny when (any x in context.a: (any y in context.a: x + y == 1_000)) }
"""


def question(many: int) -> dict[str, Any]:
    return {"request": {"method": "POST", "path": "/x"}, "body": {"a": list(range(many))}}


SMALL, LONG = question(1), question(22)
WHO = {"subject": {"type": "user", "id": "a"}, "resource": {"type": "document", "id": "1"}, "action": {"name": "see"}}
EVALUATION = {**WHO, "context": {"a": list(range(105))}}


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Engine]:
    """It asks a store beside this process."""
    with closing(open_store(f"sqlite:///{tmp_path / 'store.db'}")) as store:
        yield Engine.from_text(POLICY, store=store)


class Spied:
    """Notes in which threads something was decided."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.threads = engine, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def decide(self, question: Any, **options: Any) -> Any:
        return self._noted(self._engine.decide(question, **options))

    def evaluate(self, question: Any, **options: Any) -> Any:
        return self._noted(self._engine.evaluate(question, **options))

    def decide_many(self, questions: Any) -> Any:
        return self._noted(self._engine.decide_many(questions))

    def _noted(self, answer: Any) -> Any:
        self.threads.append(threading.current_thread().name.partition("_")[0])
        return answer


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/decide", LONG),
        ("/decide", {**LONG, "context": {"spaces": " " * 40_000}}),
        ("/evaluate", LONG),
        ("/decide/batch", {"requests": [LONG]}),
        ("/access/v1/evaluation", EVALUATION),
        ("/access/v1/evaluations", {"evaluations": [EVALUATION]}),
    ],
)
def test_a_slow_question_is_decided_in_the_long_thread_with_a_shared_store(
    path: str, asked: dict[str, Any], shared: Engine
) -> None:
    spied = Spied(shared)

    async def run() -> httpx.Response:
        async with client_of(spied) as client:
            return await client.post(path, json=asked)

    assert asyncio.run(run()).status_code == 200
    assert spied.threads == [LONG_THREAD]


def test_a_short_question_with_a_shared_store_is_not_decided_in_the_long_thread(shared: Engine) -> None:
    spied = Spied(shared)

    async def run() -> list[httpx.Response]:
        async with client_of(spied) as client:
            requests = {"requests": [{**SMALL, "options": {"consume": True}}]}
            return [await client.post("/decide", json=SMALL), await client.post("/decide/batch", json=requests)]

    assert [one.status_code for one in asyncio.run(run())] == [200, 200]
    assert len(spied.threads) == 2
    assert LONG_THREAD not in spied.threads


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/decide", LONG),
        ("/decide", {**LONG, "context": {"spaces": " " * 40_000}}),
        ("/evaluate", LONG),
        ("/decide/batch", {"requests": [LONG]}),
        ("/access/v1/evaluation", EVALUATION),
    ],
)
def test_a_slow_question_that_awaits_an_issuer_is_not_decided_in_the_long_thread(
    path: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers slowly would keep everybody else's turn from coming."""
    spied = Spied(Engine.from_text(POLICY))
    monkeypatch.setattr(WaitForecast, "awaits_issuer", lambda self, question: True)

    async def run() -> httpx.Response:
        async with client_of(spied) as client:
            return await client.post(path, json=asked, headers={"idempotency-key": "not for the quick way"})

    assert asyncio.run(run()).status_code == 200
    assert len(spied.threads) == 1
    assert LONG_THREAD not in spied.threads


@pytest.mark.parametrize("in_thread", [True, False])
@pytest.mark.parametrize("asked", [LONG, {**LONG, "context": {"spaces": [" "] * 40_000}}], ids=["long", "large"])
def test_a_gateway_question_that_awaits_an_issuer_is_not_decided_in_the_long_thread(
    in_thread: bool, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spied: Any = Spied(Engine.from_text(POLICY))
    monkeypatch.setattr(WaitForecast, "awaits_issuer", lambda self, question: True)
    told = (
        responses.decide_in_turn(spied, asked) if in_thread else asyncio.run(responses.decide_for_gateway(spied, asked))
    )
    assert told.status in (200, 403)
    assert LONG_THREAD not in spied.threads


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_slow_gateway_question_is_decided_in_the_long_thread_with_a_shared_store(
    in_thread: bool, shared: Engine
) -> None:
    spied: Any = Spied(shared)
    told = (
        responses.decide_in_turn(spied, LONG) if in_thread else asyncio.run(responses.decide_for_gateway(spied, LONG))
    )
    assert told.status in (200, 403)
    assert spied.threads == [LONG_THREAD]


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has asked for so much that nothing more waits."""
    monkeypatch.setattr(executor, "_long_queue", FairQueue("policyengine-full", most_of_caller=0))


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/decide", LONG),
        ("/decide", {**LONG, "context": {"spaces": " " * 40_000}}),
        ("/evaluate", LONG),
        ("/explain", LONG),
        ("/access/v1/evaluation", EVALUATION),
        ("/envoy/x", {"a": list(range(2_000))}),
    ],
)
def test_a_slow_question_is_503_with_retry_after_if_the_long_queue_is_full(path: str, asked: dict[str, Any]) -> None:
    async def run() -> httpx.Response:
        async with client_of(Engine.from_text(POLICY)) as client:
            return await client.post(path, json=asked, headers={"x-envoy-auth-partial-body": "false"})

    answer = asyncio.run(run())
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "1")


def test_a_slow_gateway_question_is_503_if_the_long_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_long_queue", FairQueue("policyengine-full", most_of_caller=0))
    threads_of_grpc = copy_context()
    threads_of_grpc.run(executor.enter_requester, executor.Requester(lambda: "ipv4:127.0.0.1", lambda: False))
    told = threads_of_grpc.run(responses.decide_in_turn, Engine.from_text(POLICY), LONG)
    assert (told.status, dict(told.headers)) == (503, {"Retry-After": "1"})


@pytest.mark.usefixtures("full")
def test_a_full_long_queue_denies_a_slow_batch_item_and_no_other() -> None:
    async def run() -> httpx.Response:
        async with client_of(Engine.from_text(POLICY)) as client:
            return await client.post("/decide/batch", json={"requests": [SMALL, LONG, SMALL]})

    first, second, third = asyncio.run(run()).json()["decisions"]
    assert (first["allowed"], second["allowed"], third["allowed"]) == (True, False, True)
    assert (second["gate"], second["error"]["status"], second["error"]["member"]) == ("failure", 503, "requests[1]")


@pytest.mark.usefixtures("full")
def test_a_full_long_queue_denies_a_slow_evaluation_and_no_other() -> None:
    async def run() -> httpx.Response:
        async with client_of(Engine.from_text(POLICY)) as client:
            small = {**EVALUATION, "context": {"a": [1]}}
            return await client.post("/access/v1/evaluations", json={"evaluations": [small, EVALUATION]})

    assert [one["decision"] for one in asyncio.run(run()).json()["evaluations"]] == [True, False]


def test_the_rest_of_a_batch_is_not_decided_after_the_client_disconnects(shared: Engine) -> None:
    spied: Any = Spied(shared)
    answered = iter([False, True])
    items = [{**SMALL, "options": {"consume": True}}] * (MAX_ITEMS_PER_COMMIT * 2)
    with pytest.raises(WorkRefusedError, match="the client has disconnected"):
        decide_together(spied, items, lambda: next(answered))
    assert len(spied.threads) == 1


# ── Sockets ───────────────────────────────────────────────────────────────────────────────────


def payload(asked: object) -> bytes:
    return bytes(msgpack.packb([7, "decide", asked]))


@pytest.mark.parametrize("asked", [[SMALL] * (socket_answers.MAX_INLINE_QUESTIONS + 1), [SMALL, LONG]])
def test_a_slow_socket_list_is_not_decided_in_the_event_loop(asked: list[object]) -> None:
    with pytest.raises(WouldBlockError):
        socket_answers.answer_frame(Engine.from_text(POLICY), payload(asked), at_once=True)


MANY = 2 * socket_answers.MAX_INLINE_QUESTIONS + 8


@pytest.mark.parametrize(("policy", "pieces"), [("anyone { may POST /x }", 3), (POLICY, MANY)], ids=["quick", "loops"])
def test_a_long_socket_list_is_decided_in_pieces(policy: str, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    begin = socket_answers.submit_long
    monkeypatch.setattr(
        socket_answers, "submit_long", lambda *work, **given: begun.append(work) or begin(*work, **given)
    )
    asked = [*([SMALL] * (MANY - 2)), {"no": "question"}, SMALL]
    _, status, answers = msgpack.unpackb(socket_answers.answer_frame(Engine.from_text(policy), payload(asked))[0])
    assert (status, len(begun)) == (200, pieces)
    assert [one["allowed"] for one in answers] == [True] * (MANY - 2) + [False, True]
    assert answers[MANY - 2]["error"]["member"].startswith(f"[{MANY - 2}]")


@pytest.mark.parametrize("asked", [LONG, [SMALL, LONG]])
def test_a_slow_socket_question_is_decided_in_the_long_thread_with_a_shared_store(
    asked: object, shared: Engine
) -> None:
    spied: Any = Spied(shared)
    socket_answers.answer_frame(spied, payload(asked))
    assert set(spied.threads) == {LONG_THREAD}


@pytest.mark.parametrize("name", ["long" * 20_000, "\ud800"], ids=["too long", "no Unicode"])
def test_a_malformed_question_is_refused_at_once(name: str) -> None:
    engine = Engine.from_text(POLICY)
    malformed = {**LONG, "body": {**LONG["body"], name: 1}}
    with pytest.raises(RequestError):
        engine.decide(dict(malformed))
    assert (engine.forecast.takes_long(LONG), engine.forecast.takes_long(malformed)) == (True, False)
    assert not engine.forecast.takes_long({**SMALL, "body": {}})


def test_a_question_whose_size_cannot_be_measured_waits_for_a_thread_and_is_denied_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine.from_text(POLICY)
    monkeypatch.setattr(engine.decider.compiled.evaluator, "takes_long", lambda *_: 1 / 0)
    assert engine.forecast.takes_long({**LONG, "user": {"id": "alice"}})
    assert engine.decide(dict(LONG), without_waiting=True).gate is Gate.FAILURE
    assert engine.failures == 1
