"""`policyengine test`: do policies decide as their `test` blocks say?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.check import checked_sets
from policyengine.cli.failures import CommandError, file_error, logged_in_short, policy_error
from policyengine.cli.options import Policies
from policyengine.cli.terminal import Screen, busy, print_json

if TYPE_CHECKING:
    from policyengine.semantics.check import Checked
    from policyengine.testing import Report, Result, Selection

FAILURES = 1
NO_TESTS = 3
BAD_POLICY = 4


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    TAP = "tap"
    GITHUB = "github"


def run_tests(
    paths: Policies,
    only: Annotated[
        str | None, typer.Option("-k", metavar="TEXT", help="Only tests with this in their names.", show_default=False)
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="Only tests about this guard.", show_default=False)
    ] = None,
    package: Annotated[
        str | None, typer.Option("--package", metavar="NAME", help="Only tests of this package.", show_default=False)
    ] = None,
    stop: Annotated[bool, typer.Option("--exitfirst", "-x", help="Stop at the first that fails.")] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="How many processes; 0 is one for each processor.")
    ] = 1,
    watch: Annotated[bool, typer.Option("--watch", help="Run again whenever a policy changes.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the tests that pass, too.")] = False,
    format: Annotated[Form, typer.Option("--format", help="For people, or for programs.")] = Form.TEXT,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write that here, and text to stdout.", show_default=False),
    ] = None,
) -> int:
    """Run the tests that policies carry.

    A failure shows the request, what was expected, what was decided and how, and the line of the test.

    \b
    Exit codes:
      0  all passed
      1  a test failed
      3  there are no tests
      4  the policy has errors

    \b
    Example:
      policyengine test payments/
      policyengine test payments/ -k refund -v
      policyengine test payments/ --format junit -o results.xml
    """
    from policyengine.testing import Selection

    runs = Runs(Selection(only, rule, package), stop, jobs, verbose, format, output)
    if not watch:
        return runs.once(paths)
    from policyengine.cli.watching import again_when_changed

    return again_when_changed(paths, lambda: runs.once(paths))


@dataclass(frozen=True, slots=True)
class Runs:
    """What was asked for, however often it is run."""

    selection: Selection
    stop: bool
    jobs: int
    verbose: bool
    format: Form
    output: Path | None

    def once(self, paths: Sequence[Path]) -> int:
        from policyengine.testing import Report

        sets = [checked for checked, _ in checked_sets(paths)]
        for checked in sets:
            if checked.kernel is None:
                raise policy_error(checked, BAD_POLICY)
        results = tuple(self.results(sets))
        revisions = [checked.kernel.revision for checked in sets if checked.kernel is not None]
        report = Report(results, revisions[0] if len(revisions) == 1 else "")
        if not report.results:
            raise no_tests(self.selection, sets)
        self.tell(report)
        return 0 if report.ok else FAILURES

    def results(self, sets: Sequence[Checked]) -> Iterator[Result]:
        """The results of all sets, in the order of the text, up to the first that is bad if so asked."""
        from policyengine.testing import collect
        from policyengine.testing.parallel import results_by
        from policyengine.testing.report import BAD

        cases = [(checked, collect(checked, self.selection)) for checked in sets]
        total = sum(len(several) for _, several in cases)
        with busy("running the tests", total) as counted, logged_in_short():
            for checked, several in cases:
                assert checked.kernel is not None
                with closing(results_by(self.jobs, several, checked.kernel)) as found:
                    for result in found:
                        counted()
                        yield result
                        if self.stop and result.status in BAD:
                            return

    def tell(self, report: Report) -> None:
        text = report.render(verbose=self.verbose)
        if self.output is not None:
            write(self.output, written(report, self.format, self.verbose))
            Screen().findings(text)
        elif self.format is Form.TEXT:
            Screen().findings(text)
        elif self.format is Form.JSON:
            print_json(report.to_dict())
        else:
            Screen().plain(written(report, self.format, self.verbose))


def written(report: Report, form: Form, verbose: bool) -> str:
    """The report in a form for programs, or as text."""
    import json

    from policyengine.testing import formats

    match form:
        case Form.JSON:
            return json.dumps(report.to_dict(), ensure_ascii=False, indent=2) + "\n"
        case Form.JUNIT:
            return formats.junit(report)
        case Form.TAP:
            return formats.tap(report)
        case Form.GITHUB:
            return formats.github(report)
        case Form.TEXT:
            return report.render(verbose=verbose) + "\n"


def write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise file_error(path, error) from None


def no_tests(selection: Selection, sets: Sequence[Checked]) -> CommandError:
    """Nothing was asked, which is no success; and why, where a word of the command line may be misspelled."""
    from policyengine.diagnostics import suggest

    kernels = [checked.kernel for checked in sets if checked.kernel is not None]
    named: list[tuple[str, str | None, set[str]]] = [
        ("guard", selection.rule, {guard.name for kernel in kernels for guard in kernel.guards}),
        ("package", selection.package, {package for kernel in kernels for package in kernel.packages}),
    ]
    for what, name, known in named:
        if name is not None and name not in known:
            meant = suggest(name, known)
            hint = f"did you mean `{meant}`?" if meant else None
            return CommandError("tests", f"no tests: there is no {what} `{name}`", hint, code=NO_TESTS)
    wanted = [f"with `{selection.name}` in their names"] if selection.name is not None else []
    wanted += [f"about the guard `{selection.rule}`"] if selection.rule is not None else []
    wanted += [f"in the package `{selection.package}`"] if selection.package is not None else []
    hint = None if wanted else "a policy shows what it decides in `test` blocks"
    return CommandError("tests", " ".join(["no tests", " and ".join(wanted)]).strip(), hint, code=NO_TESTS)
