"""What a program keeps between decisions never answers for another request, another policy or other entities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from policyengine import Engine
from policyengine.compiler import build_program, sizes
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.sizes import LONGEST_CAPTURE
from policyengine.entities.store import EntityStore
from policyengine.evaluator.program import EndpointRules
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.endpoints import HttpEndpoint
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request
from policyengine.runtime.values import MAX_ELEMENTS
from policyengine.solver.worst_case import UnlimitedSizes, evaluate_steps, steps_of_guard
from policyengine.spec import work
from policyengine.typesystem import EntityRef
from tests.evaluator.faults import interpreted_only

POLICY = """
language 1
package kept
entity user { plan: string }
facts { context.risk: int?   context.note: string? }
issuer acme { scopes none }
agent "bot" { issued by acme   acts for any user   may GET /a, GET /b/{id} when user.plan == "paid"   may GET /c/d/e }
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


TEAMS = """
language 1
package kept
entity team in team
entity user in team
facts { body.users: list<user>? }
issuer acme { scopes none }
agent "bot" { issued by acme   acts for any user   may GET /teams }
users unrestricted
guard "teams" on GET /teams { deny when (any one in body.users: one in team "top") }
"""


def teams(above: int) -> EntityStore:
    """Return a user in a team that has so many teams above it."""
    refs = [EntityRef("team", f"t{number}") for number in range(above + 1)]
    rows = [EntityData(one, {}, tuple(refs[number + 1 : number + 2])) for number, one in enumerate(refs)]
    return EntityStore([*rows, EntityData(EntityRef("user", "alice"), {}, (refs[0],))])


def evaluator_of(engine: Engine) -> Evaluator:
    return engine.decider.compiled.evaluator


def rules_of(engine: Engine, path: str) -> EndpointRules:
    return evaluator_of(engine).program.rules_at(Request.from_mapping(ask(path)).endpoint)


def limits_sizes(engine: Engine) -> bool:
    return evaluator_of(engine)._size_limit(rules_of(engine, "/teams")) is not None


def largest_steps(engine: Engine) -> int:
    """Return the steps of the guard for the largest question."""
    [number] = rules_of(engine, "/teams").covering.guards
    unlimited = UnlimitedSizes(engine.directory.deepest)
    return evaluate_steps(steps_of_guard(engine.kernel.guards[number], unlimited), MAX_ELEMENTS + LONGEST_CAPTURE)


@pytest.fixture
def engine() -> Engine:
    return Engine.from_text(POLICY, directory=entities("paid"))


def test_a_kept_attribute_goes_with_the_entities(engine: Engine) -> None:
    assert engine.decide(ask(risk=1)).allowed
    engine.decider.replace_entities(entities("free"))
    assert engine.decide(ask(risk=1)).outcome is Outcome.DENY
    engine.decider.replace_entities(entities("paid"))
    assert engine.decide(ask(risk=1)).allowed


def test_other_entities_keep_the_program(engine: Engine) -> None:
    before = evaluator_of(engine)
    before.program.rules_at(Request.from_mapping(ask()).endpoint)
    engine.replace_directory(entities("free"))
    assert evaluator_of(engine).program is before.program


@pytest.mark.parametrize(("above", "limited"), [(0, False), (3, False), (4, True)])
def test_sizes_go_with_the_depth_of_the_entities(above: int, limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint where any question was small enough with some entities is measured again with deeper ones."""
    engine = Engine.from_text(TEAMS, directory=teams(3))
    most = largest_steps(engine)
    monkeypatch.setattr(work, "MAX_STEPS", most)
    monkeypatch.setattr(sizes, "MAX_UNNOTICED_STEPS", most)
    assert not limits_sizes(engine)
    engine.replace_directory(teams(above))
    assert limits_sizes(engine) == limited
    engine.replace_directory(teams(3))
    assert not limits_sizes(engine)


def test_rules_that_were_used_before_a_reload_are_built_before_the_first_decision(engine: Engine) -> None:
    questions = [ask(path, risk=1) for path in ("/a", "/b/7", "/none")]
    for question in questions:
        engine.decide(question)
    successor = Engine.from_text(POLICY.replace("> 5", "> 7"), directory=entities("paid"))
    successor.prepare(engine)
    built = evaluator_of(successor)
    made = {rules: dict(rules.agents._blocks) for rules in built._builder.rules.values()}
    assert len(made) == 3
    assert sum(len(blocks) for blocks in made.values()) == 2
    assert [successor.decide(question).outcome for question in questions] == ["allow", "allow", "deny"]
    assert {rules: dict(rules.agents._blocks) for rules in built._builder.rules.values()} == made


def test_blocks_that_tell_whom_the_policy_knows_are_built_before_the_first_decision() -> None:
    """A caller without a grant at the endpoint is looked for in all blocks: by name, group, glob and condition."""
    policy = """
    issuer acme { scopes none }
    agent "bot" { issued by acme   acts alone   may GET /a }
    agent "bo*" { issued by acme   acts alone   may GET /b }
    agent "other*" { issued by acme   acts alone   may GET /b }
    agent group "night" { issued by acme   acts alone   may GET /c }
    agent where agent.id == "x" { issued by acme   acts alone   may GET /d }
    """
    before = Engine.from_text(policy)
    nobody = {**ask("/none"), "agent": {"id": "boy", "issuer": "acme", "groups": ["night"]}}
    del nobody["user"]
    expected = before.decide(nobody)
    successor = Engine.from_text(policy)
    successor.prepare(before)
    built = [dict(evaluator_of(engine).program.everyone._blocks) for engine in (before, successor)]
    assert built[0].keys() == built[1].keys() != set()
    assert successor.decide(nobody).answer == expected.answer
    assert evaluator_of(successor).program.everyone._blocks == built[1]


def test_rules_that_cannot_be_built_are_left_to_the_decisions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.decide(ask())
    successor = Engine.from_text(POLICY, directory=entities("paid"))

    def fail(*_: object) -> None:
        raise ValueError("no such rule")

    with monkeypatch.context() as patch:
        patch.setattr(ProgramBuilder, "_make", fail)
        successor.prepare(engine)
        assert successor.decide(ask(risk=1)).gate is Gate.FAILURE
    assert successor.decide(ask(risk=1)).allowed


def test_samples_of_endpoints_are_kept_up_to_a_number_and_a_length(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_program, "MAX_SAMPLES", 2)
    samples = evaluator_of(engine)._builder.samples
    engine.decide(ask("/b/" + "x" * 600))
    assert not samples
    kept = []
    for path in ("/a", "/none", "/c/d/e"):
        engine.decide(ask(path))
        kept.append([endpoint.path for endpoint in samples.values() if isinstance(endpoint, HttpEndpoint)])
    assert kept == [["/a"], ["/a", "/none"], ["/c/d/e"]]


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


@interpreted_only
def test_a_path_that_another_thread_makes_known_is_read_after_it_is_whole() -> None:
    """A thread reads the rules for other segments before the segments that the policy names: the second are complete
    as soon as there are any of the first."""
    engine = Engine.from_text("""
    anyone { may GET /files/{name} }
    guard "secret" on GET /files/secret { deny }
    """)
    assert engine.decide(ask("/files/x")).allowed
    program = evaluator_of(engine).program
    branch = program.heads["/files"]
    whole = dict(branch.cased)

    class Growing(dict[str, Any]):
        """Segments that another thread adds while they are read."""

        def __bool__(self) -> bool:
            branch.cased, branch.last = whole, last
            return False

    last, branch.last = branch.last, {}
    branch.cased = Growing()
    assert engine.decide(ask("/files/secret")).outcome is Outcome.DENY
