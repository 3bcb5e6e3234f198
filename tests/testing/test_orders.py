"""Tests of policies with a declared order of calls: each sequence of requests begins a run, and follows the order."""

from __future__ import annotations

import pytest

from policyengine.testing import RunReport, collect, run
from policyengine.testing.mutation import mutate
from policyengine.testing.mutation.report import MutantStatus
from policyengine.testing.properties import try_properties
from policyengine.testing.report import ResultStatus
from tests.testing.running import checked

POLICY = """
issuer acme { scopes none }
agent "*" { issued by acme   acts alone   may POST /auth, GET /data/**, POST /report }
agent "free" { issued by acme   acts alone   may GET /data/** }
profile "reporting" for agent "bot" { expect POST /auth -> GET /data/** repeated -> POST /report }
guard "order" { deny when not behavior.sequence }
guard "large" on POST /auth { deny when request.size > 5 }
guard "burst" { deny when behavior.burst }
fixture bot { given agent "bot" from acme   given request { size: 1 } }
"""


def report(inside: str, policy: str = POLICY) -> RunReport:
    found = checked(f'{policy}\ntest "t" {{ use bot\n{inside} }}')
    assert found.kernel is not None, [one.render() for one in found.diagnostics if one.is_error]
    return run(collect(found), found.kernel)


def failures(inside: str) -> list[str]:
    return [one.in_short for one in report(inside).results if one.status is not ResultStatus.PASSED]


PASSING = {
    "a run": "POST /auth => allow  GET /data/1 => allow  GET /data/2 => allow  POST /report => allow",
    "the wrong order": 'GET /data/1 => deny by "order"  POST /report => deny by "order"  POST /auth => allow',
    "a denied request": 'POST /auth { request.size: 9 } => deny by "large"  GET /data/1 => deny by "order"',
    "a pause": 'POST /auth => allow  after 5m GET /data/1 => allow  after 301s GET /data/1 => deny by "order"',
    "repeated requests": "POST /auth => allow  repeat 9 in 1m GET /data/1 => allow",
    "repeated requests out of order": 'repeat 3 in 1m POST /auth => first deny at 2 by "order"',
    "another agent": 'GET /data/1 { agent.id: "free" } => allow  GET /data/1 => deny by "order"',
    "each row of a table begins a run": """cases {
        | request     | => |
        | POST /auth  | allow |
        | GET /data/1 | deny by "order" |
      }""",
    "each cell of a matrix begins a run": """cases for request in [POST /auth, GET /data/1] {
        | GET /data/1 | deny by "order" |
        otherwise allow
      }""",
    "the fact is given": "given behavior { sequence: true }  GET /data/1 => allow  POST /report => allow",
    "the fact is given once": 'GET /data/1 { behavior.sequence: true } => allow  GET /data/1 => deny by "order"',
    "the fact is false": 'given behavior { sequence: false }  POST /auth => deny by "order"',
    "the fact is unknown": 'POST /auth { behavior.sequence: unknown } => deny with { unknown: [behavior.sequence] }',
    "the fact is no longer given": "given behavior { sequence: false }  given behavior absent  POST /auth => allow",
    "another fact is given": 'given behavior { burst: true }  POST /auth => deny by "burst"',
}  # fmt: skip


@pytest.mark.parametrize("inside", PASSING.values(), ids=PASSING)
def test_a_test_follows_the_declared_order(inside: str) -> None:
    assert failures(inside) == []


def test_a_failed_test_states_what_was_expected() -> None:
    (result,) = report("GET /data/1 => allow").results
    assert result.walk is not None
    expected = "behavior.sequence = false — at the start, the order expects POST /auth, not GET /data/1"
    assert expected in result.walk.render()
    (result,) = report("POST /auth { behavior.sequence: false } => allow").results
    assert result.walk is not None
    lines = [line for line in result.walk.render().splitlines() if "sequence =" in line]
    assert [line.strip() for line in lines] == ["✓ behavior.sequence = false"]


def test_a_claim_about_all_requests_leaves_earlier_calls_open() -> None:
    claim = 'forall request where agent.id == "bot" and not behavior.sequence => not allow'
    found = checked(f'{POLICY}\ntest "t" {{ {claim} }}')
    assert found.kernel is not None
    (result,) = try_properties(found.properties, found.kernel)
    assert result.status is ResultStatus.PASSED


def test_a_counterexample_states_whether_the_request_follows_the_order() -> None:
    found = checked(f'{POLICY}\ntest "t" {{ forall request where agent.id == "bot" => not allow }}')
    assert found.kernel is not None
    (result,) = try_properties(found.properties, found.kernel)
    assert result.status is ResultStatus.FAILED
    assert "given behavior { sequence: true }" in (result.text or "")


def test_a_mutant_may_be_detected_by_a_later_request_of_the_run() -> None:
    """Without the guard on large requests, the run begins, and only its next request shows that."""
    tests = """test "t" {
      use bot
      POST /auth { request.size: 9 } => not throttle
      GET /data/1                    => deny by "order"
    }"""
    outcomes = mutate(checked(f"{POLICY}\n{tests}")).outcomes
    dropped = [one for one in outcomes if one.operator == "drop a guard" and '-guard "large"' in one.diff]
    assert [one.fate for one in dropped] == [MutantStatus.KILLED]
