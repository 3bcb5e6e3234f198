"""What `policyengine serve` can be told: where to listen, who may ask, and what to write down."""

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


Host: TypeAlias = Annotated[str, typer.Option("--host", help="Where to listen.")]
Port: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--port",
        "-p",
        min=0,
        max=65535,
        help="0 takes a free one. [default: 8080, none with --socket]",
        show_default=False,
    ),
]
EnvoyPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--envoy-grpc", metavar="PORT", min=1, max=65535, help="Answer Envoy by gRPC on that port.", show_default=False
    ),
]
SocketPath: TypeAlias = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="Answer sidecars at a Unix socket.", show_default=False),
]
SocketMode: TypeAlias = Annotated[
    str, typer.Option("--socket-mode", metavar="OCTAL", help="Who may connect: the mode of its file.")
]
PublicUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        metavar="URL",
        help="Where gateways find it: what the metadata of AuthZEN say.",
        show_default=False,
    ),
]
AllowedHost: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="A name, beside localhost, to which it answers without a token; `*.NAME`: all below.",
        show_default=False,
    ),
]
Workers: TypeAlias = Annotated[int, typer.Option("--workers", metavar="N", help="How many processes answer.")]
TokensFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Who asks must show a token of it.", show_default=False),
]
WatchFiles: TypeAlias = Annotated[
    bool, typer.Option("--watch/--no-watch", help="Read policies anew whenever a file changes.")
]
ReloadAllow: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--reload-allow",
        metavar="WORD",
        help="What a reload may take away or open, as in `removed-guards`; nothing else.",
        show_default=False,
    ),
]
ReloadGateOption: TypeAlias = Annotated[
    ReloadGateMode, typer.Option("--reload-gate", help="`diff`: refuse a reload that is not proved to widen nothing.")
]
ReloadCompare: TypeAlias = Annotated[
    float,
    typer.Option(
        "--reload-compare",
        metavar="SECONDS",
        min=0,
        max=3600,
        help="How long a reload is compared with what was before.",
    ),
]
TestFirst: TypeAlias = Annotated[
    bool, typer.Option("--test/--no-test", help="Start only if the policies pass their own tests.")
]
MetricsPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--metrics-port", metavar="PORT", min=1, max=65535, help="Answer `/metrics` there, without a token.",
        show_default=False,
    ),
]  # fmt: skip
DrainSeconds: TypeAlias = Annotated[
    float, typer.Option("--drain-seconds", metavar="N", min=0, max=3600, help="How long a stop may take.")
]
DrainDelay: TypeAlias = Annotated[
    float,
    typer.Option(
        "--drain-delay", metavar="N", min=0, max=3600, help="How many seconds at least a stop still lets others in."
    ),
]
MaxConnections: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-connections",
        metavar="N",
        min=1,
        help="How many connections a worker holds. [default: as files allow, 4096 at most]",
        show_default=False,
    ),
]
MaxConnectionsPerAddress: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-connections-per-address",
        metavar="N",
        min=1,
        help="How many of them an address may have that sent no request yet. [default: a quarter]",
        show_default=False,
    ),
]
HeadSeconds: TypeAlias = Annotated[
    float, typer.Option("--head-seconds", metavar="N", min=0.1, max=3600, help="How long a head may take to arrive.")
]
RequestSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--request-seconds", metavar="N", min=0.1, max=3600, help="How long a body may take, and reading an answer."
    ),
]
IdleSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--idle-seconds", metavar="N", min=0.1, max=3600, help="How long a connection may wait for a request."
    ),
]
LogFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--log", metavar="FILE", help="Write each decision to it, on a line.", show_default=False),
]
OnLogFailure: TypeAlias = Annotated[
    LogFailureMode,
    typer.Option("--on-log-failure", help="What becomes of a decision that cannot be written to the log."),
]
RedactFacts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--redact", metavar="FACT", help="A fact that the log must not hold.", show_default=False),
]
LogRotate: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--log-rotate", metavar="SIZE|AGE", help="Begin another file: `100MB`, `1d`; may be both.", show_default=False
    ),
]
LogKeep: TypeAlias = Annotated[
    int | None,
    typer.Option("--log-keep", metavar="N", min=0, help="How many old files are kept.", show_default="all"),
]
LogCompress: TypeAlias = Annotated[bool, typer.Option("--log-compress/--no-log-compress", help="Compress old files.")]
LogSync: TypeAlias = Annotated[LogSyncMode, typer.Option("--log-sync", help="When decisions are forced to the disk.")]
ServerLog: TypeAlias = Annotated[
    ServerLogFormat, typer.Option("--log-format", help="How the server tells on stderr what happens to it.")
]

# ── Observing ─────────────────────────────────────────────────────────────────────────────────

ObserveFlag: TypeAlias = Annotated[
    bool | None,
    typer.Option("--observe/--no-observe", help="Report what would be, and let it through.", show_default=False),
]
ObserveUntil: TypeAlias = Annotated[
    str | None,
    typer.Option("--observe-until", metavar="TIME", help="When that ends: a time, or `7d`.", show_default=False),
]
ObservePackages: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--observe-package", metavar="NAME", help="Only what its rules would stop.", show_default=False),
]
ObserveEndpoints: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--observe-endpoint", metavar="PLACE", help="Only there, as in `GET /v1/**`.", show_default=False),
]
