"""The examples are what a newcomer may copy: without findings, in canonical form, tested, and as their READMEs say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from policyengine.check import CheckResult
from policyengine.cli.commands.check import check_files
from policyengine.engine import Engine
from policyengine.kernel import Confirm, Deny
from policyengine.runtime.decision import Decision, Gate, Outcome
from policyengine.source import Source
from policyengine.syntax.format import format_module
from policyengine.testing import RunReport, collect, run
from policyengine.testing.coverage import measure
from policyengine.testing.mutation import mutate
from policyengine.testing.report import CaseResult
from tests.depth import examples, scaled
from tests.pages import CHECKOUT, EXAMPLES, blocks, commands

FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
FILES = sorted(EXAMPLES.rglob("*.policy"))
GATES = set(Gate) - {Gate.FAILURE, Gate.HALTED}  # an operator halts, and no example does
MUTANTS = examples(16, 10_000)  # of one example: in `make test-deep` all of them
each = pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name) for folder in FOLDERS])


@cache
def checked(folder: Path) -> CheckResult:
    return check_files([folder])[0]


@cache
def report_of(folder: Path) -> RunReport:
    kernel = checked(folder).kernel
    assert kernel is not None
    return run(collect(checked(folder)), kernel)


def question(folder: Path) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    return asked


def decided(folder: Path, asked: Mapping[str, Any]) -> Decision:
    entities = folder / "entities.json"
    return Engine.load(folder, entities=entities if entities.exists() else None).evaluate(asked)


@each
def test_an_example_has_no_findings(folder: Path) -> None:
    assert [diagnostic.render() for diagnostic in checked(folder).diagnostics] == []


@pytest.mark.parametrize("file", [pytest.param(file, id=str(file.relative_to(EXAMPLES))) for file in FILES])
def test_an_example_is_in_canonical_form(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert format_module(Source(file.name, text)) == text


@each
def test_an_example_passes_its_tests(folder: Path) -> None:
    assert report_of(folder).ok, report_of(folder).render()


@each
def test_the_tests_of_an_example_have_full_coverage(folder: Path) -> None:
    kernel = checked(folder).kernel
    assert kernel is not None
    missing = measure(collect(checked(folder)), kernel).missing
    assert [f"{point.span.at}: {point.words}" for point in missing] == []


@scaled
@each
def test_the_tests_of_an_example_kill_or_explain_every_mutant(folder: Path) -> None:
    report = mutate(checked(folder), limit=MUTANTS)
    assert report.ok, report.render()


@each
def test_every_guard_of_an_example_acts_in_a_test(folder: Path) -> None:
    kernel = checked(folder).kernel
    assert kernel is not None
    closing = {guard.name for guard in kernel.guards if any(isinstance(one, Deny | Confirm) for one in guard.effects)}
    named = {reason.rule for decision in decisions(folder) for reason in decision.reasons}
    assert closing <= named


def results(folder: Path) -> list[CaseResult]:
    return [result for result in report_of(folder).results if isinstance(result, CaseResult)]


def decisions(folder: Path) -> list[Decision]:
    return [result.decision for result in results(folder) if result.decision is not None]


def test_the_examples_show_every_outcome_and_every_gate() -> None:
    shown = [decision for folder in FOLDERS for decision in decisions(folder)]
    assert len(shown) >= 600
    assert {decision.outcome for decision in shown} == set(Outcome)
    assert {decision.gate for decision in shown} == GATES | {None}


def test_the_examples_contain_absent_and_wrongly_typed_facts() -> None:
    whys = {fact.why for folder in FOLDERS for decision in decisions(folder) for fact in decision.unknown}
    assert "absent" in whys
    assert any(why.startswith("expected number, got string") for why in whys)


def test_the_examples_contain_requests_with_approvals() -> None:
    with_approval = [
        result.decision.outcome
        for folder in FOLDERS
        for result in results(folder)
        if result.case.approvals and result.decision is not None
    ]
    assert {Outcome.ALLOW, Outcome.CONFIRM, Outcome.DENY} <= set(with_approval)


@each
def test_a_readme_shows_its_request_and_its_tests(folder: Path) -> None:
    shown = [
        one.line for block in blocks(folder / "README.md") if block.language == "console" for one in commands(block)
    ]
    assert any(line.startswith("policyengine decide .") and "request.json" in line for line in shown)
    assert "policyengine test ." in shown


ASKED = {
    "adaptive": "allow",
    "admin-guardrails": "confirm",
    "analytics": "allow",
    "approvals": "confirm",
    "approve-then-pay": "deny",
    "authzen": "allow",
    "delegation": "allow",
    "drive": "allow",
    "federated": "allow",
    "fingerprint": "allow",
    "lockstep": "allow",
    "mcp-tools": "confirm",
    "multi-tenant": "deny",
    "payments": "confirm",
    "plans": "allow",
    "secret-then-silent": "deny",
    "spending-caps": "allow",
    "todo": "deny",
}


@each
def test_the_request_of_an_example_has_the_outcome_its_readme_states(folder: Path) -> None:
    assert decided(folder, question(folder)).outcome == ASKED[folder.name]


# What the READMEs say of other requests.
VARIATIONS = [
    ("payments", {"body": {"amount": 90}}, "allow", None),
    ("payments", {"body": {"amount": 90000}}, "deny", Gate.GUARD),
    ("payments", {"body": {"amount": "900"}}, "deny", Gate.GUARD),
    ("payments", {"body": {"amount": "90"}}, "deny", Gate.GUARD),
    ("payments", {"request": {"method": "POST", "path": "/v1/invoices/66/refunds"}}, "deny", Gate.DEFAULT),
    ("analytics", {"request": {"method": "GET", "path": "/v1/datasets/patients/rows"}}, "deny", Gate.GUARD),
    ("analytics", {"request": {"method": "GET", "path": "/v1/datasets/unheard-of/rows"}}, "deny", Gate.GUARD),
    ("delegation", {"options": {"consume": False, "at": "2026-01-01T09:31:00Z"}}, "deny", Gate.CHAIN),
    ("drive", {"credential": {"kind": "jwt", "scopes": ["drive.readonly"]}}, "deny", Gate.DEFAULT),
    ("drive", {"user": {"id": "guest"}}, "deny", Gate.USER),
]


@pytest.mark.parametrize(("name", "change", "outcome", "gate"), VARIATIONS)
def test_a_varied_request_has_the_outcome_the_readme_states(
    name: str, change: dict[str, Any], outcome: str, gate: Gate | None
) -> None:
    decision = decided(EXAMPLES / name, question(EXAMPLES / name) | change)
    assert (decision.outcome, decision.gate) == (outcome, gate)


def test_make_serve_passes_the_entities_of_the_example() -> None:
    def planned(*options: str) -> str:
        return subprocess.run(["make", "-n", "serve", *options], cwd=CHECKOUT, capture_output=True, text=True).stdout

    assert "serve policies/examples/payments --entities policies/examples/payments/entities.json" in planned()
    assert "serve policies/examples/delegation  --host" in planned("EXAMPLE=delegation")
