"""`policyengine suggest`: propose the grants that recorded traffic needs, as a policy to review."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.atomic_write import write_file
from policyengine.cli.commands.check import no_policies_error
from policyengine.cli.errors import CommandError, log_error, policy_error
from policyengine.cli.log_input import check_log
from policyengine.cli.options.common import DecisionsFile, Policies
from policyengine.cli.output.terminal import Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.analysis.suggest.policy import PolicySuggestion
    from policyengine.check import CheckResult
    from policyengine.syntax import nodes as ast

UNPROVED = 3
MAX_ROWS = 40
MAX_CELL_LENGTH = 100


class SuggestFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    POLICY = "policy"


def suggest(
    paths: Policies,
    log: DecisionsFile,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write the policy to.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    format: Annotated[
        SuggestFormat, typer.Option("--format", help="Output format; `policy` prints only the policy.")
    ] = SuggestFormat.TEXT,
) -> int:
    """Propose the grants that recorded requests need.

    The policies decide the log again. For each request that a grant would allow, the command proposes a grant as narrow
    as the request; destructive requests also need a person's confirmation. Requests that stay denied are listed with
    the reason. The log is then decided once more with the grants: no other decision may change. That a request was made
    is no reason to allow it, so review every grant.

    \b
    Exit codes:
      0  done, even if no grant is needed
      1  an error
      3  other decisions would change, too: nothing is written

    \b
    Example:
      policyengine suggest payments/ --log decisions.jsonl
      policyengine suggest payments/ --log decisions.jsonl -o payments/observed.policy
    """
    if output is not None:
        refuse_to_overwrite(output, paths, force)
    found = _suggest_policy(paths, log)
    if output is not None and found.text and found.holds:
        write_file(output, found.text)
    match format:
        case SuggestFormat.JSON:
            print_json({**({"file": str(output)} if output and found.text and found.holds else {}), **found.to_dict()})
        case SuggestFormat.POLICY:
            Screen().plain(found.text)
            _print_proof(Screen(sys.stderr), found)
        case SuggestFormat.TEXT:
            _show(found, output)
    return 0 if found.holds else UNPROVED


def refuse_to_overwrite(output: Path, paths: Sequence[Path], force: bool) -> None:
    from policyengine.policy_files import load_sources
    from policyengine.source import is_test_file

    facts = (("file", str(output)),)
    if output.suffix != ".policy" or is_test_file(output.name):
        hint = "name it `observed.policy`, for example"
        raise CommandError("usage", f"`{output}` is not a policy file name", hint, facts, code=2)
    if not output.exists():
        return
    if any(os.path.realpath(one.name) == os.path.realpath(output) for one in load_sources(paths)[0]):
        hint = "name another file: the new grants supplement those of the policies"
        raise CommandError("file", f"`{output}` is one of the policies, and its grants would be lost", hint, facts)
    if not force:
        raise CommandError(
            "file", f"`{output}` already exists and is not replaced", "name another file, or add `--force`", facts
        )


def check_policies(paths: Sequence[Path]) -> tuple[Sequence[ast.Module], CheckResult]:
    """Parse and check policies without their tests. Raises CommandError."""
    from policyengine.check import check
    from policyengine.policy_files import load_sources
    from policyengine.syntax.parse import parse

    sources, problems = load_sources(paths, tests=False)
    if not sources and not problems:
        raise no_policies_error(paths)
    parsed = [parse(source) for source in sources]
    modules = [module for module, _ in parsed if module is not None]
    checked = check(modules, [*problems, *(one for _, some in parsed for one in some)])
    if checked.kernel is None:
        raise policy_error(checked)
    return modules, checked


def _suggest_policy(paths: Sequence[Path], log: Path) -> PolicySuggestion:
    from policyengine.analysis.suggest.policy import PolicySuggester

    check_log(log)
    screen = Screen(sys.stderr)
    with show_progress("reading the policies"):
        modules, checked = check_policies(paths)
    try:
        with show_progress("replaying the log"):
            return PolicySuggester(modules, checked, log, lambda told: screen.warn(told)).suggested()
    except OSError as error:
        raise log_error(log, error) from None


def _show(found: PolicySuggestion, output: Path | None) -> None:
    screen = Screen()
    stopped = found.records - found.unusable - found.allowed
    screen.line(f"{pluralize(found.records, 'decision')}: {found.allowed:,} allowed, {stopped:,} stopped")
    if found.unusable:
        screen.line((f"left out, because the log lacks facts that they depend on: {found.unusable:,}", "yellow"))
    if found.doors:
        screen.line()
        screen.line(("grants, smallest first:", "bold"))
        rows = [(f"{len(one.lines):,}", one.who, f"may {one.target.may}", "asks" * one.asks) for one in found.doors]
        screen.table([tuple(map(_cell, row)) for row in rows])
    if found.left:
        screen.line()
        screen.line(("stopped for reasons other than a missing grant:", "bold"))
        shown = found.left[:MAX_ROWS]
        rows = [(f"{one.decisions:,}", one.agent or "nobody", one.endpoint, one.why) for one in shown]
        screen.table([tuple(map(_cell, row)) for row in rows])
        if len(found.left) > MAX_ROWS:
            screen.line(f"and {len(found.left) - MAX_ROWS:,} more: `--format json` lists all")
    if not found.doors:
        screen.line("no grant would help" if found.left else "no grant is needed")
        return
    screen.line()
    if output is None:
        screen.text(found.text)
    _print_proof(screen, found)
    if output is not None and found.holds:
        screen.line(f"wrote {output}: review it, then `policyengine check`")


def _cell(text: str) -> str:
    return text[:MAX_CELL_LENGTH]


def _print_proof(screen: Screen, found: PolicySuggestion) -> None:
    if not found.doors:
        return
    if found.holds:
        words = (
            f"proof: with these grants, {len(found.flips):,} of {found.records:,} decisions change, exactly as intended"
        )
        screen.line((words, "bold green"))
        return
    words = (
        f"no proof: {len(found.flips):,} of {found.meant:,} intended changes found, {len(found.others):,} unintended"
    )
    screen.line((words, "bold red"))
    for flip in found.others[:MAX_ROWS]:
        screen.line(f"  line {flip.line}: {flip.old} -> {flip.new}")
