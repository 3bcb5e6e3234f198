"""Differences from the specification that an attacker found in the walker: each was mended, and stays so."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine import Engine
from policyengine.engine.engine import compile_or_raise
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Gate, Principal
from policyengine.runtime.endpoints import HttpEndpoint
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request, RequestError
from policyengine.source import Source
from policyengine.spec import work
from policyengine.typesystem import EntityRef
from tests.generate.specified import said


def decided(policies: list[str], question: Any, rows: list[EntityData] | None = None) -> Decision:
    """Return the decision, which is that of the specification."""
    sources = [Source(f"{number}.policy", text) for number, text in enumerate(policies)]
    engine = Engine(compile_or_raise(sources, ()), sources=sources, directory=EntityStore(rows or []))
    found = engine.evaluate(question)
    assert said(found) == said(engine.explain(question).decision)
    return found


CLAIMED = """
entity agent { trusted: bool }
entity box { owner: agent }
issuer acme { scopes none   records chains   claims { trusted -> agent.trusted } }
scope s { GET /box/{b: box} }
agent "A" { issued by acme   acts alone   may s when resource.owner.trusted   may delegate s to agent "B" }
agent "B" { issued by acme   acts alone   may s when resource.owner.trusted }
"""


def test_a_claim_of_the_presenter_does_not_count_for_a_hop_through_another_fact() -> None:
    owner = EntityRef("agent", "B")
    rows = [EntityData(owner, {"trusted": False}), EntityData(EntityRef("box", "1"), {"owner": "B"})]
    question = {
        "request": {"method": "GET", "path": "/box/1"}, "agent": {"id": "B", "issuer": "acme"},
        "credential": {"issuer": "acme", "claims": {"trusted": True}},
        "chain": {"hops": [{"agent": "A", "issuer": "acme"}]},
    }  # fmt: skip
    assert decided([CLAIMED], question, rows).gate is Gate.CHAIN


ADVISORY = """package b
tasks advisory
export issuer acme { scopes none }
facts { context.n: string? }
agent "A" { issued by acme   acts alone   may GET /BOX/* when context.n == "1" }
"""
BOUNDED = """package a
import b
facts { context.n: string? }
entity box
scope s { GET /box/{x} with context.n = request.query["m"] }
scope r { GET /{k}/{bx: box} }
agent "A" { issued by b.acme   acts alone   may GET /BOX/*, r, s }
"""


def test_another_spelling_of_a_path_does_not_make_a_task_advisory() -> None:
    question = {
        "request": {"method": "GET", "path": "/BOX/1", "query": {"m": "1"}}, "agent": {"id": "A", "issuer": "acme"},
        "context": {"n": "0"}, "task": {"entities": [{"type": "box", "id": "2"}]},
    }  # fmt: skip
    assert decided([BOUNDED, ADVISORY], question).gate is Gate.TASK


LOOPING = """
entity box { tags: set<string>   marks: set<string> }
issuer acme { scopes none }
scope s { GET /box/{b: box} }
agent "A" { issued by acme   acts for any user   may s }
user any { may s }
guard "g" on s { deny when any t in resource.tags: (any m in resource.marks: t == lower(m)) }
"""


def test_loops_over_rows_of_the_request_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 20_000)
    attributes = {"tags": [f"a{n}" for n in range(150)], "marks": [f"b{n}" for n in range(150)]}
    question = {
        "request": {"method": "GET", "path": "/box/1"}, "agent": {"id": "A", "issuer": "acme"}, "user": {"id": "al"},
        "entities": [{"type": "box", "id": "1", "attributes": attributes}],
    }  # fmt: skip
    assert decided([LOOPING], question).gate is Gate.FAILURE
    assert Engine.from_text(LOOPING).forecast.takes_long(question)


@pytest.mark.parametrize(
    ("path", "segments"),
    [("/admin/y", ("public", "y")), ("/public/y/", ("public", "y")), ("/public/y", ("public/y",)), ("/", ("",))],
)
def test_a_request_whose_path_and_segments_differ_is_refused(path: str, segments: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="differ"):
        Request(HttpEndpoint("GET", path, segments))


def test_texts_of_a_caller_are_not_kept_with_an_answer() -> None:
    engine = Engine.from_text("""
    issuer acme { scopes none }
    agent "A" { issued by acme   acts alone   may GET /a }
    guard "g" { redact body.secret }
    facts { body.secret: string? }
    """)
    for number in range(50):
        options = {"obligations_supported": ["redact", f"{number}" * 1_000]}
        question = {
            "request": {"method": "GET", "path": "/a"},
            "agent": {"id": "A", "issuer": "acme"},
            "options": options,
        }
        assert engine.decide(Request.from_mapping(question)).allowed
    assert len(engine.decider.compiled.evaluator.program.verdicts) == 1


def test_an_entity_under_two_names_is_named_as_each_rule_reads_it() -> None:
    policy = """
    entity team
    entity user { team: string }
    entity box { owner: user }
    issuer acme { scopes none }
    scope s { GET /box/{b: box} }
    agent "A" { issued by acme   acts for any user   may s }
    user any { may s }
    guard "g" { deny when user.team == "x"   deny when resource.owner.team == "y" }
    """
    rows = [EntityData(EntityRef("user", "al"), {}), EntityData(EntityRef("box", "1"), {"owner": "al"})]
    question = {
        "request": {"method": "GET", "path": "/box/1"}, "agent": {"id": "A", "issuer": "acme"}, "user": {"id": "al"},
    }  # fmt: skip
    assert {one.fact for one in decided([policy], question, rows).unknown} == {"user.team", "resource.owner.team"}


@pytest.mark.parametrize("chain", [{}, {"chain": {"hops": [{"agent": "B", "issuer": "acme"}]}}])
def test_a_decision_with_a_refused_credential_names_nobody(chain: dict[str, Any]) -> None:
    policy = """
    issuer acme { scopes none   records chains }
    agent "A" { issued by acme   acts for any user   may GET /b }
    user any { may GET /b }
    anyone { may GET /a }
    """
    question = {
        "request": {"method": "GET", "path": "/a"}, "agent": {"id": "A", "issuer": "acme"}, "user": {"id": "al"},
        "credential": {"issuer": "acme", "refused": "expired"}, **chain,
    }  # fmt: skip
    found = decided([policy], question)
    assert found.allowed
    assert found.principal == Principal()
