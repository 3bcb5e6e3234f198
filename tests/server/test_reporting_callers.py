"""Only the caller that asked for a decision reports how its request came out: by token, over the socket, in process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.client.socket import SocketClient
from policyengine.engine import Engine
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.reload import ReloadableEngine
from policyengine.runtime.current_caller import SEPARATOR, caller_scope, outcome_key
from policyengine.runtime.ids import ulid
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.stores.base import Store
from policyengine.stores.url import open_store
from tests.ports import free_port
from tests.server.conftest import client_of
from tests.server.processes import started

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
facts on POST /pay { body.amount: number }
anyone { may POST /pay, POST /run, ACTION pay account }
entity account
budget "a day" per request.host on POST /pay { sum body.amount <= 100 within 1d }
rate "at once" per request.host on POST /run { at most 1 at once for 1h }
"""
TOKENS = ("edge: the-token-of-the-edge", "other: the-token-of-another", "an-unnamed-token-of-somebody")
EDGE, OTHER, UNNAMED = (f"Bearer {token.split()[-1]}" for token in TOKENS)
PAY = {"request": {"method": "POST", "path": "/pay", "host": "shop.example"}, "body": {"amount": 100}}
RUN = {"request": {"method": "POST", "path": "/run", "host": "shop.example"}}


class Server:
    def __init__(self, engine: Engine, *tokens: str) -> None:
        self.engine, self.options = engine, {"token": tokens} if tokens else {}

    def post(self, path: str, caller: str | None, json: Any = None, **headers: str) -> httpx.Response:
        async def send() -> httpx.Response:
            named = {} if caller is None else {"authorization": caller}
            async with client_of(self.engine, **self.options) as client:
                return await client.post(path, json=json, headers={**named, **headers})

        return asyncio.run(send())

    def refund(self, decision: str, caller: str | None) -> int:
        report = {"decision": decision, "status": 500, "refund": True}
        return self.post("/events", caller, report).status_code


@pytest.fixture(params=["memory:", "sqlite:///{}/store.db"], ids=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    found = open_store(request.param.format(tmp_path))
    yield found
    close = getattr(found, "close", None)
    if close is not None:
        close()


@pytest.fixture
def server(store: Store) -> Server:
    return Server(Engine.from_text(POLICY, clock=lambda: NOW, store=store), *TOKENS)


def by_decide(server: Server) -> str:
    return str(server.post("/decide", EDGE, PAY).json()["id"])


def with_care(server: Server) -> str:
    asked = {**PAY, "pending": ["context.risk"]}
    return str(server.post("/decide", EDGE, asked).json()["id"])


def in_a_batch(server: Server) -> str:
    asked = {"requests": [{**PAY, "options": {"consume": True}}]}
    return str(server.post("/decide/batch", EDGE, asked).json()["decisions"][0]["id"])


def by_a_key(server: Server) -> str:
    return str(server.post("/decide", EDGE, PAY, **{"idempotency-key": "one"}).json()["id"])


WAYS: list[Callable[[Server], str]] = [by_decide, with_care, in_a_batch, by_a_key]


@pytest.mark.parametrize("ask", WAYS)
def test_another_client_cannot_refund_a_decision(server: Server, ask: Callable[[Server], str]) -> None:
    spent = ask(server)
    assert [server.refund(spent, caller) for caller in (OTHER, UNNAMED)] == [404, 404]
    assert server.post("/decide", OTHER, PAY).json()["outcome"] == "throttle"
    assert server.refund(spent, EDGE) == 200
    assert server.post("/decide", OTHER, PAY).json()["outcome"] == "allow"


def test_another_client_cannot_end_a_running_request(server: Server) -> None:
    running = server.post("/decide", EDGE, RUN).json()["id"]
    assert server.post("/events", OTHER, {"decision": running}).status_code == 404
    assert server.post("/decide", EDGE, RUN).json()["outcome"] == "throttle"
    assert server.post("/events", EDGE, {"decision": running}).status_code == 200
    assert server.post("/decide", EDGE, RUN).json()["outcome"] == "allow"


def test_two_tokens_with_one_name_count_as_one_caller(store: Store) -> None:
    """While one replaces the other."""
    tokens = ("edge: the-token-of-the-edge", "edge: the-next-token-of-the-edge")
    server = Server(Engine.from_text(POLICY, clock=lambda: NOW, store=store), *tokens)
    assert server.refund(by_decide(server), "Bearer the-next-token-of-the-edge") == 200


def test_only_the_gateway_that_asked_by_forward_auth_can_report(server: Server) -> None:
    asked = {"x-forwarded-method": "POST", "x-forwarded-uri": "/run", "x-forwarded-host": "shop.example"}

    async def forward() -> httpx.Response:
        async with client_of(server.engine, **server.options) as client:
            return await client.get("/forward-auth", headers={"authorization": EDGE, **asked})

    decision = asyncio.run(forward()).headers["x-decision-id"]
    assert [server.refund(decision, caller) for caller in (OTHER, EDGE)] == [404, 200]


def test_a_decision_made_in_process_can_only_be_reported_in_process(server: Server) -> None:
    decision = server.engine.decide(PAY).id
    assert server.refund(decision, EDGE) == 404
    with caller_scope("name edge"):
        assert not server.engine.report(decision, refund=True)
    assert server.engine.report(decision, refund=True)


def test_in_process_callers_are_distinguished_by_name(server: Server) -> None:
    with caller_scope("worker 1"):
        decision = server.engine.decide(PAY).id
    assert not server.engine.report(decision, refund=True)
    with caller_scope("worker 1"):
        assert server.engine.report(decision, refund=True)


def test_a_decision_id_that_imitates_the_key_of_another_caller_reports_nothing(store: Store) -> None:
    engine = Engine.from_text(POLICY, clock=lambda: NOW, store=store)
    with caller_scope("name edge"):
        spelled = outcome_key(engine.decide(PAY).id)
    assert SEPARATOR in spelled
    assert not engine.report(spelled, refund=True)
    assert Server(engine).refund(spelled, None) in (400, 404)


def test_only_the_gateway_that_asked_by_grpc_can_report(server: Server) -> None:
    grpc = pytest.importorskip("grpc")
    from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

    from policyengine.server.adapters.envoy_grpc import EnvoyGrpcAdapter, check_address

    address = check_address("127.0.0.1", free_port(), True)
    door = EnvoyGrpcAdapter(
        ReloadableEngine(server.engine), GatewayHeaders(), BearerTokens.of(TOKENS), address
    ).started()
    asked = external_auth_pb2.CheckRequest()
    http = asked.attributes.request.http
    http.method, http.path, http.host = "POST", "/run", "shop.example"
    try:
        with grpc.insecure_channel(address) as channel:
            check = external_auth_pb2_grpc.AuthorizationStub(channel).Check
            answer = check(asked, metadata=[("authorization", EDGE)], timeout=30)
    finally:
        door.stop(0).wait()
    decision = answer.dynamic_metadata.fields["x_decision_id"].string_value
    assert [server.refund(decision, caller) for caller in (OTHER, EDGE)] == [404, 200]


# ── Over the socket ───────────────────────────────────────────────────────────────────────────

SERVE = f"""
import sys
from pathlib import Path
from policyengine.engine.engine import Engine
from policyengine.reload import ReloadableEngine
from policyengine.server import serve
from policyengine.stores.url import open_store
engine = Engine.from_text({POLICY!r}, store=open_store(sys.argv[2]))
serve(engine, port=0, path=Path(sys.argv[1]), listening=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{}/store.db"])
def test_a_decision_made_over_the_socket_cannot_be_reported_over_http(url: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.sock"
    with started(SERVE, str(path), url.format(tmp_path)) as (http, _), SocketClient(path, timeout=20) as client:
        decision = client.decide(PAY).id
        report = {"decision": decision, "refund": True}
        assert httpx.post(f"{http}/events", json=report, trust_env=False).status_code == 404
        assert client.decide(PAY).outcome == "throttle"
        assert client.report(decision, status=500, refund=True)
        assert client.decide(PAY).outcome == "allow"
        assert not client.report(decision, refund=True)


# ── Ids ───────────────────────────────────────────────────────────────────────────────────────


def test_consecutive_decision_ids_do_not_predict_the_next() -> None:
    made = [int.from_bytes(ulid(1_790_000_000_000_000_000, serial)[10:].encode(), "big") for serial in range(2_000)]
    assert len(set(made)) == len(made)
    assert len({after - before for before, after in pairwise(made)}) == len(made) - 1  # none is a step from the last


def test_decision_ids_use_all_eighty_random_bits() -> None:
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    made = [sum(digits.index(one) << 5 * n for n, one in enumerate(ulid(0, serial)[10:])) for serial in range(2_000)]
    ones = [sum(number >> bit & 1 for number in made) for bit in range(80)]
    assert all(800 < count < 1_200 for count in ones)  # nine standard deviations


def test_the_same_time_and_serial_give_the_same_decision_id() -> None:
    first = ulid(1_790_000_000_000_000_000, 5)
    for block in range(200):
        ulid(0, block * 256)
    assert ulid(1_790_000_000_000_000_000, 5) == first
