"""`policyengine serve`: serve the decision API."""

from __future__ import annotations

from policyengine.cli.options.common import (
    BehaviorPath,
    EntitySources,
    HaltFilePath,
    IdentityFile,
    PoliciesOrBundle,
    StoreUrl,
    TextOrJson,
    TrustedKeys,
)
from policyengine.cli.options.log import LogOptions
from policyengine.cli.options.observe import ObserveOptions
from policyengine.cli.options.serve import (
    AllowedHost,
    ConsolePort,
    DrainDelay,
    DrainSeconds,
    EnvoyPort,
    HaltOperators,
    HeadSeconds,
    Host,
    IdleSeconds,
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
from policyengine.cli.output.terminal import OutputFormat
from policyengine.cli.run_server import ListenOptions, run_server
from policyengine.cli.served_engine import EngineSetup, ReloadOptions


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
    log_seal: LogSeal = None,
    log_key: LogKey = None,
    log_checkpoint_url: LogCheckpointUrls = None,
    log_witness: LogWitnesses = None,
    log_sink: LogSinks = None,
    log_spool: LogSpool = None,
    log_format: ServerLog = ServerLogFormat.TEXT,
    store: StoreUrl = "memory:",
    behavior: BehaviorPath = None,
    halt_file: HaltFilePath = None,
    halt_operator: HaltOperators = None,
    entities: EntitySources = None,
    identity: IdentityFile = None,
    trust: TrustedKeys = None,
    watch: WatchFiles = False,
    test: TestFirst = False,
    reload_allow: ReloadAllow = None,
    reload_gate: ReloadGateOption = ReloadGateMode.NONE,
    reload_compare: ReloadCompare = 30,
    metrics_port: MetricsPort = None,
    console: ConsolePort = None,
    drain_seconds: DrainSeconds = 10,
    drain_delay: DrainDelay = 0,
    max_connections: MaxConnections = None,
    max_connections_per_address: MaxConnectionsPerAddress = None,
    head_seconds: HeadSeconds = 10,
    request_seconds: RequestSeconds = 30,
    idle_seconds: IdleSeconds = 75,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Serve decisions over HTTP, a Unix socket, or both.

    The server runs until SIGTERM or SIGINT and then stops gracefully; a second signal stops it immediately. Facts in a
    request are claims, so only a trusted gateway may send them: listening on any address but loopback requires a token
    file, with one token per line. A socket requires no token: the mode of its file controls who can connect. Without a
    token file the server refuses requests whose Host is neither loopback nor an `--allowed-host`, and requests from web
    pages of other sites.

    SIGHUP reloads policies and entities, and so does each file change with `--watch`. New policies are checked, must
    pass their own tests, and replace the current ones in one step; otherwise the reload is refused and the current ones
    stay in use. A reload that removes a guard, a limit, a file or a package is refused, too, unless `--reload-allow`
    permits it. With `--test` the policies must also pass their tests at startup.

    \b
    Example:
      policyengine serve payments/ --port 8080
      curl -s http://127.0.0.1:8080/decide -H 'content-type: application/json' -d @request.json
      policyengine serve payments/ --socket /run/policyengine.sock
      policyengine serve payments/ --log decisions.jsonl
      policyengine serve payments/ --log decisions.jsonl --observe --observe-until 7d
      policyengine serve payments/ --log decisions.jsonl --console 8081
    """
    from policyengine.server.connections.limits import ConnectionLimits

    setup = EngineSetup(
        paths, entities, identity, trust, store, behavior, halt_file, test,
        LogOptions(
            log, on_log_failure, redact, log_rotate, log_keep, log_compress, log_sync, log_seal, log_key,
            log_checkpoint_url, log_witness, log_sink, log_spool,
        ),
        ObserveOptions(observing, observe_until, observe_package or (), observe_endpoint or ()),
        ReloadOptions(reload_allow or (), reload_gate, reload_compare, watch), public_url,
    )  # fmt: skip
    limits = ConnectionLimits(max_connections, max_connections_per_address, head_seconds, request_seconds, idle_seconds)
    listen = ListenOptions(
        host, port, socket, socket_mode, envoy_grpc, metrics_port, public_url, allowed_host or (), token_file,
        halt_operator or (), workers, drain_seconds, drain_delay, limits, log_format, console,
    )  # fmt: skip
    run_server(setup, listen, format)
    return 0
