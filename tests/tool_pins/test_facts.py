"""The facts `tool.pinned`, `tool.changed` and `tool.hash`: in questions, tests, properties, differences and records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog

POLICY = """
language 1
package notes
issuer local { scopes none }
agent "coder" {
  issued by local
  acts alone
  may TOOL notes/read when tool.pinned and not tool.changed
  may TOOL notes/write when tool.hash like "sha256:a*"
  may GET /notes
}
guard "hashes" on TOOL notes/write { deny when tool.hash == "sha256:ab" message "{tool.hash}" }
"""
CODER = {"agent": {"id": "coder", "issuer": "local"}, "credential": {"issuer": "local", "scopes": []}}


def question(name: str, **facts: Any) -> dict[str, Any]:
    return {**CODER, "tool": {"server": "notes", "name": name, **facts}}


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        (question("read", pinned=True, changed=False), "allow"),
        (question("read", pinned=False, changed=False), "deny"),
        (question("read", pinned=True, changed=True), "deny"),
        (question("read", pinned=True), "deny"),
        (question("read", pinned="true", changed=False), "deny"),
        (question("read"), "deny"),
        ({**question("read", changed=False), "pending": ["tool.pinned"]}, "deny"),
        (question("write", hash="sha256:aa"), "allow"),
        (question("write", hash="sha256:ab"), "deny"),
        (question("write", hash="sha256:b"), "deny"),
        (question("write", hash=7), "deny"),
        (question("write"), "deny"),
    ],
)
def test_the_engine_and_the_specification_decide_by_these_facts(asked: dict[str, Any], outcome: str) -> None:
    engine = Engine.from_text(POLICY)
    assert engine.decide(asked).outcome == outcome
    assert engine.decide({**asked, "options": {"explain": True}}).outcome == outcome  # raises if the two differ


@pytest.fixture
def policy(run: Any, tmp_path: Path) -> Path:
    (tmp_path / "notes.policy").write_text(POLICY)
    return tmp_path / "notes.policy"


TESTS = """
language 1
package notes
test "pins" {
  given agent "coder" from local
  given tool.pinned true
  given tool.changed false
  TOOL notes/read                      => allow
  TOOL notes/read { tool.pinned: false } => deny
  GET /notes                           => allow
}
test "no bad hash" { forall request where tool.name == "write" and tool.hash == "sha256:ab" => not allow }
test "only good hashes" { forall request where tool.hash == "sha256:aa" => not allow }
"""


def test_tests_and_properties_state_these_facts_for_tools_only(run: Any, policy: Path) -> None:
    (policy.parent / "notes_test.policy").write_text(TESTS)
    done = run("test", ".")
    assert "4 passed, 1 failed" in done.out
    assert 'tool.hash: "sha256:aa"' in done.out or 'given tool.hash "sha256:aa"' in done.out


def test_a_difference_has_a_witness_with_these_facts(run: Any, policy: Path) -> None:
    (policy.parent / "other.policy").write_text(POLICY.replace("tool.pinned and not", "not"))
    done = run("diff", "notes.policy", "other.policy")
    assert '"tool": {"' in done.out
    assert '"pinned": ' in done.out


def test_a_recorded_decision_is_a_test_with_these_facts(run: Any, policy: Path) -> None:
    log = DecisionLog(policy.parent / "log.jsonl")
    engine = Engine.load(policy, log=log)
    engine.decide(question("read", pinned=True, changed=False, hash="sha256:aa"))
    log.close()
    done = run("record", "notes.policy", "--log", "log.jsonl", "-o", "recorded_test.policy")
    assert done.code == 0
    text = (policy.parent / "recorded_test.policy").read_text()
    assert "tool.pinned" in text
    assert run("test", "notes.policy", "recorded_test.policy").code == 0


def test_a_declared_attribute_cannot_have_the_name_of_a_fact(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("entity tool { pinned: bool }\n")
    assert run("check", "a.policy").code == 1


def test_a_question_about_another_endpoint_with_these_facts_is_malformed(run: Any, policy: Path) -> None:
    asked = {**CODER, "request": {"method": "GET", "path": "/notes"}, "tool": {"pinned": True}}
    (policy.parent / "q.json").write_text(json.dumps(asked))
    assert "more than one endpoint" in run("decide", "notes.policy", "-r", "q.json").err
