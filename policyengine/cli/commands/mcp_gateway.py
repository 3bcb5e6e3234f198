"""`policyengine mcp-gateway`: enforce policies in front of an MCP server, as a proxy."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from policyengine.approvals.links import approval_url
from policyengine.cli.errors import CommandError
from policyengine.cli.gateway_threads import run_gateway_threads
from policyengine.cli.name_checks import check_names
from policyengine.cli.options.common import (
    BehaviorPath,
    EntitySources,
    HaltFilePath,
    IdentityFile,
    PoliciesOrBundle,
    StoreUrl,
    TrustedKeys,
)
from policyengine.cli.options.log import LogOptions
from policyengine.cli.options.mcp import (
    PassedVariables,
    PinFileOption,
    ServerName,
    UnreviewedOption,
    UpstreamServer,
    UpstreamToken,
)
from policyengine.cli.options.mcp_gateway import (
    AnswerSeconds,
    ApprovalPages,
    ApprovalSeconds,
    CallerFacts,
    CallerHeaders,
    ElicitOption,
    GatewayHost,
    GatewayUrl,
    HttpPort,
    InitialScopes,
    MaxSessions,
    UpstreamProtocolOption,
)
from policyengine.cli.options.observe import ObserveOptions
from policyengine.cli.options.serve import (
    AllowedHost,
    LogCheckpointUrls,
    LogCompress,
    LogFailureMode,
    LogFile,
    LogKeep,
    LogKey,
    LogRotate,
    LogSeal,
    LogSinks,
    LogSpool,
    LogSync,
    LogSyncMode,
    LogWitnesses,
    MetricsPort,
    ObserveEndpoints,
    ObserveFlag,
    ObservePackages,
    ObserveUntil,
    OnLogFailure,
    RedactFacts,
    ReloadAllow,
    ReloadCompare,
    ReloadGateMode,
    ReloadGateOption,
    TestFirst,
    WatchFiles,
)
from policyengine.cli.output.engine_summary import shown_store
from policyengine.cli.output.gateway_summary import GatewaySummaryPrinter
from policyengine.cli.pin_setup import check_pins, note_pins, open_pins
from policyengine.cli.public_url import check_public_url
from policyengine.cli.served_engine import (
    EngineSetup,
    ReloadOptions,
    load_for_serving,
    log_unmatched_people,
    prepare_serving,
)
from policyengine.cli.upstream_setup import (
    URL_PREFIXES,
    check_upstream,
    read_token_header,
    require_sdk,
    select_environment,
)
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.unreviewed_tools import UnreviewedTools
from policyengine.integrations.mcp.upstream_protocols import UpstreamProtocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from policyengine.engine import Engine
    from policyengine.integrations.mcp.gateway import McpGateway
    from policyengine.integrations.mcp.pinned_tools import ToolPins
    from policyengine.kernel import Kernel
    from policyengine.reload import ReloadableEngine
    from policyengine.server.telemetry.shared_counters import ServerCounters

CALLER_MEMBERS = ("agent", "issuer", "user", "scopes")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
STOP_SECONDS = 2.0  # maximum seconds for the requests in progress when the gateway stops
PAUSE_SECONDS = 0.1  # seconds without a message after which a stopping gateway closes a connection and ends


def mcp_gateway(
    paths: PoliciesOrBundle,
    upstream: UpstreamServer,
    server: ServerName,
    identity: CallerFacts = None,
    header: CallerHeaders = None,
    host: GatewayHost = "127.0.0.1",
    port: HttpPort = None,
    metrics_port: MetricsPort = None,
    public_url: GatewayUrl = None,
    initial_scope: InitialScopes = None,
    allowed_host: AllowedHost = None,
    timeout: AnswerSeconds = 60.0,
    wait_for_approval: ApprovalSeconds = 0.0,
    elicit: ElicitOption = ElicitMode.OFF,
    approval_pages: ApprovalPages = None,
    env: PassedVariables = None,
    token_file: UpstreamToken = None,
    upstream_protocol: UpstreamProtocolOption = UpstreamProtocol.AUTO,
    max_sessions: MaxSessions = 100,
    pins: PinFileOption = None,
    unreviewed: UnreviewedOption = UnreviewedTools.DENY,
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
    log_seal: LogSeal = None,
    log_key: LogKey = None,
    log_checkpoint_url: LogCheckpointUrls = None,
    log_witness: LogWitnesses = None,
    log_sink: LogSinks = None,
    log_spool: LogSpool = None,
    store: StoreUrl = "memory:",
    behavior: BehaviorPath = None,
    halt_file: HaltFilePath = None,
    entities: EntitySources = None,
    identity_file: IdentityFile = None,
    trust: TrustedKeys = None,
    watch: WatchFiles = False,
    test: TestFirst = False,
    reload_allow: ReloadAllow = None,
    reload_gate: ReloadGateOption = ReloadGateMode.NONE,
    reload_compare: ReloadCompare = 30,
) -> int:
    """Enforce policies in front of an MCP server.

    The gateway is a proxy over stdio, or over HTTP with --port. It decides each call with its arguments, lists only
    what the caller may use, and refuses everything else. With a pin file, it hides and denies tools whose definition
    was not reviewed; see `mcp review`. The caller is identified by --as or --from-header or, with --identity, by the
    caller's token. Without --identity, the gateway listens only on this machine.

    SIGHUP reloads policies and entities, and so does each file change with `--watch`, as in `serve`: a reload with
    errors is refused, and the current policies stay in use.

    \b
    Exit codes:
      0  the client disconnected, or the gateway was stopped
      1  the policy has errors, or the gateway cannot start: for example, the command of --upstream does not exist
      2  wrong usage

    \b
    Example:
      policyengine mcp-gateway policies/ --upstream "python server.py" --server files --as agent=coder --as issuer=local
      policyengine mcp-gateway policies/ --upstream http://127.0.0.1:8000/mcp --server files --identity identity.toml \\
        --port 8081
    """
    words = parse_assignments(identity, "--as"), parse_assignments(header, "--from-header")
    front = GatewayOptions(
        upstream, server, *words, identity_file is not None, host, port, timeout, allowed_host or (),
        check_public_url(public_url), wait_for_approval, elicit, approval_pages, metrics_port, initial_scope or (),
        open_pins(paths, pins, unreviewed), upstream_protocol, max_sessions,
    )  # fmt: skip
    check_options(front)
    if port is None and any(sink.startswith("stdout:") for sink in log_sink or ()):
        raise CommandError("usage", "over stdio, the output belongs to the protocol", "use another sink", code=2)
    token, environment = read_token_header(token_file), select_environment(env or ())
    setup = EngineSetup(
        paths, entities, identity_file, trust, store, behavior, halt_file, test,
        LogOptions(
            log, on_log_failure, redact, log_rotate, log_keep, log_compress, log_sync, log_seal, log_key,
            log_checkpoint_url, log_witness, log_sink, log_spool,
        ),
        ObserveOptions(observing, observe_until, observe_package or (), observe_endpoint or ()),
        ReloadOptions(reload_allow or (), reload_gate, reload_compare, watch),
    )  # fmt: skip
    require_sdk()
    check_pins(front.pins)
    run_setup(setup, front, token, environment)
    return 0


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """The server behind the gateway, the gateway's listener, and the caller: as stated in `said`, from `headers`, or
    with `verified` credentials.
    """

    upstream: str
    server: str
    said: Mapping[str, str]
    headers: Mapping[str, str]
    verified: bool
    host: str
    port: int | None
    timeout: float
    allowed_hosts: Sequence[str] = ()
    public_url: str | None = None
    wait_for_approval: float = 0.0
    elicit: ElicitMode = ElicitMode.OFF
    approval_pages: str | None = None
    metrics_port: int | None = None
    initial_scopes: Sequence[str] = ()
    pins: ToolPins | None = None
    protocol: UpstreamProtocol = UpstreamProtocol.AUTO
    max_sessions: int = 100


def check_options(front: GatewayOptions) -> None:
    """Check that the options are consistent, before a file is read. Raises CommandError."""
    if front.host not in LOOPBACK and not front.verified:
        hint = "verify callers with `--identity FILE`, or listen on 127.0.0.1, behind a proxy that verifies them"
        message = f"`{front.host}` can be reached from other machines, and no token is verified"
        raise CommandError("usage", message, hint, code=2)
    if front.verified and (front.said or front.headers):
        hint = "with `--identity` the credentials identify the caller: omit `--as` and `--from-header`"
        raise CommandError("usage", "`--identity` cannot be combined with `--as` or `--from-header`", hint, code=2)
    if not front.said and not front.headers and not front.verified:
        hint = "name the caller: `--as agent=NAME --as issuer=NAME`"
        raise CommandError("usage", "no caller is named", hint, code=2)
    if front.metrics_port is not None and front.port is None:
        raise CommandError("usage", "over stdio the gateway serves no metrics", "serve HTTP with `--port`", code=2)
    if front.public_url is not None and front.port is None:
        raise CommandError("usage", "the gateway has no URL over stdio", "serve HTTP with `--port`", code=2)
    if (front.headers or front.verified) and front.port is None:
        option = "--identity" if front.verified else "--from-header"
        hint = "serve HTTP with `--port`, or name the caller with `--as`"
        raise CommandError("usage", f"`{option}` reads headers, and there are none over stdio", hint, code=2)
    if front.initial_scopes and not front.verified:
        raise CommandError("usage", "`--initial-scope` needs `--identity`", "verify tokens with `--identity`", code=2)
    if front.approval_pages is not None and not front.approval_pages.startswith(URL_PREFIXES):
        raise CommandError("usage", f"`{front.approval_pages}` is not a URL", "write `https://…`", code=2)
    check_upstream(front.upstream)


def is_same_base(one: str | None, other: str | None) -> bool:
    """Return whether two base URLs give equal links."""
    return approval_url(one, "") == approval_url(other, "")


def parse_assignments(given: Sequence[str] | None, option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for assignment in given or ():
        word, equals, value = assignment.partition("=")
        if word not in CALLER_MEMBERS or not equals or not value or word in found:
            hint = f"write {option} WORD=VALUE, once for each of {', '.join(CALLER_MEMBERS)}"
            raise CommandError("usage", f"`{assignment}` is not a fact about the caller", hint, code=2)
        found[word] = value
    return found


def run_setup(
    setup: EngineSetup, front: GatewayOptions, token: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    """Load the policies and run the gateway. Raises CommandError."""
    loaded = load_for_serving(setup)
    check_names(front.server, front.said, loaded.engine.kernel)
    if front.verified:
        check_resource(front, loaded.engine)
    else:
        warn_about_caller(front, loaded.engine)
    warn_about_confirms(front, setup.store, loaded.engine.kernel)
    front = with_pages(front, loaded.settings.console.public_url)
    served = prepare_serving(setup, loaded)
    printer = GatewaySummaryPrinter(
        loaded.engine, front.server, front.upstream, served.tests, shown_store(setup.store), setup.log.writes_stdout
    )
    with run_gateway_threads(served.held, setup.reload.watch, served.following):
        log_unmatched_people(loaded)
        run_gateway(front, served.held, token, environment, printer)


def warn_about_caller(front: GatewayOptions, engine: Engine) -> None:
    """Warn if the policies allow the caller nothing without facts that neither `--as` nor a header states."""
    from policyengine.cli.caller_warnings import missing_facts_warning
    from policyengine.cli.output.terminal import Screen

    warning = None if front.headers else missing_facts_warning(engine, front.server, front.said)
    if warning is not None:
        Screen(sys.stderr).warn(warning)


def warn_about_confirms(front: GatewayOptions, store: str, kernel: Kernel) -> None:
    """Warn if a rule requires an approval that cannot be given."""
    from policyengine.cli.confirm_warnings import unanswered_confirms_warning
    from policyengine.cli.output.terminal import Screen

    asks_users = front.elicit is ElicitMode.FORM
    warning = unanswered_confirms_warning(kernel, front.server, asks_users=asks_users) if store == "memory:" else None
    if warning is not None:
        Screen(sys.stderr).warn(warning)


def check_resource(front: GatewayOptions, engine: Engine) -> None:
    """Check that clients can find out how to get a token, and warn about settings that prevent this. Raises
    CommandError."""
    from policyengine.cli.output.terminal import Screen
    from policyengine.cli.resource_checks import (
        ResourceOptions,
        check_initial_scopes,
        check_wildcards,
        resource_warnings,
    )

    options = ResourceOptions(front.server, front.host, front.public_url, front.allowed_hosts, front.initial_scopes)
    check_wildcards(options)
    check_initial_scopes(options, engine.kernel)
    for warning in resource_warnings(options, engine.kernel):
        Screen(sys.stderr).warn(warning)


def with_pages(front: GatewayOptions, console: str | None) -> GatewayOptions:
    """Return the options with the URL of the console, which the options or the settings name. Raises CommandError, also
    if the two name different consoles: links in answers are made from the settings."""
    pages = console or front.approval_pages
    if None not in (console, front.approval_pages) and not is_same_base(console, front.approval_pages):
        message = (
            f"`--approval-pages` names `{front.approval_pages}`, and `public_url` in `[console]` names `{console}`"
        )
        raise CommandError("usage", message, "keep one of them: `public_url` in `[console]` is enough", code=2)
    if front.elicit is ElicitMode.URL and pages is None:
        hint = "name the console with `--approval-pages URL`, or with `public_url` in `[console]`"
        raise CommandError("usage", "`--elicit url` needs the URL of the pages", hint, code=2)
    return replace(front, approval_pages=pages)


def run_gateway(
    front: GatewayOptions,
    held: ReloadableEngine,
    token: Mapping[str, str],
    environment: Mapping[str, str],
    printer: GatewaySummaryPrinter,
) -> None:
    """Run until the client on stdio disconnects, or until a signal stops the gateway."""
    import anyio

    from policyengine.gc_freeze import freeze_at_exit, freeze_startup
    from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
    from policyengine.integrations.mcp.gateway import McpGateway, identify_by_headers, parse_caller_facts
    from policyengine.integrations.mcp.sdk import always, by_credentials
    from policyengine.integrations.mcp.upstream.server import McpUpstream
    from policyengine.server.telemetry.metered_live_engine import MeteredLiveEngine
    from policyengine.server.telemetry.process_metrics import rule_names
    from policyengine.server.telemetry.shared_counters import ServerCounters

    behind = McpUpstream(front.upstream, token, environment, front.timeout, front.protocol, front.max_sessions)
    by_header = identify_by_headers(front.headers, lambda found: parse_caller_facts({**front.said, **found}))
    said = by_header if front.headers else always(parse_caller_facts(front.said))
    who = by_credentials(front.public_url) if front.verified else said
    tally = ServerCounters(rules=rule_names(held.current))
    engine = MeteredLiveEngine(held, tally, "mcp")
    confirm_options = ConfirmOptions(
        front.wait_for_approval, front.elicit, front.approval_pages, outlive_process=held.current.state.is_remote
    )
    confirms = ConfirmHandler(engine, confirm_options)
    gateway = McpGateway(engine, front.server, who, behind, confirms, pins=front.pins)
    note_pins(front.server, front.pins, held.current.kernel)
    freeze_at_exit()
    if front.port is None:
        freeze_startup()
        anyio.run(gateway.over_stdio, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    else:
        serve_http(gateway, front, held, tally, printer)


def serve_http(
    gateway: McpGateway,
    front: GatewayOptions,
    held: ReloadableEngine,
    tally: ServerCounters,
    printer: GatewaySummaryPrinter,
) -> None:
    from policyengine.http.host_check import AllowedHostError
    from policyengine.integrations.mcp.gateway import http_app
    from policyengine.integrations.mcp.resource_server import ResourceServer
    from policyengine.server import ServeError
    from policyengine.server.app import build_app
    from policyengine.server.connections.bounded_server import uvicorn_config
    from policyengine.server.connections.connection_table import ConnectionTable
    from policyengine.server.connections.limits import ConnectionLimits
    from policyengine.server.listeners import bind_listener, listener_url, resolve_address
    from policyengine.server.shutdown import Drain
    from policyengine.server.status_server import StatusServer, bind_metrics_port
    from policyengine.server.workers.board import WorkerBoard

    drain = Drain(STOP_SECONDS, quiet_seconds=PAUSE_SECONDS, idle_seconds=PAUSE_SECONDS)
    try:
        application = http_app(gateway, front.allowed_hosts, front.public_url)
        drain.follow(application.endpoint.end_listening, application.endpoint.end_requests)
        app: ASGIApp = application
        if front.verified:
            app = ResourceServer(
                app, gateway.decides, server=front.server, public_url=front.public_url,
                allowed_hosts=front.allowed_hosts, initial_scopes=front.initial_scopes,
            )  # fmt: skip
        api = build_app(held, tally=tally, drain=drain, allowed_hosts=front.allowed_hosts).api
    except AllowedHostError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None

    limits, board = ConnectionLimits(), WorkerBoard()
    with ExitStack() as listeners:
        try:
            table = ConnectionTable(limits, limits.bounds(), board, tally)
            address = resolve_address(front.host, front.port or 0)
            listener = listeners.enter_context(bind_listener(address, front.host))
            metrics = [] if front.metrics_port is None else [bind_metrics_port(front.host, front.metrics_port)]
        except ServeError as error:
            raise CommandError("serve", error.message, error.hint) from None
        for each in metrics:
            listeners.enter_context(each)
        server = StatusServer(uvicorn_config(app, lifespan="on"), table, board, api, metrics)
        printer(listener_url(listener), [listener_url(each) for each in metrics])
        server.run(sockets=[listener])
    if server.caught is not None:
        signal.raise_signal(server.caught)
