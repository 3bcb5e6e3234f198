"""`policyengine init`: create a sample project, or policies for an existing API or MCP server."""

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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to create.", show_default=False)],
    openapi: Annotated[
        str | None,
        typer.Option(
            "--openapi",
            metavar="FILE|URL",
            help="Create policies for an OpenAPI 3 or Swagger 2 API.",
            show_default=False,
        ),
    ] = None,
    mcp: Annotated[
        str | None,
        typer.Option(
            "--mcp",
            metavar="FILE|URL|COMMAND",
            help="Create policies for an MCP server, or for its saved `tools/list` response.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="With --mcp: the name of the server in the gateway.", show_default=False),
    ] = None,
    base_path: Annotated[
        str | None,
        typer.Option(
            "--base-path", metavar="PATH", help="With --openapi: the prefix of all paths.", show_default=False
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if API and policies differ.")
    ] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Create a sample project, or policies for your own API.

    The sample project has a policy with tests, an entities file, a request, and a README with the next steps.

    --openapi and --mcp write scopes, facts, guards and a test for each endpoint or tool; nothing is allowed until you
    allow it. Run the same command again to add new endpoints or tools, behind a guard that denies them, and to see what
    changed or was removed.

    Existing files are never overwritten. If a file of the sample project already exists, nothing is created and the
    exit code is 1.

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
        raise CommandError("usage", "`--check`, `--name` and `--base-path` need `--openapi` or `--mcp`", code=2)
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
        verb = "exists" if len(there) == 1 else "exist"
        message = f"{named} already {verb}, so nothing was created"
        raise CommandError("file", message, "use a new or empty folder")


def _show(folder: Path, made: list[Path]) -> None:
    screen = Screen()
    for path in made:
        screen.line(f"created {path}")
    screen.line()
    screen.line("next: ", (f"policyengine test {folder}", "bold"))
