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
from policyengine.reloading import Reloading
from policyengine.reloading.watching import Attempts
from policyengine.runtime.vouched import Vouched
from policyengine.server.app import create_app
from policyengine.server.crew import Line, Listener
from policyengine.server.framed import FramedProtocol
from policyengine.server.listeners import LONGEST_QUEUE, ServeError, port_listener, unix_listener, url_of
from policyengine.server.reloader import Reloader
from policyengine.server.tokens import Tokens
from policyengine.server.workers import LAST_ANSWERS, STOPPING, Calls, check_workers, supervise

HTTP: str | type[asyncio.Protocol]
try:
    from policyengine.server.http1 import Http1Protocol as HTTP
except ImportError:  # where httptools is not to be had
    HTTP = "h11"

OWNER_ONLY = 0o600


def serve(
    engine: Engine | Reloading,
    host: str = "127.0.0.1",
    port: int | None = 8080,
    token: str | Collection[str] | None = None,
    *,
    path: Path | None = None,
    mode: int = OWNER_ONLY,
    workers: int = 1,
    gateway: Vouched | None = None,
    envoy: int | None = None,
    watching: bool = False,
    listening: Callable[[str | None], None] = lambda url: None,
) -> None:
    """Answer on `host` and `port` (0: a free one; None: none) and at the Unix socket `path` until SIGINT or SIGTERM.

    What was begun is finished. Who may connect to the socket is a matter of its file `mode`; it needs no token.
    `workers` is how many processes answer, `gateway` in which headers gateways say who asks. On port `envoy`
    Envoy is answered by gRPC. `listening` is called with the URL, if there is a port, as soon as connections are
    accepted. A `Reloading` reads its policies anew on SIGHUP, and when `watching` whenever their files change; the log
    is opened anew on SIGHUP. Raises ServeError before that, TokenError for a token that is too short, and
    KeyboardInterrupt after an orderly stop by SIGINT.
    """
    reloading = engine if isinstance(engine, Reloading) else Reloading(engine)
    if port is None and path is None:
        raise ServeError("there is neither a port nor a socket to listen on")
    app = create_app(reloading, token=token, gateway=gateway)
    check_workers(reloading.current, workers)
    attempts = None if reloading.origin is None else Attempts(reloading, watching)
    door = None if envoy is None else grpc_door(reloading, gateway or Vouched(), token, host, envoy)
    with ExitStack() as open_until_then:
        enter = open_until_then.enter_context
        ports = [] if port is None else [enter(port_listener(host, port, has_token=token is not None))]
        sockets = [] if path is None else [enter(unix_listener(path, mode))]
        answer = partial(answer_on, app, reloading, ports, sockets, door)
        greet = partial(listening, url_of(ports[0]) if ports else None)
        if workers == 1:
            caught = alone(answer, reloading, attempts, greet)
        else:
            calls = Calls(attempts)
            enter(hanging_up(reloading, calls.ask))
            caught = supervise(answer, workers, greet, reloading, calls)
    # Now, when nothing is left behind: for SIGTERM this is the end of the process.
    if caught is not None:
        signal.raise_signal(caught)


def alone(
    answer: Callable[[], int | None], reloading: Reloading, attempts: Attempts | None, greet: Callable[[], None]
) -> int | None:
    """In this process; a thread beside it looks after the policies."""
    if attempts is None:
        with hanging_up(reloading, lambda: None):
            greet()
            return answer()
    reloader = Reloader(reloading, attempts)
    with reloader.running(), hanging_up(reloading, reloader.ask):
        greet()
        return answer()


@contextmanager
def hanging_up(reloading: Reloading, ask: Callable[[], None]) -> Iterator[None]:
    """SIGHUP says that the log was moved away, or that there are other policies."""
    if not hasattr(signal, "SIGHUP") or current_thread() is not main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        log = reloading.current.log
        if log is not None:
            log.reopen()
        ask()

    before = signal.signal(signal.SIGHUP, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def answer_on(
    app: ASGIApp,
    reloading: Reloading,
    ports: Sequence[socket.socket],
    sockets: Sequence[socket.socket],
    door: Door | None = None,
    lifeline: int | None = None,
    line: Line | None = None,
) -> int | None:
    """Until the signal that is returned, or until the other end of the pipe `lifeline` is closed."""
    if line is not None:
        Listener(reloading, line).start()
    server = Server(config_for(app), reloading, sockets, lifeline)
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


def grpc_door(reloading: Reloading, names: Vouched, token: str | Collection[str] | None, host: str, port: int) -> Door:
    """Raises ServeError, also where what it needs is not installed."""
    try:
        from policyengine.server.envoy_grpc import EnvoyGrpc, checked_address
    except ImportError:
        install = "pip install 'agent-policyengine[envoy]'"
        raise ServeError("there is no gRPC here to answer Envoy by", f"`{install}`") from None
    tokens = None if token is None else Tokens.of(token)
    return EnvoyGrpc(reloading, names, tokens, checked_address(host, port, token is not None))


class Server(uvicorn.Server):
    """uvicorn's, which also answers on Unix sockets: it knows their connections and ends them like its own.

    The signal that ends it is `caught`, for somebody else to raise again: uvicorn would before its caller cleaned up.
    """

    caught: int | None = None

    def __init__(
        self, config: uvicorn.Config, reloading: Reloading, unix: Sequence[socket.socket], lifeline: int | None
    ) -> None:
        super().__init__(config)
        self.reloading = reloading
        self.unix = unix
        self.lifeline = lifeline

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        framed = partial(FramedProtocol, self.reloading, self.server_state.connections)
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
