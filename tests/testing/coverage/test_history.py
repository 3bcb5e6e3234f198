"""What tests show of history: that something happened, did not, or is not known; and what nobody has to show."""

import pytest

from tests.testing.coverage.seeing import DOORS, left_out, missing, written

WRITE = written()
READ = "GET /docs/1 => allow"
BY_ANOTHER = "after (GET /docs/{id} by another user) within 1h"
AFTER = "after GET /docs/{id} within 1h"
SAME = "after (GET /docs/{id} where past.params.id == params.id) within 1h"
WORKED = "no (GET /docs/{id} where past.status < 400) within 1h"
OPEN = "no (GET /docs/{id} where past.status is absent) within 1h"
OPEN_TOO = "after (GET /docs/{id} where past.output.state is absent) within 1h"
FAILED = "after (GET /docs/{id} where (past.status else 500) >= 400) within 1h"
STATUSES = "distinct (past.status else 0) of GET /docs/{id} within 1h > 1"
SPENT = "sum (past.output.tokens else 0) of GET /docs/{id} within 1h > 1"
MANY = "count of GET /docs/{id} within 1h >= 2"


def guarded(condition: str) -> str:
    return f'{DOORS}guard "g" on POST /docs/{{id}} {{ deny when {condition} }}'


def never(condition: str, *truths: str) -> list[str]:
    return [f"`{condition}` was never {truth}" for truth in truths]


@pytest.mark.parametrize(
    ("condition", "inside", "lacks"),
    [
        (AFTER, WRITE, ["true"]),
        (AFTER, f"{WRITE} {READ} {WRITE}", []),
        (AFTER, f"{READ} {WRITE}", ["false"]),
        (SAME, f"{WRITE} {READ} {WRITE}", []),
        (WORKED, WRITE, ["false", "unknown"]),
        (WORKED, f"{WRITE} {READ} {WRITE}", ["false"]),
        (WORKED, f"{WRITE} {READ} {WRITE} {READ} responded 200 {WRITE}", []),
        (OPEN, WRITE, ["false"]),
        (OPEN, f"{WRITE} {READ} {WRITE}", []),
        (OPEN_TOO, WRITE, ["true"]),
        (OPEN_TOO, f"{WRITE} {READ} {WRITE}", []),
        (FAILED, f"{READ} responded 200 {WRITE} {READ} {WRITE}", []),
        (STATUSES, WRITE, ["true"]),
        (STATUSES, f"{READ} {READ} responded 200 {WRITE} after 1h {WRITE}", []),
        (SPENT, f"{READ} {WRITE}", ["true", "unknown"]),
        (SPENT, f"{READ} responded 200 {{ output.tokens: 9 }} {WRITE}", ["false", "unknown"]),
        (SPENT, f'{READ} responded 200 {{ output.tokens: "9" }} {WRITE}', ["true", "false"]),
        (MANY, f"{READ} {WRITE}", ["true"]),
        (MANY, f"{READ} {WRITE} {READ} {WRITE}", []),
        (BY_ANOTHER, WRITE, ["true", "unknown"]),
        (BY_ANOTHER, f'{WRITE} GET /docs/1 {{ user.id: "bob" }} => allow {WRITE}', ["unknown"]),
    ],
)
def test_coverage_expects_a_history_condition_to_be_true_false_and_unknown(
    condition: str, inside: str, lacks: list[str]
) -> None:
    assert missing(guarded(condition), inside, f"`{condition}` was") == never(condition, *lacks)


@pytest.mark.parametrize("condition", [AFTER, SAME, OPEN])
def test_coverage_does_not_expect_a_complete_history_to_be_unknown(condition: str) -> None:
    assert left_out(guarded(condition), condition[:40]) == [f"`{condition}` can never be unknown"]


def test_history_conditions_of_grants_and_rates_are_covered_too() -> None:
    rules = f"""{DOORS}agent "bot" {{ issued by acme   acts for any user   may write when {AFTER} }}
      rate "r" per agent.id on write when {MANY} {{ 9/1m }}"""
    assert missing(rules, f"{READ} {WRITE}", "within 1h") == [*never(AFTER, "false"), *never(MANY, "true")]
