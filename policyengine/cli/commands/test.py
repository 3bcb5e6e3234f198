"""`policyengine test`: run the `test` blocks of policies, and measure how much they cover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer

from policyengine.cli.errors import CommandError, report_error
from policyengine.cli.options.common import Policies
from policyengine.cli.output.terminal import Screen
from policyengine.cli.run_tests import PolicyTestRun, ReportFormat
from policyengine.install_hints import install_command

Wish = TypeVar("Wish")

NameFilter: TypeAlias = Annotated[
    str | None,
    typer.Option("-k", metavar="TEXT", help="Run only tests whose names contain this text.", show_default=False),
]
RuleFilter: TypeAlias = Annotated[
    str | None, typer.Option("--rule", metavar="NAME", help="Run only tests about this guard.", show_default=False)
]
PackageFilter: TypeAlias = Annotated[
    str | None, typer.Option("--package", metavar="NAME", help="Run only tests of this package.", show_default=False)
]
Jobs: TypeAlias = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=0, help="Number of processes; 0 for one per processor.", show_default="1"),
]
Seed: TypeAlias = Annotated[
    int | None, typer.Option("--seed", help="Random seed; the same seed generates the same requests.", show_default="0")
]
Examples: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--examples", min=1, help="Number of requests to try for each `forall`.", show_default="200", metavar="N"
    ),
]
Output: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the report to this file, and text to stdout.", show_default=False
    ),
]
CoverageFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option("--coverage-html", metavar="DIR", help="Also write coverage as HTML pages.", show_default=False),
]
LcovFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--coverage-lcov", metavar="FILE", help="Also write coverage for lcov.", show_default=False),
]
MinCoverage: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--fail-under",
        min=0,
        max=100,
        metavar="PERCENT",
        help="Fail if coverage is below this percentage.",
        show_default=False,
    ),
]
MaxMutants: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--mutants", min=1, metavar="N", help="Maximum number of faults, chosen at random.", show_default=False
    ),
]
WATCHED_SUFFIXES = (".policy", ".json", ".toml")
POLL_MILLISECONDS = 200


def run_tests(
    paths: Policies,
    only: NameFilter = None,
    rule: RuleFilter = None,
    package: PackageFilter = None,
    stop: Annotated[bool, typer.Option("--exitfirst", "-x", help="Stop at the first failure.")] = False,
    jobs: Jobs = None,
    watch: Annotated[bool, typer.Option("--watch", help="Run again whenever a policy changes.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show the tests that pass.")] = False,
    seed: Seed = None,
    examples: Examples = None,
    coverage: Annotated[bool, typer.Option("--coverage", help="Show what no test covers.")] = False,
    coverage_html: CoverageFolder = None,
    coverage_lcov: LcovFile = None,
    fail_under: MinCoverage = None,
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Insert faults, and show those that no test notices.")
    ] = False,
    mutants: MaxMutants = None,
    format: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = ReportFormat.TEXT,
    output: Output = None,
) -> int:
    """Run the `test` blocks of policies.

    A failure shows the request, the expected outcome, the decision and its explanation, and the line of the test.

    \b
    Exit codes:
      0  all tests passed, coverage is high enough, and no mutant survived
      1  a test failed, coverage is too low, or a mutant survived
      3  there are no tests
      4  the policy has errors

    \b
    Example:
      policyengine test payments/
      policyengine test payments/ -k refund -v
      policyengine test payments/ --coverage --fail-under 90 --mutate
      policyengine test payments/ --format junit -o results.xml
    """
    from policyengine.cli.measure_tests import MeasureOptions
    from policyengine.cli.settings.file import load_settings
    from policyengine.testing import Selection

    wishes = load_settings(paths)
    jobs = first_set(jobs, wishes.test.jobs, 1)
    seed = first_set(seed, wishes.test.seed, 0)
    least = first_set(fail_under, wishes.coverage.fail_under, None)
    measures = MeasureOptions(
        coverage, coverage_html, coverage_lcov, fail_under is not None, least, mutate or mutants is not None, mutants
    )
    runs = PolicyTestRun(Selection(only, rule, package), stop, jobs, seed, examples, measures, verbose, format, output)
    if not watch:
        return runs.once(paths)
    return rerun_on_change(paths, lambda: runs.once(paths))


def first_set(given: Wish | None, configured: Wish | None, default: Wish) -> Wish:
    """Return the option if it is set, otherwise the setting of the project, otherwise the default."""
    return given if given is not None else configured if configured is not None else default


def rerun_on_change(paths: Sequence[Path], once: Callable[[], int]) -> int:
    """Call `once` now and after each change of a policy, until interrupted; report the errors that it raises. Raises
    CommandError if `watchfiles` is not installed.
    """
    try:
        from watchfiles import watch
    except ImportError:
        hint = install_command("testing")
        raise CommandError("usage", "`--watch` needs watchfiles", hint, code=2) from None
    screen = Screen()
    folders = {path if path.is_dir() else path.parent for path in paths}
    changing = watch(
        *folders,
        watch_filter=lambda _, path: path.endswith(WATCHED_SUFFIXES),
        debounce=300,
        rust_timeout=POLL_MILLISECONDS,
        yield_on_timeout=True,
    )
    next(changing)  # watching starts here, so that changes during the first run are not missed
    run_reporting_errors(once)
    screen.line(("watching for changes; press Ctrl-C to stop", "dim"))
    for changes in changing:
        if changes:
            screen.line()
            screen.line((f"changed: {', '.join(sorted({Path(path).name for _, path in changes}))}", "bold"))
            run_reporting_errors(once)
    return 0


def run_reporting_errors(once: Callable[[], int]) -> None:
    try:
        once()
    except CommandError as error:
        report_error(error, as_json=False)
