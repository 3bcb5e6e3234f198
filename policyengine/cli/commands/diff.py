"""`policyengine diff`: find the requests that two policies decide differently."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.errors import CommandError, log_error
from policyengine.cli.load_engine import load_engine
from policyengine.cli.log_input import check_log
from policyengine.cli.output.terminal import Screen, is_ascii_only, print_json, show_progress
from policyengine.control_characters import printable

if TYPE_CHECKING:
    from policyengine.analysis import Diff
    from policyengine.kernel import Kernel

DIFFERS = 1
NOT_PROVED = 5
SECONDS = 120.0
UNREADABLE = 3
BAD_POLICY = 4
STYLES = {
    "widening:": "bold red",
    "changed:": "bold yellow",
    "narrowing:": "bold green",
    "reasons:": "bold",
    "not proved": "bold yellow",
    "  -": "red",
    "  +": "green",
    "    {": "dim",
}


class DiffFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


class FailOn(StrEnum):
    ANY = "any"
    WIDENING = "widening"


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A policy, a folder or a bundle.", show_default=False)],
    new: Annotated[
        Path,
        typer.Argument(metavar="NEW", help="The policy, folder or bundle to compare with OLD.", show_default=False),
    ],
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="A decision log, packed or not: both policies decide its requests again.",
            show_default=False,
        ),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Also compare reasons, remedies and messages.")] = False,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Which changes make the command exit with 1.")
    ] = FailOn.ANY,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", min=0, help="Time limit; parts that are not compared by then are reported as not proved."
        ),
    ] = SECONDS,
    seed: Annotated[int, typer.Option("--seed", help="Random seed for sampled requests.")] = 0,
    format: Annotated[
        DiffFormat, typer.Option("--format", help="Output format; `markdown` is for a pull request.")
    ] = DiffFormat.TEXT,
) -> int:
    """Show which requests two policies decide differently.

    Each difference names its endpoints and callers, its condition, its rules, and a request that the policies decide
    differently. Everything else is proved to be the same, or listed as not proved with its rules and the reason.

    \b
    Exit codes:
      0  proved to be the same; with --fail-on widening: proved that nothing is widened
      1  the policies differ; with --fail-on widening: something is widened, or may be
      3  a file cannot be read
      4  a policy has errors
      5  not proved: no such difference was found, but a changed rule may cause one

    \b
    Example:
      policyengine diff old/ payments/
      policyengine diff old/ payments/ --fail-on widening --format markdown
    """
    found = _compare(_kernel(old), _kernel(new), log, reasons=all, seed=seed, seconds=seconds)
    _show(found, format)
    return _code(found, fail_on)


def _code(found: Diff, fail_on: FailOn) -> int:
    """Return the exit code, which is not 0 while a changed rule might cause a difference."""
    if found.opens if fail_on is FailOn.WIDENING else found.differs:
        return DIFFERS
    return NOT_PROVED if found.suspects else 0


def _kernel(path: Path) -> Kernel:
    try:
        return load_engine([path], None).kernel
    except CommandError as error:
        error.code = {"policy": BAD_POLICY, "file": UNREADABLE}.get(error.kind, error.code)
        if error.kind == "policy" and _only_missing(error):
            error.code = UNREADABLE
        raise


def _only_missing(error: CommandError) -> bool:
    """Return whether all errors of the policy are files that are missing or cannot be read."""
    told = dict(error.facts).get("diagnostics", [])
    return bool(told) and all(one["code"] in ("E151", "E152") for one in told)


def _compare(old: Kernel, new: Kernel, log: Path | None, *, reasons: bool, seed: int, seconds: float) -> Diff:
    from policyengine.analysis import compare, replay

    screen = Screen(sys.stderr)
    with show_progress("comparing the policies"):
        found = compare(old, new, reasons=reasons, seed=seed, seconds=seconds)
    if log is None:
        return found
    try:
        check_log(log)
        with show_progress("replaying the log"):
            return replace(found, log=replay(log, old, new, lambda told: screen.warn(told)))
    except CommandError as error:
        error.code = UNREADABLE
        raise
    except OSError as error:
        failure = log_error(log, error)
        failure.code = UNREADABLE
        raise failure from None


def _show(found: Diff, format: DiffFormat) -> None:
    from policyengine.analysis.diff.render import render_markdown, render_text

    if format is DiffFormat.JSON:
        print_json(found.to_dict())
    elif format is DiffFormat.MARKDOWN:
        print(printable(render_markdown(found), "\n"), end="")
    else:
        screen = Screen()
        for line in render_text(found).splitlines():
            style = next((style for start, style in STYLES.items() if line.startswith(start)), "")
            screen.line((_to_ascii(line), style))


def _to_ascii(line: str) -> str:
    return line.replace("·", "-") if is_ascii_only() else line
