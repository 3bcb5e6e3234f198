"""`policyengine serve`: the decision API."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyengine.cli import EXIT_INTERRUPTED
from policyengine.cli.absence_warnings import ABSENCE_HINT, HTTP_ADAPTERS, HiddenAbsences
from policyengine.cli.commands.check import pluralize
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import build_entity_watcher, entity_sources, load_engine, require_passing_tests
from policyengine.cli.options.common import (
    EntitySources,
    IdentityFile,
    PoliciesOrBundle,
    StoreUrl,
    TextOrJson,
    TrustedKeys,
)
from policyengine.cli.options.log import LogOptions, open_log, report_log_errors
from policyengine.cli.options.observe import ObserveOptions, start_observing
from policyengine.cli.options.serve import (
    AllowedHost,
    DrainDelay,
    DrainSeconds,
    EnvoyPort,
    HeadSeconds,
    Host,
    IdleSeconds,
    LogCompress,
    LogFailureMode,
    LogFile,
    LogKeep,
    LogRotate,
    LogSync,
    LogSyncMode,
    MaxConnections,
    MaxConnectionsPerAddress,
    MetricsPort,
    ObserveEndpoints,
    ObserveFlag,
    ObservePackages,
    ObserveUntil,
    OnLogFailure,
    Port,
    PublicUrl,
    RedactFacts,
    ReloadAllow,
    ReloadCompare,
    ReloadGateMode,
    ReloadGateOption,
    RequestSeconds,
    ServerLog,
    ServerLogFormat,
    SocketMode,
    SocketPath,
    TestFirst,
    TokensFile,
    WatchFiles,
    Workers,
)
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.cli.reload_rules import reload_rules, settings_file
from policyengine.cli.settings.file import load_settings
from policyengine.http.completeness import GatewayAdapter

if TYPE_CHECKING:
    from policyengine.engine import Engine


_LOG = logging.getLogger("policyengine")
MEMORY_STATE_WARNING = (
    "state is kept in memory: what was counted, spent or revoked ends with this process, and another server or pod "
    "counts for itself"
)
SAMPLE_QUESTION = '{"request": {"method": "GET", "path": "/"}}'


def serve(
    paths: PoliciesOrBundle,
    host: Host = "127.0.0.1",
    port: Port = None,
    socket: SocketPath = None,
    socket_mode: SocketMode = "600",
    envoy_grpc: EnvoyPort = None,
    public_url: PublicUrl = None,
    allowed_host: AllowedHost = None,
    workers: Workers = 1,
    token_file: TokensFile = None,
    log: LogFile = None,
    on_log_failure: OnLogFailure = LogFailureMode.DENY,
    redact: RedactFacts = None,
    observing: ObserveFlag = None,
    observe_until: ObserveUntil = None,
    observe_package: ObservePackages = None,
    observe_endpoint: ObserveEndpoints = None,
    log_rotate: LogRotate = None,
    log_keep: LogKeep = None,
    log_compress: LogCompress = False,
    log_sync: LogSync = LogSyncMode.NEVER,
    log_format: ServerLog = ServerLogFormat.TEXT,
    store: StoreUrl = "memory:",
    entities: EntitySources = None,
    identity: IdentityFile = None,
    trust: TrustedKeys = None,
    watch: WatchFiles = False,
    test: TestFirst = False,
    reload_allow: ReloadAllow = None,
    reload_gate: ReloadGateOption = ReloadGateMode.NONE,
    reload_compare: ReloadCompare = 30,
    metrics_port: MetricsPort = None,
    drain_seconds: DrainSeconds = 10,
    drain_delay: DrainDelay = 0,
    max_connections: MaxConnections = None,
    max_connections_per_address: MaxConnectionsPerAddress = None,
    head_seconds: HeadSeconds = 10,
    request_seconds: RequestSeconds = 30,
    idle_seconds: IdleSeconds = 75,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Answer requests over HTTP, or over a Unix socket, or both.

    It runs until SIGTERM or SIGINT, and ends in order then; a second one ends it at once. Facts in a request are
    claims, so only a trusted gateway may make them: to listen elsewhere than on this machine needs a token file, with
    a token on each line. A socket needs none: whoever may open its file may ask. Without a token file it refuses
    requests whose Host is neither loopback nor an `--allowed-host`, and requests of web pages of other sites.

    SIGHUP makes it read its policies and entities anew, `--watch` whenever a file changes: they are checked, held to
    their own tests, and then swapped at once; bad ones are refused, and the last good ones go on. So are those in which
    a guard, a limit, a file or a package is gone, unless `--reload-allow` says so. With `--test` the first ones are
    held to their tests, too.

    \b
    Example:
      policyengine serve payments/ --port 8080
      curl -s http://127.0.0.1:8080/decide -H 'content-type: application/json' -d @request.json
      policyengine serve payments/ --socket /run/policyengine.sock
      policyengine serve payments/ --log decisions.jsonl
      policyengine serve payments/ --log decisions.jsonl --observe --observe-until 7d
    """
    from policyengine.http.host_check import AllowedHostError
    from policyengine.reload import ReloadableEngine, ReloadSource
    from policyengine.server import BearerTokenError, ServeError
    from policyengine.server import serve as answer
    from policyengine.server.connections.limits import ConnectionLimits
    from policyengine.server.listeners import is_reachable_remotely, resolve_address
    from policyengine.server.run import EXIT_GRACE_SECONDS
    from policyengine.server.shutdown import limit_exit_time
    from policyengine.server.telemetry.server_log import LogFormat, server_logging

    recorded = LogOptions(log, on_log_failure, redact, log_rotate, log_keep, log_compress, log_sync)
    configuration = load_settings(paths)
    rules = reload_rules(paths, reload_allow or (), reload_gate, reload_compare)
    try:
        with report_log_errors(log):
            sources = entity_sources(paths, entities)
            stamp = sources.stamp() if sources is not None else None
            engine = load_engine(paths, sources, trust, open_log(recorded), store=store, identity=identity)
        tests = require_passing_tests(paths, engine) if test else None
        asked = ObserveOptions(observing, observe_until, observe_package or (), observe_endpoint or ())
        start_observing(engine, asked, configuration.observe)
        tokens = _tokens(token_file)

        def greet(url: str | None) -> None:
            curl = _curl_command(url, paths, token_file, tokens) if url else None
            adapters = [*(HTTP_ADAPTERS if url else ()), *([] if envoy_grpc is None else [GatewayAdapter.ENVOY_GRPC])]
            hidden = HiddenAbsences.of(engine.kernel, configuration.gateway, adapters, proves=identity is not None)
            lone = engine.state.is_ephemeral and url is not None and is_reachable_remotely(resolve_address(host, 0))
            _print_greeting(engine, ServeSummary(url, socket, workers, tests, hidden, lone), curl, format)
            if lone:
                _LOG.warning("%s", MEMORY_STATE_WARNING, extra={"event": "state_in_memory"})
            if hidden:
                _LOG.info(hidden.message, extra={"event": "hidden_absences", **hidden.to_dict()})

        limits = ConnectionLimits(
            max_connections, max_connections_per_address, head_seconds, request_seconds, idle_seconds
        )
        listens = 8080 if port is None and socket is None else port
        keys = None if trust is None else tuple(trust)
        held = ReloadableEngine(engine, ReloadSource(tuple(paths), sources, keys, settings=settings_file(paths)), rules)
        with server_logging(LogFormat(log_format), lambda: held.current.revision):
            try:
                answer(
                    held, host, listens, tokens,
                    path=socket, mode=_mode(socket_mode), workers=workers, gateway=configuration.gateway,
                    envoy=envoy_grpc, metrics=metrics_port, drain=drain_seconds, drain_delay=drain_delay, limits=limits,
                    watching=watch, public_url=_check_public_url(public_url),
                    authzen_consume=configuration.authzen_consume, allowed_hosts=allowed_host or (), listening=greet,
                    following=build_entity_watcher(held, sources, stamp, files=not watch, rules=rules),
                )  # fmt: skip
            except KeyboardInterrupt:
                limit_exit_time(EXIT_GRACE_SECONDS, EXIT_INTERRUPTED)
                raise
            limit_exit_time(EXIT_GRACE_SECONDS, 0)
    except (ServeError, BearerTokenError) as error:
        raise CommandError("serve", error.message, error.hint) from None
    except AllowedHostError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None
    return 0


def _tokens(path: Path | None) -> tuple[str, ...] | None:
    from policyengine.server import read_token_file

    if path is None:
        return None
    found = read_token_file(path)
    if found.warning:
        Screen(sys.stderr).line(("warning: ", "bold yellow"), found.warning)
    return found.tokens


def _check_public_url(url: str | None) -> str | None:
    """Where other machines find it; a slash at its end means nothing."""
    if url is None or re.fullmatch(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?", url):
        return url and url.rstrip("/")
    hint = "give it without query, like https://pdp.example.com"
    raise CommandError("usage", f"`{url}` is no URL of a server", hint, code=2)


def _mode(given: str) -> int:
    """The mode of a file, in octal digits."""
    if not re.fullmatch("0?[0-7]{3}", given):
        raise CommandError("usage", f"`{given}` is no mode of a file", "give it in octal, like 600 or 660", code=2)
    return int(given, 8)


class ServeSummary(NamedTuple):
    """Where it is answered, and by how many; how many requests the policies' tests held, if they were run; what hangs
    on an absence that gateways do not show; whether other machines reach it and its state is in memory."""

    url: str | None
    socket: Path | None
    workers: int
    tests: int | None
    hidden: HiddenAbsences
    lone: bool


def _print_greeting(engine: Engine, served: ServeSummary, curl: str | None, format: OutputFormat) -> None:
    """Say what is served, at once: whoever started this may wait for it."""
    rules, warnings = count_rules(engine), len(engine.warnings)
    if format is OutputFormat.JSON:
        listening = {"listening": served.url} if served.url else {}
        socket = {"socket": str(served.socket)} if served.socket else {}
        workers = {"workers": served.workers} if served.workers > 1 else {}
        tests = {} if served.tests is None else {"tests": served.tests}
        packages = list(engine.packages)
        facts = {"packages": packages, "revision": engine.revision, "rules": rules, "warnings": warnings}
        observing = {"observing": engine.observing.to_dict()} if engine.observing else {}
        hidden = {"hidden_absences": served.hidden.to_dict()} if served.hidden else {}
        lone = {"state_in_memory": True} if served.lone else {}
        print_json({**listening, **socket, **workers, **facts, **tests, **observing, **hidden, **lone}, indent=None)
        return
    screen = Screen()
    for place in (served.url, served.socket):
        if place is not None:
            screen.line("listening on ", (str(place), "bold"))
    if served.workers > 1:
        screen.line(f"workers:  {served.workers}")
    screen.line(f"packages: {', '.join(engine.packages)}")
    screen.line(f"revision: {engine.revision}")
    screen.line(f"rules:    {rules:,}")
    if served.tests is not None:
        screen.line(f"tests:    {served.tests:,} passed")
    if engine.observing:
        screen.line(
            (f"OBSERVING until {engine.observing.to_dict()['until']}: nothing of it is enforced", "bold yellow")
        )
    if warnings:
        screen.line((f"{pluralize(warnings, 'warning')}: `policyengine check` shows them", "yellow"))
    if served.lone:
        screen.line((MEMORY_STATE_WARNING, "yellow"))
        screen.line("  hint: share a store: `--store redis://HOST:6379`, or `--store sqlite:///FILE` on one machine")
    if served.hidden:
        screen.line((served.hidden.message, "yellow"))
        for line in served.hidden.lines():
            screen.line(f"  {line}")
        screen.line(f"  hint: {ABSENCE_HINT}")
    if curl is not None:
        screen.line(f"try:      {curl}")
    screen.stream.flush()


def _curl_command(url: str, paths: Sequence[Path], token_file: Path | None, tokens: Sequence[str] | None) -> str:
    """A request to try: the one beside the policies, if there is one."""
    beside = next((path / "request.json" for path in paths if (path / "request.json").is_file()), None)
    asked = f"'{SAMPLE_QUESTION}'" if beside is None else f"@{shlex.quote(beside.as_posix())}"
    token = "" if token_file is None else f' -H "authorization: Bearer {_token_expression(token_file, tokens or ())}"'
    return f"curl -s {url}/decide -H 'content-type: application/json'{token} -d {asked}"


def _token_expression(token_file: Path, tokens: Sequence[str]) -> str:
    """Where a shell finds a token: a line with a name before it, or with a digest in its place, is none."""
    bare = bool(tokens) and not re.match(r"(\S+:\s)|(sha256:)", tokens[0])
    return f"$(head -n 1 {shlex.quote(str(token_file))})" if bare else "$TOKEN"


def count_rules(engine: Engine) -> int:
    """How many ways to open a door, to keep one shut and to limit what passes there are."""
    kernel = engine.kernel
    agents = [len(block.grants) for block in kernel.agents]
    users = [len(block.grants) for block in kernel.users]
    anyones = [len(block.grants) for block in kernel.anyones]
    return sum(agents + users + anyones + [len(guard.effects) for guard in kernel.guards]) + len(kernel.limits)
