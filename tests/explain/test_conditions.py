"""Conditions in an explanation, each marked as it is written, and doors that nearly match."""

import pytest

from policyengine.engine import Engine
from tests.spec.deciding import question

FACTS = "facts on GET /x { context.tag: string? }\nentity doc { note: string? }"
ABSENT = [
    'request.query["a"] is absent',
    'request.headers["a"] is absent',
    "context.tag is absent",
    'request.method not in ["POST"]',
    'not request.method in ["POST"]',
    'not request.query["a"] is present',
]


def conditions(policy):
    """The lines of an explanation of `GET /x`, each with its mark."""
    asked = question("GET /x")
    asked["request"] |= {"query": {}, "headers": {}}
    rendered = Engine.from_text(policy).explain(asked).render()
    return [line.strip() for line in rendered.splitlines()]


@pytest.mark.parametrize("condition", ABSENT)
def test_a_true_condition_of_a_grant_is_marked_true(condition):
    assert f"✓ {condition}" in conditions(f"{FACTS}\nanyone {{ may GET /x when {condition} }}")


@pytest.mark.parametrize("condition", ABSENT)
@pytest.mark.parametrize("word", ["require", "deny unless", "deny when", "warn when", "warn unless"])
def test_a_true_condition_of_a_guard_is_marked_true(condition, word):
    policy = f'{FACTS}\nanyone {{ may GET /x }}\nguard "g" on GET /x {{ {word} {condition} }}'
    assert f"✓ {condition}" in conditions(policy)


@pytest.mark.parametrize("word", ["require", "deny unless", "deny when", "warn when", "warn unless"])
@pytest.mark.parametrize("condition", ['request.query["a"] is present', 'request.method in ["POST"]'])
def test_a_false_condition_of_a_guard_is_marked_false(condition, word):
    policy = f'{FACTS}\nanyone {{ may GET /x }}\nguard "g" on GET /x {{ {word} {condition} }}'
    assert f"✗ {condition}" in conditions(policy)


def test_the_condition_resource_is_absent_is_marked_true():
    doors = f"{FACTS}\nanyone {{ may GET /x, GET /docs/{{id: doc}} }}"
    policy = f'{doors}\nguard "g" {{ require resource is absent or resource.note is absent }}'
    assert "✓ resource is absent" in conditions(policy)


def test_a_comment_after_unless_does_not_change_the_mark():
    policy = 'anyone { may GET /x }\nguard "g" { deny unless # it names one\n request.query["a"] is present }'
    assert '✗ request.query["a"] is present' in conditions(policy)


def test_the_absence_of_a_present_attribute_is_marked_false():
    policy = f"{FACTS}\nanyone {{ may GET /docs/{{id: doc}} when resource.note is absent }}"
    asked = question("GET /docs/7", entities=[{"type": "doc", "id": "7", "attributes": {"note": "n"}}])
    walk = Engine.from_text(policy).explain(asked).to_dict()["walk"]
    (grant,) = next(gate for gate in walk["gates"] if gate["text"] == "door")["parts"]
    assert [(part["mark"], part["text"]) for part in grant["parts"]] == [("no", "resource.note is absent")]


@pytest.mark.parametrize(("path", "told"), [("/FILES/pub/a", True), ("/other", False), ("/files/a", False)])
def test_the_explanation_names_a_grant_whose_path_differs_only_in_case(path, told):
    """The answer is that no block accepts the caller: that no credential is at fault is to be seen here."""
    explanation = Engine.from_text("anyone { may GET /files/** }").explain(question(f"GET {path}"))
    assert ("its path differs in letter case" in explanation.render()) is told
    assert "another case" not in str(explanation.decision.to_dict())


NAMED = {"agent": {"id": "bot"}, "user": {"id": "alice"}, "credential": {"issuer": "acme"}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "no agent, no user, no issuer"),
        (("credential",), 'no agent, no user, issuer "acme"'),
        (("user",), 'user "alice" with no issuer'),
        (("user", "credential"), 'user "alice" of issuer "acme"'),
        (("agent", "user"), 'agent "bot" with no issuer'),
        (("agent", "credential"), 'agent "bot" of issuer "acme"'),
    ],
)
def test_an_explanation_says_which_parts_of_the_identity_are_absent(given, words):
    engine = Engine.from_text('issuer acme { url "https://login.acme.example" scopes none }\nanyone { may GET /x }')
    asked = {"request": {"method": "GET", "path": "/x"}, **{name: NAMED[name] for name in given}}
    gates = engine.explain(asked).gates
    assert gates[0].note.partition(";")[0] == words
