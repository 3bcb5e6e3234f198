"""`policyengine lint`: report what could be safer or clearer in policies, and fix some of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.atomic_write import replace_file
from policyengine.cli.commands.check import count_severities, no_policies_error, print_findings
from policyengine.cli.errors import CommandError
from policyengine.cli.options.common import Policies
from policyengine.cli.output.terminal import Screen, print_json, show_progress
from policyengine.cli.settings.file import load_settings
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.apply_fixes import FixResult
    from policyengine.cli.settings.sections import LintSettings
    from policyengine.diagnostics.model import Diagnostic


class LintFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


def lint(
    paths: Policies,
    fix: Annotated[bool, typer.Option("--fix", help="Fix what can be fixed without changing a decision.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show what --fix would change, and change nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
    select: Annotated[
        list[str] | None,
        typer.Option("--select", metavar="RULE", help="Report only this rule; may be repeated.", show_default=False),
    ] = None,
    extend: Annotated[
        list[str] | None,
        typer.Option("--extend", metavar="RULE", help="Also report this rule; may be repeated.", show_default=False),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="RULE", help="Do not report this rule; may be repeated.", show_default=False),
    ] = None,
    format: Annotated[
        LintFormat,
        typer.Option(
            "--format", help="Output format; `sarif` is for code scanning, `github` annotates a pull request."
        ),
    ] = LintFormat.TEXT,
) -> int:
    """Find what could be safer or clearer in policies.

    The command also reports everything that `check` finds. RULE is a code or a short name: `policyengine explain-code`
    lists all rules. A project selects its rules in `policyengine.toml`, and `# lint: allow RULE because …` allows one
    finding.

    Exit code 0: no errors (warnings are possible); 1: errors, or warnings with --strict.

    \b
    Example:
      policyengine lint payments/
      policyengine lint --fix payments/
      policyengine lint --strict --format github payments/
    """
    settings = merge_options(load_settings(paths).lint, select, extend, ignore)
    chosen = RuleSelection(settings)
    results = [lint_set(one, chosen, fix or diff) for one in list_sets(paths)]
    if fix and not diff:
        for result in results:
            result.write()
    told = LintReport(results, chosen, changes=fix or diff, would=diff)
    told.show(format)
    return int(any(one.is_error or strict or settings.strict for one in told.found))


def merge_options(
    settings: LintSettings, select: list[str] | None, extend: list[str] | None, ignore: list[str] | None
) -> LintSettings:
    """Merge options into settings: `--select` replaces `select` of the file; `--extend` and `--ignore` add to `extend`
    and `ignore` of the file."""
    return settings.model_copy(
        update={
            "select": parse_codes(select) if select else settings.select,
            "extend": settings.extend + parse_codes(extend or []),
            "ignore": settings.ignore + parse_codes(ignore or []),
        }
    )


def parse_codes(words: Sequence[str]) -> tuple[str, ...]:
    from policyengine.cli.settings.types import parse_rule_code

    try:
        return tuple(parse_rule_code(word) for word in words)
    except CommandError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None


@dataclass(frozen=True, slots=True)
class RuleSelection:
    """Selects the findings to report. Errors are always reported."""

    settings: LintSettings

    @property
    def optional(self) -> tuple[str, ...]:
        """The codes of rules that run only if they are named."""
        return (*self.settings.extend, *(self.settings.select or ()))

    def __call__(self, found: Diagnostic) -> bool:
        wanted = self.settings.select is None or found.code in self.optional
        return found.is_error or (wanted and found.code not in self.settings.ignore)


# ── One set of policies ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LintResult:
    """The findings in one set of policies, before and after fixing; both are the same if nothing had to be fixed."""

    before: tuple[Diagnostic, ...]
    texts: dict[str, str]
    mended: FixResult

    def write(self) -> None:
        for name, text in self.mended.texts.items():
            replace_file(Path(name), text)

    def diffs(self) -> dict[str, list[str]]:
        """Return the diff of each file, split at line feeds only, as in `fmt`."""
        after = self.mended.texts
        return {name: list(diff_lines(name, self.texts[name], after[name])) for name in sorted(after)}


def diff_lines(name: str, before: str, after: str) -> Iterator[str]:
    return unified_diff(before.split("\n"), after.split("\n"), name, name, lineterm="")


def list_sets(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    from policyengine.policy_files import policy_sets

    return policy_sets(paths)


def lint_set(paths: Sequence[Path], chosen: RuleSelection, mend: bool) -> LintResult:
    from policyengine.apply_fixes import FixResult, apply_fixes, lint_sources
    from policyengine.policy_files import load_sources

    with show_progress("reading the policies"):
        sources, problems = load_sources(paths)
    if not sources and not problems:
        raise no_policies_error(paths)
    with show_progress(f"linting {pluralize(len(sources), 'file')}"):
        first = lint_sources(sources, problems, chosen.optional)
        after = apply_fixes(first, own_files(paths), chosen, chosen.optional) if mend else FixResult(first, {}, 0)
    return LintResult(first.checked.diagnostics, {source.name: source.text for source in sources}, after)


def own_files(paths: Sequence[Path]) -> frozenset[str]:
    """Return the named files and those in the named folders, but not their imports, which other projects fix."""
    from policyengine.policy_files import display_name, find_policies

    folders = [path for path in paths if path.is_dir()]
    inside = [file for folder in folders for file in find_policies(folder, lambda _: None)]
    return frozenset(display_name(file) for file in (*inside, *(path for path in paths if path not in folders)))


# ── Output ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LintReport:
    """The output of `lint`. `changes` means that fixes were requested, `would` that they are only shown."""

    results: Sequence[LintResult]
    chosen: RuleSelection
    changes: bool
    would: bool

    @property
    def found(self) -> tuple[Diagnostic, ...]:
        """The remaining findings; if nothing was written, the findings before fixing."""
        from policyengine.diagnostics.model import sort_diagnostics

        every = (r.before if self.would else r.mended.linted.checked.diagnostics for r in self.results)
        return sort_diagnostics(one for several_ in every for one in several_ if self.chosen(one))

    @property
    def files(self) -> int:
        return sum(len(result.texts) for result in self.results)

    @property
    def fixed(self) -> int:
        return sum(result.mended.fixed for result in self.results)

    def diffs(self) -> dict[str, list[str]]:
        return {name: lines for result in self.results for name, lines in result.diffs().items()}

    def show(self, format: LintFormat) -> None:
        match format:
            case LintFormat.TEXT:
                self.text()
            case LintFormat.JSON:
                print_json(self.document())
            case LintFormat.SARIF:
                from policyengine.cli.output.sarif import sarif_document

                print_json(sarif_document(self.found))
            case LintFormat.GITHUB:
                for diagnostic in self.found:
                    print(github_annotation(diagnostic))

    def document(self) -> dict[str, object]:
        found = [one.to_dict() for one in self.found]
        document: dict[str, object] = {"files": self.files, **count_severities(self.found), "diagnostics": found}
        if self.changes:
            changes = [{"file": name, "diff": lines} for name, lines in self.diffs().items()]
            document |= {"fixable" if self.would else "fixed": self.fixed, "changes": changes}
        return document

    def text(self) -> None:
        if self.would:
            screen = Screen()
            for lines in self.diffs().values():
                screen.diff(lines)
            mends = f"would fix {pluralize(self.fixed, 'finding')} in {pluralize(len(self.diffs()), 'file')}"
            Screen().line(mends if self.fixed else "nothing that --fix can fix")
            return
        print_findings(self.found, self.files)
        if self.fixed:
            Screen().line(f"fixed {pluralize(self.fixed, 'finding')} in {pluralize(len(self.diffs()), 'file')}")


def github_annotation(found: Diagnostic) -> str:
    """Return a workflow command of GitHub Actions, which annotates lines of a pull request."""
    from policyengine.diagnostics.catalog import CODES
    from policyengine.testing.report_formats import workflow_command

    end_line, end_column = found.span.source.position(found.span.end)
    known = CODES.get(found.code)
    place = {
        "file": found.span.source.name,
        "line": found.span.line,
        "endLine": end_line,
        "col": found.span.column,
        "endColumn": end_column,
        "title": f"{found.code} {known.name or known.title}" if known else found.code,
    }
    said = found.message if found.hint is None else f"{found.message}\nhint: {found.hint}"
    return workflow_command(str(found.severity), place, said)
