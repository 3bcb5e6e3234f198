"""The steps of a decision: counted by the sizes of collections, the same whatever the values are, and bounded."""

from __future__ import annotations

import logging
from itertools import permutations
from typing import Any

import pytest

from policyengine.check import check_text
from policyengine.engine import Engine
from policyengine.evaluator import decide as walker
from policyengine.lint.rules import loops
from policyengine.runtime.decision import Effects, Gate, Reason
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec import evaluate, work
from policyengine.spec.evaluate import build_facts
from policyengine.spec.step_count import count_steps
from policyengine.spec.step_facts import SpecifiedRequest
from policyengine.spec.work import MAX_STEPS
from tests.spec.deciding import NOW, bot, decide, directory, kernel, question, spending

HEAD = """
entity team in team
entity user { roles: set<string> } in team
facts {
  body.a: list<int>  body.b: list<int>  body.text: string?  body.users: list<user>?
  body.c: list<list<int>>?  body.d: list<list<int>>?  body.texts: list<string>?
  body.items: list<{ tags: list<string>  name: string? }>?  body.numbers: list<number>?
}
anyone { may POST /x }
"""
LOOP = "(any x in body.a: x == 0)"  # a comparison, a variable, a constant: three parts


def guard(condition: str, name: str = "g") -> str:
    return f'guard "{name}" {{ deny when {condition} }}\n'


def steps(condition: str, body: dict[str, object], rows: Any = None) -> int:
    """What the specification counts of a guard."""
    return counted(HEAD + guard(condition), asked(body), rows)


def counted(policy: str, question: dict[str, object], rows: Any = None) -> int:
    snapshot = Snapshot(directory(rows))
    facts = build_facts(kernel(policy), Request.from_mapping(question), snapshot, NOW)
    return count_steps(SpecifiedRequest.of(facts, snapshot)).steps


def asked(body: dict[str, object]) -> dict[str, object]:
    return question("POST /x", body={"a": [], "b": [], **body})


def ints(many: int, start: int = 0) -> list[int]:
    return list(range(start, start + many))


@pytest.mark.parametrize(
    ("condition", "body", "expected"),
    [
        ("body.a overlaps body.b", {"a": ints(7), "b": ints(5)}, 12),
        ("body.a subset of body.b", {"a": ints(7), "b": ints(5)}, 12),
        ("body.a == body.b", {"a": ints(7), "b": ints(5)}, 12),
        ("1 in body.a", {"a": ints(7)}, 0),
        (LOOP, {"a": ints(7)}, 21),
        ("(any x in body.a: (all y in body.b: x == y))", {"a": ints(7), "b": ints(5)}, 7 * 2 + 7 * 5 * 3),
        ("(any x in body.a: x in body.b)", {"a": ints(7), "b": ints(5)}, 7 * 3),
        ("(any i in body.items: \"t\" in i.tags)", {"items": [{"tags": ["a", "b"]}] * 3}, 3 * 4 + 3 * (2 + 2)),
        ('(any x in body.a: body.text like "a*")', {"a": ints(3), "text": "b" * 640}, 3 * 2 + 3 * 10),
        ('(any i in body.items: i.name == "a")', {"items": [{"tags": [], "name": "b" * 128}]}, 4 + 2),
        ("user.roles has \"a\"", {}, 0),
        ("(any x in body.a: size(body.texts) > 1)", {"a": ints(3), "texts": ["b" * 128] * 5}, 3 * 4 + 3 * (5 + 5 * 2)),
    ],
)  # fmt: skip
def test_steps_are_counted_by_collection_sizes(condition: str, body: dict[str, object], expected: int) -> None:
    assert steps(condition, body) == expected


def test_entity_membership_counts_the_ancestors_and_the_set() -> None:
    rows = {"user a": {"roles": [], "in": ["team t"]}, "team t": {"in": ["team u"]}, "team u": {}}
    anyone = "(any one in body.users: one in body.users)"
    alone = 1 * 3
    assert steps(anyone, {"users": ["a"]}, rows) == alone + 1 + 2


def test_approvers_count_for_each_approval_of_the_request() -> None:
    policy = HEAD + 'guard "g" { confirm by body.users when (any x in body.a: x == 0) }\n'
    approvals = [
        {"id": f"{n}", "by": name, "granted_at": NOW.isoformat(), "binding": "b"} for n, name in enumerate("xy")
    ]
    rows = {"user x": {"in": ["team t"]}, "team t": {}}
    body = {"a": ints(7), "b": [], "users": ["u", "v", "w"]}
    assert counted(policy, question("POST /x", body=body), rows) == 7 * 3
    assert counted(policy, question("POST /x", body=body, approvals=approvals), rows) == 2 * 7 * 3 + (3 + 1) + 3


LISTS: dict[str, object] = {"c": [[1, 2], [3]], "d": [[4], [5]]}  # 2 elements with 3 in them, 2 with 2


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("body.c overlaps body.d", 5 + 4),
        ("body.c subset of body.d", 5 + 4),
        ("body.c == body.d", 5 + 4),
        ("body.c != body.d", 5 + 4),
        ("[1, 2] in body.c", 2 + 3),
        ("[1, 2] in body.c and [1] in body.c", 2 + 1 + 3),
        ("(any x in body.c: x in body.d)", 2 * 3 + 3 + 2),
        ("(any x in body.c: x == [1])", 2 * 3 + 3 + 2 * 1),
        ("(any x in body.c: (any y in body.d: x == y))", 2 * 2 + 2 * 2 * 3 + 2 * 3 + 2 * 2),
    ],
)
def test_nested_lists_count_the_elements_of_their_inner_lists(condition: str, expected: int) -> None:
    assert steps(condition, LISTS) == expected


@pytest.mark.parametrize("operator", ["overlaps", "subset of"])
def test_lists_with_unknown_elements_count_every_pair(operator: str) -> None:
    """For each of the one side all that the other holds: on the side where that is less."""
    unknown = {"c": [[1, "x"], [3]], "d": [[4], [5], [6]]}
    assert steps(f"body.c {operator} body.d", unknown) == 5 + 6 + min(2 * 6, 3 * 5)


def test_comparing_long_nested_lists_exceeds_the_step_limit() -> None:
    body = {"c": [[0] * 150 + [n] for n in range(40)], "d": [[0] * 150 + [-n - 1] for n in range(40)]}
    assert steps("body.c overlaps body.d", body) == 2 * 40 * (1 + 151)
    pairs = HEAD + guard("(any x in body.c: (any y in body.d: x == y))")
    assert decide(pairs, asked(body)).gate is Gate.FAILURE


def test_the_order_of_list_conditions_does_not_change_the_steps() -> None:
    parts = ["body.c overlaps body.d", "[1] in body.c", "(any x in body.c: x in body.c)"]
    assert len({steps(" and ".join(one), LISTS) for one in permutations(parts)}) == 1


@pytest.mark.parametrize("values", [ints(6), [0] * 6, ["a"] * 6, [0, "a", 5, 5, None, 7]])
def test_steps_do_not_depend_on_values(values: list[object]) -> None:
    """Whether and where an element is found, or one is unknown."""
    assert steps(LOOP, {"a": values}) == 18
    assert steps("body.a overlaps body.b", {"a": values, "b": ints(6)}) == 12


def test_the_order_of_rules_does_not_change_the_steps() -> None:
    rules = [guard("body.a overlaps body.b", "one"), guard(LOOP, "two"), guard("1 in body.b", "three")]
    body = asked({"a": ints(40), "b": ints(40)})
    found = set()
    for texts in permutations(rules):
        found.add(counted(HEAD + "".join(texts), body))
    assert found == {40 + 40 + 40 * 3}


# ── The bound ─────────────────────────────────────────────────────────────────────────────────

PAIRS = "(any x in body.a: (any y in body.b: x == y))"  # n * 2 + n * m * 3
TOO_MANY = "the decision takes more than 200,000 steps; the operator's log names the rule"
FEW = 2_000
JUST, MORE = (25, 26), (25, 27)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision has fewer steps, so that a test need not take as many as it really has."""
    monkeypatch.setattr(work, "MAX_STEPS", FEW)
    monkeypatch.setattr(loops, "MAX_STEPS", FEW)


def test_the_step_limit_of_a_decision_is_200_000() -> None:
    n, m = 258, 258
    assert 2 * n + 3 * n * (m - 1) <= MAX_STEPS == 200_000 < 2 * n + 3 * n * m
    assert decide(HEAD + guard(PAIRS), asked({"a": ints(n), "b": ints(m - 1, 1_000)})).allowed
    assert decide(HEAD + guard(PAIRS), asked({"a": ints(n), "b": ints(m, 1_000)})).gate is Gate.FAILURE


@pytest.mark.usefixtures("few")
def test_a_decision_may_use_exactly_the_step_limit() -> None:
    n, m = JUST
    assert steps(PAIRS, {"a": ints(n), "b": ints(m, 1_000)}) == 2 * n + 3 * n * m == FEW
    assert decide(HEAD + guard(PAIRS), asked({"a": ints(n), "b": ints(m, 1_000)})).allowed


@pytest.mark.usefixtures("few")
def test_the_operator_learns_the_rule_and_its_collections_of_a_decision_over_the_step_limit() -> None:
    n, m = MORE
    found, effects = spending(HEAD + guard(PAIRS), asked({"a": ints(n), "b": ints(m, 1_000)}))
    assert (found.allowed, found.gate, len(found.reasons)) == (False, Gate.FAILURE, 1)
    assert found.reasons == (Reason(Gate.FAILURE, TOO_MANY),)
    words = "the decision takes more than 200,000 steps, most of them in guard `g`: `body.b` has 27 elements, "
    assert effects == Effects(excess=f"{words}`body.a` has 25 elements")
    assert (found.obligations, found.remedies, found.unknown) == ((), (), ())


@pytest.mark.usefixtures("few")
def test_rules_share_the_step_limit_and_the_most_expensive_is_named() -> None:
    both = HEAD + guard(PAIRS, "dear") + guard("body.a overlaps body.b", "cheap")
    assert decide(both, asked({"a": ints(25), "b": ints(25, 1_000)})).allowed
    found, effects = spending(both, asked({"a": ints(25), "b": ints(26, 1_000)}))
    assert (found.gate, "in guard `dear`: " in effects.excess) == (Gate.FAILURE, True)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "condition",
    [
        f"body.a == [1] or {PAIRS}",
        f"body.a != [1] and {PAIRS}",
        f"not {PAIRS}",
    ],
)
def test_short_circuits_do_not_reduce_the_steps(condition: str) -> None:
    assert decide(HEAD + guard(condition), asked({"a": ints(30), "b": ints(30)})).gate is Gate.FAILURE


OTHERS = """
issuer acme { scopes none }
users unrestricted
facts { body.a: list<int>  body.b: list<int> }
agent "bot" { issued by acme  acts for any user  may POST /x }
agent "other" { issued by acme  acts for any user  may POST /x when PAIRS }
""".replace("PAIRS", PAIRS)


@pytest.mark.usefixtures("few")
def test_rules_about_other_agents_take_no_steps() -> None:
    large = {"a": ints(30), "b": ints(30)}
    assert decide(OTHERS, question("POST /x", body=large, **bot())).allowed
    found, effects = spending(OTHERS, question("POST /x", body=large, **bot("other")))
    assert (found.gate, found.reasons[0].rule) == (Gate.FAILURE, None)
    assert 'in `agent "other"`: `body.a`' in effects.excess


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("caller", ["bot", "stranger"])
def test_a_caller_does_not_learn_which_rule_exceeded_the_steps(caller: str) -> None:
    """Callers are not identified before the steps are counted."""
    policy = OTHERS + guard(PAIRS, "secret")
    found = decide(policy, question("POST /x", body={"a": ints(30), "b": ints(30)}, **bot(caller)))
    assert found.reasons == (Reason(Gate.FAILURE, TOO_MANY),)
    assert found.principal.agent == caller


@pytest.mark.usefixtures("few")
def test_the_steps_of_rules_after_a_deny_count_too() -> None:
    policy = HEAD + 'guard "first" { deny }\n' + f'rate "r" per request.ip on POST /x when {PAIRS} {{ 1/1h }}\n'
    assert decide(policy, asked({"a": ints(9), "b": ints(9)})).gate is Gate.GUARD
    found, effects = spending(policy, asked({"a": ints(30), "b": ints(30)}))
    assert (found.gate, "in rate `r`: " in effects.excess) == (Gate.FAILURE, True)


WITH = """
facts { body.a: list<int>  body.b: list<int>  body.found: bool? }
scope s { POST /x with body.found = PAIRS }
anyone { may s }
""".replace("PAIRS", PAIRS)


@pytest.mark.usefixtures("few")
def test_bindings_of_the_endpoint_take_steps() -> None:
    assert decide(WITH, asked({"a": ints(9), "b": ints(9)})).allowed
    found, effects = spending(WITH, asked({"a": ints(30), "b": ints(30)}))
    assert (found.gate, "in the checks of every request: " in effects.excess) == (Gate.FAILURE, True)


@pytest.mark.usefixtures("few")
def test_the_size_of_entity_store_sets_is_shown_only_to_the_operator() -> None:
    policy = HEAD + guard("(any r in user.roles: (any s in user.roles: r == s))")
    rows = {"user alice": {"roles": [f"r{n}" for n in range(30)]}}
    found, effects = spending(policy, {**asked({}), "user": {"id": "alice"}}, rows)
    assert found.reasons == (Reason(Gate.FAILURE, TOO_MANY),)
    assert effects.excess.endswith("guard `g`: `user.roles` has 30 elements")


@pytest.mark.usefixtures("few")
def test_no_loop_is_evaluated_if_a_decision_exceeds_the_step_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "evaluate_quantifier", lambda *_: 1 / 0)
    large = asked({"a": ints(2_000), "b": ints(2_000)})
    history = 'guard "g" on POST /x { warn when after POST /x within 1h per (body.found) }\n'
    for policy in (WITH, WITH + history, HEAD + guard(PAIRS)):
        assert decide(policy, large).gate is Gate.FAILURE
        engine = Engine.from_text(policy, clock=lambda: NOW)
        assert engine.explain(large).decision.gate is Gate.FAILURE
        for step in ("finish", "find_windows"):
            monkeypatch.setattr(walker, step, lambda *_: 1 / 0)
        assert engine.decide(large).reasons == (Reason(Gate.FAILURE, TOO_MANY),)


# ── The engine ────────────────────────────────────────────────────────────────────────────────

LARGE = asked({"a": ints(30), "b": ints(30, 1_000)})


def ask(engine: Engine, how: str) -> Any:
    match how:
        case "many":
            return engine.decide_many([LARGE])[0]
        case "request":
            return engine.decide(Request.from_mapping(LARGE))
        case _:
            return getattr(engine, how)(LARGE)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("how", ["decide", "evaluate", "many", "request"])
def test_too_many_steps_are_counted_and_logged_as_a_failure(how: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine.from_text(HEAD + guard(PAIRS), clock=lambda: NOW)
    with caplog.at_level(logging.WARNING, "policyengine"):
        assert ask(engine, how).gate is Gate.FAILURE
    assert engine.failures == 1
    assert [(one.event, "guard `g`" in one.message) for one in caplog.records] == [("decision_exceeded", True)]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("few")
def test_an_explanation_shows_the_failure_and_the_rules() -> None:
    found = Engine.from_text(HEAD + guard(PAIRS), clock=lambda: NOW).explain(LARGE)
    assert found.decision.gate is Gate.FAILURE
    (line,) = found.gates
    assert (line.mark, line.text, "most of them in guard `g`: `body.a`" in (line.note or "")) == ("no", "failure", True)


@pytest.mark.usefixtures("few")
def test_a_decision_over_the_step_limit_spends_no_rate() -> None:
    policy = HEAD + guard(PAIRS) + 'rate "r" per request.ip on POST /x { 1/1h }\n'
    engine = Engine.from_text(policy, clock=lambda: NOW)
    large = {**LARGE, "request": {"method": "POST", "path": "/x", "ip": "10.0.0.1"}}
    assert engine.decide(large).gate is Gate.FAILURE
    assert engine.decide({**large, "body": {"a": [], "b": []}}).allowed


# ── The checker ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        (PAIRS, 25),
        ("(any x in body.a: body.a overlaps body.b)", 30),
        ("(any x in body.a: (all y in body.a: (any z in body.b: x + y == z)))", 7),
    ],
)
def test_check_warns_of_nested_loops_and_states_how_many_elements_fit(condition: str, fits: int) -> None:
    (found,) = [one for one in check_text(HEAD + guard(condition)) if one.code == "W715"]
    assert "a loop inside a loop: with 10,000 elements it takes" in found.message
    assert f"with more than {fits} elements each a request is denied" in (found.hint or "")
    assert decide(HEAD + guard(condition), asked({"a": ints(fits, 9_000), "b": ints(fits)})).gate is not Gate.FAILURE
    more = asked({"a": ints(fits + 1, 9_000), "b": ints(fits + 1)})
    assert decide(HEAD + guard(condition), more).gate is Gate.FAILURE


@pytest.mark.parametrize(
    "condition",
    ["body.a overlaps body.b", "(any x in body.a: x in body.b)", LOOP, '(all r in user.roles: r like "a*")'],
)
def test_check_does_not_warn_if_every_request_fits_the_step_limit(condition: str) -> None:
    assert not [one for one in check_text(HEAD + guard(condition)) if one.code == "W715"]
