"""`policyengine test`: do policies decide as their `test` blocks say?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.check import checked_sets
from policyengine.cli.failures import CommandError, logged_in_short, policy_error
from policyengine.cli.options import Policies, TextOrJson
from policyengine.cli.terminal import Format, Screen, busy, print_json

if TYPE_CHECKING:
    from policyengine.testing import Result

FAILURES = 1
NO_TESTS = 3
BAD_POLICY = 4


def run_tests(
    paths: Policies,
    only: Annotated[
        str | None, typer.Option("-k", metavar="TEXT", help="Only tests with this in their names.", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the tests that pass, too.")] = False,
    format: TextOrJson = Format.TEXT,
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
    """
    from policyengine.testing import Report, collect, run

    results: list[Result] = []
    revisions: list[str] = []
    for checked, _ in checked_sets(paths):
        if checked.kernel is None:
            raise policy_error(checked, BAD_POLICY)
        with busy("running the tests"), logged_in_short():
            report = run(collect(checked, only), checked.kernel)
        results += report.results
        revisions.append(report.revision)
    report = Report(tuple(results), revisions[0] if len(revisions) == 1 else "")
    if not report.results:
        fitting = "" if only is None else f" with `{only}` in their names"
        hint = "a policy shows what it decides in `test` blocks" if only is None else None
        raise CommandError("tests", f"no tests{fitting}", hint, code=NO_TESTS)
    if format is Format.JSON:
        print_json(report.to_dict())
    else:
        Screen().findings(report.render(verbose=verbose))
    return 0 if report.ok else FAILURES
