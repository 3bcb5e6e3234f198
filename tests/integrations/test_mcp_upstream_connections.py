"""HTTP connections to upstream servers: used again only after a complete answer, and bounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from policyengine.integrations.mcp.event_stream import EventParser, EventStreamError
from policyengine.integrations.mcp.upstream import connections as upstream_connections
from policyengine.integrations.mcp.upstream.answers import read_content
from policyengine.integrations.mcp.upstream.connections import (
    MAX_ERROR_LENGTH,
    MAX_UNREAD_BYTES,
    UpstreamConnection,
    UpstreamConnectionError,
    UpstreamConnections,
    UpstreamEndpoint,
    connect,
    open_socket,
)
from tests.identity.conftest import certificate as certificate
from tests.integrations.scripted_http import HeardRequest, Script, ScriptedHttp, scripted

MOST = 1_000_000
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"
MEASURED = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"


@pytest.fixture(autouse=True)
def kept_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep connections that a busy machine would drop: it may take seconds to use them again."""
    for name in ("FINISH_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(upstream_connections, name, 60.0)


def run(script: Script, work: Callable[[ScriptedHttp, UpstreamConnections], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(60), scripted(script) as behind:
            connections = UpstreamConnections(UpstreamEndpoint.of(behind.url, {}, {}))
            try:
                return await work(behind, connections)
            finally:
                connections.close()

    return asyncio.run(limited())


async def get(connections: UpstreamConnections) -> tuple[int, bytes]:
    """Make one exchange."""
    connection = await connections.take()
    try:
        head = await connection.request(b"GET", b"/mcp", [(b"host", b"x")])
        return head.status, await read_content(connection, MOST)
    finally:
        connections.give_back(connection)


async def get_twice(behind: ScriptedHttp, connections: UpstreamConnections) -> list[bytes]:
    return [(await get(connections))[1] for _ in range(2)]


def writing(*parts: bytes, hangs_up: bool = False) -> Script:
    async def script(request: HeardRequest) -> None:
        for part in parts:
            await request.write(part)
        if hangs_up:
            await request.hang_up()

    return script


@pytest.mark.parametrize("answer", [CHUNKED, MEASURED, b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + MEASURED])
@pytest.mark.parametrize("size", [1, 1_000])
def test_a_connection_is_used_again_after_a_complete_answer(answer: bytes, size: int) -> None:
    parts = [answer[start : start + size] for start in range(0, len(answer), size)]

    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        assert await get_twice(behind, connections) == [b"abc", b"abc"]
        assert behind.connections == 1

    run(writing(*parts), work)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.0 200 OK\r\n\r\nabc", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"],
)
def test_a_connection_that_ends_with_its_answer_is_not_used_again(answer: bytes) -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        assert await get_twice(behind, connections) == [b"abc", b"abc"]
        assert behind.connections == 2

    run(writing(answer, hangs_up=True), work)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\nabcd",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        b"no answer of HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50 + MEASURED,
    ],
)
def test_an_answer_that_is_cut_off_or_malformed_is_an_error(answer: bytes) -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        with pytest.raises(UpstreamConnectionError) as caught:
            await get(connections)
        assert len(str(caught.value)) <= MAX_ERROR_LENGTH

    run(writing(answer, hangs_up=True), work)


def test_attack_answer_to_a_request_that_was_not_made_yet() -> None:
    """A server, or something between, sends two answers to the first request: the second must not become the answer to
    the next request, which may be that of another call."""

    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        assert await get_twice(behind, connections) == [b"abc", b"abc"]
        assert behind.connections == 2

    run(writing(MEASURED + MEASURED.replace(b"abc", b"xyz")), work)


def test_attack_answer_that_arrives_between_two_requests() -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        assert (await get(connections))[1] == b"abc"
        [idle] = connections._idle
        await behind.heard[0].write(MEASURED.replace(b"abc", b"xyz"))
        while idle.is_idle:
            await asyncio.sleep(0.001)
        assert (await get(connections))[1] == b"abc"
        assert behind.connections == 2

    run(writing(MEASURED), work)


def test_a_connection_that_the_server_ends_while_it_is_idle_is_not_used() -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        assert (await get(connections))[1] == b"abc"
        [idle] = connections._idle
        await behind.heard[0].hang_up()
        while idle.is_idle:
            await asyncio.sleep(0.001)
        assert (await get(connections))[1] == b"abc"

    run(writing(MEASURED), work)


def test_connections_that_are_idle_for_long_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_connections, "IDLE_SECONDS", 0.0)

    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        await get_twice(behind, connections)
        assert behind.connections == 2
        assert len(connections._idle) == 1

    run(writing(MEASURED), work)


def test_attack_server_that_sends_ahead_without_end() -> None:
    """What is not read stays with the server."""

    async def endless(request: HeardRequest) -> None:
        await request.begin_stream()
        while True:
            await request.chunk(b"x" * 60_000)

    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        connection = await connections.take()
        await connection.request(b"GET", b"/mcp", [(b"host", b"x")])
        assert connection._transport is not None
        while connection._transport.is_reading():
            await asyncio.sleep(0.001)
        assert connection._unread <= MAX_UNREAD_BYTES + 256 * 1024
        for _ in range(100):  # it goes on when the rest was read
            assert await connection.receive()
        connections.give_back(connection)
        await behind.heard[0].is_left()

    run(endless, work)


def test_a_stream_that_ends_after_its_answer_gives_its_connection_back() -> None:
    ends = asyncio.Event()

    async def script(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.chunk(b"answer")
        await ends.wait()
        await request.end_stream()

    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        for _ in range(2):
            connection = await connections.take()
            await connection.request(b"GET", b"/mcp", [(b"host", b"x")])
            assert await connection.receive() == b"answer"
            connection.expect_end()
            connections.give_back(connection)
            ends.set()
            while not connections._idle:
                await asyncio.sleep(0.001)
        assert behind.connections == 1

    run(script, work)


@pytest.mark.parametrize("sends_more", [False, True])
def test_attack_stream_that_goes_on_after_its_answer(sends_more: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_connections, "FINISH_SECONDS", 20.0 if sends_more else 0.0)

    async def script(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.chunk(b"answer")
        if sends_more:
            while True:
                await request.chunk(b"more")
                await asyncio.sleep(0)

    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        connection = await connections.take()
        await connection.request(b"GET", b"/mcp", [(b"host", b"x")])
        await connection.receive()
        connection.expect_end()
        connections.give_back(connection)
        await behind.heard[0].is_left()
        assert not connections._idle
        assert not connections._finishing

    run(script, work)


def test_headers_that_http_does_not_allow_are_not_sent() -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        connection = await connections.take()
        with pytest.raises(UpstreamConnectionError):
            await connection.request(b"GET", b"/mcp", [(b"host", b"x"), (b"token", b"a\r\nb: c")])
        connections.give_back(connection)
        assert behind.heard == []

    run(writing(MEASURED), work)


def test_a_server_that_cannot_be_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        for url in ("http://127.0.0.1:9/", "http://a..b/"):
            with pytest.raises(UpstreamConnectionError):
                await UpstreamConnections(UpstreamEndpoint.of(url, {}, {})).take()
        monkeypatch.setattr(upstream_connections, "CONNECT_SECONDS", 0.0)
        with pytest.raises(UpstreamConnectionError, match="no connection within 0 seconds"):
            await connections.take()

    run(writing(MEASURED, hangs_up=True), work)


def test_a_server_over_tls_must_prove_its_name(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def work() -> None:
        behind = ScriptedHttp(writing(MEASURED))
        server = await asyncio.start_server(behind.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        secure, elsewhere = (
            UpstreamConnections(UpstreamEndpoint.of(f"https://{host}:{port}/mcp", {}, {}))
            for host in ("127.0.0.1", "localhost")
        )
        with pytest.raises(UpstreamConnectionError, match="certificate verify failed"):
            await secure.take()
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        monkeypatch.setattr(upstream_connections, "tls_context", lambda: trusting)
        assert [await get(secure), await get(secure)] == [(200, b"abc"), (200, b"abc")]
        assert len({one.connection for one in behind.heard}) == 1
        with pytest.raises(UpstreamConnectionError, match="certificate verify failed"):
            await elsewhere.take()
        secure.close()
        server.close()
        await behind.finish()

    asyncio.run(asyncio.wait_for(work(), 60))


def test_the_next_address_of_a_host_is_used_if_the_first_does_not_answer() -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        family = 2
        with await open_socket([(family, ("127.0.0.1", 9)), (family, ("127.0.0.1", behind.port))]) as opened:
            assert opened.getpeername() == ("127.0.0.1", behind.port)
        with pytest.raises(OSError, match="no address"):
            await open_socket([])

    run(writing(MEASURED), work)


@pytest.mark.parametrize("ends", ["read", "left", "streamed"])
def test_connections_are_bounded_and_an_exchange_waits_for_its_place(ends: str) -> None:
    async def script(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.chunk(b"answer")
        if ends == "read":
            await request.end_stream()

    async def work(behind: ScriptedHttp, _: UpstreamConnections) -> None:
        connections = UpstreamConnections(UpstreamEndpoint.of(behind.url, {}, {}), 2)
        used = [await connections.take() for _ in range(2)]
        for connection in used:
            await connection.request(b"GET", b"/mcp", [(b"host", b"x")])
        waiting = asyncio.ensure_future(connections.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        if ends == "read":
            await read_content(used[0], MOST)
        elif ends == "streamed":
            await used[0].receive()
            used[0].expect_end()
        connections.give_back(used[0])
        if ends == "streamed":
            await asyncio.sleep(0)
            assert not waiting.done()  # the connection is open until the stream ends
            await behind.heard[0].end_stream()
        assert (await waiting is used[0]) == (ends != "left")
        waiting = asyncio.ensure_future(connections.take())
        await asyncio.sleep(0)
        waiting.cancel()
        connections.give_back(used[1])
        await (await connections.take()).request(b"GET", b"/mcp", [(b"host", b"x")])
        assert connections._places is not None
        assert connections._places.locked()
        connections.close()

    run(script, work)


def test_an_exchange_that_finds_no_place_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(behind: ScriptedHttp, _: UpstreamConnections) -> None:
        refused = UpstreamConnections(UpstreamEndpoint.of("http://127.0.0.1:9/", {}, {}), 1)
        for _ in range(2):  # a connection that could not be opened takes no place
            with pytest.raises(UpstreamConnectionError, match="Connect"):
                await refused.take()
        connections = UpstreamConnections(UpstreamEndpoint.of(behind.url, {}, {}), 1)
        used = await connections.take()
        monkeypatch.setattr(upstream_connections, "CONNECT_SECONDS", 0.01)
        with pytest.raises(UpstreamConnectionError, match="all 1 connections are in use"):
            await connections.take()
        connections.give_back(used)

    run(writing(MEASURED), work)


def test_closed_connections_keep_nothing_open() -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        used = await connections.take()
        await get(connections)
        connections.close()
        await behind.heard[0].is_left()
        await used.request(b"GET", b"/mcp", [(b"host", b"x")])
        await read_content(used, MOST)
        connections.give_back(used)
        await behind.heard[1].is_left()

    run(writing(MEASURED), work)


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "named"),
    [
        ("http://a.example/mcp?x=1", "a.example", 80, b"/mcp?x=1", b"a.example"),
        ("https://a.example", "a.example", 443, b"/", b"a.example"),
        ("http://[::1]:8000/mcp", "::1", 8000, b"/mcp", b"[::1]:8000"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, b"/", b"xn--bcher-kva.example"),
    ],
)
def test_the_endpoint_of_a_url(url: str, host: str, port: int, target: bytes, named: bytes) -> None:
    endpoint = UpstreamEndpoint.of(url, {"X-Token": "t", "Host": "other"}, {})
    assert (endpoint.host, endpoint.port, endpoint.target) == (host, port, target)
    assert dict(endpoint.head) == {b"user-agent": b"policyengine", b"x-token": b"t", b"host": named}


def test_credentials_in_the_url_are_sent_unless_others_are_configured() -> None:
    url = "http://me:secret@a.example/"
    assert dict(UpstreamEndpoint.of(url, {}, {}).head)[b"authorization"] == b"Basic bWU6c2VjcmV0"
    given = UpstreamEndpoint.of(url, {"Authorization": "Bearer x"}, {})
    assert [value for name, value in given.head if name == b"authorization"] == [b"Bearer x"]


def test_a_connection_is_opened_once_more_while_another_one_is_in_use() -> None:
    async def work(behind: ScriptedHttp, connections: UpstreamConnections) -> None:
        used: UpstreamConnection = await connect(connections._endpoint)
        used.abort()
        taken = [await connections.take() for _ in range(3)]
        assert len({id(one) for one in taken}) == 3
        for one in taken:
            one.abort()

    run(writing(MEASURED), work)


# ── Event streams ─────────────────────────────────────────────────────────────────────────────

EVENTS = (
    b"\xef\xbb\xbf: note\n\ndata: a\ndata:  b\nid: 1\n\nevent: other\ndata: no\n\nretry: 1500\nid: 2\ndata:\n\ndata:c\n"
)


@pytest.mark.parametrize("ending", [b"\n", b"\r", b"\r\n"])
def test_events_are_the_same_however_the_stream_is_cut(ending: bytes) -> None:
    stream = EVENTS.replace(b"\n", ending) + ending
    for cut in range(1, len(stream)):
        parser = EventParser(1_000)
        found = [data for part in (stream[:cut], stream[cut:]) for data in parser.feed(part)]
        assert (found, parser.last_id, parser.retry) == ([b"a\n b", b"c"], b"2", 1.5)
    parser = EventParser(1_000)
    assert [data for byte in stream for data in parser.feed(bytes([byte]))] == [b"a\n b", b"c"]


@pytest.mark.parametrize(
    "line", [b"retry: -1", b"retry: 1e3", b"retry: 9999999999", b"id: a\0b", b"id: " + b"x" * 5_000]
)
def test_fields_that_mean_nothing_are_ignored(line: bytes) -> None:
    parser = EventParser(10_000)
    assert list(parser.feed(b"id: 7\nretry: 10\n\n" + line + b"\ndata: a\n\n")) == [b"a"]
    assert (parser.last_id, parser.retry) == (b"7", 0.01)


def test_an_event_that_was_cut_off_is_not_resumed_after() -> None:
    parser = EventParser(1_000)
    assert list(parser.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b")) == [b"a"]
    parser.begin()
    assert list(parser.feed(b"data: c\n\n")) == [b"c"]
    assert parser.last_id == b"1"


def test_a_stream_that_is_resumed_has_one_limit_and_an_endless_one_a_limit_for_each_event() -> None:
    parser, endless = EventParser(30), EventParser(30, is_endless=True)
    for _ in range(3):
        parser.begin()
        assert list(parser.feed(b"data: 1\n\n")) == [b"1"]
    with pytest.raises(EventStreamError):
        list(parser.feed(b"data: 1\n\n"))
    for _ in range(10):
        assert list(endless.feed(b"data: 1\n\n")) == [b"1"]
    for _ in range(3):
        assert not list(endless.feed(b": comment\n"))
    with pytest.raises(EventStreamError):
        list(endless.feed(b"data: 1\n\n"))


def test_attack_line_in_so_many_parts_that_nobody_else_is_served() -> None:
    """The parts of a line are joined once: with a copy for each part, this takes minutes."""
    parser = EventParser(10_000_000)
    for _ in range(200_000):
        assert not list(parser.feed(b"xy"))
    assert list(parser.feed(b"\ndata: a\n\n")) == [b"a"]
