"""A decision that takes too many steps fails, as the specification counts them: tests with a small limit."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest

from policyengine.compiler.sizes import SizeLimit
from policyengine.engine import Engine
from policyengine.runtime.decision import Gate
from policyengine.runtime.request import Request
from policyengine.runtime.value_size import measure_extent
from policyengine.solver.worst_case import UnlimitedSizes, evaluate_steps, steps_of_part
from policyengine.spec import work
from tests.evaluator import sources
from tests.evaluator.sources import ask_anything, ask_through_chains, hold
from tests.spec.deciding import NOW, bot, decide, kernel, question
from tests.spec.test_work import HEAD, PAIRS, asked, guard, ints, steps

SEEDS, QUESTIONS = 3, 40


@pytest.mark.parametrize("most", [5, 12])
def test_any_question_is_decided_as_specified_whatever_the_bound(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", most)
    tally = hold(ask_anything, range(SEEDS), QUESTIONS) + hold(ask_through_chains, range(SEEDS), QUESTIONS)
    assert tally.reached["gate failure"] > 10
    assert tally.reached["gate None"] > 10


def test_the_comparison_finds_sizes_that_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 5)
    monkeypatch.setattr(SizeLimit, "exceeded", lambda *_: False)
    monkeypatch.setattr(sources, "shrink_difference", lambda *_: None)
    with pytest.raises(AssertionError, match="specified"):
        hold(ask_anything, range(10, 30), 50)  # the first finds one


def engine(rules: str, **rows: Any) -> Engine:
    return Engine.from_text(rules, clock=lambda: NOW, **rows)


def is_small(tested: Engine, body: dict[str, object]) -> bool:
    """Return whether the question is certainly below the limit, so that its steps are not counted."""
    evaluator, request = tested.decider.compiled.evaluator, Request.from_mapping(asked(body))
    small = not evaluator._counts_steps(request, evaluator.program.rules_at(request.endpoint))
    assert not small or tested.decide(asked(body)).gate is not Gate.FAILURE
    return small


LOOPS = [
    PAIRS,
    "(any x in body.a: x in body.b)",
    "(any x in body.a: body.a overlaps body.b)",
    "(all x in body.a: (any y in body.a: (all z in body.b: x < y or y < z)))",
]


@pytest.mark.parametrize("condition", LOOPS)
def test_steps_are_counted_from_a_size_that_is_below_the_limit(condition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 500)
    tested = engine(HEAD + guard(condition))
    small = [is_small(tested, {"a": ints(n), "b": ints(n, 500)}) for n in range(1, 180)]
    most = small.index(False)
    assert most > 2
    assert small == [True] * most + [False] * (179 - most)
    assert tested.decide(asked({"a": ints(most), "b": ints(most, 500)})).gate is not Gate.FAILURE


def test_steps_of_small_questions_are_not_counted_whatever_the_loops() -> None:
    tested = engine(HEAD + "".join(guard(one, f"g{place}") for place, one in enumerate(LOOPS)))
    assert is_small(tested, {"a": ints(10), "b": ints(10, 500)})


def test_a_grant_that_would_not_be_evaluated_still_counts_as_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 500)
    policy = f"""
    issuer acme {{ scopes none }}
    users unrestricted
    facts {{ body.a: list<int>  body.b: list<int> }}
    agent "bot" {{ issued by acme  acts for any user  may POST /x }}
    agent "b*" {{ issued by acme  acts for any user  may POST /x when {PAIRS} }}
    """
    tested = engine(policy)
    found = tested.decide(question("POST /x", body={"a": ints(40), "b": ints(40)}, **bot()))
    assert (found.gate, 'agent "b*"' in found.reasons[0].message) == (Gate.FAILURE, True)


def test_numbers_that_share_a_hash_are_compared_in_linear_time() -> None:
    tested = engine(HEAD + guard("7 in body.numbers"))
    step = 2**61 - 1
    colliding = asked({"numbers": [7 + step * (n + 8) for n in range(10_000)]})
    started = time.process_time()
    assert tested.decide(colliding).allowed
    assert time.process_time() - started < 1.0  # comparing each with each takes more than two seconds


# ── Lists of lists ────────────────────────────────────────────────────────────────────────────

NESTED = [
    "body.c overlaps body.d",
    "body.c subset of body.d",
    "body.c == body.d",
    "[1] in body.c",
    "(any x in body.c: x in body.d)",
    "(any x in body.c: (any y in body.d: x == y))",
    "(all x in body.c: body.d overlaps [x])",
    "(any x in body.a: size(body.texts) > x)",
    "(any i in body.items: i.tags == body.texts)",
]


def nested(random: Random) -> dict[str, object]:
    """Lists in lists, now and then with an element of another type."""

    def lists() -> list[list[object]]:
        return [
            random.choices([0, 1, 2, 3, "x"], [4, 4, 4, 4, 1], k=random.randint(0, 4))
            for _ in range(random.randint(0, 4))
        ]

    texts = [random.choice(["a", "b" * 130]) for _ in range(random.randint(0, 3))]
    return {"a": ints(random.randint(0, 4)), "c": lists(), "d": lists(), "texts": texts, "items": [{"tags": texts}]}


@pytest.mark.parametrize("condition", NESTED)
@pytest.mark.parametrize("most", [6, 20, 60])
def test_lists_in_lists_are_decided_as_specified_whatever_the_bound(
    condition: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", most)
    random, policy = Random(f"{condition} {most}"), HEAD + guard(condition)
    tested = engine(policy)
    for _ in range(40):
        question = asked(nested(random))
        expected, found = decide(policy, question), tested.decide(question)
        assert (found.outcome, found.gate, found.unknown) == (expected.outcome, expected.gate, expected.unknown)
        assert [one.message for one in found.reasons] == [one.message for one in expected.reasons]
        counted = steps(condition, question["body"])  # type: ignore[arg-type]
        assert (found.gate is Gate.FAILURE) == (counted > most)


@pytest.mark.parametrize("condition", NESTED)
def test_no_question_takes_more_steps_than_its_sizes_allow(condition: str) -> None:
    """These sizes decide whether the steps of a question are counted."""
    random, meant = Random(condition), kernel(HEAD + guard(condition))
    for _ in range(60):
        body = nested(random)
        allowed = evaluate_steps(
            steps_of_part(meant.guards[0].effects, UnlimitedSizes()), max(map(measure_extent, body.values()))
        )
        assert steps(condition, body) <= allowed


# ── Chains ────────────────────────────────────────────────────────────────────────────────────

CHAINED = """
users unrestricted
scope s { POST /x }
scope t { POST /y }
issuer acme { records chains }
agent "a" { issued by acme  acts for any user  may s  may delegate s to agent "b" }
agent "b" { issued by acme  acts for any user  may s  may delegate s to agent "a*" }
agent "a*" { issued by acme  acts for any user  may s  may delegate s to group "g" }
agent group "g" { issued by acme  acts for any user  may s  may delegate s to agent "a" }
agent group "h" { issued by acme  acts for any user  may t }
agent where agent.model == "m" { issued by acme  acts for any user  may s }
agent where agent.id == "b" { issued by acme  acts for any user  may t  may delegate s to agent "a" }
agent where agent.id == "ab" { issued by acme  acts for any user  may t }
"""


def chained(random: Random) -> dict[str, object]:
    def one() -> dict[str, object]:
        name = random.choice(["a", "b", "ab", "c", None, 7])
        groups = random.choice([[], ["g"], ["h", "g"], None, ["g", 1]])
        return {"agent": name, "groups": groups, "issuer": "acme", "scopes": ["s"]}

    hops = [one() for _ in range(random.randint(0, 4))]
    return question("POST /x", **bot(random.choice(["a", "ab", "b"]), scopes=["s"]), chain={"hops": hops})


@pytest.mark.parametrize("most", [10, 60, 200, 200_000])
def test_chains_are_decided_as_specified_whatever_the_bound(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is certainly about other agents takes no steps."""
    monkeypatch.setattr(work, "MAX_STEPS", most)
    random, tested, outcomes = Random(most), engine(CHAINED), set()
    for _ in range(150):
        question = chained(random)
        expected, found = decide(CHAINED, question), tested.decide(question)
        assert (found.outcome, found.gate, found.unknown) == (expected.outcome, expected.gate, expected.unknown)
        assert [one.message for one in found.reasons] == [one.message for one in expected.reasons]
        outcomes.add(found.gate)
    assert (Gate.FAILURE in outcomes) == (most < 200_000)
    assert (None in outcomes, Gate.CHAIN in outcomes) == (True, most >= 200)
