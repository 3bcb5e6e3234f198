"""Arguments and options that several commands share, so that their help is the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from policyengine.cli.output.terminal import OutputFormat

Policies: TypeAlias = Annotated[
    list[Path], typer.Argument(metavar="PATH", help="Policies, or folders of them.", show_default=False)
]
PoliciesOrBundle: TypeAlias = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="Policies, or folders of them, or one bundle.", show_default=False),
]
TrustedKeys: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="KEY",
        help="A file with a public key; may be repeated: one of the keys must have signed the bundle.",
        show_default=False,
    ),
]
TextOrJson: TypeAlias = Annotated[OutputFormat, typer.Option("--format", help="Output format.")]
RequestFile: TypeAlias = Annotated[
    str,
    typer.Option(
        "--request", "-r", metavar="FILE|-", help="The request, as JSON; `-` reads it from stdin.", show_default=False
    ),
]
OptionalRequest: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--request", "-r", metavar="FILE|-", help="The request, as JSON; `-` reads it from stdin.", show_default=False
    ),
]
EntitySources: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--entities",
        "-e",
        metavar="SOURCE",
        help="Entities from JSON, JSON Lines, CSV or a database (docs/entities.md).",
        show_default=False,
    ),
]
IdentityFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        help="Verify raw credentials as configured in this file (docs/identity.md).",
        show_default=False,
    ),
]
DecisionsFile: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--log",
        metavar="FILE",
        help="The decision log: a file that `serve --log` or `audit pack` wrote.",
        show_default=False,
    ),
]
BehaviorPath: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--behavior",
        metavar="FOLDER",
        help="Folder for learned behavior (docs/behavior.md). [default: the name of the log with `.behavior`]",
        show_default=False,
    ),
]
HaltFilePath: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--halt-file", metavar="FILE", help="Follow the halts in this file (docs/halt.md).", show_default=False
    ),
]
StoreUrl: TypeAlias = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="Where to keep rates, budgets and approvals (docs/stores.md)."),
]
