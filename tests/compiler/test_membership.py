"""Inherited sets and rows on the quick way: one look into a set, sure where what is known is enough."""

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


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_fast_path_agrees_with_the_specification_or_gives_no_result(condition: str) -> None:
    engine = Engine.from_text(POLICY.replace("CONDITION", condition), directory=directory(ROWS))
    for doc, user in product(DOCS, USERS):
        for _ in range(2):  # what a column remembers is the same
            quick = engine.decider.compiled.decide(asked(doc, user))
            specified = said(engine.explain(asked(doc, user)).decision)
            assert said(engine.decide(asked(doc, user))) == specified
            assert quick is None or said(quick) == specified


@pytest.mark.parametrize(
    ("condition", "sure"),
    [
        ("user in resource.editors", {"whole alice", "whole bob", "whole cy", "part alice", "team bob", "gap alice"}),
        ("resource.readers has user", {
            *(f"{doc} {user}" for doc in ("whole", "part", "team") for user in USERS), "gap alice",
        }),
        ("resource is known", {f"{doc} {user}" for doc in DOCS for user in USERS}),
    ],
)  # fmt: skip
def test_what_is_known_is_answered_quickly(condition: str, sure: set[str]) -> None:
    """An element that is surely there is found whatever else may be; one that is not needs all of the set."""
    engine = Engine.from_text(POLICY.replace("CONDITION", condition), directory=directory(ROWS))
    answered = {f"{d} {u}" for d, u in product(DOCS, USERS) if engine.decider.compiled.decide(asked(d, u)) is not None}
    assert answered == sure


def test_without_a_directory_it_is_never_sure_whether_there_is_a_row() -> None:
    engine = Engine.from_text(POLICY.replace("CONDITION", "resource is known"))
    assert engine.decider.compiled.decide(asked("whole", "alice")) is None


SHOWN = """\
    v1 = parts[2]
    v2 = C0[v1]
    if not (v2 is not None and v2 is not ABSENT): return None
    v3 = user in v2
    if not (v3 or v2.__class__ is frozenset): return None
    if v3:
        return True
"""


def test_membership_is_one_look_into_a_set() -> None:
    engine = Engine.from_text(POLICY.replace("CONDITION", "resource.readers has user"), directory=directory(ROWS))
    assert engine.decide(asked("whole", "alice")).allowed
    assert SHOWN in engine.generated_code()


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
def test_attributes_of_a_tool_come_from_its_row_on_the_fast_path_too(place: str, name: str) -> None:
    """It took them for absent, so that `else` opened for every tool, whatever its row said."""
    engine = Engine.from_text(TOOLS, directory=directory(RATED))
    question = {"tool": {"server": place, "name": name}, "user": {"id": "alice"}}
    quick = engine.decider.compiled.decide(question)
    assert said(engine.decide(question)) == said(engine.explain(question).decision)
    assert quick is None or said(quick) == said(engine.explain(question).decision)
    assert (quick is None) == (name == "unheard" and place in "abd")
    assert engine.decide(question).allowed is (name in {"a": ["even"], "c": ["odd", "even"]}.get(place, ["odd"]))
