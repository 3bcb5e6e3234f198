"""`policyengine record`: turn a decision log into tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.commands.check import no_policies_error
from policyengine.cli.commands.why import read_records
from policyengine.cli.errors import CommandError, file_error, policy_error
from policyengine.cli.options.common import DecisionsFile, Policies, TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.check import CheckResult
    from policyengine.testing.recording.convert import RecordingResult

STDOUT = "-"
MAX_LISTED_IDS = 5


class OutcomeFilter(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    CONFIRM = "confirm"
    THROTTLE = "throttle"


def record(
    paths: Policies,
    log: DecisionsFile,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE|-", help="The test file to write.")] = STDOUT,
    only: Annotated[
        list[OutcomeFilter] | None,
        typer.Option(
            "--only",
            metavar="<allow|deny|confirm|throttle>",
            help="Record only decisions with this outcome; may be repeated.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Maximum number of requests.", show_default=False)
    ] = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Turn the decisions of a log into tests.

    Each recorded outcome becomes an expected outcome: one test per caller and endpoint, with equal decisions merged.
    Decisions that the test language cannot express are left out and listed. The file name must end in `_test.policy`.
    An existing file is replaced only if `record` wrote it.

    \b
    Exit codes:
      0  done
      1  nothing to write, or an error

    \b
    Example:
      policyengine record payments/ --log decisions.jsonl -o payments/regression_test.policy
      policyengine record payments/ --log decisions.jsonl --only deny --limit 100
    """
    from policyengine.runtime.decision import Outcome
    from policyengine.testing.recording.convert import convert_log

    target = None if output == STDOUT else Path(output)
    if target is not None:
        _refuse_to_replace(target)
    checked = _check_policies(paths, target)
    with show_progress("turning decisions into tests"):
        wanted = frozenset(Outcome(one.value) for one in only or ())
        made = convert_log(read_records(log), checked, only=wanted, limit=limit)
    if not made.text:
        _print_report(made, sys.stderr)
        which = "decisions" if not only else f"decisions with the outcome {' or '.join(only)}"
        hint = "every decision was left out" if made.decisions else None
        raise CommandError("log", f"no {which} in `{log}` to turn into tests", hint, (("file", str(log)),))
    if target is not None:
        _write(target, made.text)
    if format is OutputFormat.JSON:
        print_json({**({"file": output} if target else {"text": made.text}), **made.to_dict()})
        return 0
    if target is None:
        Screen().text(made.text.rstrip("\n"))
    _print_report(made, sys.stdout if target else sys.stderr, output if target else None)
    return 0


def _check_policies(paths: Sequence[Path], target: Path | None) -> CheckResult:
    """Return the checked policies, without the test file to be written. Raises CommandError."""
    from policyengine.check import check
    from policyengine.policy_files import load_sources
    from policyengine.syntax.parse import parse

    with show_progress("reading the policies"):
        sources, problems = load_sources(paths)
        written = None if target is None else os.path.realpath(target)
        kept = [source for source in sources if os.path.realpath(source.name) != written]
        if not kept and not problems:
            raise no_policies_error(paths)
        parsed = [parse(source) for source in kept]
        modules = [module for module, _ in parsed if module is not None]
        checked = check(modules, [*problems, *(found for _, some in parsed for found in some)])
    if checked.kernel is None:
        raise policy_error(checked)
    return checked


def _refuse_to_replace(target: Path) -> None:
    """Refuse to replace a file that `record` did not write, or to write a file that is not a test file. Raises
    CommandError."""
    from policyengine.bounded_files import begins_with
    from policyengine.source import is_test_file
    from policyengine.testing.recording.convert import HEADER

    facts = (("file", str(target)),)
    if not is_test_file(target.name):
        stem = target.name.removesuffix(".policy")
        hint = f"name it `{stem}_test.policy`: files with this suffix hold tests, and engines do not load them"
        raise CommandError("usage", f"`{target}` is not a test file name", hint, facts, code=2)
    try:
        if target.exists() and not begins_with(target, HEADER.encode()):
            hint = "name another file, or remove this one"
            raise CommandError(
                "file", f"`{target}` exists and was not written by `record`, so it is not replaced", hint, facts
            )
    except OSError as error:
        raise file_error(target, error) from None


def _write(target: Path, text: str) -> None:
    """Write the file atomically, so that no reader sees part of it. Raises CommandError."""
    new = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(target)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise file_error(target, error) from None


def _print_report(made: RecordingResult, stream: Any, output: str | None = None) -> None:
    screen = Screen(stream)
    if made.text:
        cases = f"{pluralize(made.tests, 'test')} with {pluralize(made.cases, 'request')}"
        where = f"wrote {output}: " if output else ""
        merged = f", {pluralize(made.merged, 'decision')} merged" if made.merged else ""
        screen.line(f"{where}{cases}, from {pluralize(made.decisions, 'decision')}{merged}")
    if made.changed:
        shown = ", ".join(made.changed[:MAX_LISTED_IDS]) + (", …" if len(made.changed) > MAX_LISTED_IDS else "")
        these = f"{pluralize(len(made.changed), 'decision')} made by other policies: their tests fail"
        screen.line((f"{these} ({shown})", "yellow"))
    if made.over:
        screen.line((f"left out because of `--limit`: {pluralize(made.over, 'request')}", "yellow"))
    for why, ids in made.reasons.items():
        shown = ", ".join(ids[:MAX_LISTED_IDS]) + (", …" if len(ids) > MAX_LISTED_IDS else "")
        screen.line(("left out: ", "yellow"), f"{pluralize(len(ids), 'decision')}: {why} ({shown})")
    if made.unsaid:
        shown = ", ".join(made.unsaid[:MAX_LISTED_IDS]) + (", …" if len(made.unsaid) > MAX_LISTED_IDS else "")
        screen.line(("omitted, because it makes no difference: ", "yellow"), shown)
