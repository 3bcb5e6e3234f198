"""What a program keeps between decisions never answers for another request, another policy or other entities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from policyengine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Outcome
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request
from policyengine.typesystem import EntityRef

POLICY = """
language 1
package kept
entity user { plan: string }
facts { context.risk: int?   context.note: string? }
issuer acme { scopes none }
agent "bot" { issued by acme   acts for any user   may GET /a, GET /b/{id} when user.plan == "paid" }
agent group "night" { issued by acme   acts for any user   may GET /a }
users unrestricted
guard "risk" on GET /a {
  deny when context.risk > 5
  audit full when context.risk > 3
  warn when context.note is present message "noted {context.note}"
}
"""


def entities(plan: str) -> EntityStore:
    return EntityStore([EntityData(EntityRef("user", "alice"), {"plan": plan})])


def ask(path: str = "/a", **context: object) -> dict[str, Any]:
    return {
        "request": {"method": "GET", "path": path}, "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"},
        "context": context,
    }  # fmt: skip


@pytest.fixture
def engine() -> Engine:
    return Engine.from_text(POLICY, directory=entities("paid"))


def test_a_kept_attribute_goes_with_the_entities(engine: Engine) -> None:
    assert engine.decide(ask(risk=1)).allowed
    engine.decider.replace_entities(entities("free"))
    assert engine.decide(ask(risk=1)).outcome is Outcome.DENY
    engine.decider.replace_entities(entities("paid"))
    assert engine.decide(ask(risk=1)).allowed


def test_a_row_of_one_request_is_not_kept_for_the_next(engine: Engine) -> None:
    engine.decider.replace_entities(EntityStore(loaded=False))
    row = {"type": "user", "id": "alice", "attributes": {"plan": "paid"}}
    assert engine.decide({**ask(risk=1), "entities": [row]}).allowed
    assert engine.decide(ask(risk=1)).outcome is Outcome.DENY


def test_an_answer_is_kept_by_what_it_depends_on(engine: Engine) -> None:
    def said(**context: object) -> tuple[Outcome, list[str]]:
        found = engine.decide(ask(**context))
        return found.outcome, [duty.kind for duty in found.obligations]

    for _ in range(3):
        assert said(risk=1) == (Outcome.ALLOW, [])
        assert said(risk=4) == (Outcome.ALLOW, ["audit"])
        assert said(risk=6) == (Outcome.DENY, ["audit"])
        assert said() == (Outcome.DENY, ["audit"])  # the risk is unknown


def test_a_message_with_a_fact_is_made_for_each_request(engine: Engine) -> None:
    messages = [engine.decide(ask(risk=1, note=note)).obligations[0].message for note in ("one", "two", "one")]
    assert messages == ['noted "one"', 'noted "two"', 'noted "one"']


def test_a_caller_that_changes_its_question_afterwards_changes_no_decision(engine: Engine) -> None:
    question = ask(risk=1, note="one")
    decision = engine.decide(question)
    question["context"]["note"] = "two"
    assert decision.obligations[0].message == 'noted "one"'


def test_threads_meet_endpoints_first_and_decide_alike(engine: Engine) -> None:
    """Each endpoint is made by the first request, and each block by the first caller that it may be about."""
    questions = [ask(f"/b/{number % 7}", risk=number) for number in range(200)]
    expected = [engine.explain(question).decision.outcome for question in questions]
    fresh = Engine.from_text(POLICY, directory=entities("paid"))
    with ThreadPoolExecutor(8) as pool:
        assert [one.outcome for one in pool.map(fresh.decide, questions)] == expected
    assert fresh.failures == 0


def test_entities_that_only_callers_name_are_not_kept() -> None:
    engine = Engine.from_text(POLICY, directory=entities("paid"))
    for number in range(50):
        engine.decide(Request.from_mapping({**ask("/b/7"), "user": {"id": f"{number}" * 1_000}}))
    engine.decide(Request.from_mapping(ask("/b/7")))
    kept = engine.decider.compiled.evaluator._kept
    assert {one.id for values in kept.values() for one in values} == {"alice"}


def test_heads_of_paths_that_callers_write_are_kept_up_to_a_length() -> None:
    engine = Engine.from_text("""
    issuer acme { scopes none }
    agent "bot" { issued by acme   acts for any user   may GET /c/{x}/{y} }
    users unrestricted
    """)
    for number in range(20):
        for path in (f"/c/{f'{number}' * 2_000}/x", f"/c/{number}/x"):
            engine.decide(ask(path))
    heads = engine.decider.compiled.evaluator.program.heads
    assert len(heads) == 20
    assert not [head for head in heads if len(head) > 256]
