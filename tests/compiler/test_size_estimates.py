"""Whatever makes a question large, its steps are counted, so that the engine denies what the specification denies.

Each case is a question that an estimate of sizes has missed: the engine decided it without counting.
"""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest

from policyengine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef

HEAD = """
issuer acme { records chains  scopes none }
entity invoice { tenant: string? }
entity user { tags: set<string>? }
users unrestricted
scope all { POST /x }
facts { context.words: list<string>?  body.label: string?  body.src: string?  body.a: string?  body.b: string? }
anyone { may POST /x, ACTION view invoice }
"""
LOOPS = "any a in context.words: any b in context.words: any c in context.words: any d in context.words:"
SAME = "a == b and b == c and c == d"


def words(count: int) -> list[str]:
    return [f"w{number}" for number in range(count)]


def ask(endpoint: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}, **endpoint, **more}


def post(path: str = "/x", **more: Any) -> dict[str, Any]:
    return ask({"request": {"method": "POST", "path": path}}, **more)


def chain(count: int) -> dict[str, Any]:
    return {"hops": [{"agent": f"a{number}", "issuer": "acme"} for number in range(count)]}


def agents(on: str) -> str:
    return f'agent "*" {{ issued by acme  acts for any user  {on} }}'


THREE = 'all a in context.words: all b in context.words: all c in context.words: a != "z" and b != "z" and c != "z"'
TWO = 'all a in context.words: all b in context.words: a != "z" and b != "z"'
LISTED = ", ".join(f'"{word}"' for word in words(30))
CHAINED = HEAD.replace("anyone { may POST /x, ", "anyone { may ")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "the condition of a delegation": (
        CHAINED + agents(f'may POST /x  may delegate all to agent "*" when {THREE}'),
        post(context={"words": words(60)}, chain=chain(2)),
    ),
    "the condition of a grant for each hop": (
        CHAINED + agents(f'may POST /x when {TWO}  may delegate all to agent "*"'),
        post(context={"words": words(31)}, chain=chain(31)),
    ),
    "the agents of a chain": (
        HEAD + 'guard "g" on POST /x { deny when any a in chain.agents: any b in chain.agents: any c in chain.agents: '
        f'any d in chain.agents: {SAME} and d == "z" }}' + agents('may POST /x  may delegate all to agent "*"'),
        post(chain=chain(31)),
    ),
    "the first agent of a chain": (
        HEAD + 'guard "g" on POST /x { deny when any a in context.words: contains(chain.root, a) }',
        {**post(context={"words": words(220)}), "agent": {"id": "x" * 65_000, "issuer": "acme"}},
    ),
    "the resource of an action": (
        HEAD + 'guard "g" on ACTION view invoice { deny when any a in context.words: contains(resource.id, a) }',
        ask(
            {"action": {"name": "view"}, "resource": {"type": "invoice", "id": "x" * 65_000}},
            context={"words": words(220)},
        ),
    ),
    "a capture that `with` binds": (
        HEAD + "scope s { POST /labels/{name} with body.label = params.name }  anyone { may s }"
        f'guard "g" on POST /labels/* {{ deny when {LOOPS} contains(body.label, d) }}',
        post("/labels/" + "x" * 8_000, context={"words": words(9)}),
    ),
    "a text that `with` makes longer": (
        HEAD + "scope s { POST /src with body.label = upper(body.src) }  anyone { may s }"
        'guard "g" on POST /src { deny when any a in context.words: any b in context.words: any c in context.words: '
        "a == b and b == c and contains(body.label, c) }",
        post("/src", context={"words": words(16)}, body={"src": "\u0390" * (16 * 64)}),
    ),
    "a list that `with` makes": (
        HEAD + f"scope s {{ POST /labels/{{name}} with context.words = [{LISTED}, params.name] }}  "
        'anyone { may s }  guard "g" on POST /labels/* '
        f'{{ deny when {LOOPS} {SAME} and d == "z" }}',
        post("/labels/x"),
    ),
    "the texts in a list of the policy": (
        HEAD + 'guard "g" on POST /x { deny when any a in context.words: size([body.a, body.b, a]) > 3 }',
        post(context={"words": words(150)}, body={"a": "x" * 65_000, "b": "y" * 65_000}),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_question_with_too_many_steps_is_denied_as_specified(name: str) -> None:
    policy, question = CASES[name]
    engine = Engine.from_text(policy)
    specified = engine.explain(question).decision
    assert specified.gate is Gate.FAILURE
    began = process_time()
    decided = engine.decide(question)
    assert (decided.outcome, decided.gate) == (specified.outcome, specified.gate)
    assert engine.forecast.takes_long(question)
    assert process_time() - began < 5


# Every question to the endpoint of the other case loops over the list of the policy.
@pytest.mark.parametrize("name", [name for name in CASES if name != "a list that `with` makes"])
def test_the_same_rules_decide_a_small_question(name: str) -> None:
    """The estimate is not so large that every question would be counted and denied."""
    policy, question = CASES[name]
    small = {**question, "context": {"words": ["w"]}, "body": {"label": "a", "src": "a", "a": "a", "b": "a"}}
    if "chain" in small:
        small["chain"] = chain(1)
    small["agent"] = {"id": "bot", "issuer": "acme"}
    if small["request" if "request" in small else "action"].get("path", "").startswith("/labels"):
        small["request"] = {"method": "POST", "path": "/labels/a"}
    if "resource" in small:
        small["resource"] = {"type": "invoice", "id": "7"}
    engine = Engine.from_text(policy)
    assert engine.decide(small).outcome is engine.explain(small).decision.outcome
    assert engine.decide(small).gate is not Gate.FAILURE


# ── Attributes of entities ────────────────────────────────────────────────────────────────────

TAGS = (
    HEAD + 'guard "g" on POST /x { deny when any a in user.tags: any b in user.tags: '
    '(a != b and contains(a, "zz") and contains(b, "yy")) or a == "q" }'
)  # fmt: skip


def alice(tags: int) -> EntityStore:
    return EntityStore([EntityData(EntityRef("user", "alice"), {"tags": frozenset(words(tags))}, ())])


def test_a_small_question_that_reads_large_attributes_takes_long() -> None:
    engine = Engine.from_text(TAGS, directory=alice(100))
    assert engine.forecast.takes_long(post())
    engine.replace_directory(alice(5))
    assert not engine.forecast.takes_long(post())


def test_the_rows_are_measured_before_the_first_decision_with_them() -> None:
    engine = Engine.from_text(TAGS, directory=alice(5))
    assert engine.decide(post()).outcome is Outcome.ALLOW
    rows = alice(5)
    engine.replace_directory(rows)
    assert rows._largest == {"tags": 5}
    assert engine.decide(post()).outcome is Outcome.ALLOW
