"""One run of tests: what is asked, what comes of it, what is measured, and how all that is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.commands.check import checked_sets
from policyengine.cli.errors import CommandError, file_error, logged_in_short, policy_error
from policyengine.cli.output.terminal import Screen, busy, json_text

if TYPE_CHECKING:
    from policyengine.check import Checked
    from policyengine.cli.test_measures import Measured, Measures
    from policyengine.testing import Report, Selection
    from policyengine.testing.report import Tested

FAILURES = 1
NO_TESTS = 3
BAD_POLICY = 4


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    TAP = "tap"
    GITHUB = "github"


@dataclass(frozen=True, slots=True)
class Runs:
    """What was asked for, however often it is run."""

    selection: Selection
    stop: bool
    jobs: int
    seed: int
    examples: int | None
    measures: Measures
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
        measured = self.measures.taken(sets, self.selection, self.seed, self.jobs, tests_pass=report.ok)
        self.tell(report, measured)
        return 0 if report.ok and measured.enough else FAILURES

    def results(self, sets: Sequence[Checked]) -> Iterator[Tested]:
        """The results of all sets, first of requests and then of claims, up to the first that is bad if so asked."""
        from policyengine.testing.report import BAD

        for result in chain(self._of_cases(sets), self._of_claims(sets)):
            yield result
            if self.stop and result.status in BAD:
                return

    def _of_cases(self, sets: Sequence[Checked]) -> Iterator[Tested]:
        from policyengine.testing import collect
        from policyengine.testing.parallel import results_by

        cases = [(checked.kernel, collect(checked, self.selection)) for checked in sets]
        total = sum(len(several) for _, several in cases)
        with busy("running the tests", total) as counted, logged_in_short():
            for kernel, several in cases:
                assert kernel is not None
                with closing(results_by(self.jobs, several, kernel)) as found:
                    for result in found:
                        counted()
                        yield result

    def _of_claims(self, sets: Sequence[Checked]) -> Iterator[Tested]:
        from policyengine.testing.selection import collect_properties

        claims = [(checked.kernel, collect_properties(checked, self.selection)) for checked in sets]
        if not any(several for _, several in claims):
            return
        from policyengine.testing.properties import EXAMPLES, NoHypothesis, try_properties

        with busy("trying the claims", sum(len(several) for _, several in claims)) as counted, logged_in_short():
            for kernel, several in claims:
                assert kernel is not None
                for claim in several:
                    try:
                        yield from try_properties([claim], kernel, self.seed, self.examples or EXAMPLES)
                    except NoHypothesis as error:
                        raise CommandError("usage", str(error), error.hint, code=2) from None
                    counted()

    def tell(self, report: Report, measured: Measured) -> None:
        text = report.render(verbose=self.verbose)
        if self.output is not None:
            write(self.output, self.written(report, measured))
        if self.output is not None or self.format is Form.TEXT:
            Screen().findings(text)
            measured.tell(Screen())
        else:
            Screen().plain(self.written(report, measured))
            if self.format is not Form.JSON:  # which has it all
                measured.tell(Screen(sys.stderr))
        measured.tell_what_lacks(Screen(sys.stderr))

    def written(self, report: Report, measured: Measured) -> str:
        if self.format is Form.JSON:
            return in_json({**report.to_dict(), **measured.to_dict()})
        return written(report, self.format, self.verbose)


def written(report: Report, form: Form, verbose: bool) -> str:
    """The report in a form for programs, or as text."""
    from policyengine.testing import report_formats

    match form:
        case Form.JSON:
            return in_json(report.to_dict())
        case Form.JUNIT:
            return report_formats.junit(report)
        case Form.TAP:
            return report_formats.tap(report)
        case Form.GITHUB:
            return report_formats.github(report)
        case Form.TEXT:
            return report.render(verbose=verbose) + "\n"


def in_json(data: Mapping[str, object]) -> str:
    return json_text(data) + "\n"


def write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise file_error(path, error) from None


def no_tests(selection: Selection, sets: Sequence[Checked]) -> CommandError:
    """Nothing was asked, which is no success; and why, where a word of the command line may be misspelled."""
    from policyengine.diagnostics.model import suggest

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
