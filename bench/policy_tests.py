"""`testing`: duration of the tests of a policy, their coverage, and their mutation testing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from bench.report import Section, Target
from bench.trial import format_number
from policyengine.check import CheckResult, check
from policyengine.policy_files import load_sources
from policyengine.syntax.parse import parse
from policyengine.testing import collect, run
from policyengine.testing.coverage import measure
from policyengine.testing.mutation import mutate

PAYMENTS = Path(__file__).parent.parent / "policies" / "examples" / "payments"
CASES = 10_000
TRIES = 3  # rounds, of which the fastest counts: the others measure other load on the machine
HEAD = """language 1
package acme.payments
test "ten thousand" {
  use clerks_bot
  cases {
    | request | body.amount | => |
"""
# Each outcome and most gates in turn; the number makes every row different.
ROWS = (
    "| GET /v1/invoices/42 | {0} | allow |",
    '| GET /v1/invoices/66 | {0} | deny by "tenants are islands" |',
    "| DELETE /v1/invoices/42 | {0} | deny by default |",
    "| PATCH /v1/invoices/42 | {0} | allow |",
    "| POST /v1/invoices/42/refunds | {0}.5 | allow |",
    '| POST /v1/invoices/42/refunds | 1{0:03} | confirm by "large refunds need a human" |',
    '| POST /v1/invoices/42/refunds | 2{0:05} | deny by "large refunds need a human" |',
    '| POST /v1/invoices/42/refunds | "{0}" | deny by "large refunds need a human" |',
    '| TOOL billing/refund_invoice | {0} | deny by "tenants are islands" |',
    "| GET /v1/customers | {0} | deny by default |",
)
Say = Callable[[str], None]
Made = TypeVar("Made")


def case_table(cases: int) -> str:
    rows = (ROWS[place % len(ROWS)].format(place // len(ROWS) % 500) for place in range(cases))
    return f"{HEAD}{chr(10).join(rows)}\n  }}\n}}\n"


def check_policies(*paths: Path) -> CheckResult:
    sources, problems = load_sources(paths)
    parsed = [parse(source) for source in sources]
    found = [*problems, *(diagnostic for _, some in parsed for diagnostic in some)]
    return check([module for module, _ in parsed if module is not None], found)


def run_many_cases(folder: Path) -> None:
    """Run the cases from files to results, as `policyengine test` does."""
    policy = check_policies(folder)
    assert policy.kernel is not None, [one.render() for one in policy.diagnostics if one.is_error][:3]
    report = run(collect(policy), policy.kernel)
    assert report.ok, report.bad[0].render()
    assert len(report.results) == CASES


def time_best(make: Callable[[], Made]) -> tuple[float, Made]:
    """Return the best time in seconds, and the result."""
    best: tuple[float, Made] | None = None
    for _ in range(TRIES):
        start = perf_counter()
        made = make()
        seconds = perf_counter() - start
        if best is None or seconds < best[0]:
            best = seconds, made
    assert best is not None
    return best


def measure_testing(say: Say) -> list[dict[str, Any]]:
    policy = check_policies(PAYMENTS)
    assert policy.kernel is not None
    kernel, cases = policy.kernel, collect(policy)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in PAYMENTS.glob("*.policy"):
            text = file.read_text(encoding="utf-8")
            kept = text[: text.index('\ntest "')] if file.name.endswith("_test.policy") else text
            (folder / file.name).write_text(kept, encoding="utf-8")
        (folder / "many_test.policy").write_text(case_table(CASES), encoding="utf-8")
        say(f"testing: {CASES:,} cases")
        many, _ = time_best(lambda: run_many_cases(folder))
    say("testing: the tests of payments")
    own, _ = time_best(lambda: run(cases, kernel))
    say("testing: their coverage")
    covering, coverage = time_best(lambda: measure(cases, kernel))
    say("testing: faults in payments")
    mutating, faults = time_best(lambda: mutate(policy))
    tried = len(faults.outcomes)
    return [
        {"what": f"{CASES:,} cases, from files to results", "seconds": many, "each": many / CASES, "of": CASES},
        {"what": "the tests of `payments`, once checked", "seconds": own, "each": own / len(cases), "of": len(cases)},
        {"what": f"coverage of `payments`, {len(coverage.points)} points", "seconds": covering,
         "each": covering / len(cases), "of": len(cases)},
        {"what": "faults in `payments`", "seconds": mutating, "each": mutating / tried, "of": tried},
    ]  # fmt: skip


def section(data: list[dict[str, Any]]) -> Section:
    many, _, _, faults = data
    return Section(
        name="testing",
        title="Tests of a policy, on one core",
        columns=("what", "seconds", "how many", "each, ms"),
        rows=tuple(
            (one["what"], format_number(one["seconds"]), f"{one['of']:,}", format_number(one["each"] * 1e3))
            for one in data
        ),
        data=tuple(data),
        targets=(
            Target(f"{CASES:,} cases", 3.0, many["seconds"], "s"),
            Target("faults in `payments`", 200, round(1 / faults["each"], 1), "/s", at_least=True),
        ),
        notes=(
            f"The fastest of {TRIES} runs. Ten kinds of request in turn: three allowed, one to confirm, six denied.",
        ),
    )


def policy_test_times(say: Say) -> Section:
    return section(measure_testing(say))
