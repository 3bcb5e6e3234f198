"""Connections that take and do not ask: heads and bodies without end, answers that nobody reads, too many of them."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
import pytest

from policyengine.client.socket import FRAME_HEADER, SocketClient
from policyengine.server import ServeError
from policyengine.server.connections.connection_table import (
    SPARE_CONNECTIONS,
    CloseReason,
    ConnectionStage,
    ConnectionTable,
)
from policyengine.server.connections.http1 import MAX_PIPELINED_REQUESTS
from policyengine.server.connections.http_connection import peer_address
from policyengine.server.connections.limits import ConnectionBounds, ConnectionLimits, open_file_limit
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.server.workers.board import WorkerBoard
from tests.processes import wait_until
from tests.server.conftest import OPEN
from tests.server.processes import started
from tests.server.test_http1 import CHUNKED, CLOSE, LENGTH, post, statuses

SERVE = """
import asyncio, json, resource, sys
from pathlib import Path
from fastapi import Request, Response
from policyengine.server import serve
from policyengine.server.connections.limits import ConnectionLimits
from policyengine.server.handlers import DecisionApi
from policyengine.server.telemetry.server_log import LogFormat, server_logging
from tests.server.conftest import small
given = json.loads(sys.argv[2])
if files := given.pop("files", 0):
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
explain = DecisionApi.explain
async def late(self, http: Request) -> Response:
    answer = await explain(self, http)
    with Path(sys.argv[1]).with_name("begun").open("a") as begun:
        begun.write(".")
    while not Path(sys.argv[1]).with_name("end").exists():
        await asyncio.sleep(0.01)
    return answer
DecisionApi.explain = late
with server_logging(LogFormat.TEXT, lambda: "none"):
    serve(small(), port=0, path=Path(sys.argv[1]), limits=ConnectionLimits(**given),
          listening=lambda url: print(url, flush=True))
"""
HEAD = b"POST /decide HTTP/1.1\r\nhost: localhost\r\n"
BEGUN = post(b"content-length: 99", body=b"{")  # a request whose body does not end
AT_WORK = post(LENGTH).replace(b"/decide", b"/explain")  # one that is not answered before there is a file `end`
UPGRADED = BEGUN.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")  # for the other parser
DEAF = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100  # megabytes of answers, of one who reads none
CAREFUL = post(LENGTH, b"accept: application/*")  # one that is not answered at once
Connect = Callable[[str], socket.socket]


@contextmanager
def serving(tmp_path: Path, **limits: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with started(SERVE, str(tmp_path / "sock"), json.dumps(limits)) as served:
        yield served


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens connections, and closes them when the test is over."""
    with ExitStack() as until_then:

        def open_one(url: str) -> socket.socket:
            host, port = url.removeprefix("http://").split(":")
            return until_then.enter_context(closing(socket.create_connection((host, int(port)), timeout=20)))

        yield open_one


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("plain")) as (url, _):
        yield url


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed it, be it by a reset."""
    try:
        return rest(connection) == b""
    except ConnectionResetError:
        return True


def begun(folder: Path) -> int:
    """How many requests that take their time are at work."""
    return len((folder / "begun").read_bytes()) if (folder / "begun").exists() else 0


def metric(url: str, name: str) -> float:
    found = re.search(rf"(?m)^{re.escape(name)} (\S+)$", httpx.get(f"{url}/metrics").text)
    return 0.0 if found is None else float(found[1])


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────


def test_unfinished_request_heads_do_not_block_other_clients(connect: Connect, tmp_path: Path) -> None:
    with serving(tmp_path, files=128) as (url, process):
        held = [connect(url) for _ in range(200)]
        for one in held:
            one.sendall(HEAD)
        assert httpx.post(f"{url}/decide", json=OPEN).json()["allowed"]
        closed_ones = metric(url, 'policyengine_connections_closed_total{reason="address"}')
        assert closed_ones >= 200 - 64
        assert metric(url, "policyengine_connections") <= 64
        with SocketClient(tmp_path / "sock", timeout=20) as sidecar:
            assert sidecar.decide(OPEN).allowed
        process.terminate()
        told = process.communicate(timeout=20)[1].splitlines()
    assert 1 <= len(told) <= 3
    assert re.fullmatch(
        r"connections were closed: \d+ had sent no complete request, and their address had too many such connections; "
        r"\d+ of them from 127\.0\.0\.1",
        told[0],
    )


def test_a_full_server_closes_idle_connections_and_keeps_requests_in_progress(connect: Connect, tmp_path: Path) -> None:
    with serving(tmp_path, connections=4) as (url, _):
        at_work, idle = [connect(url) for _ in range(3)], connect(url)
        idle.sendall(post(LENGTH))
        assert statuses(idle.recv(65_536)) == [200]
        for one in at_work:
            one.sendall(AT_WORK)
        wait_until(lambda: begun(tmp_path) == 3)
        new = connect(url)
        new.sendall(post(LENGTH))
        assert statuses(new.recv(65_536)) == [200]
        assert closed(idle)
        (tmp_path / "end").touch()
        assert [statuses(one.recv(65_536)) for one in at_work] == [[200]] * 3


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(BEGUN, id="half a body"),
        pytest.param(BEGUN.replace(b"/decide", b"/healthz"), id="half a body that nobody reads"),
        pytest.param(post(LENGTH) + BEGUN, id="half a body after an answer"),
        pytest.param(post(b"transfer-encoding: chunked", body=b"5\r\n"), id="half a chunk"),
        pytest.param(UPGRADED, id="half a body for the other parser"),
        pytest.param(DEAF, id="answers that are not read"),
    ],
)
def test_a_client_that_stalls_all_connections_does_not_block_other_clients(
    connect: Connect, tmp_path: Path, message: bytes
) -> None:
    with serving(tmp_path, connections=8, unproved=100) as (url, _):
        held = [connect(url) for _ in range(8)]
        for one in held:
            one.sendall(message)
        for _ in range(4):
            honest = connect(url)
            honest.sendall(post(LENGTH))
            assert statuses(honest.recv(65_536)) == [200]


def test_a_sidecar_that_reads_no_answers_loses_its_connection_to_a_new_client(connect: Connect, tmp_path: Path) -> None:
    question = msgspec.msgpack.encode([1, "decide", OPEN])
    with serving(tmp_path, connections=2) as (url, _), ExitStack() as until_then:
        for _ in range(2):
            deaf = until_then.enter_context(closing(socket.socket(socket.AF_UNIX)))
            deaf.connect(str(tmp_path / "sock"))
            deaf.settimeout(0.5)
            with suppress(TimeoutError):
                while True:
                    deaf.sendall((FRAME_HEADER.pack(len(question)) + question) * 1_000)
        honest = connect(url)
        honest.sendall(post(LENGTH))
        assert statuses(honest.recv(65_536)) == [200]


def test_connections_with_unfinished_bodies_count_against_their_address(connect: Connect, tmp_path: Path) -> None:
    with serving(tmp_path, connections=100, unproved=2) as (url, _):
        held = [connect(url) for _ in range(2)]
        for one in held:
            one.sendall(BEGUN.replace(b"application/json", b"text/plain"))
            assert statuses(one.recv(65_536)) == [415]
        held.append(connect(url))
        with suppress(ConnectionResetError):
            rest(held[0])  # it ends
        assert metric(url, 'policyengine_connections_closed_total{reason="address"}') >= 1


def test_a_fully_busy_server_answers_503_to_clients_and_200_to_probes(connect: Connect, tmp_path: Path) -> None:
    with serving(tmp_path, connections=3) as (url, _):
        at_work = [connect(url) for _ in range(3)]
        for one in at_work:
            one.sendall(AT_WORK)
        wait_until(lambda: begun(tmp_path) == 3)
        told = connect(url)
        told.sendall(post(LENGTH))
        answer = rest(told)
        assert statuses(answer) == [503]
        assert answer.endswith(b"too many connections are open")
        for probe in (b"/healthz", b"/readyz"):
            asking = connect(url)
            asking.sendall(b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % probe)
            assert statuses(rest(asking)) == [200]


def test_unfinished_bodies_are_bounded_in_memory_and_leave_room_for_other_requests(
    connect: Connect, tmp_path: Path
) -> None:
    size = 1024 * 1024
    half = post(b"content-length: %d" % size, body=b" " * (size - 1))
    with serving(tmp_path, memory=6 * size) as (url, _):
        for _ in range(12):
            with suppress(ConnectionResetError, BrokenPipeError):
                connect(url).sendall(half)
        wait_until(lambda: metric(url, 'policyengine_connections_closed_total{reason="memory"}') >= 8)
        assert httpx.post(f"{url}/decide", json={**OPEN, "pad": "x" * (size // 2)}, timeout=20).status_code == 400


@pytest.mark.parametrize(
    ("files", "given", "bounds"),
    [
        (128, ConnectionLimits(), ConnectionBounds(64, 16)),
        (1_024, ConnectionLimits(), ConnectionBounds(896, 224)),
        (1_000_000, ConnectionLimits(), ConnectionBounds(4_096, 1_024)),
        (20_000, ConnectionLimits(10_000), ConnectionBounds(10_000, 2_500)),
        (20_000, ConnectionLimits(10, 3), ConnectionBounds(10, 3)),
    ],
)
def test_connection_bounds_leave_files_for_other_uses(
    monkeypatch: pytest.MonkeyPatch, files: int, given: ConnectionLimits, bounds: ConnectionBounds
) -> None:
    monkeypatch.setattr("policyengine.server.connections.limits.open_file_limit", lambda: files)
    assert given.bounds() == bounds


def test_the_envoy_grpc_listener_gets_half_of_the_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.server.connections.limits.open_file_limit", lambda: 1_024)
    assert ConnectionLimits().bounds(listens_for_envoy=True) == ConnectionBounds(448, 112)


def test_more_connections_than_files_are_refused_at_the_start() -> None:
    with pytest.raises(ServeError, match="need more files than the") as error:
        ConnectionLimits(open_file_limit() + 1).bounds()
    assert "`ulimit -n`" in str(error.value.hint)


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server that waits for nobody: its URL, and its socket."""
    folder = tmp_path_factory.mktemp("hasty")
    with serving(folder, head=0.3, request=0.3, idle=0.3) as (url, _):
        yield url, folder / "sock"


@pytest.mark.parametrize(
    ("message", "answered"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(HEAD, [408], id="half a head"),
        pytest.param(post(LENGTH), [200], id="nothing after an answer"),
        pytest.param(post(LENGTH) + HEAD, [200], id="half a head after an answer"),
        pytest.param(BEGUN, [408], id="half a body"),
        pytest.param(post(b"content-length: 99", b"content-type: text/plain", body=b"{"), [415], id="unwanted"),
        pytest.param(post(LENGTH, b"connection: upgrade", b"upgrade: h2c") + HEAD, [200, 408], id="the other parser"),
    ],
)
def test_a_stalled_connection_is_closed(
    hasty: tuple[str, Path], connect: Connect, message: bytes, answered: list[int]
) -> None:
    slow = connect(hasty[0])
    slow.sendall(message)
    found = b""
    with suppress(ConnectionResetError):
        while piece := slow.recv(65_536):
            found += piece
    assert statuses(found) == answered


def test_a_frame_that_does_not_end_is_closed_and_an_idle_sidecar_is_not(hasty: tuple[str, Path]) -> None:
    with SocketClient(hasty[1], timeout=20) as idle, socket.socket(socket.AF_UNIX) as slow:
        assert idle.decide(OPEN).allowed
        slow.settimeout(20)
        slow.connect(str(hasty[1]))
        slow.sendall(FRAME_HEADER.pack(99) + b"\x93")
        assert closed(slow)
        assert idle.decide(OPEN).allowed


def test_a_client_that_does_not_read_answers_is_disconnected(hasty: tuple[str, Path], connect: Connect) -> None:
    deaf = connect(hasty[0])
    deaf.sendall(DEAF)
    wait_until(lambda: metric(hasty[0], 'policyengine_connections_closed_total{reason="answer"}') == 1)


# ── Many requests at once ─────────────────────────────────────────────────────────────────────


def test_too_many_pipelined_requests_are_answered_in_part_and_the_connection_closes(
    plain: str, connect: Connect
) -> None:
    sender = connect(plain)

    def send() -> None:
        with suppress(ConnectionError):
            sender.sendall(CAREFUL * 1_000)

    sending = threading.Thread(target=send)
    sending.start()
    answer = b""
    with_reset = False
    try:
        while piece := sender.recv(65_536):
            answer += piece
    except ConnectionResetError:
        with_reset = True
    sending.join(20)
    found = statuses(answer)
    assert set(found) == {200}
    assert len(found) < 1_000
    if not with_reset:  # which takes answers away that had arrived
        assert len(found) >= MAX_PIPELINED_REQUESTS
        assert b"connection: close" in answer.rpartition(b"HTTP/1.1 200")[2]


def test_bytes_that_are_not_a_request_do_not_replace_the_answer_to_the_request_before_them(
    plain: str, connect: Connect
) -> None:
    sender = connect(plain)
    sender.sendall(CAREFUL + b"\x16\x03\x01\r\n\r\n")
    answer = rest(sender)
    assert statuses(answer) == [200]
    assert b"connection: close" in answer


# ── An answer before all was sent ─────────────────────────────────────────────────────────────

FIVE = 5 * 1024 * 1024
SENDS = {
    "a length": post(b"content-length: %d" % FIVE, body=b" " * FIVE),
    "a length and an end": post(b"content-length: %d" % FIVE, CLOSE, body=b" " * FIVE),
    "HTTP/1.0": post(b"content-length: %d" % FIVE, version=b"1.0", body=b" " * FIVE),
    "chunks": post(b"transfer-encoding: chunked", CLOSE, body=b"%x\r\n%b\r\n0\r\n\r\n" % (FIVE, b" " * FIVE)),
}
UNWANTED = post(b"content-length: %d" % FIVE, b"content-type: text/plain", CLOSE, body=b" " * FIVE)


@pytest.mark.parametrize("message", SENDS.values(), ids=SENDS)
@pytest.mark.parametrize("path", [b"/decide", b"/evaluate", b"/envoy/x"])
def test_a_too_large_body_is_answered_413_before_the_connection_closes(
    plain: str, connect: Connect, message: bytes, path: bytes
) -> None:
    sender = connect(plain)
    sender.sendall(message.replace(b"/decide", path, 1).replace(b"host:", b"x-envoy-internal: true\r\nhost:", 1))
    answer = rest(sender)
    assert statuses(answer) == [413]
    assert b"connection: close" in answer.lower()


def test_an_answer_that_needs_no_body_is_sent_before_the_connection_closes(plain: str, connect: Connect) -> None:
    for message in (UNWANTED, UNWANTED.replace(CLOSE + b"\r\n", b"")):
        sender = connect(plain)
        sender.sendall(message)
        assert statuses(rest(sender)) == [415]


def test_a_client_that_sends_an_endless_body_is_disconnected(plain: str, connect: Connect) -> None:
    sender = connect(plain)
    sender.sendall(post(b"transfer-encoding: chunked", body=b""))
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        sender.sendall(chunk * 2_000)


def test_the_http_client_of_python_reads_the_413_for_a_five_megabyte_body(plain: str) -> None:
    host, port = plain.removeprefix("http://").split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.request("POST", "/decide", b" " * FIVE, {"content-type": "application/json", "connection": "close"})
        assert connection.getresponse().status == 413


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing: apt install curl")
@pytest.mark.parametrize(
    "options", [(), ("--http1.0",), ("-H", "expect:"), ("-H", "expect:", "-H", "connection: close")]
)
def test_curl_reads_the_413_for_a_five_megabyte_body(plain: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "body").write_bytes(b" " * FIVE)
    asked = ("--data-binary", f"@{tmp_path / 'body'}", "-H", "content-type: application/json", f"{plain}/decide")
    done = subprocess.run(
        ["curl", "-sS", "-w", " %{http_code}", *options, *asked], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr, done.stdout.rpartition(" ")[2]) == (0, "", "413")


@pytest.mark.parametrize("trailers", [b"x-a: b\r\n" * 100_000, b"x-a: " + b"b" * 800_000])
def test_a_client_that_still_sends_reads_the_400_response(plain: str, connect: Connect, trailers: bytes) -> None:
    sender = connect(plain)
    sender.sendall(post(b"transfer-encoding: chunked", body=CHUNKED[:-2]) + trailers)
    assert statuses(rest(sender))[-1] == 400


# ── The table ─────────────────────────────────────────────────────────────────────────────────


class FakeConnection:
    spare = has_unread_bytes = False

    def __init__(self, address: str, stage: ConnectionStage = ConnectionStage.HEAD, began: float = 0.0) -> None:
        self.address, self.stage, self.began = address, stage, began
        self.dropped: CloseReason | None = None

    def overdue(self, now: float) -> CloseReason | None:
        return None

    def drop(self, reason: CloseReason) -> None:
        self.dropped = reason

    def shutdown(self) -> None:
        raise AssertionError


def table_of(connections: int, unproved: int = 100) -> ConnectionTable:
    return ConnectionTable(ConnectionLimits(), ConnectionBounds(connections, unproved), WorkerBoard(), ServerCounters())


def entered(table: ConnectionTable, *connections: FakeConnection) -> None:
    for one in connections:
        table.enter(one)


def test_the_address_with_the_most_connections_loses_its_idle_then_its_oldest_connections() -> None:
    table = table_of(5)
    other, young, old = FakeConnection("b"), FakeConnection("a", began=2.0), FakeConnection("a", began=1.0)
    idle, busy = FakeConnection("a", ConnectionStage.IDLE, began=3.0), FakeConnection("a", ConnectionStage.BUSY)
    entered(table, other, young, old, idle, busy)
    dropped = []
    for _ in range(3):
        assert table.admit()
        dropped.append(next(one for one in (other, young, old, idle, busy) if one.dropped and one not in dropped))
        table.enter(FakeConnection("c", ConnectionStage.BUSY))
    assert dropped == [idle, old, other] or dropped == [idle, old, young]
    assert busy.dropped is None


def test_an_address_with_too_many_unproved_connections_loses_its_oldest_unproved_connection() -> None:
    table = table_of(100, unproved=2)
    first, second, third, other = (FakeConnection(address) for address in "aaab")
    entered(table, first, other, second)
    table.prove(second)
    entered(table, third)
    assert first.dropped is None
    entered(table, FakeConnection("a"))
    assert (first.dropped, second.dropped, third.dropped, other.dropped) == (CloseReason.ADDRESS, None, None, None)


def test_connections_that_sent_a_valid_request_do_not_count_against_the_limit_of_their_address() -> None:
    table = table_of(100, unproved=2)
    of_gateway = [FakeConnection("a", ConnectionStage.IDLE) for _ in range(50)]
    for one in of_gateway:
        table.enter(one)
        table.prove(one)
    assert all(one.dropped is None for one in of_gateway)


def test_the_address_with_the_most_bytes_loses_unfinished_bodies_but_no_whole_request() -> None:
    table = table_of(100)
    table.limits = ConnectionLimits(memory=100)
    other, large, small = (
        FakeConnection("b"),
        FakeConnection("a", ConnectionStage.BODY),
        FakeConnection("a", ConnectionStage.BODY),
    )
    busy = FakeConnection("a", ConnectionStage.BUSY)
    entered(table, other, large, small, busy)
    sizes = (other, 45), (large, 20), (small, 5), (busy, 24)
    assert all(table.hold(one, size) for one, size in sizes)
    assert table.hold(other, 50)
    assert not table.hold(busy, 60)  # beyond the half of its address
    assert [one.dropped for one in (other, large, small, busy)] == [None, CloseReason.MEMORY, CloseReason.MEMORY, None]
    table.leave(busy)
    assert table.held == 50


def test_a_table_full_of_busy_connections_admits_only_the_spare_connections() -> None:
    table = table_of(2)
    let_in = 0
    while table.admit():
        let_in += 1
        table.enter(FakeConnection("a", ConnectionStage.BUSY))
    assert let_in == 2 + SPARE_CONNECTIONS


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.1", 1), "10.0.0.1"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("::ffff:10.0.0.1", 1, 0, 0), "10.0.0.1"),
        ("", "socket"),
    ],
)
def test_a_peer_address_is_an_ipv4_host_or_an_ipv6_64_bit_network(peer: object, address: str) -> None:
    assert peer_address(peer) == address


def test_the_worker_board_reports_whether_other_workers_are_freer() -> None:
    board = WorkerBoard(3)
    for place, load in enumerate((2, 1)):
        board.take(place)
        board.load(load)
    assert not board.others_are_freer
    board.load(3)
    assert not board.others_are_freer
    board.load(4)
    assert board.others_are_freer
    board.take(0)  # the one that took its place does not accept yet
    assert not board.others_are_freer
