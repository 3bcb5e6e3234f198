"""Expectations of tests: the outcome, its rule or gate, and other details of the decision."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from policyengine.runtime.decision import Outcome
from policyengine.syntax import nodes as ast
from policyengine.testcases.expected_details import read_details
from policyengine.testcases.raw_facts import ValueContext
from policyengine.testcases.reasons import check_rule, read_gate
from policyengine.testcases.repeats_and_responses import parse_count
from policyengine.testcases.scenario import ExpectedOutcome


def read_expectation(
    written: ast.ExpectationClause, reading: ValueContext, *, repeated: bool = False
) -> ExpectedOutcome | None:
    """Parse an expectation. Report an expectation that can never hold, and return None.

    `first … at` needs a request that is `repeated`.
    """
    if written.first_at is not None and not repeated:
        hint = "write `repeat 21 in 10s` before the request"
        reading.report("E621", "`first … at` counts the requests of `repeat`", written.span, hint)
        return None
    if written.reason is not None and written.negated != (written.outcome == "allow"):
        report_reason(written, reading)
        return None
    found = read_outcome(written, reading)
    if found is None:
        return None
    if written.first_at is not None:
        found = replace(found, first=parse_count(written.first_at))
    if written.details is None:
        return found
    return replace(found, details=read_details(written.details, found, reading))


def read_outcome(written: ast.ExpectationClause, reading: ValueContext) -> ExpectedOutcome | None:
    """Parse the outcome and its rule or gate. Return None if an error was reported."""
    outcome, text = Outcome(written.outcome), " ".join(written.span.text.split())
    match written.reason:
        case None:
            return ExpectedOutcome(outcome, text, written.negated)
        case ast.ByRule(name):
            check_rule(name.value, name.span, reading)
            return ExpectedOutcome(outcome, text, written.negated, rule=name.value)
        case ast.ByGate(name):
            gate = read_gate(name.text, name.span, reading)
            return ExpectedOutcome(outcome, text, written.negated, gate=gate) if gate else None
        case _:
            assert_never(written.reason)


def report_reason(written: ast.ExpectationClause, reading: ValueContext) -> None:
    if written.outcome == "allow":
        message, hint = "an allow has no reason", "remove `by …`, or write `not allow by …`"
    else:
        message = f"`not {written.outcome}` does not say which outcome is expected, so it can have no reason"
        hint = "write the outcome that you expect, or remove `by …`"
    reading.report("E610", message, written.span, hint)
