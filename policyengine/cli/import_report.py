"""The report of `policyengine init --openapi` and `--mcp`: what was imported, and what has changed since the last
import."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyengine.cli.errors import CommandError
from policyengine.cli.options.halt import own_name
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.importers import (
    Api,
    ApiImportError,
    ImportResult,
    import_policies,
    previous_server,
    read_openapi,
    read_tools,
)
from policyengine.importers.manifest import MANIFEST_FILE
from policyengine.importers.offers_writer import count_offers
from policyengine.plurals import pluralize

MAX_LINES = 20  # maximum number of lines per kind; JSON has all of them


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The options of `init` that import an API."""

    openapi: str | None
    mcp: str | None
    name: str | None
    base_path: str | None


def import_api(folder: Path, wanted: ImportOptions, *, check: bool, format: OutputFormat) -> int:
    _check_options(wanted)
    try:
        with show_progress("reading the API"):
            api = _read(folder, wanted)
        with show_progress("writing policies"):
            outcome = import_policies(folder, api, _command(folder, wanted), check=check, reviewer=own_name())
    except ApiImportError as problem:
        facts = (("place", problem.place.replace("`", "") or None),)
        raise CommandError("import", str(problem), problem.hint, facts) from None
    if format is OutputFormat.JSON:
        print_json(_data(api, outcome))
    else:
        _show(folder, api, outcome, check)
    return int(check and outcome.differs)


def _check_options(wanted: ImportOptions) -> None:
    if wanted.openapi is not None and wanted.mcp is not None:
        hint = "import each into its own folder"
        raise CommandError("usage", "`--openapi` and `--mcp` cannot be combined", hint, code=2)
    if wanted.openapi is not None and wanted.name is not None:
        raise CommandError("usage", "`--name` is for `--mcp`: it names the server of the tools", code=2)
    if wanted.mcp is not None and wanted.base_path is not None:
        raise CommandError("usage", "`--base-path` is for `--openapi`: tools have no paths", code=2)


def _read(folder: Path, wanted: ImportOptions) -> Api:
    if wanted.openapi is not None:
        return read_openapi(wanted.openapi, wanted.base_path)
    before = previous_server(folder)
    if None not in (before, wanted.name) and before != wanted.name:
        hint = (
            f"omit `--name` to update `{before}`, or import `{wanted.name}` into another folder; if the server was "
            f"renamed, first replace the name `{before}` in the policies and in `{MANIFEST_FILE}`"
        )
        message = f"the server `{before}` was imported here, but `--name` says `{wanted.name}`"
        raise ApiImportError(message, f"`{folder.as_posix()}`", hint)
    return read_tools(wanted.mcp or "", wanted.name or before)


def _command(folder: Path, wanted: ImportOptions) -> str:
    options = (
        ("--openapi", wanted.openapi),
        ("--mcp", wanted.mcp),
        ("--name", wanted.name),
        ("--base-path", wanted.base_path),
    )
    given = [word for option, value in options if value is not None for word in (option, value)]
    return shlex.join(["policyengine", "init", folder.as_posix(), *given])


def _data(api: Api, outcome: ImportResult) -> dict[str, Any]:
    return {
        "created": [path.as_posix() for path in outcome.created],
        "endpoints": len(api.operations),
        "new": list(outcome.new),
        "changed": [{"endpoint": change.key, "said": list(change.said)} for change in outcome.changed],
        "removed": [{"endpoint": key, "at": at} for key, at in outcome.removed],
        "notes": list(outcome.notes),
    }


def _show(folder: Path, api: Api, outcome: ImportResult, check: bool) -> None:
    screen = Screen()
    _lines(screen, "created", [path.as_posix() for path in outcome.created])
    if not outcome.first:
        _lines(screen, "new", outcome.new)
        _lines(screen, "changed", [f"{change.key}: {', '.join(change.said)}" for change in outcome.changed])
        _lines(screen, "removed", [f"{key}, still named at {at}" for key, at in outcome.removed])
    _lines(screen, "note", outcome.notes)
    if outcome.first:
        tools = pluralize(len(api.operations), "tool" if api.kind == "mcp" else "endpoint")
        counts = [tools, *count_offers(api.offers.listed)]
        screen.line()
        screen.line(f"{', '.join(counts)}, and nothing is allowed yet")
        screen.line("next: ", (f"policyengine test {folder}", "bold"), f", then {folder}/README.md")
    elif not outcome.differs:
        screen.line("no differences")
    elif not check and not outcome.created:
        screen.line("no files were needed")


def _lines(screen: Screen, word: str, lines: list[str] | tuple[str, ...]) -> None:
    for line in lines[:MAX_LINES]:
        screen.line(f"{word} {line}")
    if len(lines) > MAX_LINES:
        screen.line(f"{word} … and {len(lines) - MAX_LINES:,} more")
