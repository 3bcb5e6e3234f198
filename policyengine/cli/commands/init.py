"""`policyengine init`: a small project to begin with, or one of the API or the tools that somebody has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json

PROJECT = Path(__file__).parent / "project"
FILES = ("documents.policy", "entities.json", "request.json", "README.md")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.", show_default=False)],
    openapi: Annotated[
        str | None,
        typer.Option(
            "--openapi", metavar="FILE|URL", help="OpenAPI 3 or Swagger 2: its endpoints.", show_default=False
        ),
    ] = None,
    mcp: Annotated[
        str | None,
        typer.Option(
            "--mcp",
            metavar="FILE|URL|COMMAND",
            help="An MCP server, or what it answered to `tools/list`: its tools.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="With --mcp: what the gateway calls the server.", show_default=False),
    ] = None,
    base_path: Annotated[
        str | None,
        typer.Option("--base-path", metavar="PATH", help="With --openapi: what paths begin with.", show_default=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: exit with 1 where API and policy differ.")
    ] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Make a project to begin with, or one of your own API.

    Without options it has a policy with tests, a file that says who is who, a request, and a page that says what to do
    with them.

    --openapi and --mcp write scopes, facts, guards and a test for each endpoint or tool; nothing is open until you open
    it. The same again adds what is new, behind a guard that denies, and tells what changed or is gone.

    Files that are there already are never touched: then nothing is made, and the exit code is 1.

    \b
    Examples:
      policyengine init my-policies
      policyengine init my-policies --openapi openapi.yaml
      policyengine init my-policies --openapi openapi.yaml --check
      policyengine init my-tools --mcp 'python server.py' --name files
    """
    if openapi is not None or mcp is not None:
        from policyengine.cli.import_report import ImportOptions, import_api

        return import_api(folder, ImportOptions(openapi, mcp, name, base_path), check=check, format=format)
    if check or name is not None or base_path is not None:
        raise CommandError("usage", "`--check`, `--name` and `--base-path` go with `--openapi` or `--mcp`", code=2)
    return _create_sample_project(folder, format)


def _create_sample_project(folder: Path, format: OutputFormat) -> int:
    made = [folder / name for name in FILES]
    try:
        _refuse_to_overwrite(made)
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            with path.open("xb") as new:
                new.write((PROJECT / path.name).read_bytes())
    except OSError as error:
        raise file_error(error.filename or folder, error) from None
    if format is OutputFormat.JSON:
        print_json({"created": [str(path) for path in made]})
    else:
        _show(folder, made)
    return 0


def _refuse_to_overwrite(made: list[Path]) -> None:
    if there := [path for path in made if path.exists() or path.is_symlink()]:
        named = ", ".join(f"`{path}`" for path in there)
        verb = "is" if len(there) == 1 else "are"
        message = f"{named} {verb} already there, nothing was made"
        raise CommandError("file", message, "name a folder that is new or empty")


def _show(folder: Path, made: list[Path]) -> None:
    screen = Screen()
    for path in made:
        screen.line(f"created {path}")
    screen.line()
    screen.line("next: ", (f"policyengine test {folder}", "bold"))
