"""`policyengine fmt`: format policies canonically."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.atomic_write import replace_file
from policyengine.cli.commands.check import no_policies_error
from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.common import Policies, TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.diagnostics.model import Diagnostic

STDIN = Path("-")


@dataclass(frozen=True, slots=True)
class FormatResult:
    """One policy before and after formatting; `after` is None if it has syntax errors."""

    path: Path
    before: str
    after: str | None
    mistakes: tuple[Diagnostic, ...] = ()

    @property
    def name(self) -> str:
        return display_name(self.path)

    @property
    def changed(self) -> bool:
        return self.after is not None and self.after != self.before

    def diff(self) -> list[str]:
        """Return the diff, split at line feeds only, so that changes of other line endings are visible."""
        before, after = self.before.split("\n"), (self.after or self.before).split("\n")
        return list(unified_diff(before, after, self.name, self.name, lineterm=""))


def fmt(
    paths: Policies,
    check: Annotated[bool, typer.Option("--check", help="Change no file; exit with 1 if one would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Change no file; show what would change.")] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Format policies canonically.

    Files are changed in place; `-` reads from stdin and writes to stdout. A file with syntax errors is not changed.

    Exit code 0: formatted, or nothing to do; 1: syntax errors, or with --check a file would change.

    \b
    Example:
      policyengine fmt payments/
      policyengine fmt --check --diff payments/
      policyengine fmt - < payments.policy
    """
    if STDIN in paths and len(paths) > 1:
        raise CommandError("usage", "`-` cannot be combined with other paths", code=2)
    with show_progress("formatting"):
        results = [_format_file(path) for path in _files(paths)]
    if not check and not diff and STDIN not in paths:
        for result in results:
            _write(result)
    changes_nothing = check or diff
    if format is OutputFormat.JSON:
        _show_json(results, with_text=not changes_nothing and STDIN in paths)
    elif STDIN in paths and not changes_nothing:
        sys.stdout.write(results[0].after or "")
        _show_mistakes(results)
    else:
        _show(results, diff, would=changes_nothing)
    wrong = any(result.mistakes or (check and result.changed) for result in results)
    return int(wrong)


def display_name(path: Path) -> str:
    return "stdin" if path == STDIN else str(path)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the named files and all policies in the named folders, but not their imports, which belong to other
    projects. Raises CommandError.
    """
    from policyengine.policy_files import find_policies

    for path in paths:
        found = list(find_policies(path, _raise_file_error)) if path.is_dir() else [path]
        if not found:
            raise no_policies_error([path])
        yield from found


def _raise_file_error(error: OSError) -> None:
    raise file_error(error.filename, error) from None


def _format_file(path: Path) -> FormatResult:
    from policyengine.diagnostics.model import Diagnostic, PolicyError
    from policyengine.syntax.format import format_module
    from policyengine.syntax.text_checks import read_source

    data = _bytes(path)
    source = read_source(display_name(path), data)
    try:
        if isinstance(source, Diagnostic):
            raise PolicyError([source])
        return FormatResult(path, source.text, format_module(source))
    except PolicyError as error:
        return FormatResult(path, data.decode(errors="replace"), None, error.diagnostics)


def _bytes(path: Path) -> bytes:
    from policyengine.bounded_files import read_bounded, read_stream
    from policyengine.policy_files import MAX_POLICY_BYTES

    try:
        return (
            read_stream(sys.stdin.buffer, MAX_POLICY_BYTES) if path == STDIN else read_bounded(path, MAX_POLICY_BYTES)
        )
    except OSError as error:
        raise file_error(path, error) from None


def _write(result: FormatResult) -> None:
    if result.changed and result.after is not None:
        replace_file(result.path, result.after)


def _show(results: Sequence[FormatResult], diff: bool, would: bool) -> None:
    screen = Screen()
    changed = [result for result in results if result.changed]
    for result in changed:
        if diff:
            screen.diff(result.diff())
        else:
            screen.line(f"{'would reformat' if would else 'reformatted'} {result.name}")
    _show_mistakes(results)
    summary = Screen(sys.stderr) if diff else screen
    broken = sum(1 for result in results if result.mistakes)
    left = len(results) - len(changed) - broken
    says = [f"{pluralize(len(changed), 'file')} {'would change' if would else 'changed'}"]
    says += [f"{pluralize(left, 'file')} already canonical"] if left else []
    says += [f"{pluralize(broken, 'file')} with mistakes left unchanged"] if broken else []
    summary.line(", ".join(says))


def _show_mistakes(results: Sequence[FormatResult]) -> None:
    screen = Screen(sys.stderr)
    for result in results:
        for mistake in result.mistakes:
            screen.findings(mistake.render())
            screen.line()


def _show_json(results: Sequence[FormatResult], with_text: bool) -> None:
    print_json(
        {
            "files": [
                {
                    "file": result.name,
                    "changed": result.changed,
                    "diff": result.diff() if result.changed else [],
                    "diagnostics": [mistake.to_dict() for mistake in result.mistakes],
                    **({"text": result.after} if with_text else {}),
                }
                for result in results
            ]
        }
    )
