"""A decision that was spent and cannot be written: its client gets an error, and nobody decides and spends it again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgpack
import pytest
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from policyengine.audit.log import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.client.socket import SocketClient, SocketError
from policyengine.engine import Engine
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.reload import ReloadableEngine
from policyengine.runtime.decision import Decision
from policyengine.server.adapters.envoy_grpc import EnvoyGrpcAdapter, check_address
from policyengine.server.fast_path import exchange
from policyengine.server.socket.answers import answer_frame
from tests.server.conftest import client_of
from tests.server.processes import started
from tests.server.test_http1 import post, spoken, statuses
from tests.server.unwritable import POLICY, unwritable

PAY = {"request": {"method": "POST", "path": "/pay/7"}}


@pytest.fixture(params=["memory:", "sqlite:///{}/store.db"], ids=["memory", "shared"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return unwritable(request.param.format(tmp_path))


def three_times(engine: Engine, path: str, **asked: Any) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with client_of(engine) as client:
            return [await client.post(path, **asked) for _ in range(3)]

    return asyncio.run(run())


def outcome(answer: httpx.Response) -> Any:
    """The status where it is no 200."""
    return (
        answer.json().get("outcome", answer.json().get("decision")) if answer.status_code == 200 else answer.status_code
    )


# ── Over HTTP ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [None, {"consume": True}, {"obligations_supported": []}])
def test_an_unwritable_decision_is_500_and_spends_once(engine: Engine, options: Any) -> None:
    answers = three_times(engine, "/decide", json=PAY if options is None else {**PAY, "options": options})
    assert [outcome(one) for one in answers] == [500, "allow", "throttle"]
    assert answers[0].json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "the server failed to answer",
        "hint": "treat this as a deny: if a decision was made, it stays on record and is not made again",
    }


def test_an_unwritable_messagepack_decision_is_500_and_spends_once(engine: Engine) -> None:
    headers = {"content-type": "application/msgpack"}
    answers = three_times(engine, "/decide", content=msgpack.packb(PAY), headers=headers)
    assert [one.status_code for one in answers] == [500, 200, 200]
    assert [msgpack.unpackb(one.content)["outcome"] for one in answers[1:]] == ["allow", "throttle"]


def test_an_unwritable_batch_decision_is_500_and_spends_once(engine: Engine) -> None:
    spending = {**PAY, "options": {"consume": True}}
    answers = three_times(engine, "/decide/batch", json={"requests": [spending]})
    assert [one.status_code for one in answers] == [500, 200, 200]
    assert [one.json()["decisions"][0]["outcome"] for one in answers[1:]] == ["allow", "throttle"]


def test_an_unwritable_authzen_decision_is_500_and_spends_once(engine: Engine) -> None:
    asked = {"subject": {"type": "user", "id": "alice"}, "action": {"name": "pay"}, "context": {"consume": True}}
    answers = three_times(engine, "/access/v1/evaluation", json={**asked, "resource": {"type": "order", "id": "7"}})
    assert [outcome(one) for one in answers] == [500, True, False]


@pytest.mark.parametrize("door", ["/forward-auth", "/forward-auth/nginx", "/envoy/pay/7"])
def test_an_unwritable_gateway_decision_is_500_and_spends_once(engine: Engine, door: str) -> None:
    async def run() -> list[int]:
        async with client_of(engine) as client:
            headers = {"x-forwarded-method": "POST", "x-forwarded-uri": "/pay/7"}
            return [
                (await client.request("POST" if "envoy" in door else "GET", door, headers=headers)).status_code
                for _ in range(3)
            ]

    assert asyncio.run(run()) == [500, 200, 403 if "nginx" in door else 429]


def test_an_unwritable_grpc_decision_is_an_error_and_spends_once() -> None:
    address = check_address("127.0.0.1", 0, has_token=False)
    server = EnvoyGrpcAdapter(ReloadableEngine(unwritable()), GatewayHeaders(), None, address).started()
    asked = external_auth_pb2.CheckRequest()
    asked.attributes.request.http.method, asked.attributes.request.http.path = "POST", "/pay/7"
    try:
        with grpc.insecure_channel(address) as channel:
            check = external_auth_pb2_grpc.AuthorizationStub(channel).Check
            with pytest.raises(grpc.RpcError):
                check(asked, timeout=30)
            assert [check(asked, timeout=30).status.code for _ in range(2)] == [0, 7]
    finally:
        server.stop(0).wait()


def test_an_unwritable_decision_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(decision: Decision) -> bytes:
        raise RuntimeError("no room for it")

    log = DecisionLog(tmp_path / "decisions.jsonl")
    engine = Engine.from_text(POLICY, log=log)
    with monkeypatch.context() as patch:
        patch.setitem(exchange.CODECS, exchange.JSON.media_type, replace(exchange.JSON, write=failing))
        assert three_times(engine, "/decide", json=PAY)[0].status_code == 500
    assert [record.decision["outcome"] for record in read_records(tmp_path / "decisions.jsonl")] == [
        "allow", "allow", "throttle",
    ]  # fmt: skip


# ── Over sockets, by real servers ─────────────────────────────────────────────────────────────

SERVE = """
import sys
from pathlib import Path
from policyengine.server import serve
from tests.server.unwritable import unwritable
serve(unwritable(), port=0, path=Path(sys.argv[1]), listening=lambda url: print(url, flush=True))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    path = tmp_path_factory.mktemp("socket") / "policy.sock"
    with started(SERVE, str(path)) as (url, _):
        yield url, path


def test_an_unwritable_decision_of_a_running_server_is_500_and_spends_once(served: tuple[str, Path]) -> None:
    body = json.dumps({"request": {"method": "POST", "path": "/pay/a"}}).encode()
    asked = post(b"content-length: %d" % len(body), b"connection: close", body=body)
    answers = [spoken(served[0], asked) for _ in range(3)]
    assert [statuses(one) for one in answers] == [[500], [200], [200]]
    assert [b'"outcome":"throttle"' in one for one in answers] == [False, False, True]


def test_an_unwritable_socket_decision_is_an_error_and_spends_once(served: tuple[str, Path]) -> None:
    question = {"request": {"method": "POST", "path": "/pay/b"}}
    with SocketClient(served[1], timeout=20) as client:
        with pytest.raises(SocketError, match="failed to answer"):
            client.decide(question)
        assert [client.decide(question).outcome for _ in range(2)] == ["allow", "throttle"]


def test_an_unwritable_list_frame_is_500_and_spends_once() -> None:
    engine = unwritable()
    answers = [answer_frame(engine, msgpack.packb([number, "decide", [PAY]]))[0] for number in range(3)]
    assert [msgpack.unpackb(one)[1] for one in answers] == [500, 200, 200]
    assert [msgpack.unpackb(one)[2][0]["outcome"] for one in answers[1:]] == ["allow", "throttle"]
