"""What `policyengine mcp-gateway` can be told beside what `serve` can: what is behind it, and who asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

UpstreamServer: TypeAlias = Annotated[
    str,
    typer.Option("--upstream", metavar="URL|COMMAND", help="The server behind: its URL, or what starts it."),
]
ServerName: TypeAlias = Annotated[
    str, typer.Option("--server", metavar="NAME", help="How policies call it: `TOOL NAME/tool`.")
]
CallerFacts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--as", metavar="WORD=VALUE", help="Who asks: agent, issuer, user, scopes.", show_default=False),
]
CallerHeaders: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--from-header",
        metavar="WORD=HEADER",
        help="Who asks, by a header that a trusted caller on this machine sets.",
        show_default=False,
    ),
]
LocalHost: TypeAlias = Annotated[str, typer.Option("--host", help="Where to listen, on this machine.")]
HttpPort: TypeAlias = Annotated[
    int | None,
    typer.Option("--port", "-p", min=0, max=65535, help="Speak HTTP here; else stdio.", show_default=False),
]
AnswerSeconds: TypeAlias = Annotated[
    float, typer.Option("--timeout", min=0.1, max=3600, help="Seconds that an answer of the server may take.")
]
PassedVariables: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME", help="A variable that the command gets, too.", show_default=False),
]
UpstreamToken: TypeAlias = Annotated[
    Path | None,
    typer.Option("--upstream-token-file", metavar="FILE", help="The token that the server wants.", show_default=False),
]
