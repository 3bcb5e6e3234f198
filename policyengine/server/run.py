"""The server process: it answers on a port, on a Unix socket or on both until it is stopped, and stops gracefully."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.engine import Engine
from policyengine.entities.watch import EntityWatcher
from policyengine.executor import SWITCH_SECONDS
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.host_check import AllowedHosts
from policyengine.reload import ReloadableEngine
from policyengine.reload.expiry_timer import expiry_timer
from policyengine.reload.scheduler import ReloadScheduler
from policyengine.reload.thread import handle_sighup, reload_on_request
from policyengine.server.app import DecisionApp, build_app
from policyengine.server.bearer_tokens import BearerTokens, check_consumers, check_operators
from policyengine.server.connections.bounded_server import ProtocolFactory, uvicorn_config
from policyengine.server.connections.connection_table import ConnectionTable
from policyengine.server.connections.limits import ConnectionLimits
from policyengine.server.grpc_listener import GrpcListener, grpc_listener
from policyengine.server.listeners import (
    ServeError,
    bind_listener,
    listener_url,
    port_listener,
    resolve_address,
    unix_listener,
)
from policyengine.server.mcp.header_trust import McpHeaderTrust
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.mcp.servers import NO_MCP_SERVERS, McpServerTable
from policyengine.server.shared_state import SharedState
from policyengine.server.shutdown import DRAIN_SECONDS, Drain
from policyengine.server.socket.protocol import FramedProtocol
from policyengine.server.status_server import StatusServer, bind_metrics_port
from policyengine.server.telemetry.process_metrics import rule_names
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.server.workers.board import WorkerBoard
from policyengine.server.workers.pool import StopPlan, SupervisorCalls, check_workers, supervise
from policyengine.server.workers.reload import ReloadParticipant, WorkerChannel

if TYPE_CHECKING:
    from policyengine.server.console.options import ConsoleOptions

OWNER_ONLY = 0o600
EXIT_GRACE_SECONDS = 1.0  # seconds in which a worker must exit after the time for its answers
_LOG = logging.getLogger("policyengine")


def serve(
    engine: Engine | ReloadableEngine,
    host: str = "127.0.0.1",
    port: int | None = 8080,
    token: str | Collection[str] | None = None,
    *,
    path: Path | None = None,
    mode: int = OWNER_ONLY,
    workers: int = 1,
    gateway: GatewayHeaders | None = None,
    envoy: int | None = None,
    metrics: int | None = None,
    drain: float = DRAIN_SECONDS,
    drain_delay: float = 0.0,
    limits: ConnectionLimits | None = None,
    watching: bool = False,
    public_url: str | None = None,
    authzen_consume: Collection[str] = (),
    allowed_hosts: Collection[str] = (),
    operators: Collection[str] = (),
    listening: Callable[[str | None], None] = lambda url: None,
    following: EntityWatcher | None = None,
    console: ConsoleOptions | None = None,
    mcp_servers: McpServerTable = NO_MCP_SERVERS,
) -> None:
    """Serve on `host` and `port` (0: a free port; None: no port) and on the Unix socket `path` until SIGINT or SIGTERM.

    The server stops gracefully within `drain` seconds (`docs/deploying.md`), or immediately on a second signal, which
    then has its usual effect. For at least `drain_delay` seconds of this time, it still accepts connections. The file
    `mode` controls who can connect to the socket; the socket needs no token. `workers` is the number of processes;
    `limits` are the limits of connections; `gateway` names the headers in which gateways identify the caller. Port
    `envoy` serves Envoy over gRPC, port `metrics` serves `/metrics` to every client. `public_url` is the URL in the
    AuthZEN metadata. `authzen_consume` names the callers whose AuthZEN evaluations spend unless `context.consume` is
    false (`docs/authzen.md`). `allowed_hosts` are names that are accepted in `Host` without a token, and on port
    `metrics`, as in `create_app`. `operators` names the tokens that may halt requests (`docs/halt.md`). `following`
    reads the entities again when they change, in each process. `mcp_servers` are MCP servers behind gateways
    (`docs/gateways.md`). `console` are the options of the console (`docs/console.md`), which one process serves.
    `listening` is called with the URL, if there is a port, as soon as connections are accepted. A `ReloadableEngine`
    reloads its policies on SIGHUP, and with `watching` whenever their files change; SIGHUP also reopens the log.

    Raises ServeError before it listens, BearerTokenError for a token that is too short or missing for a caller of
    `authzen_consume`, and AllowedHostError.
    """
    reloading = engine if isinstance(engine, ReloadableEngine) else ReloadableEngine(engine)
    options = ServerOptions(
        host, port, path, mode, token, workers, gateway or GatewayHeaders(), envoy, metrics, drain, drain_delay,
        limits or ConnectionLimits(), watching, public_url, authzen_consume, tuple(allowed_hosts), tuple(operators),
        console, mcp_servers,
    )  # fmt: skip
    caught = serve_until_stopped(reloading, options, log_listening(workers, listening), following)
    _LOG.info("stopped", extra={"event": "stopped"})
    # After the cleanup, because SIGTERM ends the process here.
    if caught is not None:
        signal.raise_signal(caught)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The arguments of `serve`, with their defaults filled in."""

    host: str
    port: int | None
    path: Path | None
    mode: int
    token: str | Collection[str] | None
    workers: int
    gateway: GatewayHeaders
    envoy: int | None
    metrics: int | None
    drain: float
    drain_delay: float
    limits: ConnectionLimits
    watching: bool
    public_url: str | None
    authzen_consume: Collection[str]
    allowed_hosts: tuple[str, ...]
    operators: tuple[str, ...]
    console: ConsoleOptions | None = None
    mcp_servers: McpServerTable = NO_MCP_SERVERS

    def check(self, engine: Engine) -> None:
        """Check the options before the server listens. Raises ServeError, BearerTokenError, AllowedHostError."""
        if self.port is None and self.path is None:
            raise ServeError("there is neither a port nor a socket to listen on")
        check_consumers(self.authzen_consume, self.tokens)
        check_operators(self.operators, self.tokens)
        AllowedHosts.of(self.allowed_hosts)
        check_workers(engine, self.workers)
        if self.console is not None:
            self.console.check(engine)

    @property
    def tokens(self) -> BearerTokens | None:
        return None if self.token is None else BearerTokens.of(self.token)


def serve_until_stopped(
    reloading: ReloadableEngine,
    options: ServerOptions,
    listening: Callable[[str | None], None],
    following: EntityWatcher | None,
) -> int | None:
    """Serve until stopped, and return the signal that stopped the server immediately, if there was one.

    Raises ServeError, BearerTokenError, AllowedHostError.
    """
    options.check(reloading.current)
    limits = options.limits
    shared = SharedState(
        limits,
        limits.bounds(options.envoy is not None),
        WorkerBoard(options.workers),
        ServerCounters(options.workers, rule_names(reloading.current)),
    )
    trust = McpHeaderTrust(options.mcp_servers)
    apps = partial(
        build_app, reloading, token=options.token, gateway=options.gateway, public_url=options.public_url,
        tally=shared.tally, authzen_consume=options.authzen_consume, allowed_hosts=options.allowed_hosts,
        body_timeout=limits.request, operators=options.operators, mcp=trust.questions,
    )  # fmt: skip
    if options.workers > 1:
        reloading.current.halting.share()
    attempts = None if reloading.origin is None else ReloadScheduler(reloading, options.watching)
    with ExitStack() as open_until_then:
        places = open_listeners(options, reloading, shared, open_until_then, trust.questions)
        drain = partial(Drain, options.drain, options.drain_delay)
        answer = partial(run_server, apps, reloading, places, shared, drain, following, options.console, trust)
        greet = partial(listening, listener_url(places.ports[0]) if places.ports else None)
        if options.workers == 1:
            return serve_in_process(answer, reloading, attempts, greet)
        calls = SupervisorCalls(attempts)
        open_until_then.enter_context(handle_sighup(reloading, calls.ask))
        stopping = StopPlan(shared.board, places.listeners, options.drain + EXIT_GRACE_SECONDS)
        return supervise(answer, options.workers, greet, stopping, reloading, calls)


def log_listening(workers: int, listening: Callable[[str | None], None]) -> Callable[[str | None], None]:
    def told(url: str | None) -> None:
        _LOG.info("listening", extra={"event": "listening", "listening": url, "workers": workers})
        listening(url)

    return told


def serve_in_process(
    answer: Callable[[], int | None],
    reloading: ReloadableEngine,
    attempts: ReloadScheduler | None,
    greet: Callable[[], None],
) -> int | None:
    """Serve in this process, with a thread that reloads policies. Return a second stop signal, if there was one."""
    if attempts is None:
        with handle_sighup(reloading, lambda: None):
            greet()
            return answer()
    with reload_on_request(reloading, attempts):
        greet()
        return answer()


@dataclass(frozen=True, slots=True)
class ServerListeners:
    """All listeners: ports and sockets for questions, ports for metrics and the console, and the gRPC listener for
    Envoy.
    """

    ports: Sequence[socket.socket]
    sockets: Sequence[socket.socket]
    metrics: Sequence[socket.socket]
    console: Sequence[socket.socket]
    door: GrpcListener | None

    @property
    def listeners(self) -> Sequence[socket.socket]:
        """All sockets except the socket for Envoy, which every worker opens itself."""
        return (*self.ports, *self.sockets, *self.metrics, *self.console)


def open_listeners(
    options: ServerOptions,
    reloading: ReloadableEngine,
    shared: SharedState,
    open_until_then: ExitStack,
    mcp: McpQuestions,
) -> ServerListeners:
    """Open all listeners. Raises ServeError."""
    enter, host, tokens = open_until_then.enter_context, options.host, options.tokens
    port, path, metrics, envoy = options.port, options.path, options.metrics, options.envoy
    return ServerListeners(
        [] if port is None else [enter(port_listener(host, port, has_token=tokens is not None))],
        [] if path is None else [enter(unix_listener(path, options.mode))],
        [] if metrics is None else [enter(bind_metrics_port(host, metrics))],
        [] if options.console is None else [enter(bind_console_port(options.console))],
        None if envoy is None else grpc_listener(reloading, shared, options.gateway, tokens, host, envoy, mcp),
    )


def bind_console_port(options: ConsoleOptions) -> socket.socket:
    """Listen on the port of the console. Raises ServeError."""
    return bind_listener(resolve_address(options.host, options.port), options.host, "--console")


def start_console(
    options: ConsoleOptions | None,
    reloading: ReloadableEngine,
    places: ServerListeners,
    shared: SharedState,
    place: int,
) -> AbstractContextManager[object]:
    """Serve the console in a block, if this is the worker that serves it."""
    if options is None or place != 0:
        return nullcontext()
    from policyengine.server.console.server import serve_console

    return serve_console(options, reloading, shared.tally, places.console[0])


def run_server(
    apps: Callable[..., DecisionApp],
    reloading: ReloadableEngine,
    places: ServerListeners,
    shared: SharedState,
    drain: Callable[[], Drain],
    following: EntityWatcher | None = None,
    console: ConsoleOptions | None = None,
    trust: McpHeaderTrust | None = None,
    lifeline: int | None = None,
    line: WorkerChannel | None = None,
    place: int = 0,
) -> int | None:
    """Serve until SIGTERM or SIGINT, or until the other end of the pipe `lifeline` closes. Return a second signal, if
    there was one.
    """
    shared.tally.take(place)
    shared.board.take(place)
    shared.tally.add("starts")
    app = apps(drain=drain())
    if line is not None:
        ReloadParticipant(reloading, line).start()
    reloading.current.halting.start()
    if following is not None:
        following.catch_up()
    server = DecisionServer(app, places, shared, lifeline)
    log = reloading.current.log
    if log is not None and line is not None:
        log.system.worker = place
        log.recent.share()
    if trust is not None:
        trust.start()
    beside = None if places.door is None else places.door.started()
    if log is not None:
        log.wake()  # seals and sends the lines of an earlier process now, not with the next decision
    if reloading.current.behavior is not None:
        reloading.current.behavior.start()
    if following is not None:
        following.started()
    listener = reloading.current.approval_settings.listener
    if listener is not None:
        listener.wake()  # sends the messages that an earlier process has not sent
    try:
        with expiry_timer(reloading), start_console(console, reloading, places, shared, place):
            server.run(sockets=list(places.ports))
    finally:
        if following is not None:
            following.stop()
        if beside is not None:
            left = 0 if server.force_exit else app.drain.left
            beside.stop(left).wait(left + EXIT_GRACE_SECONDS)  # the normal shutdown would wait for all threads
        if listener is not None:
            listener.stop()
        if trust is not None:
            trust.stop()
        reloading.current.recorder.write_system("stopped")
        if reloading.current.behavior is not None:
            reloading.current.behavior.close()
        if log is not None:
            log.finish()
    return server.caught


class DecisionServer(StatusServer):
    """The decision API: its ports, its Unix sockets, and its metrics ports."""

    def __init__(self, app: DecisionApp, places: ServerListeners, shared: SharedState, lifeline: int | None) -> None:
        api = app.api
        table = ConnectionTable(shared.limits, shared.bounds, shared.board, api.tally)
        super().__init__(uvicorn_config(app), table, shared.board, api, places.metrics, is_worker=lifeline is not None)
        self.places, self.lifeline = places, lifeline

    def listens(self, sockets: Sequence[socket.socket]) -> Iterator[tuple[socket.socket, ProtocolFactory]]:
        yield from super().listens(sockets)
        for listener in self.places.sockets:
            yield listener, partial(FramedProtocol, self.api.framed, self.table)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.api.engine.recorder.write_start(workers=self.board.workers)
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        if self.lifeline is not None:
            asyncio.get_running_loop().add_reader(self.lifeline, self.stop_without_supervisor, self.lifeline)

    def stop_without_supervisor(self, lifeline: int) -> None:
        """Stop, because the supervisor is gone and cannot replace workers any more."""
        asyncio.get_running_loop().remove_reader(lifeline)
        self.board.stop()
        self.table.draining = True
        self.drain.begin()
