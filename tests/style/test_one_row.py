"""What is added in one place is known everywhere: a fact is one row, an operator one row and a line of grammar."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).with_name("one_row.py")


@pytest.fixture(scope="module")
def additions() -> dict[str, Any]:
    """What each part of the project says once the rows were added, in an interpreter of its own."""
    done = subprocess.run([sys.executable, CHILD], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


# ── A built-in fact ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def fact(additions: dict[str, Any]) -> dict[str, Any]:
    return dict(additions["fact"])


def test_a_policy_that_reads_an_added_fact_checks(fact: dict[str, Any]) -> None:
    assert fact["check"] == "no mistakes in 1 file\n"


def test_the_formatter_writes_an_added_fact(fact: dict[str, Any]) -> None:
    assert '+  may GET /a when agent.version == "2" and device.managed\n' in fact["formatting"]


@pytest.mark.parametrize(
    "words",
    ["E201 unknown fact `agent.verson`", "did you mean `agent.version`?", "E220 `==` cannot compare a string with"],
)
def test_the_checker_knows_the_name_and_the_type_of_an_added_fact(fact: dict[str, Any], words: str) -> None:
    assert words in fact["mistakes"]


def test_the_specification_and_the_engine_read_an_added_fact(fact: dict[str, Any]) -> None:
    outcomes = {"right": "allow", "wrong": "deny", "absent": "deny", "of another type": "deny"}
    assert fact["decisions"] == {name: [outcome, outcome] for name, outcome in outcomes.items()}


def test_a_program_has_slots_for_added_facts(fact: dict[str, Any]) -> None:
    assert {"agent.version", "device.managed", "request.http2"} <= set(fact["compiled"])


@pytest.mark.parametrize("seen", ["was never false", "was never unknown"])
def test_coverage_reports_missing_values_of_an_added_fact(fact: dict[str, Any], seen: str) -> None:
    assert "1 passed" in fact["tests"]
    assert f'`agent.version == "2"` {seen}' in fact["tests"]


def test_mutation_plants_faults_in_conditions_on_an_added_fact(fact: dict[str, Any]) -> None:
    assert "agent.version" in fact["mutation"]
    assert "survived" in fact["mutation"]


def test_a_counterexample_contains_a_value_of_an_added_fact(fact: dict[str, Any]) -> None:
    assert 'given agent "x" from acme { version: "2" }' in fact["property"]
    assert "given device { managed: true }" in fact["property"]


def test_diff_finds_a_witness_with_an_added_fact(fact: dict[str, Any]) -> None:
    assert 'when agent.version == "3"' in fact["diff"]
    assert '"version": "3"' in fact["diff"]
    assert "everything else is proved equal" in fact["diff"]


def test_requests_may_contain_an_added_fact(fact: dict[str, Any]) -> None:
    assert fact["reading"] == "did you mean `version`?"


def test_the_documents_describe_an_added_fact(fact: dict[str, Any]) -> None:
    documents = fact["documents"]
    assert "| `agent.version` | `string` ? | the version it says it is |" in documents["docs"]
    assert documents["agent"]["description"] == "the version it says it is"
    assert documents["device"]["properties"]["managed"]["anyOf"][0] == {"type": "boolean"}
    assert "device" in documents["question"]


def test_an_added_fact_is_pending_behind_a_gateway(fact: dict[str, Any]) -> None:
    assert {"agent.version", "request.http2"} <= set(fact["gateways"])


def test_callers_cannot_set_an_added_fact_that_credentials_prove(fact: dict[str, Any]) -> None:
    assert "device" in fact["proved"]


def test_generated_policies_and_requests_have_an_added_fact(fact: dict[str, Any]) -> None:
    generators = fact["generators"]
    assert {"agent.version", "device.managed", "request.http2"} <= set(generators["known"])
    assert generators["given"]["agent"]["version"] == "string"
    assert generators["given"]["device"] == {"managed": "bool"}


# ── An operator ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def operator(additions: dict[str, Any]) -> dict[str, Any]:
    return dict(additions["operator"])


def test_a_policy_with_an_added_operator_checks(operator: dict[str, Any]) -> None:
    assert operator["check"] == "no mistakes in 1 file\n"


def test_the_formatter_writes_an_added_operator(operator: dict[str, Any]) -> None:
    assert '+anyone { may POST /a when body.name starts with "acme-" }\n' in operator["formatting"]


@pytest.mark.parametrize(
    "words", ["E223 `7` is an int, not a string", "E223 `body.count` is an int", "hint: `starts with` is for strings"]
)
def test_the_checker_knows_the_operand_types_of_an_added_operator(operator: dict[str, Any], words: str) -> None:
    assert words in operator["mistakes"]


def test_the_specification_and_the_engine_know_an_added_operator(operator: dict[str, Any]) -> None:
    expected = {"right": "allow", "wrong": "deny", "absent": "deny", "of another type": "deny", "guarded": "deny"}
    assert operator["decisions"] == {name: [outcome, outcome] for name, outcome in expected.items()}


def test_a_bundle_holds_an_added_operator(operator: dict[str, Any]) -> None:
    assert operator["bundle"] == "allow"


@pytest.mark.parametrize("seen", ["was never false", "was never unknown"])
def test_coverage_reports_missing_values_of_an_added_operator(operator: dict[str, Any], seen: str) -> None:
    assert "1 passed" in operator["tests"]
    assert f'`body.name starts with "acme-"` {seen}' in operator["tests"]


def test_mutation_plants_faults_around_an_added_operator(operator: dict[str, Any]) -> None:
    assert 'starts with body.prefix else "ax"' in operator["mutation"]


def test_a_counterexample_contains_a_sample_of_an_added_operator(operator: dict[str, Any]) -> None:
    assert "failed test" in operator["property"]
    assert 'body.name: "acme-' in operator["property"]


def test_an_explanation_shows_the_result_of_an_added_operator(operator: dict[str, Any]) -> None:
    assert '✓ body.name starts with "acme-"' in operator["property"]


def test_diff_finds_a_witness_for_an_added_operator(operator: dict[str, Any]) -> None:
    assert 'when not (body.name starts with "acme-") and body.name starts with "acme"' in operator["diff"]
    assert '{"name": "acme"}' in operator["diff"]


def test_the_documentation_describes_an_added_operator(operator: dict[str, Any]) -> None:
    row = '| `starts with` | two strings | the left text begins with the right one | `body.path starts with "/srv/"` |'
    assert row in operator["docs"]
