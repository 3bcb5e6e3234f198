"""The decision API on a port, on a Unix socket or on both: it answers until it is told to stop, and stops in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from policyengine.directory.following import Following
from policyengine.engine import Engine
from policyengine.extras import install_command
from policyengine.reloading import Reloading
from policyengine.reloading.reloader import hanging_up, reloaded
from policyengine.reloading.watching import Attempts
from policyengine.runtime.hosts import AllowedHosts
from policyengine.runtime.vouched import Vouched
from policyengine.server.app import DecisionApp, decision_app
from policyengine.server.counted import CountedDoor
from policyengine.server.crew import Line, Listener
from policyengine.server.draining import DRAIN, Drain
from policyengine.server.framed import FramedProtocol
from policyengine.server.handlers import INSTALL_METRICS
from policyengine.server.listeners import (
    LONGEST_QUEUE,
    ServeError,
    bound,
    port_listener,
    resolved,
    unix_listener,
    url_of,
)
from policyengine.server.measuring import inspect_store, publish, rules_of
from policyengine.server.status import status_app
from policyengine.server.tally import Tally
from policyengine.server.tokens import Tokens, check_consumers
from policyengine.server.workers import STOPPING, Calls, check_workers, supervise

HTTP: str | type[asyncio.Protocol]
try:
    from policyengine.server.http1 import Http1Protocol as HTTP
except ImportError:  # where httptools is not to be had
    HTTP = "h11"

OWNER_ONLY = 0o600
TICKS_A_SECOND = 10
A_MOMENT = 1.0  # seconds that a worker has to end beyond those for its answers
_LOG = logging.getLogger("policyengine")


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
    metrics: int | None = None,
    drain: float = DRAIN,
    watching: bool = False,
    public_url: str | None = None,
    authzen_consume: Collection[str] = (),
    allowed_hosts: Collection[str] = (),
    listening: Callable[[str | None], None] = lambda url: None,
    following: Following | None = None,
) -> None:
    """Answer on `host` and `port` (0: a free one; None: none) and at the Unix socket `path` until SIGINT or SIGTERM.

    It ends in order within `drain` seconds (`docs/deploying.md`), at once by a second signal, which then means what it
    always does. Who may connect to the socket is a matter of its file `mode`; it needs no token. `workers` is how many
    processes answer, `gateway` in which headers gateways say who asks. On port `envoy` Envoy is answered by gRPC, on
    port `metrics` whoever asks for `/metrics`. `public_url` is where gateways find it, for the metadata of AuthZEN.
    `authzen_consume` names the callers whose evaluations of AuthZEN spend where they do not say (`docs/authzen.md`).
    `allowed_hosts` are names that are answered without a token, and on port `metrics`, as `create_app` says.
    `following` reads the entities again when they change, in each of these processes. `listening` is called with the
    URL, if there is a port, as soon as connections are accepted. A `Reloading` reads its policies anew on SIGHUP, and
    when `watching` whenever their files change; the log is opened anew on SIGHUP. Raises ServeError before that,
    TokenError for a token that is too short or one that `authzen_consume` misses, and AllowedHostError.
    """
    reloading = engine if isinstance(engine, Reloading) else Reloading(engine)
    if port is None and path is None:
        raise ServeError("there is neither a port nor a socket to listen on")
    tokens = None if token is None else Tokens.of(token)
    check_consumers(authzen_consume, tokens)
    AllowedHosts.of(allowed_hosts)  # told before anything is listened on
    listening = logged(workers, listening)
    check_workers(reloading.current, workers)
    tally = Tally(workers, rules_of(reloading.current))
    apps = partial(
        decision_app, reloading, token=token, gateway=gateway, public_url=public_url, tally=tally,
        authzen_consume=authzen_consume, allowed_hosts=tuple(allowed_hosts),
    )  # fmt: skip
    attempts = None if reloading.origin is None else Attempts(reloading, watching)
    with ExitStack() as open_until_then:
        enter = open_until_then.enter_context
        places = Places(
            [] if port is None else [enter(port_listener(host, port, has_token=token is not None))],
            [] if path is None else [enter(unix_listener(path, mode))],
            [] if metrics is None else [enter(metrics_listener(host, metrics))],
            None if envoy is None else grpc_door(reloading, tally, gateway or Vouched(), tokens, host, envoy),
        )
        answer = partial(answer_on, apps, reloading, places, tally, drain, following)
        greet = partial(listening, url_of(places.ports[0]) if places.ports else None)
        if workers == 1:
            caught = alone(answer, reloading, attempts, greet)
        else:
            calls = Calls(attempts)
            enter(hanging_up(reloading, calls.ask))
            caught = supervise(answer, workers, greet, drain + A_MOMENT, reloading, calls)
    _LOG.info("stopped", extra={"event": "stopped"})
    # Now, when nothing is left behind: for SIGTERM this is the end of the process.
    if caught is not None:
        signal.raise_signal(caught)


def logged(workers: int, listening: Callable[[str | None], None]) -> Callable[[str | None], None]:
    def told(url: str | None) -> None:
        _LOG.info("listening", extra={"event": "listening", "listening": url, "workers": workers})
        listening(url)

    return told


def alone(
    answer: Callable[[], int | None], reloading: Reloading, attempts: Attempts | None, greet: Callable[[], None]
) -> int | None:
    """In this process; a thread beside it looks after the policies."""
    if attempts is None:
        with hanging_up(reloading, lambda: None):
            greet()
            return answer()
    with reloaded(reloading, attempts):
        greet()
        return answer()


@dataclass(frozen=True, slots=True)
class Places:
    """Where it is answered: ports and sockets for questions, ports for metrics, and Envoy's door."""

    ports: Sequence[socket.socket]
    sockets: Sequence[socket.socket]
    metrics: Sequence[socket.socket]
    door: Door | None


def metrics_listener(host: str, port: int) -> socket.socket:
    """Whoever asked for the port lets everybody read who reaches it: there is nothing to ask but for numbers.

    Raises ServeError.
    """
    if not find_spec("prometheus_client"):
        raise ServeError("the package `prometheus-client` is not installed", INSTALL_METRICS)
    return bound(resolved(host, port), host, "--metrics-port")


def answer_on(
    apps: Callable[..., DecisionApp],
    reloading: Reloading,
    places: Places,
    tally: Tally,
    seconds: float,
    following: Following | None = None,
    lifeline: int | None = None,
    line: Line | None = None,
    place: int = 0,
) -> int | None:
    """Until SIGTERM or SIGINT, or until the other end of the pipe `lifeline` is closed. A second signal is returned."""
    tally.take(place)
    tally.add("starts")
    app = apps(drain=Drain(seconds))
    if line is not None:
        Listener(reloading, line).start()
    server = Server(config_for(app), app, places, lifeline)
    beside = None if places.door is None else places.door.started()
    if following is not None:
        following.started()
    try:
        server.run(sockets=list(places.ports))
    finally:
        if following is not None:
            following.stop()
        if beside is not None:
            beside.stop(0 if server.force_exit else app.drain.left).wait()
        log = reloading.current.log
        if log is not None:
            log.flush()
    return server.caught


class Door(Protocol):
    """Another way in, which answers beside the event loop once it is started."""

    def started(self) -> Any: ...


def grpc_door(reloading: Reloading, tally: Tally, names: Vouched, tokens: Tokens | None, host: str, port: int) -> Door:
    """Raises ServeError, also where what it needs is not installed."""
    try:
        from policyengine.server.envoy_grpc import EnvoyGrpc, checked_address
    except ImportError:
        raise ServeError(
            "the package `grpcio`, which answers Envoy, is not installed", install_command("envoy")
        ) from None
    door = CountedDoor(reloading, tally, tally.apart("envoy_grpc"))
    return EnvoyGrpc(door, names, tokens, checked_address(host, port, tokens is not None))


class Server(uvicorn.Server):
    """uvicorn's, which also answers on Unix sockets: it knows their connections and ends them like its own.

    The signal that ends it at once is `caught`, for somebody else to raise again: uvicorn would before its caller
    cleaned up.
    """

    caught: int | None = None
    inspection: asyncio.Future[None] | None = None

    def __init__(self, config: uvicorn.Config, app: DecisionApp, places: Places, lifeline: int | None) -> None:
        super().__init__(config)
        self.app, self.drain = app, app.drain
        self.places = places
        self.lifeline = lifeline

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        framed = partial(FramedProtocol, self.app.api.framed, self.server_state.connections)
        for listener in self.places.sockets:
            self.servers.append(await loop.create_server(framed, sock=listener, backlog=LONGEST_QUEUE))
        for listener in self.places.metrics:
            self.servers.append(await loop.create_server(self.status(), sock=listener, backlog=LONGEST_QUEUE))
        if self.lifeline is not None:
            loop.add_reader(self.lifeline, self.orphaned, self.lifeline)

    def status(self) -> Callable[[], asyncio.Protocol]:
        """What answers on the port for metrics."""
        config = config_for(status_app(self.app.api), http="auto")
        config.load()
        kind: Any = config.http_protocol_class
        return partial(kind, config=config, server_state=self.server_state, app_state={})

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_A_SECOND == 0:
            publish(self.app.api.tally, self.app.api.reloading)
            if self.inspection is None or self.inspection.done():
                self.inspection = asyncio.ensure_future(inspect_store(self.app.api.engine))
        if self.drain.begun is not None:
            self.app.api.tally.now("draining", value=1)
        if await super().on_tick(counter):
            return True
        ended: bool = self.drain.over(self.server_state.connections, self.server_state.total_requests)
        return ended

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.timeout_graceful_shutdown = 0 if self.force_exit else ceil(self.drain.left)
        await super().shutdown(sockets)

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
        """The second one does not wait for answers under way. A worker may get one from the terminal, one from its
        service manager and one from who started it: that one ends it when it is to be at once."""
        if self.drain.begun is None:
            self.drain.begin()
        elif self.lifeline is None:
            self.force_exit = self.should_exit = True
            self.caught = sig

    def orphaned(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        self.drain.begin()
        self.should_exit = True


def config_for(app: ASGIApp, http: Any = HTTP) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=LONGEST_QUEUE,
    )
