"""One run of tests: which tests run, what is measured, and how the results are reported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.commands.check import check_policy_sets
from policyengine.cli.errors import CommandError, file_error, policy_error, short_log_messages
from policyengine.cli.output.terminal import Screen, json_text, show_progress

if TYPE_CHECKING:
    from policyengine.check import CheckResult
    from policyengine.cli.measure_tests import MeasureOptions, MeasureResult
    from policyengine.kernel import Kernel
    from policyengine.testcases.scenario import Case
    from policyengine.testing import RunReport, Selection
    from policyengine.testing.report import ExampleResult

FAILURES = 1
NO_TESTS = 3
BAD_POLICY = 4


class ReportFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    TAP = "tap"
    GITHUB = "github"


@dataclass(frozen=True, slots=True)
class PolicyTestRun:
    """The options of a test run, which may be repeated."""

    selection: Selection
    stop: bool
    jobs: int
    seed: int
    examples: int | None
    measures: MeasureOptions
    verbose: bool
    format: ReportFormat
    output: Path | None

    def once(self, paths: Sequence[Path]) -> int:
        from policyengine.testing import RunReport

        sets = [checked for checked, _ in check_policy_sets(paths)]
        for checked in sets:
            if checked.kernel is None:
                raise policy_error(checked, BAD_POLICY)
        results = tuple(self.results(sets))
        revisions = [checked.kernel.revision for checked in sets if checked.kernel is not None]
        report = RunReport(results, revisions[0] if len(revisions) == 1 else "")
        if not report.results:
            raise no_tests_error(self.selection, sets)
        measured = self.measures.taken(sets, self.selection, self.seed, self.jobs, tests_pass=report.ok)
        self.tell(report, measured)
        return 0 if report.ok and measured.enough else FAILURES

    def results(self, sets: Sequence[CheckResult]) -> Iterator[ExampleResult]:
        """Yield the results of all sets: first those of requests, then those of `forall`; with `stop`, end at the first
        failure.
        """
        from policyengine.testing.report import FAILURE_STATUSES

        for result in chain(self._of_cases(sets), self._of_claims(sets)):
            yield result
            if self.stop and result.status in FAILURE_STATUSES:
                return

    def _of_cases(self, sets: Sequence[CheckResult]) -> Iterator[ExampleResult]:
        from policyengine.testing import collect

        cases = [(checked.kernel, collect(checked, self.selection)) for checked in sets]
        total = sum(len(several) for _, several in cases)
        with show_progress("running the tests", total) as counted, short_log_messages():
            for kernel, several in cases:
                assert kernel is not None
                yield from self._of_kernel(kernel, several, counted)

    def _of_kernel(
        self, kernel: Kernel, cases: Sequence[Case], counted: Callable[[], object]
    ) -> Iterator[ExampleResult]:
        from policyengine.testing.parallel import parallel_results

        with closing(parallel_results(self.jobs, cases, kernel)) as found:
            for result in found:
                counted()
                yield result

    def _of_claims(self, sets: Sequence[CheckResult]) -> Iterator[ExampleResult]:
        from policyengine.testing.selection import collect_properties

        claims = [(checked.kernel, collect_properties(checked, self.selection)) for checked in sets]
        if not any(several for _, several in claims):
            return
        from policyengine.testing.properties import DEFAULT_EXAMPLES, HypothesisMissingError, try_properties

        with (
            show_progress("checking `forall`", sum(len(several) for _, several in claims)) as counted,
            short_log_messages(),
        ):
            for kernel, claim in ((kernel, claim) for kernel, several in claims for claim in several):
                assert kernel is not None
                try:
                    yield from try_properties([claim], kernel, self.seed, self.examples or DEFAULT_EXAMPLES)
                except HypothesisMissingError as error:
                    raise CommandError("usage", str(error), error.hint, code=2) from None
                counted()

    def tell(self, report: RunReport, measured: MeasureResult) -> None:
        text = report.render(verbose=self.verbose)
        if self.output is not None:
            write_report(self.output, self.written(report, measured))
        if self.output is not None or self.format is ReportFormat.TEXT:
            Screen().findings(text)
            measured.tell(Screen())
        else:
            Screen().plain(self.written(report, measured))
            if self.format is not ReportFormat.JSON:  # JSON has the measurements
                measured.tell(Screen(sys.stderr))
        measured.tell_what_lacks(Screen(sys.stderr))

    def written(self, report: RunReport, measured: MeasureResult) -> str:
        if self.format is ReportFormat.JSON:
            return to_json({**report.to_dict(), **measured.to_dict()})
        return render_report(report, self.format, self.verbose)


def render_report(report: RunReport, form: ReportFormat, verbose: bool) -> str:
    """Return the report in a format for programs, or as text."""
    from policyengine.testing import report_formats

    match form:
        case ReportFormat.JSON:
            return to_json(report.to_dict())
        case ReportFormat.JUNIT:
            return report_formats.render_junit(report)
        case ReportFormat.TAP:
            return report_formats.render_tap(report)
        case ReportFormat.GITHUB:
            return report_formats.render_github(report)
        case ReportFormat.TEXT:
            return report.render(verbose=verbose) + "\n"


def to_json(data: Mapping[str, object]) -> str:
    return json_text(data) + "\n"


def write_report(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise file_error(path, error) from None


def no_tests_error(selection: Selection, sets: Sequence[CheckResult]) -> CommandError:
    """Return the error of a run without tests, with a suggestion if a name on the command line may be misspelled."""
    from policyengine.diagnostics.suggest import did_you_mean

    kernels = [checked.kernel for checked in sets if checked.kernel is not None]
    named: list[tuple[str, str | None, set[str]]] = [
        ("guard", selection.rule, {guard.name for kernel in kernels for guard in kernel.guards}),
        ("package", selection.package, {package for kernel in kernels for package in kernel.packages}),
    ]
    for what, name, known in named:
        if name is not None and name not in known:
            hint = did_you_mean(name, known)
            return CommandError("tests", f"no tests: there is no {what} `{name}`", hint, code=NO_TESTS)
    wanted = [f"with `{selection.name}` in their names"] if selection.name is not None else []
    wanted += [f"about the guard `{selection.rule}`"] if selection.rule is not None else []
    wanted += [f"in the package `{selection.package}`"] if selection.package is not None else []
    hint = None if wanted else "add `test` blocks to the policies"
    return CommandError("tests", " ".join(["no tests", " and ".join(wanted)]).strip(), hint, code=NO_TESTS)
