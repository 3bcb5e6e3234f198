"""A server with a log records reported outcomes, whether or not a rule asks for them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from policyengine.audit import DecisionLog, OutcomeRecord, SystemRecord, log_file, read_log
from policyengine.client.http import AsyncPolicyClient
from policyengine.client.socket import SocketClient, SocketError
from policyengine.engine import Engine
from policyengine.integrations.asgi import PolicyMiddleware
from policyengine.integrations.fastapi import Policies
from policyengine.server import create_app
from tests.processes import wait_until
from tests.server.conftest import client_of
from tests.server.processes import started
from tests.server.test_log import SERVE as SERVE_COMMAND

POLICY = "anyone { may GET /health }"
ASKED = {"request": {"method": "GET", "path": "/health"}}
EDGE, OTHER = "edge: the-token-of-the-edge", "other: the-token-of-another"
Post = Callable[..., httpx.Response]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def engine(path: Path, **options: Any) -> Engine:
    return Engine.from_text(POLICY, log=DecisionLog(path, seal=None, **options))


def posting(engine: Engine, *tokens: str) -> Post:
    def post(path: str, body: Any, token: str = EDGE) -> httpx.Response:
        async def send() -> httpx.Response:
            async with client_of(engine, **({"token": tokens} if tokens else {})) as client:
                headers = {"authorization": f"Bearer {token.split()[-1]}"} if tokens else {}
                return await client.post(path, json=body, headers=headers)

        return asyncio.run(send())

    return post


def outcomes(path: Path) -> list[OutcomeRecord]:
    return [entry for entry in read_log(path, pytest.fail) if isinstance(entry, OutcomeRecord)]


def test_an_outcome_that_no_rule_asks_for_is_recorded_once(path: Path) -> None:
    post = posting(engine(path), EDGE, OTHER)
    id = post("/decide", ASKED).json()["id"]
    report = {"decision": id, "status": 200, "latency_ms": 12, "size": 512, "usage": {"input_tokens": 85}}
    assert post("/events", report, OTHER).status_code == 404
    answer = post("/events", report)
    assert (answer.status_code, answer.json()) == (200, {"decision": id, "reported": True})
    again = post("/events", report)
    assert (again.status_code, again.json()["code"]) == (409, "outcome_reported")
    (found,) = outcomes(path)
    assert (found.decision, found.status, found.latency_ms, found.size) == (id, 200, 12, 512)
    assert (found.usage, found.subject["client"]) == ({"input_tokens": 85}, "edge")


def test_a_report_about_an_unknown_decision_is_not_found_and_not_recorded(path: Path) -> None:
    answer = posting(engine(path))("/events", {"decision": "01K0Q6Z6W3M5Y8T2C4R7B9D1FG", "status": 200})
    assert (answer.status_code, answer.json()["detail"]) == (404, "nothing waits for the outcome of this decision")
    assert answer.json()["hint"] == (
        "only an allow can be reported, once, and only by the caller that requested it (the client of the token file, "
        "or the user of the socket), while the decision is among the recent decisions of a server with a log, or a "
        "rule reads its outcome"
    )
    assert path.read_bytes() == b""


def test_without_a_log_nothing_waits_for_an_outcome_that_no_rule_asks_for() -> None:
    post = posting(Engine.from_text(POLICY))
    assert post("/events", {"decision": post("/decide", ASKED).json()["id"]}).status_code == 404


@pytest.mark.parametrize(
    ("members", "member", "detail"),
    [
        ({"size": "1"}, "size", "`size` must be a whole number, got string"),
        ({"size": True}, "size", "`size` must be a whole number, got bool"),
        ({"size": -1}, "size", "`-1` is not a size"),
        ({"usage": []}, "usage", "`usage` must be an object, got list"),
        ({"usage": {"Tokens": 1}}, "usage", "`Tokens` is not a valid usage name"),
        ({"usage": {"tokens": "1"}}, "usage.tokens", "`usage.tokens` is not a number from 0 to 1,000,000,000,000,000"),
        ({"usage": {"tokens": -1}}, "usage.tokens", "`usage.tokens` is not a number from 0 to 1,000,000,000,000,000"),
        ({"usage": {f"n{number}": 1 for number in range(17)}}, "usage", "`usage` has 17 members"),
    ],
)
def test_a_malformed_size_or_usage_names_the_member(
    path: Path, members: dict[str, Any], member: str, detail: str
) -> None:
    answer = posting(engine(path))("/events", {"decision": "x", **members})
    assert (answer.status_code, answer.json()["member"], answer.json()["detail"]) == (400, member, detail)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    is_full, write = [False], os.write

    def short(file: int, data: bytes) -> int:
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(log_file.os, "write", short)
    return is_full


def test_an_outcome_that_cannot_be_recorded_is_answered_with_503(path: Path, full: list[bool]) -> None:
    post = posting(engine(path))
    report = {"decision": post("/decide", ASKED).json()["id"], "status": 200}
    full[0] = True
    refused = post("/events", report)
    assert (refused.status_code, refused.json()["code"]) == (503, "outcome_not_recorded")
    assert refused.json()["detail"] == "the outcome could not be recorded, and nothing was changed"
    full[0] = False
    assert [post("/events", report).status_code for _ in range(2)] == [200, 409]


def test_with_continue_the_answer_says_that_the_outcome_is_not_recorded(path: Path, full: list[bool]) -> None:
    post = posting(engine(path, on_failure="continue"))
    id = post("/decide", ASKED).json()["id"]
    full[0] = True
    answer = post("/events", {"decision": id, "status": 200})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "decision": id,
            "reported": True,
            "recorded": False,
            "warning": "the outcome took effect, but could not be written to the decision log",
        },
    )
    full[0] = False


SERVE = """
import sys
from pathlib import Path
from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.server import serve
serve(Engine.from_text("anyone { may GET /health }", log=DecisionLog(Path(sys.argv[1]) / "log")), port=None,
      path=Path(sys.argv[1]) / "s", listening=lambda url: print("ready", flush=True))
"""


def test_an_outcome_is_reported_over_the_socket(tmp_path: Path) -> None:
    with started(SERVE, str(tmp_path)), SocketClient(tmp_path / "s", timeout=30) as client:
        id = client.decide(ASKED).id
        assert client.report(id, status=200, size=9, usage={"cost": 0.5})
        assert not client.report(id, status=200)
        with pytest.raises(SocketError, match="`usage` must be an object"):
            client.report(id, usage=7)  # type: ignore[arg-type]
    (found,) = outcomes(tmp_path / "log")
    assert (found.decision, found.size, found.subject["client"]) == (id, 9, f"user {os.getuid()}")


# ── Integrations report what they see ─────────────────────────────────────────────────────────


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 203, "headers": []})
    for piece in (b"four", b"teen bytes"):
        await send({"type": "http.response.body", "body": piece, "more_body": piece == b"four"})


def get(app: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get("/health")

    return asyncio.run(send())


def test_the_asgi_middleware_records_status_latency_and_size(path: Path) -> None:
    assert get(PolicyMiddleware(application, engine(path), identify=lambda scope: {})).status_code == 203
    (found,) = outcomes(path)
    assert (found.status, found.size, found.subject["endpoint"]) == (203, 14, "GET /health")
    assert found.latency_ms is not None
    assert found.latency_ms >= 0


def test_the_fastapi_dependency_records_status_and_latency(path: Path) -> None:
    app, policy = FastAPI(), Policies(engine(path), identify=lambda request: {})

    @app.get("/health", dependencies=[Depends(policy())])
    async def health() -> str:
        return "ok"

    assert get(app).status_code == 200
    (found,) = outcomes(path)
    assert (found.status, found.size, found.latency_ms is not None) == (200, None, True)


def test_an_integration_in_another_process_records_in_the_log_of_the_server(path: Path) -> None:
    remote = AsyncPolicyClient("http://127.0.0.1", transport=httpx.ASGITransport(create_app(engine(path))))
    assert get(PolicyMiddleware(application, remote, identify=lambda scope: {})).status_code == 203
    (found,) = outcomes(path)
    assert (found.status, found.size) == (203, 14)


def test_a_decision_point_that_does_not_know_sizes_still_gets_the_status(path: Path) -> None:
    class Older:
        def __init__(self, inner: Engine) -> None:
            self.decide_async, self.evaluate_async, self._inner = inner.decide_async, inner.evaluate_async, inner

        async def report_async(self, decision: str, *, status: int | None, latency_ms: Any, output: Any) -> bool:
            return await self._inner.report_async(decision, status=status, latency_ms=latency_ms, output=output)

    asked: Any = Older(engine(path))
    assert get(PolicyMiddleware(application, asked, identify=lambda scope: {})).status_code == 203
    (found,) = outcomes(path)
    assert (found.status, found.size) == (203, None)


# ── The server itself ─────────────────────────────────────────────────────────────────────────

SEVERAL = SERVE.replace("port=None", "workers=int(sys.argv[2]), port=None")


def system(path: Path) -> list[SystemRecord]:
    return [entry for entry in read_log(path, pytest.fail) if isinstance(entry, SystemRecord)]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_process_of_a_server_records_its_start_and_its_stop(tmp_path: Path, workers: int) -> None:
    with started(SEVERAL, str(tmp_path), str(workers)) as (_, process):
        with SocketClient(tmp_path / "s", timeout=30) as client:
            assert client.decide(ASKED).allowed
        wait_until(lambda: len(system(tmp_path / "log")) >= workers)
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)
    found = system(tmp_path / "log")
    names = [None] if workers == 1 else [0, 1]
    for event in ("started", "stopped"):
        assert sorted(str(one.worker) for one in found if one.event == event) == sorted(map(str, names))
    first = found[0]
    assert (first.details["workers"], first.details["packages"]) == (workers, ["main"])
    assert first.revision == Engine.from_text(POLICY).revision


def test_a_reload_of_several_workers_is_recorded_once(tmp_path: Path) -> None:
    policies = tmp_path / "p.policy"
    policies.write_text(f"language 1\npackage shop\n{POLICY}\n")
    log = tmp_path / "log"
    options = ["--socket", str(tmp_path / "s"), "--workers", "2", "--log", str(log), "--reload-compare", "0"]
    with started(SERVE_COMMAND, "serve", str(policies), "--format", "json", *options) as (_, process):
        policies.write_text(policies.read_text().replace("GET /health", "GET /health, GET /more"))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: any(one.event == "reload" for one in system(log)))
        policies.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: any(one.event == "reload_refused" for one in system(log)))
    found = [one for one in system(log) if one.event.startswith("reload")]
    assert [one.event for one in found] == ["reload", "reload_refused"]
    assert found[0].details["changes"] == ["block `anyone` of shop changed, at p.policy:3"]
    assert found[1].details["why"] == "1 error in the policies"
