"""`policyengine serve`: the decision API."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyengine.cli import INTERRUPTED
from policyengine.cli.absence_warnings import HINT, OVER_HTTP, HiddenAbsences
from policyengine.cli.commands.check import several
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import entity_sources, following_of, held_to_tests, load_engine
from policyengine.cli.options.common import (
    EntitySources,
    IdentityFile,
    PoliciesOrBundle,
    StoreUrl,
    TextOrJson,
    TrustedKeys,
)
from policyengine.cli.options.log import Recorded, log_of, recorded_to
from policyengine.cli.options.observe import Asked, observe
from policyengine.cli.options.reload_rules import reload_rules, settings_file
from policyengine.cli.options.serve import (
    AllowedHost,
    DrainDelay,
    DrainSeconds,
    EnvoyPort,
    Forced,
    Gated,
    HeadSeconds,
    Host,
    IdleSeconds,
    LogCompress,
    LogFile,
    LogKeep,
    LogRotate,
    LogSync,
    MaxConnections,
    MaxConnectionsPerAddress,
    MetricsPort,
    Observed,
    ObservedEndpoint,
    ObservedPackage,
    ObservedUntil,
    OnLogFailure,
    Port,
    PublicUrl,
    Redacted,
    ReloadAllow,
    ReloadCompare,
    ReloadGateOption,
    RequestSeconds,
    ServerLog,
    SocketMode,
    SocketPath,
    TestFirst,
    TokensFile,
    Told,
    WatchFiles,
    WhenUnrecorded,
    Workers,
)
from policyengine.cli.output.terminal import Format, Screen, print_json
from policyengine.cli.settings.file import configuration_of
from policyengine.http.completeness import Adapter

if TYPE_CHECKING:
    from policyengine.engine import Engine


_LOG = logging.getLogger("policyengine")
LONE = (
    "state is kept in memory: what was counted, spent or revoked ends with this process, and another server or pod "
    "counts for itself"
)
ASK = '{"request": {"method": "GET", "path": "/"}}'


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
    on_log_failure: OnLogFailure = WhenUnrecorded.DENY,
    redact: Redacted = None,
    observing: Observed = None,
    observe_until: ObservedUntil = None,
    observe_package: ObservedPackage = None,
    observe_endpoint: ObservedEndpoint = None,
    log_rotate: LogRotate = None,
    log_keep: LogKeep = None,
    log_compress: LogCompress = False,
    log_sync: LogSync = Forced.NEVER,
    log_format: ServerLog = Told.TEXT,
    store: StoreUrl = "memory:",
    entities: EntitySources = None,
    identity: IdentityFile = None,
    trust: TrustedKeys = None,
    watch: WatchFiles = False,
    test: TestFirst = False,
    reload_allow: ReloadAllow = None,
    reload_gate: ReloadGateOption = Gated.NONE,
    reload_compare: ReloadCompare = 30,
    metrics_port: MetricsPort = None,
    drain_seconds: DrainSeconds = 10,
    drain_delay: DrainDelay = 0,
    max_connections: MaxConnections = None,
    max_connections_per_address: MaxConnectionsPerAddress = None,
    head_seconds: HeadSeconds = 10,
    request_seconds: RequestSeconds = 30,
    idle_seconds: IdleSeconds = 75,
    format: TextOrJson = Format.TEXT,
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
    from policyengine.reload import Origin, Reloading
    from policyengine.server import ServeError, TokenError
    from policyengine.server import serve as answer
    from policyengine.server.connections.limits import ConnectionLimits
    from policyengine.server.listeners import is_beyond, resolved
    from policyengine.server.process_exit import bound_exit
    from policyengine.server.run import A_MOMENT
    from policyengine.server.telemetry.server_log import LogFormat, journal

    recorded = Recorded(log, on_log_failure, redact, log_rotate, log_keep, log_compress, log_sync)
    configuration = configuration_of(paths)
    rules = reload_rules(paths, reload_allow or (), reload_gate, reload_compare)
    try:
        with recorded_to(log):
            sources = entity_sources(paths, entities)
            stamp = sources.stamp() if sources is not None else None
            engine = load_engine(paths, sources, trust, log_of(recorded), store=store, identity=identity)
        tests = held_to_tests(paths, engine) if test else None
        asked = Asked(observing, observe_until, observe_package or (), observe_endpoint or ())
        observe(engine, asked, configuration.observe)
        tokens = _tokens(token_file)

        def greet(url: str | None) -> None:
            curl = _curl(url, paths, token_file, tokens) if url else None
            adapters = [*(OVER_HTTP if url else ()), *([] if envoy_grpc is None else [Adapter.ENVOY_GRPC])]
            hidden = HiddenAbsences.of(engine.kernel, configuration.gateway, adapters, proves=identity is not None)
            lone = engine.forgets and url is not None and is_beyond(resolved(host, 0))
            _greet(engine, Served(url, socket, workers, tests, hidden, lone), curl, format)
            if lone:
                _LOG.warning("%s", LONE, extra={"event": "state_in_memory"})
            if hidden:
                _LOG.info(hidden.message, extra={"event": "hidden_absences", **hidden.to_dict()})

        limits = ConnectionLimits(
            max_connections, max_connections_per_address, head_seconds, request_seconds, idle_seconds
        )
        listens = 8080 if port is None and socket is None else port
        keys = None if trust is None else tuple(trust)
        held = Reloading(engine, Origin(tuple(paths), sources, keys, settings=settings_file(paths)), rules)
        with journal(LogFormat(log_format), lambda: held.current.revision):
            try:
                answer(
                    held, host, listens, tokens,
                    path=socket, mode=_mode(socket_mode), workers=workers, gateway=configuration.gateway,
                    envoy=envoy_grpc, metrics=metrics_port, drain=drain_seconds, drain_delay=drain_delay, limits=limits,
                    watching=watch, public_url=_public(public_url),
                    authzen_consume=configuration.authzen_consume, allowed_hosts=allowed_host or (), listening=greet,
                    following=following_of(held, sources, stamp, files=not watch, rules=rules),
                )  # fmt: skip
            except KeyboardInterrupt:
                bound_exit(A_MOMENT, INTERRUPTED)
                raise
            bound_exit(A_MOMENT, 0)
    except (ServeError, TokenError) as error:
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


def _public(url: str | None) -> str | None:
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


class Served(NamedTuple):
    """Where it is answered, and by how many; how many requests the policies' tests held, if they were run; what hangs
    on an absence that gateways do not show; whether other machines reach it and its state is in memory."""

    url: str | None
    socket: Path | None
    workers: int
    tests: int | None
    hidden: HiddenAbsences
    lone: bool


def _greet(engine: Engine, served: Served, curl: str | None, format: Format) -> None:
    """Say what is served, at once: whoever started this may wait for it."""
    rules, warnings = rules_of(engine), len(engine.warnings)
    if format is Format.JSON:
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
        screen.line((f"{several(warnings, 'warning')}: `policyengine check` shows them", "yellow"))
    if served.lone:
        screen.line((LONE, "yellow"))
        screen.line("  hint: share a store: `--store redis://HOST:6379`, or `--store sqlite:///FILE` on one machine")
    if served.hidden:
        screen.line((served.hidden.message, "yellow"))
        for line in served.hidden.lines():
            screen.line(f"  {line}")
        screen.line(f"  hint: {HINT}")
    if curl is not None:
        screen.line(f"try:      {curl}")
    screen.stream.flush()


def _curl(url: str, paths: Sequence[Path], token_file: Path | None, tokens: Sequence[str] | None) -> str:
    """A request to try: the one beside the policies, if there is one."""
    beside = next((path / "request.json" for path in paths if (path / "request.json").is_file()), None)
    asked = f"'{ASK}'" if beside is None else f"@{shlex.quote(beside.as_posix())}"
    token = "" if token_file is None else f' -H "authorization: Bearer {_shown(token_file, tokens or ())}"'
    return f"curl -s {url}/decide -H 'content-type: application/json'{token} -d {asked}"


def _shown(token_file: Path, tokens: Sequence[str]) -> str:
    """Where a shell finds a token: a line with a name before it, or with a digest in its place, is none."""
    bare = bool(tokens) and not re.match(r"(\S+:\s)|(sha256:)", tokens[0])
    return f"$(head -n 1 {shlex.quote(str(token_file))})" if bare else "$TOKEN"


def rules_of(engine: Engine) -> int:
    """How many ways to open a door, to keep one shut and to limit what passes there are."""
    kernel = engine.kernel
    agents = [len(block.grants) for block in kernel.agents]
    users = [len(block.grants) for block in kernel.users]
    anyones = [len(block.grants) for block in kernel.anyones]
    return sum(agents + users + anyones + [len(guard.effects) for guard in kernel.guards]) + len(kernel.limits)
