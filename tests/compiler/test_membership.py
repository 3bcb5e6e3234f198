"""Membership and attributes on the quick way: what is in a row is found there."""

from __future__ import annotations

import pytest

from policyengine.engine import Engine
from tests.generate.specified import said
from tests.semantics.deciding import directory

TOOLS = """
entity tool { risk: number?   owners: set<user>? }
entity user
anyone {
  may TOOL a/* when (tool.risk else 0) < 1
  may TOOL b/* when tool.risk is present
  may TOOL d/* when (tool.owners else []) has user
  may TOOL e/* when tool == tool "e/odd"
}
"""
RATED = {
    **{f"tool {place}/odd": {"risk": 5, "owners": ["alice"]} for place in "abde"},
    **{f"tool {place}/even": {} for place in "abde"}, "user alice": {},
}  # fmt: skip


@pytest.mark.parametrize("place", "abde")
@pytest.mark.parametrize("name", ["odd", "even"])
def test_attributes_of_a_tool_are_those_of_its_row_on_the_quick_way_too(place: str, name: str) -> None:
    """It took them for absent, so that `else` opened for every tool, whatever its row said."""
    engine = Engine.from_text(TOOLS, directory=directory(RATED))
    question = {"tool": {"server": place, "name": name}, "user": {"id": "alice"}}
    quick, specified = engine._world.quick(question), said(engine.explain(question).decision)
    assert said(engine.decide(question)) == specified
    assert quick is not None
    assert said(quick) == specified
    assert engine.decide(question).allowed is (name in {"a": ["even"]}.get(place, ["odd"]))
