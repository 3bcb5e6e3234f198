"""What policies say of entities without a row, and of sets that levels lack, compared."""

from __future__ import annotations

import pytest

from policyengine.analysis import Diff, compare
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore

POLICY = """
entity folder { blocked: set<user> inherited LEVELS } in folder
entity doc { blocked: set<user> inherited LEVELS   private: bool? } in folder
entity user { }
anyone { may GET /docs/{id: doc} DOOR }
"""
GUARD = 'guard "blocked" on GET /docs/{id: doc} { deny when user in resource.blocked }'


def policy(door: str = "", levels: str | None = None) -> str:
    found = POLICY.replace("DOOR", door).replace("LEVELS", levels or "")
    return found if levels is None else found + GUARD


def between(old: str, new: str) -> Diff:
    return compare(Engine.from_text(old).kernel, Engine.from_text(new).kernel, samples=100)


@pytest.mark.parametrize(
    ("old", "new", "widens", "narrows"),
    [
        (policy(levels=""), policy(levels="else []"), True, False),
        (policy(levels="else []"), policy(levels=""), False, True),
        (policy(), policy("when resource is known"), False, True),
        (policy("when resource is known"), policy(), True, False),
        (policy("when resource is known"), policy("when not resource is known"), True, True),
        (policy("when resource.private is absent"), policy("when not resource is known"), True, True),
        (policy("when not (resource.private else false)"), policy("when resource.private == false"), False, True),
    ],
)
def test_a_change_of_entity_knowledge_has_witness_requests(old: str, new: str, widens: bool, narrows: bool) -> None:
    found = between(old, new)
    assert ({str(one.direction) for one in found.differences}) == {
        name for name, there in (("widening", widens), ("narrowing", narrows)) if there
    }
    engines = [Engine.from_text(one, directory=EntityStore()) for one in (old, new)]
    for difference in found.differences:
        for witness in difference.witnesses:
            answers = [engine.evaluate(witness.request).outcome for engine in engines]
            assert answers == [difference.old.outcome, difference.new.outcome]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("when resource is known", "when not (not resource is known)"),
        ("when resource is known", "when resource is known and resource is known"),
    ],
)
def test_equivalent_conditions_on_entities_are_proved_the_same(old: str, new: str) -> None:
    found = between(policy(old), policy(new))
    assert not found.differs
    assert found.proved, found.doubts
