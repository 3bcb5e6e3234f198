"""A stop in order: not ready at once, nothing that was accepted is lost, and gone in time."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from bench.serving import connections
from bench.serving.connections import POLICY, RunningServer, measure_stop
from policyengine.client.socket import SocketClient
from policyengine.server.connections.connection_table import ConnectionStage
from policyengine.server.shutdown import QUIET_SECONDS, SETTLE_SECONDS, SILENT_SECONDS, Drain
from tests import forking
from tests.ports import free_port
from tests.processes import is_running, wait_until
from tests.server.conftest import OPEN
from tests.server.processes import started
from tests.server.test_workers import FREE, workers_of

SERVE = f"""
import sys
from pathlib import Path
from policyengine.audit import DecisionLog
from policyengine.engine.engine import Engine
from policyengine.server import serve
log, workers, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
serve(Engine.from_text({FREE!r}, log=DecisionLog(log / "log")), port=0, path=log / "sock", workers=workers,
      drain=seconds, listening=lambda url: print(url, flush=True))
"""
ASK = json.dumps(OPEN).encode()
JSON = {"content-type": "application/json"}
# With 1 second, processors that were busy for half a second after the listeners refused connections left no time for
# answers: accepted requests were then reset, because the time of the stop was over.
STOP_SECONDS = 6.0


@pytest.fixture(autouse=True)
def forked_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the server under traffic, instead of starting it with its imports."""
    monkeypatch.setattr(connections, "Popen", forking.popen)


@contextmanager
def serving(folder: Path, workers: int = 1, seconds: float = 10) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with started(SERVE, str(folder), str(workers), str(seconds)) as (url, process):
        yield url, process


Connect = Callable[[str], http.client.HTTPConnection]


@pytest.fixture
def connected() -> Iterator[Connect]:
    """Opens connections, and closes them when the test is over."""
    with ExitStack() as until_then:

        def open_one(url: str) -> http.client.HTTPConnection:
            host, port = url.removeprefix("http://").split(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=20)
            until_then.callback(connection.close)
            connection.connect()
            return connection

        yield open_one


def asked(connection: http.client.HTTPConnection, method: str = "POST", path: str = "/decide") -> tuple[int, Any, bool]:
    """The status, the answer, and whether the connection ends with it."""
    connection.request(method, path, ASK if method == "POST" else None, JSON)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), answer.will_close


def begun(process: subprocess.Popen[str], connection: http.client.HTTPConnection) -> None:
    """Until the server knows of the signal: it was asleep, or at work."""
    process.send_signal(signal.SIGTERM)
    while asked(connection, "GET", "/readyz")[0] == 200:
        sleep(0.01)


# ── Under load ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_under_load_loses_no_accepted_request(connected: Connect, tmp_path: Path, workers: int) -> None:
    answers: list[int] = []
    wrong: list[object] = []
    under_way = threading.Barrier(9)

    def ask_until_told() -> None:
        try:
            connection, many = connected(url), 0
            last = False
            while not last:
                status, answer, last = asked(connection)
                many += 1
                if status != 200 or answer["outcome"] != "allow":
                    wrong.append(answer)
                if many == 20:
                    under_way.wait(20)
            answers.append(many)
        except Exception as error:
            wrong.append(error)

    with serving(tmp_path, workers) as (url, process):
        clients = [threading.Thread(target=ask_until_told) for _ in range(8)]
        for one in clients:
            one.start()
        under_way.wait(20)
        if workers > 1:  # as Ctrl-C does: it goes to all of them, and then the first sends its own
            for pid in workers_of(process):
                os.kill(pid, signal.SIGINT)
        process.send_signal(signal.SIGINT if workers > 1 else signal.SIGTERM)
        for one in clients:
            one.join(20)
        assert process.communicate(timeout=20)[1] == ""
    assert wrong == []
    assert process.returncode == 0
    assert (tmp_path / "log").read_bytes().count(b'"call":"decide"') == sum(answers) >= 160


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.deep)])  # two: also in the next test
def test_a_stop_answers_or_refuses_each_of_fifty_clients_without_a_reset(tmp_path: Path, workers: int) -> None:
    """Half of them keep their connections, half open one for each question. To be refused is no loss."""
    found = asyncio.run(measure_stop(policy_in(tmp_path), workers, seconds=STOP_SECONDS))
    assert (found["lost"], found["why"], found["refused"], found["status"]) == (0, {}, 50, 0)


def test_neither_a_reload_nor_the_end_of_a_worker_resets_a_connection(tmp_path: Path) -> None:
    policy = policy_in(tmp_path)

    def disturb(server: RunningServer) -> None:
        policy.write_text(POLICY.replace("/health", "/health, GET /status"))
        server.process.send_signal(signal.SIGHUP)
        os.kill(server.workers()[0], signal.SIGTERM)

    found = asyncio.run(measure_stop(policy, 2, seconds=STOP_SECONDS, before=disturb))
    assert (found["lost"], found["why"], found["refused"], found["status"]) == (0, {}, 50, 0)


def policy_in(folder: Path) -> Path:
    (folder / "shop.policy").write_text(POLICY)
    return folder / "shop.policy"


def test_a_stopping_server_is_not_ready_and_closes_each_connection_after_its_answer(
    connected: Connect, tmp_path: Path
) -> None:
    with serving(tmp_path) as (url, process):
        one, other = connected(url), connected(url)
        assert asked(one, "GET", "/readyz")[0] == 200
        begun(process, one)
        new = connected(url)  # whoever has not heard of it yet is still answered
        for connection in (other, new):
            status, answer, last = asked(connection)
            assert (status, answer["allowed"], last) == (200, True, True)
        status, problem, _ = asked(connected(url), "GET", "/readyz")
        assert (status, problem["detail"]) == (503, "the server is stopping")
        assert process.wait(20) == 0


def test_a_stopping_server_answers_requests_in_progress_on_every_adapter(connected: Connect, tmp_path: Path) -> None:
    with serving(tmp_path) as (url, process):
        slow, gateway, other = connected(url), connected(url), connected(url)
        slow.putrequest("POST", "/decide")
        slow.putheader("content-type", "application/json")
        slow.putheader("content-length", str(len(ASK)))
        slow.endheaders(ASK[:5])
        with SocketClient(tmp_path / "sock", timeout=20) as sidecar:
            assert sidecar.decide(OPEN).allowed
            assert asked(other, "GET", "/healthz")[0] == 200
            begun(process, other)
            assert all(one.allowed for one in sidecar.decide_many([OPEN] * 50))
        gateway.request("GET", "/forward-auth", headers={"x-forwarded-method": "GET", "x-forwarded-uri": "/health"})
        assert gateway.getresponse().status == 200
        slow.send(ASK[5:])
        answer = slow.getresponse()
        assert (answer.status, json.loads(answer.read())["allowed"]) == (200, True)
        assert process.wait(20) == 0


def test_a_stop_answers_every_envoy_call_that_was_decided(connected: Connect, tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc")
    from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

    answered: list[int] = []
    under_way, port = threading.Barrier(5), free_port()

    def ask_until_gone() -> None:
        asked = external_auth_pb2.CheckRequest()
        http = asked.attributes.request.http
        http.method, http.path, http.host = "GET", "/health", "api.example"
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check, many = external_auth_pb2_grpc.AuthorizationStub(channel).Check, 0
            try:
                while check(asked, timeout=20, wait_for_ready=not many).status.code == 0:
                    many += 1
                    if many == 20:
                        under_way.wait(20)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # it was not begun
                    answered.append(many)

    with started(SERVE.replace("drain=seconds", f"envoy={port}, drain=seconds"), str(tmp_path), "1", "4") as served:
        clients = [threading.Thread(target=ask_until_gone) for _ in range(4)]
        for one in clients:
            one.start()
        under_way.wait(20)
        served[1].send_signal(signal.SIGTERM)
        for one in clients:
            one.join(20)
        assert served[1].wait(20) == 0
    assert len(answered) == 4
    assert (tmp_path / "log").read_bytes().count(b'"call":"decide"') == sum(answered) >= 80


def test_a_stop_does_not_wait_the_full_drain_time_for_silent_connections(connected: Connect, tmp_path: Path) -> None:
    with serving(tmp_path, seconds=60) as (url, process):
        silent = connected(url)
        before = monotonic()
        assert httpx.get(f"{url}/healthz").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert monotonic() - before < 15
        silent.close()


def test_a_stop_abandons_an_unfinished_question_after_the_drain_time(connected: Connect, tmp_path: Path) -> None:
    with serving(tmp_path, seconds=1) as (url, process):
        stuck = connected(url)
        stuck.putrequest("POST", "/decide")
        stuck.putheader("content-length", "99")
        stuck.endheaders(b"{")
        assert httpx.get(f"{url}/healthz").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(("workers", "second"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_second_signal_ends_the_server_immediately(
    connected: Connect, tmp_path: Path, workers: int, second: signal.Signals
) -> None:
    with serving(tmp_path, workers, seconds=3_000) as (url, process):
        stuck, other = connected(url), connected(url)
        stuck.putrequest("POST", "/decide")
        stuck.putheader("content-length", "99")
        stuck.endheaders(b"{")
        all_of_them = workers_of(process) if workers > 1 else []
        assert asked(other, "GET", "/healthz")[0] == 200
        begun(process, connected(url))
        process.send_signal(second)
        process.communicate(timeout=20)
        assert process.returncode == -second
        wait_until(lambda: not any(is_running(pid) for pid in all_of_them))


# ── Its clock ─────────────────────────────────────────────────────────────────────────────────


class Held:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A connection that never speaks unless it is told to."""

    stage = ConnectionStage.IDLE
    spare = has_unread_bytes = closed = dropped = False
    address, began = "a", 0.0

    def overdue(self, now: float) -> None:
        return None

    def drop(self, reason: object) -> None:
        self.dropped = True

    def shutdown(self) -> None:
        self.closed = True


def drain_of(clock: Held, seconds: float = 10, delay: float = 0) -> Drain:
    drain = Drain(seconds, delay, clock)
    drain.quiet([], 7)
    drain.begin()
    return drain


def test_a_drain_without_a_signal_never_ends() -> None:
    clock = Held()
    drain = Drain(10, clock=clock)
    clock.now += 1_000_000
    assert not drain.quiet([], 0)
    assert drain.left == 10


def test_a_drain_without_connections_is_quiet_immediately() -> None:
    assert drain_of(Held()).quiet([], 7)


def test_a_drain_is_not_quiet_before_its_delay_ends() -> None:
    clock = Held()
    drain = drain_of(clock, delay=6)
    assert not drain.quiet([], 7)
    clock.now += 5.9
    assert not drain.quiet([], 7)
    assert not drain.half_over
    clock.now += 0.1
    assert drain.quiet([], 7)
    assert drain.half_over


def test_a_drain_with_new_answers_is_half_over_after_half_of_its_time() -> None:
    clock = Held()
    drain, here = drain_of(clock), Client()
    for answered in range(8, 57):
        assert not drain.quiet([here], answered)
        assert not drain.half_over
        clock.now += 0.1
    clock.now = 105.0
    assert drain.half_over
    assert drain.left == 5


def test_a_drain_settles_a_moment_after_it_refuses_new_connections() -> None:
    clock = Held()
    drain = drain_of(clock)
    assert not drain.settled
    assert drain.refuse()
    assert not drain.refuse()
    assert not drain.settled
    clock.now += SETTLE_SECONDS
    assert drain.settled


def test_a_drain_closes_only_silent_connections() -> None:
    clock = Held()
    drain, silent, speaks, waits, half, arrives = drain_of(clock), *(Client() for _ in range(5))
    waits.stage, half.stage, arrives.has_unread_bytes = ConnectionStage.BUSY, ConnectionStage.HEAD, True
    everybody = [silent, speaks, waits, half, arrives]
    drain.close_silent(everybody)
    clock.now += SILENT_SECONDS
    speaks.began = clock.now
    drain.close_silent(everybody)
    assert [one.closed for one in everybody] == [True, False, False, False, False]
    assert [one.dropped for one in everybody] == [False, False, False, True, False]


def test_answers_since_the_last_check_keep_a_drain_from_being_quiet() -> None:
    clock = Held()
    drain = drain_of(clock)
    assert not drain.quiet([], 8)
    clock.now += QUIET_SECONDS
    assert drain.quiet([], 8)


def test_beginning_a_drain_twice_does_not_extend_its_time() -> None:
    clock = Held()
    drain = drain_of(clock)
    clock.now += 4
    drain.begin()
    assert drain.left == 6


def test_a_drain_calls_its_followers_once_when_it_begins_and_once_when_it_ends() -> None:
    drain, calls = Drain(), list[str]()
    drain.follow(lambda: calls.append("begin"), lambda: calls.append("end"))
    drain.begin()
    assert calls == []  # `begin` is called by a signal handler, which must not interrupt the event loop
    for _ in range(2):
        drain.announce_begin()
    assert calls == ["begin"]
    for _ in range(2):
        drain.announce_end()
    assert calls == ["begin", "end"]


def test_a_drain_with_short_pauses_closes_idle_connections_soon_and_waits_for_heads() -> None:
    clock, idle, half = Held(), Client(), Client()
    half.stage = ConnectionStage.HEAD
    drain = Drain(10, clock=clock, quiet_seconds=0.25, idle_seconds=0.25)
    drain.quiet([idle, half], 7)
    drain.begin()
    drain.close_silent([idle, half])
    assert not drain.quiet([idle, half], 7)
    clock.now += 0.25
    drain.close_silent([idle, half])
    assert (idle.closed, half.dropped) == (True, False)
    assert drain.quiet([], 7)
    clock.now += 0.75
    drain.close_silent([half])
    assert half.dropped
