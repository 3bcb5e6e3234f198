"""Measures how good the tests of a policy are: how much of it they cover, and which faults in it they would notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.output.terminal import Screen, show_progress

if TYPE_CHECKING:
    from policyengine.check import CheckResult
    from policyengine.testing import Selection
    from policyengine.testing.coverage import Coverage
    from policyengine.testing.mutation import MutationReport


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """The measurements of a test run. `least` is the required coverage in percent, and `judged` whether `--fail-under`
    set it; `limit` is the maximum number of faults.
    """

    coverage: bool = False
    html: Path | None = None
    lcov: Path | None = None
    judged: bool = False
    least: float | None = None
    mutate: bool = False
    limit: int | None = None

    def taken(
        self, sets: Sequence[CheckResult], selection: Selection, seed: int, jobs: int, *, tests_pass: bool
    ) -> MeasureResult:
        """Return the requested measurements. Faults are tried only if all tests pass, because the results would
        otherwise mean nothing.
        """
        wanted = self.coverage or self.judged or self.html is not None or self.lcov is not None
        found = self._measure_coverage(sets, selection) if wanted else None
        mutation = self._try_faults(sets, selection, seed, jobs) if self.mutate and tests_pass else None
        return MeasureResult(found, self.least, mutation, untried=self.mutate and not tests_pass)

    def _measure_coverage(self, sets: Sequence[CheckResult], selection: Selection) -> Coverage:
        from policyengine.testing import collect
        from policyengine.testing.coverage import measure, merge_coverage
        from policyengine.testing.coverage.html import render_html
        from policyengine.testing.coverage.lcov import render_lcov

        with show_progress("measuring coverage", len(sets)) as counted:
            parts = []
            for checked in sets:
                assert checked.kernel is not None
                parts.append(measure(collect(checked, selection), checked.kernel))
                counted()
        found = parts[0] if len(parts) == 1 else merge_coverage(parts)
        try:
            if self.html is not None:
                render_html(found, self.html)
            if self.lcov is not None:
                self.lcov.write_text(render_lcov(found), encoding="utf-8")
        except OSError as error:
            raise file_error(error.filename or self.html or self.lcov, error) from None
        return found

    def _try_faults(self, sets: Sequence[CheckResult], selection: Selection, seed: int, jobs: int) -> MutationReport:
        from policyengine.runtime.request import RequestError
        from policyengine.testing import Selection, collect
        from policyengine.testing.decide_case import CaseSetupError
        from policyengine.testing.mutation import FailingTestError, MutationReport, mutate, sample

        reports = []
        total = sum(len(sample(checked, seed, self.limit)) for checked in sets)
        with show_progress("trying faults", total) as counted:
            for checked in sets:
                chosen = frozenset((case.package, case.test) for case in collect(checked, selection))
                tests = None if selection == Selection() else chosen
                try:
                    reports.append(
                        mutate(checked, tests=tests, seed=seed, limit=self.limit, jobs=jobs, progress=counted)
                    )
                except (FailingTestError, CaseSetupError, RequestError) as error:
                    raise CommandError("tests", f"cannot try any faults: {error}") from None
        outcomes = tuple(outcome for report in reports for outcome in report.outcomes)
        stale = tuple(stale for report in reports for stale in report.stale)
        return MutationReport(outcomes, sum(report.made for report in reports), stale, seed)


@dataclass(frozen=True, slots=True)
class MeasureResult:
    """The measurements. `untried` means that faults were requested, but the tests do not pass."""

    coverage: Coverage | None = None
    least: float | None = None
    mutation: MutationReport | None = None
    untried: bool = field(default=False)

    @property
    def covers_enough(self) -> bool:
        if self.coverage is None or self.least is None:
            return True
        count = self.coverage.count
        return count.seen * 100 >= self.least * count.total

    @property
    def enough(self) -> bool:
        return self.covers_enough and (self.mutation is None or self.mutation.ok)

    def tell(self, screen: Screen) -> None:
        """Print the measurements, below the results of the tests."""
        from policyengine.testing.coverage.text import render_text

        if self.coverage is not None:
            screen.plain(f"\n{render_text(self.coverage, screen.styled)}\n")
        if self.mutation is not None:
            screen.plain(f"\n{self.mutation.render(screen.styled)}\n")

    def tell_what_lacks(self, screen: Screen) -> None:
        """Print why the measurements are insufficient, unless they already show it."""
        if self.coverage is not None and not self.covers_enough:
            screen.line(("error: ", "bold red"), f"coverage is {self.coverage.count.percent}, below {self.least:g} %")
        if self.untried:
            screen.line(("note: ", "bold yellow"), "no faults were tried, because tests fail")

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.coverage is not None:
            found["coverage"] = {**self.coverage.to_dict(), "fail_under": self.least}
        if self.mutation is not None:
            found["mutation"] = self.mutation.to_dict()
        return found
