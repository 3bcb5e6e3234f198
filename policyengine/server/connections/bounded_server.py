"""uvicorn's server with bounds: it accepts connections itself, closes slow connections, and stops without losing an
answer.

A stop has four steps: `/readyz` reports it while connections are still accepted; new connections are refused; accepted
connections are answered; the server exits. `docs/deploying.md` documents how long each step takes.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Literal, TypeAlias

import uvicorn
from starlette.types import ASGIApp

from policyengine.gc_freeze import freeze_startup, unfreeze
from policyengine.server.connections.acceptor import Acceptor
from policyengine.server.connections.connection_table import ConnectionTable
from policyengine.server.connections.http_connection import HttpConnection
from policyengine.server.shutdown import Drain
from policyengine.server.workers.board import WorkerBoard

HTTP: type[HttpConnection]
try:
    from policyengine.server.connections.http1 import Http1Protocol as HTTP
except ImportError:  # httptools is not installed
    from policyengine.server.connections.h11_protocol import H11Connection as HTTP

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
TICKS_PER_SECOND = 10
ALONE_SECONDS = 1.0  # seconds after which a stopping worker assumes that the other workers continue
POLL_SECONDS = 0.05  # seconds between two checks for open connections
FLUSH_SECONDS = 0.2  # seconds for sending the last answers
ProtocolFactory: TypeAlias = Callable[[], asyncio.Protocol]


class BoundedServer(uvicorn.Server):
    """A server that stores its second signal in `caught`; its caller raises the signal after the cleanup, whereas
    uvicorn would raise it before. `is_worker` means that other processes share its listeners, and that a supervisor
    stops them together.
    """

    caught: int | None = None

    def __init__(
        self,
        config: uvicorn.Config,
        table: ConnectionTable,
        board: WorkerBoard,
        drain: Drain,
        is_worker: bool = False,
    ) -> None:
        super().__init__(config)
        self.table, self.board, self.drain, self.is_worker = table, board, drain, is_worker
        self.server_state.connections = table.connections  # type: ignore[assignment]  # with others
        self.acceptors: list[Acceptor] = []

    # ── Listening ─────────────────────────────────────────────────────────────────────────────

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        freeze_startup()
        self.table.accept()
        for listener, protocol in self.listens(sockets or []):
            self.acceptors.append(Acceptor(listener, protocol, self.table, self.board))
        self.servers = []  # uvicorn's own list of servers, which stays empty here
        self.started = True

    def listens(self, sockets: Sequence[socket.socket]) -> Iterator[tuple[socket.socket, ProtocolFactory]]:
        """Yield each listener, with the protocol of its connections."""
        for listener in sockets:
            yield listener, self.speaking(self.config)

    def speaking(self, config: uvicorn.Config) -> ProtocolFactory:
        """Return the HTTP protocol for the application of `config`."""
        if not config.loaded:
            config.load()
        state: dict[str, Any] = {}
        return partial(HTTP, self.table, config=config, server_state=self.server_state, app_state=state)

    # ── Serving ───────────────────────────────────────────────────────────────────────────────

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            self.table.sweep()
        else:
            self.table.tick()
        if await super().on_tick(counter):
            return True
        quiet = self.drain.quiet(self.table.connections, self.server_state.total_requests)
        if self.drain.begun is None:
            return False
        self.drain.announce_begin()
        self.drain.close_silent(self.table.connections)
        self.board.quiet(quiet)
        if self.is_worker and not self.board.stopping:
            return self.drain.passed >= ALONE_SECONDS and (quiet or self.drain.half_over)
        if (self.board.all_quiet or self.drain.half_over) and self.drain.refuse():
            for acceptor in self.acceptors:
                acceptor.refuse()
        return self.drain.settled

    # ── Stopping ──────────────────────────────────────────────────────────────────────────────

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.table.draining = True
        for acceptor in self.acceptors:
            if self.force_exit or (self.is_worker and not self.board.stopping):
                acceptor.leave()
            else:
                acceptor.close()
        self.board.closed()
        while self.is_at_work and self.drain.left and not self.force_exit:
            self.table.tick()
            self.drain.close_silent(self.table.connections)
            await asyncio.sleep(POLL_SECONDS)
        await self.give_up()
        await self.lifespan.shutdown()
        unfreeze()

    @property
    def is_at_work(self) -> bool:
        return bool(self.table.many or self.server_state.tasks)

    async def give_up(self) -> None:
        """Let applications answer the unfinished requests now, wait a moment until the answers are sent, and abort the
        rest."""
        if not self.is_at_work:
            return
        if not self.force_exit:
            self.drain.announce_end()
            for connection in list(self.table.connections):
                connection.shutdown()
            await asyncio.sleep(FLUSH_SECONDS)
        for task in self.server_state.tasks:
            task.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if current_thread() is not main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in STOP_SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the stop on the first signal, and stop immediately on the second. In a worker, a second signal has no
        effect, because its terminal, its service manager and its supervisor may each send one; only the supervisor ends
        it immediately.
        """
        if self.drain.begun is None:
            self.table.draining = True
            self.drain.begin()
        elif not self.is_worker:
            self.force_exit = self.should_exit = True
            self.caught = sig


def uvicorn_config(app: ASGIApp, lifespan: Literal["on", "off"] = "off") -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HTTP,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
