"""Who accepts a connection: the worker that has fewest, or whoever is there; and what a closing listener leaves."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from policyengine.server.connections.acceptor import Acceptor
from policyengine.server.connections.connection_table import ConnectionTable
from policyengine.server.connections.limits import ConnectionBounds, ConnectionLimits
from policyengine.server.listeners import bind_listener
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.server.workers.board import WorkerBoard


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"hello")  # type: ignore[attr-defined]
        transport.close()


def running(work: Callable[[socket.socket, Acceptor, WorkerBoard], Awaitable[None]], workers: int = 1) -> None:
    async def run() -> None:
        board = WorkerBoard(workers)
        table = ConnectionTable(ConnectionLimits(), ConnectionBounds(100, 100), board, ServerCounters())
        table.accept()
        with bind_listener(("127.0.0.1", 0), "127.0.0.1") as listener:
            acceptor = Acceptor(listener, Greeting, table, board)
            await asyncio.wait_for(work(listener, acceptor, board), 20)
            acceptor.leave()

    asyncio.run(run())


async def greeted(address: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    with closing(writer):
        return await reader.read()


def test_a_busier_worker_accepts_a_connection_after_a_short_wait() -> None:
    async def work(listener: socket.socket, acceptor: Acceptor, board: WorkerBoard) -> None:
        board.load(5)
        board.take(1)
        board.load(1)
        board.take(0)
        board.load(5)
        assert board.others_are_freer
        assert await greeted(listener.getsockname()) == b"hello"

    running(work, workers=2)


def test_a_closing_listener_answers_queued_connections() -> None:
    async def work(listener: socket.socket, acceptor: Acceptor, board: WorkerBoard) -> None:
        address = listener.getsockname()
        clients = [socket.create_connection(address) for _ in range(40)]  # the event loop does not run meanwhile
        acceptor.refuse()
        acceptor.close()
        for one in clients:
            one.setblocking(False)
            with closing(one):
                assert await asyncio.get_running_loop().sock_recv(one, 99) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    running(work)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the filter")
def test_a_connection_attempt_after_refuse_waits_until_the_listener_closes() -> None:
    async def work(listener: socket.socket, acceptor: Acceptor, board: WorkerBoard) -> None:
        acceptor.refuse()
        late = asyncio.create_task(greeted(listener.getsockname()))
        assert await asyncio.wait([late], timeout=0.1) == (set(), {late})
        acceptor.close()
        with pytest.raises(ConnectionRefusedError):  # when its system tries again
            await late

    running(work)


def test_refuse_hides_a_unix_socket_and_keeps_queued_connections(tmp_path: object) -> None:
    path = f"{tmp_path}/sock"

    async def run() -> None:
        board = WorkerBoard()
        table = ConnectionTable(ConnectionLimits(), ConnectionBounds(100, 100), board, ServerCounters())
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as early:
            listener.bind(path)
            listener.listen()
            acceptor = Acceptor(listener, Greeting, table, board)
            early.connect(path)
            acceptor.refuse()
            with pytest.raises(FileNotFoundError), socket.socket(socket.AF_UNIX) as late:
                late.connect(path)
            acceptor.close()
            early.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(early, 99) == b"hello"

    asyncio.run(run())
