"""`policyengine init`: a small project to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.failures import CommandError, file_error
from policyengine.cli.options import TextOrJson
from policyengine.cli.terminal import Format, Screen, print_json, printable

PROJECT = Path(__file__).parent / "project"
FILES = ("documents.policy", "entities.json", "request.json", "README.md")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.", show_default=False)],
    format: TextOrJson = Format.TEXT,
) -> int:
    """Make a small project to begin with.

    It has a policy with tests, a file that says who is who, a request, and a page that says what to do with them.

    Files that are there already are never touched: then nothing is made, and the exit code is 1.

    \b
    Example:
      policyengine init my-policies
      policyengine test my-policies
    """
    made = [folder / name for name in FILES]
    try:
        _refuse_to_overwrite(made)
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            with path.open("xb") as new:
                new.write((PROJECT / path.name).read_bytes())
    except OSError as error:
        raise file_error(error.filename or folder, error) from None
    if format is Format.JSON:
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
        screen.text(f"created {path}")
    screen.line()
    screen.line("next: ", (printable(f"policyengine test {folder}"), "bold"))
