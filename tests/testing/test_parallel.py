"""Many cases by several processes: the same results in the same order."""

from dataclasses import replace

import pytest

from policyengine.testcases import Case
from policyengine.testing import RunReport, collect
from policyengine.testing.parallel import MIN_CHUNK_CASES, chunk_cases, parallel_results
from tests.testing.running import checked, written

ROWS = "\n".join(
    f"| POST /v1/invoices/42/refunds | {amount} | {'allow' if amount % 50 else 'deny'} |" for amount in range(100)
)
TEXT = (
    written(f"use clerks_bot cases {{ | request | body.amount | => |\n{ROWS} }}")
    + """
test "approved" {
  use clerks_bot
  given approval { rule: "large refunds need a human", by: "carol" }
  POST /v1/invoices/42/refunds { body.amount: 900 } => allow
  POST /v1/invoices/42/refunds { body.amount: 900 } => confirm
}
test "skipped" { skip "later" GET /health => deny }
test "odd" { GET /health { user.plan: team } => allow }
"""
)


def told(report: RunReport) -> dict[str, object]:
    return report.to_dict()


def test_several_processes_return_the_same_results_in_the_same_order() -> None:
    found = checked(TEXT)
    assert found.kernel
    cases = collect(found)
    assert len(cases) >= 2 * MIN_CHUNK_CASES
    alone, together = (tuple(parallel_results(jobs, cases, found.kernel)) for jobs in (1, 2))
    assert {result.status for result in alone} == {"passed", "failed", "errored", "skipped"}
    assert RunReport(together).to_dict() == RunReport(alone).to_dict()
    assert [one.render() for one in together] == [one.render() for one in alone]


def test_closing_the_results_early_ends_the_run() -> None:
    found = checked(TEXT)
    assert found.kernel
    results = parallel_results(2, collect(found), found.kernel)
    first = next(results)
    results.close()
    assert first.case.number == 1
    assert list(results) == []


@pytest.mark.parametrize("jobs", [2, 4, 64])
def test_chunks_hold_every_case_in_order(jobs: int) -> None:
    cases = many()
    assert [case for chunk in chunk_cases(cases, jobs) for case in chunk] == cases
    assert sum(1 for _ in chunk_cases(cases, jobs)) > 1


def test_a_test_with_approvals_is_not_split_into_chunks() -> None:
    spending = [case for case in collect(checked(TEXT)) if case.approvals]
    cases = [replace(spending[0], number=number) for number in range(200)]
    assert list(chunk_cases(cases, 2)) == [tuple(cases)]


def many() -> list[Case]:
    return [case for case in collect(checked(TEXT)) if not case.approvals and case.test == "t"]
