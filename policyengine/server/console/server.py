"""Serves the console from a thread of one process, with an event loop and connections of its own, so that its pages
never delay a decision.

With several workers, the first worker serves the console: sessions stay in the memory of one process, and no secret is
shared. If that worker is replaced, its replacement serves the console, and people sign in again.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from policyengine.reload import ReloadableEngine
from policyengine.server.connections.acceptor import Acceptor
from policyengine.server.connections.bounded_server import TICKS_PER_SECOND, BoundedServer, uvicorn_config
from policyengine.server.connections.connection_table import ConnectionTable
from policyengine.server.connections.limits import ConnectionBounds, ConnectionLimits
from policyengine.server.console.app import build_console, create_context
from policyengine.server.console.context import ConsoleContext
from policyengine.server.console.options import ConsoleOptions
from policyengine.server.console.sign_in import announce_link
from policyengine.server.shutdown import Drain
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.server.workers.board import WorkerBoard

BOUNDS = ConnectionBounds(connections=128, unproved=64)
STOP_SECONDS = 1.0  # seconds in which the last answers are sent
SWEEP_SECONDS = 30
LOGGER = logging.getLogger("policyengine")


class ConsoleServer(BoundedServer):
    """The server of the console. It stops without draining, because people try again."""

    def __init__(self, console: ConsoleContext) -> None:
        board, drain = WorkerBoard(), Drain(STOP_SECONDS)
        table = ConnectionTable(ConnectionLimits(), BOUNDS, board, ServerCounters())
        super().__init__(uvicorn_config(build_console(console)), table, board, drain)
        self.console = console

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listener, protocol in self.listens(sockets or []):
            self.acceptors.append(Acceptor(listener, protocol, self.table, self.board))
        self.servers = []
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            self.table.sweep()
        else:
            self.table.tick()
        if counter % (SWEEP_SECONDS * TICKS_PER_SECOND) == 0:
            self.console.sessions.sweep()
        return self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.drain.begin()
        self.table.draining = True
        for acceptor in self.acceptors:
            acceptor.leave()
        await self.give_up()


@contextmanager
def serve_console(
    options: ConsoleOptions, reloading: ReloadableEngine, tally: ServerCounters, listener: socket.socket
) -> Iterator[ConsoleServer]:
    """Serve the console on this listener until the end of the block."""
    console = create_context(options, reloading, tally, listener.getsockname()[1])
    server = ConsoleServer(console)
    thread = threading.Thread(target=run_thread(server, listener), name="policyengine-console", daemon=True)
    thread.start()
    options.announce(console.base_url, None)
    if console.login is None:
        announce_link(console)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(2 * STOP_SECONDS)
        console.reading.close()
        console.threads.shutdown(wait=False, cancel_futures=True)


def run_thread(server: ConsoleServer, listener: socket.socket) -> Callable[[], None]:
    def run() -> None:
        try:
            server.run(sockets=[listener])
        except Exception:
            LOGGER.exception("the console has failed", extra={"event": "console_failed"})

    return run
