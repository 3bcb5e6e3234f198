"""Inherited sets, rows and memberships: decided where their known parts suffice, and unknown otherwise."""

from __future__ import annotations

from itertools import product

import pytest

from policyengine.engine import Engine
from tests.generate.specified import said
from tests.spec.deciding import directory

POLICY = """
entity team { }
entity user { } in team
entity folder { editors: set<user or team> inherited   readers: set<user> inherited else [] } in folder
entity doc { editors: set<user or team> inherited   readers: set<user> inherited } in folder
anyone { may GET /docs/{id: doc} when CONDITION }
"""
GUARDED = POLICY.replace(" when CONDITION }", ' }\nguard "g" on GET /docs/{id: doc} { deny when CONDITION }')
ALICE, SALES = {"type": "user", "id": "alice"}, {"type": "team", "id": "sales"}
ROWS = {
    "user alice": {}, "user bob": {"in": ["team sales"]}, "user cy": {}, "team sales": {},
    "folder f": {"editors": [ALICE]}, "folder g": {"editors": [SALES]}, "folder h": {},
    "doc whole": {"editors": [SALES], "readers": ["alice"], "in": ["folder f"]},
    "doc part": {"readers": [], "in": ["folder f"]},
    "doc team": {"readers": ["cy"], "in": ["folder g"]},
    "doc none": {"in": ["folder h"]},
    "doc gap": {"editors": [ALICE], "readers": ["alice"], "in": ["folder gone"]},
}  # fmt: skip
CONDITIONS = [
    "user in resource.editors",
    "user not in resource.editors",
    "resource.editors has user",
    "user in resource.readers",
    "resource.readers has user",
    'resource.readers overlaps [user "alice"]',
    'resource.readers subset of [user "alice"]',
    '[user "alice"] subset of resource.readers',
    'resource.readers == [user "alice"]',
    "resource.readers is present",
    "user in (resource.readers else [])",
    "(any one in resource.readers: one == user)",
    "resource is known",
    "not resource is known",
    'user is known and not (user "zed" is known)',
]
DOCS, USERS = ("whole", "part", "team", "none", "gap", "unheard"), ("alice", "bob", "cy", "zed")


def asked(doc: str, user: str) -> dict[str, object]:
    return {"request": {"method": "GET", "path": f"/docs/{doc}"}, "user": {"id": user}}


def engine_of(condition: str) -> Engine:
    return Engine.from_text(POLICY.replace("CONDITION", condition), directory=directory(ROWS))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_inherited_sets_and_rows_are_read_as_specified(condition: str) -> None:
    engine = engine_of(condition)
    for doc, user in product(DOCS, USERS):
        for _ in range(2):  # the second decision reads what the first one kept
            assert said(engine.decide(asked(doc, user))) == said(engine.explain(asked(doc, user)).decision)


@pytest.mark.parametrize(
    ("condition", "known"),
    [
        ("user in resource.editors", {"whole alice", "whole bob", "whole cy", "part alice", "team bob", "gap alice"}),
        ("resource.readers has user", {
            *(f"{doc} {user}" for doc in ("whole", "part", "team") for user in USERS), "gap alice",
        }),
        ("resource is known", {f"{doc} {user}" for doc in DOCS for user in USERS}),
    ],
)  # fmt: skip
def test_a_set_with_unknown_parts_decides_what_its_known_parts_decide(condition: str, known: set[str]) -> None:
    """A known element is found even if other parts of the set are unknown; an element that is missing needs the whole
    set, and so does a row that nobody has."""
    engine = Engine.from_text(GUARDED.replace("CONDITION", condition), directory=directory(ROWS))
    decided = {f"{d} {u}" for d, u in product(DOCS, USERS) if not engine.decide(asked(d, u)).unknown}
    assert decided == known


def test_without_an_entity_store_it_is_unknown_whether_there_is_a_row() -> None:
    engine = Engine.from_text(GUARDED.replace("CONDITION", "resource is known"))
    assert [one.fact for one in engine.decide(asked("whole", "alice")).unknown] == ["resource is known"]


TOOLS = """
entity tool { risk: number?   owners: set<user>? }
entity user
anyone {
  may TOOL a/* when (tool.risk else 0) < 1
  may TOOL b/* when tool.risk is present
  may TOOL c/* when tool is known
  may TOOL d/* when (tool.owners else []) has user
  may TOOL e/* when tool == tool "e/odd"
}
"""
RATED = {
    **{f"tool {place}/odd": {"risk": 5, "owners": ["alice"]} for place in "abcde"},
    **{f"tool {place}/even": {} for place in "abcde"}, "user alice": {},
}  # fmt: skip


@pytest.mark.parametrize("place", "abcde")
@pytest.mark.parametrize("name", ["odd", "even", "unheard"])
def test_attributes_of_a_tool_come_from_its_row(place: str, name: str) -> None:
    engine = Engine.from_text(TOOLS, directory=directory(RATED))
    question = {"tool": {"server": place, "name": name}, "user": {"id": "alice"}}
    found = engine.decide(question)
    assert said(found) == said(engine.explain(question).decision)
    assert found.allowed is (name in {"a": ["even"], "c": ["odd", "even"]}.get(place, ["odd"]))
