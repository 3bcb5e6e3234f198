"""The decision API on a port, on a Unix socket or on both: it answers until it is told to stop, and stops in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from policyengine.engine import Engine
from policyengine.runtime.vouched import Vouched
from policyengine.server.app import create_app
from policyengine.server.framed import FramedProtocol
from policyengine.server.listeners import LONGEST_QUEUE, ServeError, port_listener, unix_listener, url_of
from policyengine.server.tokens import Tokens
from policyengine.server.workers import LAST_ANSWERS, STOPPING, check_workers, supervise

HTTP: str | type[asyncio.Protocol]
try:
    from policyengine.server.http1 import Http1Protocol as HTTP
except ImportError:  # where httptools is not to be had
    HTTP = "h11"

OWNER_ONLY = 0o600


def serve(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int | None = 8080,
    token: str | Collection[str] | None = None,
    *,
    path: Path | None = None,
    mode: int = OWNER_ONLY,
    workers: int = 1,
    gateway: Vouched | None = None,
    envoy: int | None = None,
    listening: Callable[[str | None], None] = lambda url: None,
) -> None:
    """Answer on `host` and `port` (0: a free one; None: none) and at the Unix socket `path` until SIGINT or SIGTERM.

    What was begun is finished. Who may connect to the socket is a matter of its file `mode`; it needs no token.
    `workers` is how many processes answer, `gateway` in which headers gateways say who asks. On port `envoy`
    Envoy is answered by gRPC. `listening` is called with the URL, if there is a port, as soon as connections are
    accepted. Raises ServeError before that, TokenError for a
    token that is too short, and KeyboardInterrupt after an orderly stop by SIGINT.
    """
    if port is None and path is None:
        raise ServeError("there is neither a port nor a socket to listen on")
    app = create_app(engine, token=token, gateway=gateway)
    check_workers(engine, workers)
    door = None if envoy is None else grpc_door(engine, gateway or Vouched(), token, host, envoy)
    with ExitStack() as open_until_then:
        enter = open_until_then.enter_context
        ports = [] if port is None else [enter(port_listener(host, port, has_token=token is not None))]
        sockets = [] if path is None else [enter(unix_listener(path, mode))]
        answer = partial(answer_on, app, engine, ports, sockets, door)
        greet = partial(listening, url_of(ports[0]) if ports else None)
        if workers == 1:
            greet()
            caught = answer()
        else:
            caught = supervise(answer, workers, started=greet)
    # Now, when nothing is left behind: for SIGTERM this is the end of the process.
    if caught is not None:
        signal.raise_signal(caught)


def answer_on(
    app: ASGIApp,
    engine: Engine,
    ports: Sequence[socket.socket],
    sockets: Sequence[socket.socket],
    door: Door | None = None,
    lifeline: int | None = None,
) -> int | None:
    """Until the signal that is returned, or until the other end of the pipe `lifeline` is closed."""
    server = Server(config_for(app), engine, sockets, lifeline)
    beside = None if door is None else door.started()
    try:
        server.run(sockets=list(ports))
    finally:
        if beside is not None:
            beside.stop(LAST_ANSWERS).wait()
    return server.caught


class Door(Protocol):
    """Another way in, which answers beside the event loop once it is started."""

    def started(self) -> Any: ...


def grpc_door(engine: Engine, names: Vouched, token: str | Collection[str] | None, host: str, port: int) -> Door:
    """Raises ServeError, also where what it needs is not installed."""
    try:
        from policyengine.server.envoy_grpc import EnvoyGrpc, checked_address
    except ImportError:
        install = "pip install 'agent-policyengine[envoy]'"
        raise ServeError("there is no gRPC here to answer Envoy by", f"`{install}`") from None
    tokens = None if token is None else Tokens.of(token)
    return EnvoyGrpc(engine, names, tokens, checked_address(host, port, token is not None))


class Server(uvicorn.Server):
    """uvicorn's, which also answers on Unix sockets: it knows their connections and ends them like its own.

    The signal that ends it is `caught`, for somebody else to raise again: uvicorn would before its caller cleaned up.
    """

    caught: int | None = None

    def __init__(
        self, config: uvicorn.Config, engine: Engine, unix: Sequence[socket.socket], lifeline: int | None
    ) -> None:
        super().__init__(config)
        self.engine = engine
        self.unix = unix
        self.lifeline = lifeline

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        framed = partial(FramedProtocol, self.engine, self.server_state.connections)
        for listener in self.unix:
            self.servers.append(await loop.create_server(framed, sock=listener, backlog=LONGEST_QUEUE))
        if self.lifeline is not None:
            loop.add_reader(self.lifeline, self.orphaned, self.lifeline)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if current_thread() is not main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in STOPPING}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second SIGINT does not wait for answers under way."""
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self.caught = sig

    def orphaned(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        self.should_exit = True


def config_for(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HTTP,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=LONGEST_QUEUE,
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
