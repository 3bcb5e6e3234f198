"""Faults in what conditions ask of the past, as the lines they leave; and that what happened in a test notices them."""

from __future__ import annotations

from random import Random

import pytest

from policyengine.testing import run
from policyengine.testing.mutation import MutantStatus, mutate
from policyengine.testing.mutation.equivalent import is_equivalent
from policyengine.testing.mutation.lowering_cache import LoweringCache
from policyengine.testing.mutation.operators import find_faults
from policyengine.testing.mutation.run_mutants import MutantRunner
from tests.testing.mutation.faulty import checked, lines_with

WORLD = """
facts on /pay/{id} { body.amount: number }
issuer acme { url "https://id.example" audience "x" scopes none }
agent "*" { issued by acme   acts for any user
  may POST /review/{id}, POST /change/{id}, POST /pay/{id}, GET /secret, POST /out }
users unrestricted
"""
REVIEWED = "POST /review/{id} by another user where past.params.id == params.id"
CHANGED = "POST /change/{id} by any user where past.params.id == params.id"
GUARDS = f"""
guard "reviewed" on POST /pay/{{id}} {{ require after ({REVIEWED}) within 1h since ({CHANGED}) }}
guard "often" on POST /out {{ deny when count of GET /secret within 10m per (user.id) >= 3 }}
guard "refused" on POST /out {{ deny when count of (denied POST /pay/{{id}}) within 10m >= 2 }}
guard "much" on POST /out {{ deny when sum past.body.amount of POST /pay/{{id}} within 1h > 10 }}
guard "failed" on POST /review/{{id}} {{ require no (GET /secret where past.status >= 400) within 1h }}
"""
TESTS = """
test "reviews" {
  given agent "bot" from acme for user "ann"
  POST /pay/1 => deny by "reviewed"
  POST /review/1 { user.id: "ben" } => allow
  POST /pay/1 { body.amount: 4 } => allow
  POST /pay/2 => deny by "reviewed"
  POST /change/1 => allow
  POST /pay/1 => deny by "reviewed"
  POST /out => deny by "refused"
  after 10m POST /out => allow
  POST /review/1 { user.id: "ben" } => allow
  POST /review/1 => allow
  after 59m59s POST /pay/1 { body.amount: 11 } => allow
  POST /out => deny by "much"
  after 1s POST /pay/1 => deny by "reviewed"
}
test "secrets" {
  given agent "bot" from acme for user "ann"
  repeat 2 in 1m GET /secret => allow responded 200
  POST /out => allow
  GET /secret { agent.id: "other" } => allow responded 400
  POST /out => deny by "often"
  POST /review/1 => allow
  POST /review/1 { agent.id: "other" } => deny by "failed"
}
"""


def guard(condition: str) -> str:
    return f'{WORLD}guard "g" on POST /pay/{{id}} {{\n  {condition}\n}}'


@pytest.mark.parametrize(
    ("condition", "operator", "lines"),
    [
        ("require after POST /out within 1h", "halve a window", ["require after POST /out within 30m"]),
        ("require after POST /out within 1h", "move a bound",
         ["require after POST /out within 59m", "require after POST /out within 61m"]),
        ("require after POST /out within 1h", "toggle denied", ["require after (denied POST /out) within 1h"]),
        ("deny when count of (denied POST /out) within 1h > 2", "toggle denied",
         ["deny when count of (POST /out) within 1h > 2"]),
        ("deny when count of POST /out within 1h > 2", "move a bound", [
            "deny when count of POST /out within 1h > 1", "deny when count of POST /out within 1h > 3",
            "deny when count of POST /out within 59m > 2", "deny when count of POST /out within 61m > 2"]),
        ("require no POST /out within 1h", "negate a condition", ["require not (no POST /out within 1h)"]),
        ("require after (POST /out where past.status < 400) within 1h", "drop a condition",
         ["require after (POST /out) within 1h"]),
        ("require after (POST /out where past.status < 400) within 1h", "negate a condition",
         ["require after (POST /out where not (past.status < 400)) within 1h",
          "require not (after (POST /out where past.status < 400) within 1h)"]),
        (f"require after ({REVIEWED}) within 1h", "flip a comparison",
         [f"require after ({REVIEWED.replace('==', '!=')}) within 1h"]),
        ("require after (POST /out by another user) within 1h", "change whose history",
         ["require after (POST /out) within 1h", "require after (POST /out by any user) within 1h"]),
        ("require after (POST /out by any user) within 1h", "change whose history",
         ["require after (POST /out) within 1h"]),
        ("require after (POST /out by another user) within 1h per (agent.id)", "change whose history",
         ["require after (POST /out by any user) within 1h per (agent.id)"]),
        ("require after POST /out within 1h since POST /change/{id}", "drop a since",
         ["require after POST /out within 1h"]),
        ("require after POST /out within 1h per (agent.id, user.id)", "drop a key", [
            "require after POST /out within 1h", "require after POST /out within 1h per (agent.id)",
            "require after POST /out within 1h per (user.id)"]),
        ("deny when sum past.body.amount of POST /pay/{id} within 1h > 9", "count instead",
         ["deny when count of POST /pay/{id} within 1h > 9"]),
        ("deny when distinct past.params.id of POST /pay/{id} within 1h > 9", "count instead",
         ["deny when count of POST /pay/{id} within 1h > 9"]),
        ("deny when count of POST /pay/{id} within 1h > 9", "count instead", []),
        ("deny when sum (past.output.n else 3) of POST /out within 1h > 9", "count instead",
         ["deny when count of POST /out within 1h > 9"]),
        ("deny when sum (past.output.n else past.status else 3) of POST /out within 1h > 9", "drop a default",
         ["deny when sum (past.output.n else past.status) of POST /out within 1h > 9"]),
        ("deny when distinct (past.output.code else 3) of POST /out within 1h > 9", "drop a default",
         ["deny when distinct (past.output.code) of POST /out within 1h > 9"]),
        ("deny when sum past.output.n of POST /out within 1h > 9", "drop a default", []),
        ("require no (POST /out where past.status is absent) within 1h", "flip a comparison",
         ["require no (POST /out where past.status is present) within 1h"]),
    ],
)  # fmt: skip
def test_each_mutation_operator_generates_the_expected_lines(condition: str, operator: str, lines: list[str]) -> None:
    assert sorted(lines_with(guard(condition), operator)) == sorted(lines)


def test_a_mutant_is_killed_when_the_test_run_fails() -> None:
    policy = checked(WORLD + GUARDS + TESTS)
    workshop = LoweringCache.of(policy)
    for test in ("reviews", "secrets"):
        cases = [case for case in policy.cases if case.test == test]
        examiner = MutantRunner.of(cases, workshop.kernel)
        for fault in Random(test).sample(find_faults(policy.program), 6):
            mutant = workshop.mutant(fault)
            if mutant is not None:
                killed = examiner.examine(mutant).killer is not None
                assert killed != run(cases, mutant.kernel).ok, (fault.name, test)


def test_a_later_request_kills_a_mutant_that_changes_history() -> None:
    """The guard denies what no test expects to be allowed; what comes after it tells whether it happened."""
    policy = f"""{WORLD}guard "g" on GET /secret {{ deny when user.id == "eve" }}
      guard "h" on POST /out {{ deny when after GET /secret within 1h }}
      test "t" {{ given agent "bot" from acme for user "eve"
        GET /secret => not throttle
        POST /out => allow }}"""
    dropped = next(one for one in mutate(checked(policy)).outcomes if one.name.startswith('drop a guard in guard "g"'))
    assert dropped.fate is MutantStatus.KILLED
    assert dropped.killer is not None
    assert dropped.killer.request == "POST /out"


def test_the_report_of_a_survivor_shows_the_changed_line() -> None:
    test = 'test "t" { given agent "bot" from acme for user "ann" POST /pay/1 => deny by "g" POST /out => allow }'
    told = mutate(checked(guard("require after POST /out within 1h") + test)).render()
    assert "survived: halve a window" in told
    assert "    -  require after POST /out within 1h\n    +  require after POST /out within 30m" in told


def test_a_mutant_equivalent_over_whole_numbers_is_detected() -> None:
    policy = checked(guard("deny when count of POST /out within 1h >= 3 or count of POST /out within 1h > 5"))
    workshop = LoweringCache.of(policy)
    made = [workshop.mutant(one) for one in find_faults(policy.program) if one.operator == "drop a part of or"]
    assert [is_equivalent(one) for one in made if one] == [False, True]


def test_dropping_a_guard_drops_its_watches() -> None:
    policy = checked(guard("require after POST /out within 1h"))
    workshop = LoweringCache.of(policy)
    (gone,) = (workshop.mutant(one) for one in find_faults(policy.program) if one.operator == "drop a guard")
    assert gone is not None
    assert gone.kernel.watches == ()
