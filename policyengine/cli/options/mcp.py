"""Options of the commands about MCP servers: the server, and the pins of its tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from policyengine.integrations.mcp.unreviewed_tools import UnreviewedTools

UpstreamServer: TypeAlias = Annotated[
    str,
    typer.Option("--upstream", metavar="URL|COMMAND", help="The MCP server: its URL, or the command that starts it."),
]
ServerName: TypeAlias = Annotated[
    str, typer.Option("--server", metavar="NAME", help="Name of the server in policies: `TOOL NAME/tool`.")
]
PassedVariables: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME",
        help="An environment variable to pass to the command; may be repeated.",
        show_default=False,
    ),
]
UpstreamToken: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--upstream-token-file", metavar="FILE", help="File with the bearer token for the server.", show_default=False
    ),
]
PinFileOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--pins",
        metavar="FILE",
        help="Reviewed definitions of tools, instead of `mcp-pins.json` next to the policies.",
        show_default=False,
    ),
]
UnreviewedOption: TypeAlias = Annotated[
    UnreviewedTools,
    typer.Option(
        "--unreviewed",
        help="With a pin file: what to do with tools that are not reviewed: deny them, or let the policies decide.",
    ),
]
