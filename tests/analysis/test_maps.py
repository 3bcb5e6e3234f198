"""A map that changed is told: no request of ours shows it, and the rules are proved the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policyengine.analysis import compare
from policyengine.analysis.diff.render import render_markdown, render_text
from policyengine.cli import main
from policyengine.engine import Engine
from tests.pages import EXAMPLES

POLICY = (EXAMPLES / "todo" / "todo.policy").read_text(encoding="utf-8")
FACT = "fact todo.owner = resource.properties.ownerID"
assert FACT in POLICY


def engine(policy: str) -> Engine:
    return Engine.from_text(policy, "todo.policy")


@pytest.mark.parametrize("changed", [POLICY.replace(FACT, ""), POLICY.replace("ownerID", "owner")])
def test_a_changed_map_is_a_difference_that_may_widen(changed: str) -> None:
    found = compare(engine(POLICY).kernel, engine(changed).kernel)
    assert (found.differs, found.widens, found.proved, found.differences) == (True, True, True, ())
    assert found.maps is not None
    assert [rule.text for rule in found.maps.removed] == [FACT]


def test_a_changed_map_is_reported_as_written() -> None:
    found = compare(engine(POLICY).kernel, engine(POLICY.replace("ownerID", "owner")).kernel)
    line = POLICY[: POLICY.index(FACT)].count("\n") + 1
    assert render_text(found) == (
        "changed: the translation of AuthZEN questions\n"
        f"  - todo.policy:{line}: map authzen: {FACT}\n"
        f"  + todo.policy:{line}: map authzen: fact todo.owner = resource.properties.owner\n\n"
        "1 changed map; everything else is proved equal\n"
    )
    assert f"- todo.policy:{line}: map authzen: {FACT}" in render_markdown(found)


def test_a_reordered_map_is_the_same() -> None:
    turned = POLICY.replace(
        'resource "user" => user\n  resource "todo" => todo', 'resource "todo" => todo\n  resource "user" => user'
    )
    assert turned != POLICY
    assert not compare(engine(POLICY).kernel, engine(turned).kernel).differs


def test_diff_fails_on_a_changed_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.policy", tmp_path / "new.policy"
    old.write_text(POLICY, encoding="utf-8")
    new.write_text(POLICY.replace(FACT, ""), encoding="utf-8")
    assert main(["diff", str(old), str(new), "--fail-on", "widening", "--format", "json"]) == 1
    assert [rule["text"] for rule in json.loads(capsys.readouterr().out)["maps"]["removed"]] == [FACT]
