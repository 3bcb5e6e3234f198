"""The server of `policyengine serve`: it loads an engine and serves it until it is stopped."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli import EXIT_INTERRUPTED
from policyengine.cli.absence_warnings import HTTP_ADAPTERS, HiddenAbsences, UnsentFacts
from policyengine.cli.errors import CommandError
from policyengine.cli.mcp_header_warnings import print_mcp_warnings
from policyengine.cli.name_checks import check_mcp_servers
from policyengine.cli.options.serve import ServerLogFormat
from policyengine.cli.output.engine_summary import shown_store
from policyengine.cli.output.serve_summary import MEMORY_STATE_WARNING, ServeSummary, curl_command, print_summary
from policyengine.cli.output.terminal import OutputFormat, Screen
from policyengine.cli.public_url import check_public_url
from policyengine.cli.served_engine import (
    EngineSetup,
    LoadedEngine,
    ServedEngine,
    load_for_serving,
    log_unmatched_people,
    prepare_serving,
)
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.gateway_omissions import GatewayAdapter

if TYPE_CHECKING:
    from policyengine.server.connections.limits import ConnectionLimits
    from policyengine.server.console.options import ConsoleOptions

_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """The options of the listeners, the accepted clients, and the shutdown."""

    host: str
    port: int | None
    socket: Path | None
    socket_mode: str
    envoy_grpc: int | None
    metrics_port: int | None
    public_url: str | None
    allowed_hosts: Sequence[str]
    token_file: Path | None
    operators: Sequence[str]
    workers: int
    drain_seconds: float
    drain_delay: float
    limits: ConnectionLimits
    log_format: ServerLogFormat
    console: int | None = None


@dataclass(frozen=True, slots=True)
class ServeSummaryPrinter:
    """Prints the summary once connections are accepted."""

    setup: EngineSetup
    listen: ListenOptions
    loaded: LoadedEngine
    tests: int | None
    tokens: Sequence[str] | None
    format: OutputFormat

    def __call__(self, url: str | None) -> None:
        from policyengine.server.listeners import address_text, is_reachable_remotely, resolve_address

        engine, listen = self.loaded.engine, self.listen
        curl = curl_command(url, self.setup.paths, engine.kernel, listen.token_file, self.tokens) if url else None
        lone = engine.state.is_ephemeral and url is not None and is_reachable_remotely(resolve_address(listen.host, 0))
        hidden = self.hidden_absences(url)
        metrics = None if listen.metrics_port is None else address_text(listen.host, listen.metrics_port)
        envoy = None if listen.envoy_grpc is None else address_text(listen.host, listen.envoy_grpc)
        summary = ServeSummary(
            url, listen.socket, listen.workers, self.tests, hidden, self.unsent_facts(url), lone,
            None if metrics is None else f"http://{metrics}/metrics", envoy, shown_store(self.setup.store),
        )  # fmt: skip
        with redirect_stdout(sys.stderr) if self.setup.log.writes_stdout else nullcontext():
            print_summary(engine, summary, curl, self.format)
        if lone:
            _LOG.warning("%s", MEMORY_STATE_WARNING, extra={"event": "state_in_memory"})
        if hidden:
            _LOG.info(hidden.message, extra={"event": "hidden_absences", **hidden.to_dict()})

    def hidden_absences(self, url: str | None) -> HiddenAbsences:
        kernel, names = self.loaded.engine.kernel, self.loaded.settings.gateway
        return HiddenAbsences.of(kernel, names, self.open_adapters(url), proves=self.setup.identity is not None)

    def unsent_facts(self, url: str | None) -> UnsentFacts:
        """Return the facts that gateways never send; none if no settings configure gateways."""
        kernel, names = self.loaded.engine.kernel, self.loaded.settings.gateway
        adapters = [] if names == GatewayHeaders() else self.open_adapters(url)
        return UnsentFacts.of(kernel, names, adapters, proves=self.setup.identity is not None)

    def open_adapters(self, url: str | None) -> list[GatewayAdapter]:
        envoy = [] if self.listen.envoy_grpc is None else [GatewayAdapter.ENVOY_GRPC]
        return [*(HTTP_ADAPTERS if url else ()), *envoy]


def run_server(setup: EngineSetup, listen: ListenOptions, format: OutputFormat) -> None:
    """Serve until SIGTERM or SIGINT. Raises CommandError."""
    from policyengine.server.run import EXIT_GRACE_SECONDS
    from policyengine.server.shutdown import limit_exit_time
    from policyengine.server.telemetry.server_log import LogFormat, server_logging

    with report_serve_errors():
        loaded = load_for_serving(setup)
        served = prepare_serving(setup, loaded)
        check_mcp_servers(loaded.settings, loaded.engine.kernel)
        print_mcp_warnings(loaded.settings, loaded.engine.kernel)
        tokens = read_tokens(listen.token_file)
        printer = ServeSummaryPrinter(setup, listen, loaded, served.tests, tokens, format)
        with server_logging(LogFormat(listen.log_format), lambda: served.held.current.revision):
            log_unmatched_people(loaded)
            try:
                answer(setup, listen, loaded, served, printer)
            except KeyboardInterrupt:
                limit_exit_time(EXIT_GRACE_SECONDS, EXIT_INTERRUPTED)
                raise
            limit_exit_time(EXIT_GRACE_SECONDS, 0)


def answer(
    setup: EngineSetup, listen: ListenOptions, loaded: LoadedEngine, served: ServedEngine, printer: ServeSummaryPrinter
) -> None:
    from policyengine.server import serve

    serve(
        served.held,
        listen.host,
        8080 if listen.port is None and listen.socket is None else listen.port,
        printer.tokens,
        path=listen.socket,
        mode=parse_mode(listen.socket_mode),
        workers=listen.workers,
        gateway=loaded.settings.gateway,
        envoy=listen.envoy_grpc,
        metrics=listen.metrics_port,
        drain=listen.drain_seconds,
        drain_delay=listen.drain_delay,
        limits=listen.limits,
        watching=setup.reload.watch,
        public_url=check_public_url(listen.public_url),
        authzen_consume=loaded.settings.authzen_consume,
        allowed_hosts=listen.allowed_hosts,
        operators=listen.operators,
        listening=printer,
        following=served.following,
        console=console_options(setup, listen, loaded, printer.format),
        mcp_servers=loaded.settings.mcp_servers,
    )


def console_options(
    setup: EngineSetup, listen: ListenOptions, loaded: LoadedEngine, format: OutputFormat
) -> ConsoleOptions | None:
    """Return the options of the console; None without a port for it. Raises CommandError."""
    if listen.console is None:
        if any(section == "console" for section, _ in loaded.settings.values):
            Screen(sys.stderr).warn("`[console]` has no `port`, so this server has no console")
        return None
    from policyengine.cli.console_setup import ConsolePrinter, build_console_options

    stream = sys.stderr if setup.log.writes_stdout else sys.stdout
    printer = ConsolePrinter(stream, format)
    return build_console_options(loaded.settings.console, listen.console, setup.identity, printer)


@contextmanager
def report_serve_errors() -> Iterator[None]:
    from policyengine.http.host_check import AllowedHostError
    from policyengine.server import BearerTokenError, ServeError

    try:
        yield
    except (ServeError, BearerTokenError) as error:
        raise CommandError("serve", error.message, error.hint) from None
    except AllowedHostError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None


def read_tokens(path: Path | None) -> tuple[str, ...] | None:
    from policyengine.server import read_token_file

    if path is None:
        return None
    found = read_token_file(path)
    if found.warning:
        Screen(sys.stderr).warn(found.warning)
    return found.tokens


def parse_mode(given: str) -> int:
    """Parse a file mode of octal digits. Raises CommandError."""
    if not re.fullmatch("0?[0-7]{3}", given):
        raise CommandError("usage", f"`{given}` is not a file mode", "write it in octal, such as 600 or 660", code=2)
    return int(given, 8)
