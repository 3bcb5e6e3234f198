"""Options of `policyengine mcp-gateway` alone: its caller, its address, and what happens to calls that wait."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.upstream_protocols import UpstreamProtocol

CallerFacts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--as",
        metavar="WORD=VALUE",
        help="A fact about the caller: agent, issuer, user or scopes; may be repeated.",
        show_default=False,
    ),
]
CallerHeaders: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--from-header",
        metavar="WORD=HEADER",
        help="A fact about the caller, from a header that a trusted client on this machine sets; may be repeated.",
        show_default=False,
    ),
]
GatewayHost: TypeAlias = Annotated[
    str, typer.Option("--host", help="Address to listen on; an address that other machines can reach needs --identity.")
]
HttpPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--port", "-p", min=0, max=65535, help="Port for HTTP; without it, the proxy uses stdio.", show_default=False
    ),
]
GatewayUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        metavar="URL",
        help="Public URL of this gateway, without /mcp, if a proxy terminates TLS: proofs of callers must name it, and "
        "clients request tokens for it.",
        show_default=False,
    ),
]
InitialScopes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--initial-scope",
        metavar="SCOPE",
        help="With --identity, a scope that clients request first; they request other scopes when a call needs "
        "them. By default, all scopes of the policies.",
        show_default=False,
    ),
]
UpstreamProtocolOption: TypeAlias = Annotated[
    UpstreamProtocol,
    typer.Option(
        "--upstream-protocol",
        help="Versions of MCP to use with the server: the version of each client (auto), only 2026-07-28 (modern), or "
        "only earlier versions (legacy).",
    ),
]
MaxSessions: TypeAlias = Annotated[
    int,
    typer.Option(
        "--max-sessions",
        metavar="N",
        min=2,
        max=10_000,
        help="Maximum number of sessions of legacy clients, and of sessions with a legacy server for modern clients.",
    ),
]
AnswerSeconds: TypeAlias = Annotated[
    float, typer.Option("--timeout", min=0.1, max=3600, help="Seconds to wait for a response from the server.")
]
ApprovalSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--wait-for-approval",
        metavar="SECONDS",
        min=0,
        max=300,
        help="Seconds that a call waits for an approval; 0: the client repeats the call.",
    ),
]
ElicitOption: TypeAlias = Annotated[
    ElicitMode,
    typer.Option(
        "--elicit",
        help="How the client asks its user for approvals `by user`: on a page of the console, or in a form, whose "
        "answer is trusted.",
    ),
]
ApprovalPages: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--approval-pages",
        metavar="URL",
        help="Public URL of the console, for links to approvals, if `[console]` in the settings has no `public_url`.",
        show_default=False,
    ),
]
