"""The options of `policyengine serve`: where to listen, who may connect, and what to log."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


class LogFailureMode(StrEnum):
    DENY = "deny"
    CONTINUE = "continue"


class LogSyncMode(StrEnum):
    NEVER = "never"
    SECOND = "second"
    ALWAYS = "always"


class ReloadGateMode(StrEnum):
    NONE = "none"
    DIFF = "diff"


class ServerLogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


Host: TypeAlias = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--port",
        "-p",
        min=0,
        max=65535,
        help="Port to listen on; 0 picks a free port. [default: 8080, none with --socket]",
        show_default=False,
    ),
]
EnvoyPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--envoy-grpc",
        metavar="PORT",
        min=1,
        max=65535,
        help="Serve Envoy over gRPC on this port.",
        show_default=False,
    ),
]
SocketPath: TypeAlias = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="Serve sidecars on this Unix socket.", show_default=False),
]
SocketMode: TypeAlias = Annotated[
    str, typer.Option("--socket-mode", metavar="OCTAL", help="Mode of the socket file, which controls who can connect.")
]
PublicUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        metavar="URL",
        help="Public URL of this server, for its AuthZEN metadata.",
        show_default=False,
    ),
]
AllowedHost: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="Also accept this name in `Host` without a token (`*.NAME`: all subdomains); may be repeated.",
        show_default=False,
    ),
]
Workers: TypeAlias = Annotated[int, typer.Option("--workers", metavar="N", help="Number of worker processes.")]
TokensFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Require a bearer token from this file.", show_default=False),
]
HaltOperators: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--halt-operator",
        metavar="NAME",
        help="Let the token with this name in the token file set and lift halts (docs/halt.md).",
        show_default=False,
    ),
]
WatchFiles: TypeAlias = Annotated[
    bool, typer.Option("--watch/--no-watch", help="Reload policies whenever a file changes.")
]
ReloadAllow: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--reload-allow",
        metavar="WORD",
        help="A removal or widening change that a reload may make: a kind of change (`removed-guards`), or the "
        "revision of the new policies (`sha256:…`); may be repeated.",
        show_default=False,
    ),
]
ReloadGateOption: TypeAlias = Annotated[
    ReloadGateMode, typer.Option("--reload-gate", help="`diff`: refuse a reload unless it is proved to widen nothing.")
]
ReloadCompare: TypeAlias = Annotated[
    float,
    typer.Option(
        "--reload-compare",
        metavar="SECONDS",
        min=0,
        max=3600,
        help="Time limit for comparing new policies with the current ones.",
    ),
]
TestFirst: TypeAlias = Annotated[
    bool, typer.Option("--test/--no-test", help="Start only if the policies pass their own tests.")
]
MetricsPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--metrics-port", metavar="PORT", min=1, max=65535, help="Serve `/metrics` on this port, without a token.",
        show_default=False,
    ),
]  # fmt: skip
ConsolePort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--console",
        metavar="PORT",
        min=0,
        max=65535,
        help="Serve the console for people on this port (docs/console.md); 0 picks a free port.",
        show_default=False,
    ),
]
DrainSeconds: TypeAlias = Annotated[
    float,
    typer.Option("--drain-seconds", metavar="N", min=0, max=3600, help="Maximum number of seconds for a shutdown."),
]
DrainDelay: TypeAlias = Annotated[
    float,
    typer.Option(
        "--drain-delay",
        metavar="N",
        min=0,
        max=3600,
        help="Minimum number of seconds for which a stopping server still accepts connections.",
    ),
]
MaxConnections: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-connections",
        metavar="N",
        min=1,
        help="Maximum connections per worker. [default: from the open file limit, at most 4096]",
        show_default=False,
    ),
]
MaxConnectionsPerAddress: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-connections-per-address",
        metavar="N",
        min=1,
        help="Maximum connections per client address that have not sent a complete request yet. "
        "[default: a quarter of --max-connections]",
        show_default=False,
    ),
]
HeadSeconds: TypeAlias = Annotated[
    float,
    typer.Option("--head-seconds", metavar="N", min=0.1, max=3600, help="Seconds to wait for a complete request head."),
]
RequestSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--request-seconds",
        metavar="N",
        min=0.1,
        max=3600,
        help="Seconds to wait for a request body, and for a client to read a response.",
    ),
]
IdleSeconds: TypeAlias = Annotated[
    float,
    typer.Option("--idle-seconds", metavar="N", min=0.1, max=3600, help="Seconds that a connection may stay idle."),
]
LogFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--log", metavar="FILE", help="Write each decision to this file, one per line.", show_default=False),
]
OnLogFailure: TypeAlias = Annotated[
    LogFailureMode,
    typer.Option("--on-log-failure", help="What to do when a decision cannot be logged."),
]
RedactFacts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--redact", metavar="FACT", help="A fact to leave out of the log; may be repeated.", show_default=False
    ),
]
LogRotate: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--log-rotate", metavar="SIZE|AGE", help="When to start a new file: `100MB`, `1d`, or both.", show_default=False
    ),
]
LogKeep: TypeAlias = Annotated[
    int | None,
    typer.Option("--log-keep", metavar="N", min=0, help="Number of old files to keep.", show_default="all"),
]
LogCompress: TypeAlias = Annotated[bool, typer.Option("--log-compress/--no-log-compress", help="Compress old files.")]
LogSync: TypeAlias = Annotated[LogSyncMode, typer.Option("--log-sync", help="When to force decisions to disk.")]
LogSinks: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--log-sink",
        metavar="URL",
        help="Also send the log to another system (docs/audit-export.md); may be repeated.",
        show_default=False,
    ),
]
LogSpool: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--log-spool",
        metavar="FOLDER",
        help="Where sinks keep their state and, without `--log`, the records to send. [default: FILE.sinks]",
        show_default=False,
    ),
]
LogSeal: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--log-seal",
        metavar="FOLDER|off",
        help="Folder for the seal of the log, or `off`. [default: FILE.tlog]",
        show_default=False,
    ),
]
LogKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--log-key",
        metavar="FILE",
        help="Private key that seals the log; created if it is missing. [default: FILE.key]",
        show_default=False,
    ),
]
LogCheckpointUrls: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--log-checkpoint-url",
        metavar="URL",
        help="URL to which checkpoints of the log are sent by POST; may be repeated.",
        show_default=False,
    ),
]
LogWitnesses: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--log-witness",
        metavar="'URL KEY'",
        help="A witness that cosigns the checkpoints, and its public key; may be repeated.",
        show_default=False,
    ),
]
ServerLog: TypeAlias = Annotated[
    ServerLogFormat, typer.Option("--log-format", help="Format of the server's own log on stderr.")
]

# ── Observing ─────────────────────────────────────────────────────────────────────────────────

ObserveFlag: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--observe/--no-observe",
        help="Report requests that the policies would stop, and let them pass.",
        show_default=False,
    ),
]
ObserveUntil: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--observe-until",
        metavar="TIME",
        help="When observing ends: a time, or a duration such as `7d`.",
        show_default=False,
    ),
]
ObservePackages: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--observe-package",
        metavar="NAME",
        help="Observe only the rules of this package; may be repeated.",
        show_default=False,
    ),
]
ObserveEndpoints: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--observe-endpoint",
        metavar="PLACE",
        help="Observe only this endpoint, such as `GET /v1/**`; may be repeated.",
        show_default=False,
    ),
]
