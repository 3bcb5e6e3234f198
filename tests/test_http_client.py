"""Both clients against real servers, and against servers that lie, dawdle, break off or are not there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from decimal import Decimal
from threading import Thread
from typing import Any

import httpx
import msgspec
import pytest

from policyengine.circuit_breaker import PAUSE_SECONDS
from policyengine.client.http import AsyncPolicyClient, PolicyClient
from policyengine.client.http_exchange import ClientCircuit, NoDecisionError, to_encodable
from policyengine.client.socket import encode_question
from policyengine.engine import Engine
from policyengine.runtime import decode
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.values import Invalid
from policyengine.server import create_app
from tests.integrations.serving import serving
from tests.processes import wait_until

POLICY = """
language 1
package shop
facts on POST /orders { body.total: number }
anyone { may GET /health, POST /orders }
guard "large" on POST /orders { deny when body.total > 100   confirm by user within 5m when body.total > 50 }
rate "orders" per request.ip on POST /orders { 3/1m }
"""
OPEN: dict[str, Any] = {"request": {"method": "GET", "path": "/health"}}
SHUT: dict[str, Any] = {"request": {"method": "GET", "path": "/"}}
TOKEN = "a-token-of-the-gateway"
PATIENT = 30.0  # seconds: the machine may be busy


def order(total: object) -> dict[str, Any]:
    return {"request": {"method": "POST", "path": "/orders", "ip": "10.0.0.1"}, "body": {"total": total}}


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with serving(create_app(Engine.from_text(POLICY), token=TOKEN)) as url:
        yield url


Call = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Call:
    """`ask(url, "decide", question)` by either client; `client` are its options."""

    def synchronous(url: str, name: str, *given: Any, client: Any = None, **named: Any) -> Any:
        with PolicyClient(url, **{"token": TOKEN, "timeout": PATIENT, **(client or {})}) as policies:
            return getattr(policies, name)(*given, **named)

    def asynchronous(url: str, name: str, *given: Any, client: Any = None, **named: Any) -> Any:
        async def run() -> Any:
            async with AsyncPolicyClient(url, **{"token": TOKEN, "timeout": PATIENT, **(client or {})}) as policies:
                return await getattr(policies, name)(*given, **named)

        return asyncio.run(run())

    return synchronous if request.param == "sync" else asynchronous


def is_failure(decision: Decision, words: str) -> bool:
    message = decision.reasons[0].message
    assert words in message, message
    return not decision.allowed and decision.gate is Gate.FAILURE and len(decision.id) == 26


def test_the_client_returns_the_decision_of_the_engine(served: str, ask: Call) -> None:
    assert ask(served, "decide", OPEN).allowed
    told, made = ask(served, "evaluate", order(60)), Engine.from_text(POLICY).evaluate(order(60))
    assert told.answer == made.answer
    assert told.outcome == "confirm"
    assert told.remedies[0].binding is not None
    assert told.rates == made.rates


def test_python_numbers_arrive_as_facts(served: str, ask: Call) -> None:
    assert ask(served, "evaluate", order(Decimal("100.01"))).outcome == "deny"
    assert ask(served, "evaluate", order(Decimal("49.99"))).outcome == "allow"
    nan = ask(served, "evaluate", order(float("nan")))
    assert nan.outcome == "deny"
    assert nan.unknown[0].why == "not a finite number"


def test_an_invalid_value_arrives_as_unknown_with_its_reason(served: str, ask: Call) -> None:
    """As a member, and as a body that nobody could read; an approval is bound to what stood there."""
    engine, rounded = Engine.from_text(POLICY), Invalid.in_place_of("9007199254740993", "a number that some round")
    for question in (order(rounded), order(1) | {"body": Invalid("the body was sent as `x`")}):
        told = ask(served, "evaluate", question)
        assert told.outcome == "deny"
        assert told.answer == engine.evaluate(question).answer
        assert {one.why for one in told.unknown} in ({"a number that some round"}, {"the body was sent as `x`"})
    (sent,) = decode.from_msgpack(encode_question(to_encodable([rounded])))  # type: ignore[misc]
    assert (sent.why, sent.given) == (rounded.why, rounded.given)


def test_decide_many_decides_in_order_and_spends(ask: Call) -> None:
    engine = Engine.from_text(POLICY)
    with serving(create_app(engine, token=TOKEN)) as url:
        asked = [SHUT, *[order(1)] * 4, {"nonsense": 1}]
        answers = ask(url, "decide_many", asked)
    assert [one.outcome for one in answers] == ["deny", "allow", "allow", "allow", "throttle", "deny"]
    assert answers[-1].gate is Gate.FAILURE


def test_outcomes_are_reported_once(ask: Call) -> None:
    policy = POLICY + 'rate "at once" per request.ip on GET /health { at most 5 at once for 1h }'
    with serving(create_app(Engine.from_text(policy), token=TOKEN)) as url:
        decision = ask(url, "decide", {"request": {"method": "GET", "path": "/health", "ip": "10.0.0.1"}})
        assert ask(url, "report", decision.id, status=200, latency_ms=1.5, output={"state": "paid"})
        assert not ask(url, "report", decision.id, status=200)
    assert not ask(url, "report", decision.id, status=200, client={"timeout": 0.5})


@pytest.mark.parametrize(
    ("question", "words"),
    [({"agnet": {}}, "unknown member `agnet`"), ({"body": {"x": object()}}, "cannot be encoded"), ({}, "no endpoint")],
)
def test_an_invalid_question_is_a_deny_with_the_reason(served: str, ask: Call, question: Any, words: str) -> None:
    assert is_failure(ask(served, "decide", question), words)
    assert is_failure(ask(served, "evaluate", question), words)


def test_a_rejected_token_is_a_deny(served: str, ask: Call) -> None:
    assert not ask(served, "decide", OPEN, client={"token": "wrong"}).allowed
    assert is_failure(ask(served, "decide", OPEN, client={"token": None}), "no decision")


def test_an_unreachable_server_is_a_deny(ask: Call) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert is_failure(ask(url, "decide", OPEN), "cannot be reached")
        assert [one.allowed for one in ask(url, "decide_many", [OPEN, OPEN])] == [False, False]


@contextmanager
def lying(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with these bytes, in turn; None is silence. And what it was asked."""
    asked: list[bytes] = []
    with ExitStack() as held, socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            for answer in answers:
                connection = held.enter_context(server.accept()[0])
                connection.settimeout(30)
                asked.append(connection.recv(65_536))
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()

        def until_it_ends() -> None:
            with suppress(OSError):
                run()

        thread = Thread(target=until_it_ends, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)  # it may be waiting for one more
        thread.join(30)


def answer(content: bytes, status: int = 200, media: str = "application/msgpack") -> bytes:
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: {media}\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + content


ALLOWED = Engine.from_text(POLICY).decide(OPEN)
ALLOW = answer(ALLOWED.to_msgpack())
CONTRADICTION = msgspec.msgpack.encode({**ALLOWED.to_dict(), "outcome": "deny"})


@pytest.mark.parametrize(
    ("bytes_", "words"),
    [
        (answer(ALLOWED.to_msgpack(), media="text/html"), "not from a decision API"),
        (answer(ALLOWED.to_msgpack(), status=201), "201"),
        (answer(ALLOWED.to_msgpack(), status=302), "302"),
        (answer(b"\xc3"), "cannot be read"),
        (answer(b""), "cannot be read"),
        (answer(CONTRADICTION), "cannot be read"),
        (answer(msgspec.msgpack.encode({"allowed": True})), "cannot be read"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/msgpack\r\ncontent-length: 99\r\n\r\n\x80",
            "cannot be reached",
        ),
        (b"rubbish\r\n\r\n", "cannot be reached"),
    ],
)
def test_an_invalid_answer_is_a_deny(ask: Call, bytes_: bytes, words: str) -> None:
    with lying(bytes_, bytes_) as (url, _):
        assert is_failure(ask(url, "decide", OPEN), words)


def test_a_timeout_is_a_deny(ask: Call) -> None:
    with lying(None, None) as (url, asked):
        assert is_failure(ask(url, "decide", OPEN, client={"timeout": 0.05}), "no answer within 50 ms")
        wait_until(lambda: len(asked) == 2)


def test_the_client_retries_once_with_the_same_idempotency_key(ask: Call) -> None:
    with lying(b"", ALLOW) as (url, asked):
        assert ask(url, "decide", OPEN).allowed
    keys = [[line for line in one.split(b"\r\n") if line.lower().startswith(b"idempotency-key:")] for one in asked]
    assert len(keys) == 2
    assert keys[0] == keys[1] != []
    with lying(answer(b"", 503), ALLOW) as (url, _):
        assert ask(url, "evaluate", OPEN).allowed
    with lying(answer(b"", 503), answer(b"", 503), ALLOW) as (url, asked):
        assert not ask(url, "evaluate", OPEN).allowed
        assert len(asked) == 2


def test_a_spending_call_without_an_idempotency_key_is_not_retried(ask: Call) -> None:
    with lying(b"", ALLOW) as (url, asked):
        assert is_failure(ask(url, "decide", OPEN, client={"token": None}), "cannot be reached")
        assert len(asked) == 1


def test_the_client_ignores_proxies_of_the_environment(served: str, ask: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert ask(served, "decide", OPEN).allowed


# ── The circuit ───────────────────────────────────────────────────────────────────────────────


def test_the_client_stops_asking_a_failing_server_until_a_trial_succeeds() -> None:
    now, tries, well = [0.0], [], [False]

    def handle(request: httpx.Request) -> httpx.Response:
        tries.append(request.url.path)
        if not well[0]:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=ALLOWED.to_msgpack(), headers={"content-type": "application/msgpack"})

    with PolicyClient(clock=lambda: now[0], transport=httpx.MockTransport(handle)) as policies:
        for _ in range(3):
            assert not policies.decide(OPEN).allowed
        assert len(tries) == 6
        assert is_failure(policies.decide(OPEN), "requests to it are suspended")
        assert len(tries) == 6
        now[0] += PAUSE_SECONDS
        well[0] = True
        assert policies.decide(OPEN).allowed
        assert policies.decide(OPEN).allowed


def test_an_open_client_circuit_admits_one_trial_call() -> None:
    now = [0.0]
    circuit = ClientCircuit(lambda: now[0])
    for _ in range(3):
        circuit.leave(well=False)
    now[0] += PAUSE_SECONDS
    circuit.enter()
    with pytest.raises(NoDecisionError):
        circuit.enter()


def test_an_invalid_question_does_not_open_the_circuit(served: str) -> None:
    with PolicyClient(served, token=TOKEN, timeout=PATIENT) as policies:
        for _ in range(5):
            assert not policies.decide({"agnet": {}}).allowed
        assert policies.decide(OPEN).allowed


def test_a_cancelled_call_does_not_open_the_circuit() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> None:
        async with AsyncPolicyClient(transport=httpx.MockTransport(never), timeout=PATIENT) as policies:
            for _ in range(5):
                asking = asyncio.create_task(policies.decide(OPEN))
                await asyncio.sleep(0)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
            policies.circuit.enter()

    asyncio.run(run())
