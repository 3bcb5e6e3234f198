"""The evaluator and the specification agree about what takes too many steps: with a limit so small that much does."""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any

import pytest

from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.bundle.file import decode_bundle, write_bundle
from policyengine.compiler.sizes import SizeLimit
from policyengine.engine import Engine
from policyengine.runtime.decision import Decision, Effects, Gate, Outcome
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.value_size import measure_extent
from policyengine.solver.worst_case import UnlimitedSizes, evaluate_steps, steps_of_part
from policyengine.spec import work
from tests.compiler.step_equality import Stepped, hold_steps
from tests.depth import examples, scaled
from tests.generate.asking import Asking, Setting
from tests.generate.requests import approved
from tests.spec.deciding import NOW, bot, directory, kernel, question, spending
from tests.spec.test_work import HEAD, PAIRS, asked, guard, ints, steps

POLICIES, QUESTIONS = examples(4, 16), examples(26, 40)


@scaled
@pytest.mark.parametrize(("most", "first"), [(5, 12), (60, 12), (500, 5_000), (5_000, 5_000)])
def test_any_question_is_decided_as_specified_whatever_the_limit(
    most: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", most)
    tally = hold_steps(range(first, first + POLICIES), QUESTIONS, longest=most // 5)
    assert min(tally["within"], tally["counted"], tally["not counted"]) > 10
    assert tally["exceeded"] > 2


def test_the_comparison_finds_questions_that_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 5)
    monkeypatch.setattr(SizeLimit, "exceeded", lambda *_: False)
    with pytest.raises(AssertionError, match=r"specified|not counted"):
        hold_steps(range(10, 30), 50)  # the first finds one


def engine(rules: str, **rows: Any) -> Engine:
    return Engine.from_text(rules, clock=lambda: NOW, **rows)


def is_counted(tested: Engine, body: dict[str, object]) -> bool:
    """Whether the sizes of the question call for counting its steps."""
    request, evaluator = Request.from_mapping(asked(body)), tested.decider.compiled.evaluator
    return evaluator._counts_steps(request, evaluator.program.rules_at(request.endpoint))


def resumed(tested: Engine, question: dict[str, object]) -> tuple[Decision, Effects]:
    evaluator = tested.decider.compiled.evaluator
    return evaluator.resume(Needs(Request.from_mapping(question)), Snapshot(tested.directory), epoch_nanoseconds(NOW))


LOOPS = [
    PAIRS,
    "(any x in body.a: x in body.b)",
    "(any x in body.a: body.a overlaps body.b)",
    "(all x in body.a: (any y in body.a: (all z in body.b: x < y or y < z)))",
]


@pytest.mark.parametrize("condition", LOOPS)
def test_steps_are_counted_from_the_size_on_that_may_exceed_the_limit(
    condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 500)
    tested = engine(HEAD + guard(condition))
    bodies = [{"a": ints(n), "b": ints(n, 500)} for n in range(1, 180)]
    counted = [is_counted(tested, body) for body in bodies]
    most = counted.index(True)
    assert most > 2
    assert counted == [False] * most + [True] * (179 - most)
    for body in (*bodies[:most], *bodies[most : most + 5], *bodies[-3:]):
        assert (tested.decide(asked(body)).gate is Gate.FAILURE) == (steps(condition, body) > 500)


def test_the_steps_of_small_questions_are_not_counted_whatever_the_loops() -> None:
    tested = engine(HEAD + "".join(guard(one, f"g{place}") for place, one in enumerate(LOOPS)))
    assert not is_counted(tested, {"a": ints(10), "b": ints(10, 500)})


def test_a_grant_that_would_not_be_evaluated_still_counts_as_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walker stops at the first grant that opens; the steps of all are counted."""
    monkeypatch.setattr(work, "MAX_STEPS", 500)
    policy = f"""
    issuer acme {{ scopes none }}
    users unrestricted
    facts {{ body.a: list<int>  body.b: list<int> }}
    agent "bot" {{ issued by acme  acts for any user  may POST /x }}
    agent "b*" {{ issued by acme  acts for any user  may POST /x when {PAIRS} }}
    """
    found, effects = resumed(engine(policy), question("POST /x", body={"a": ints(40), "b": ints(40)}, **bot()))
    assert (found.gate, 'agent "b*"' in effects.excess) == (Gate.FAILURE, True)


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
        (expected, effects), (found, done) = spending(policy, question), resumed(tested, question)
        assert done == effects
        assert (found.outcome, found.gate, found.unknown) == (expected.outcome, expected.gate, expected.unknown)
        assert [one.message for one in found.reasons] == [one.message for one in expected.reasons]
        counted = steps(condition, question["body"])  # type: ignore[arg-type]
        assert (found.gate is Gate.FAILURE) == (counted > most)


@pytest.mark.parametrize("condition", NESTED)
def test_no_question_takes_more_steps_than_its_sizes_allow(condition: str) -> None:
    """Sizes tell whether a question is so small that its steps need not be counted."""
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


@scaled
@pytest.mark.parametrize("most", [10, 60, 200, 200_000])
def test_chains_are_decided_as_specified_whatever_the_bound(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluator counts only blocks that may be about an agent of the chain."""
    monkeypatch.setattr(work, "MAX_STEPS", most)
    random, tested, outcomes = Random(most), engine(CHAINED), set()
    for _ in range(examples(100, 300)):
        question = chained(random)
        (expected, effects), (found, done) = spending(CHAINED, question), resumed(tested, question)
        assert done == effects
        assert (found.outcome, found.gate, found.unknown) == (expected.outcome, expected.gate, expected.unknown)
        assert [one.message for one in found.reasons] == [one.message for one in expected.reasons]
        outcomes.add(found.gate)
    assert (Gate.FAILURE in outcomes) == (most < 200_000)
    assert (None in outcomes, Gate.CHAIN in outcomes) == (True, most >= 200)


MANY = """
facts {{ context.n: int }}
issuer acme {{ records chains  scopes none }}
scope s {{ GET /x }}
{blocks}
"""
HOPS = {
    "an unknown name": {"agent": "e\u0301", "groups": []},
    "an empty name": {"agent": "", "groups": []},
    "another name": {"agent": "z", "groups": []},
    "a name": {"agent": "a1", "groups": []},
    "many groups": {"agent": "z", "groups": [f"g{number}" for number in range(50)]},
    "a group": {"agent": "z", "groups": ["g1"]},
    "another group": {"agent": "z", "groups": ["e\u0301"]},
    "no groups": {"agent": "z"},
    "a group that is a number": {"agent": "z", "groups": ["g1", 7]},
}
EXCEEDING = {"an unknown name", "an empty name", "many groups", "no groups", "a group that is a number"}


@cache
def engine_of_many_blocks(from_bundle: bool) -> Engine:
    """Return an engine whose rules exceed 50,000 steps only if most blocks count."""
    conditions = " and ".join(f"context.n > {number}" for number in range(9))
    heads = [f'agent "a{number}"' for number in range(50)] + [f'agent group "g{number}"' for number in range(50)]
    blocks = "\n".join(f"{head} {{ issued by acme  acts alone  may s when {conditions} }}" for head in heads)
    tested = Engine.from_text(MANY.format(blocks=blocks))
    if from_bundle:
        bundle = decode_bundle(write_bundle(tested.kernel, "0.1.0"))
        tested = Engine(bundle.kernel, tree=bundle.tree)
    return tested


@pytest.mark.parametrize(
    ("hop", "from_bundle"), [*((hop, False) for hop in HOPS), *((hop, True) for hop in ("many groups", "a name"))]
)
def test_blocks_that_may_match_a_hop_count_whatever_its_name_and_groups(
    hop: str, from_bundle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 50_000)
    monkeypatch.setattr("policyengine.compiler.evaluator.MAX_DECODED_BLOCKS", 50)  # fewer than the bundle has
    tested = engine_of_many_blocks(from_bundle)
    hops = [{"issuer": "acme", "scopes": ["s"], **HOPS[hop]}] * 32
    asked = question("GET /x", **bot("a1", scopes=["s"]), context={"n": 20}, chain={"hops": hops})
    found, expected = tested.evaluate(asked), tested.explain(asked).decision
    assert (found.gate, [one.message for one in found.reasons]) == (
        expected.gate, [one.message for one in expected.reasons],
    )  # fmt: skip
    assert (found.gate is Gate.FAILURE) == (hop in EXCEEDING)


# ── Approvals, rows, chains and history together ──────────────────────────────────────────────

COMBINED = """
entity team in team
entity user { roles: set<string> } in team
facts {
  body.a: list<int>  body.b: list<int>  body.n: int?  body.users: list<user>?  body.c: list<list<int>>?
  body.items: list<{ tags: list<string>  name: string? }>?  body.large: bool?
}
scope s { POST /x with body.large = (any x in body.a: x > 5) }
issuer acme { records chains }
users unrestricted
agent "a" {
  issued by acme  acts for users where (any r in user.roles: r like "r*")
  may s when (any x in body.a: x in body.b) or body.n is absent
  may delegate s to agent "b" when (all x in body.a: x >= 0)
}
agent "b" { issued by acme  acts for any user  may s  may delegate s to agent "c" }
agent where agent.id in ["b", "c"] { issued by acme  acts for any user  may s when no POST /x within 1s per (agent.id) }
agent group "g" { issued by acme  acts for any user  may s when (any i in body.items: "t" in i.tags) }
guard "confirm" on POST /x { confirm by body.users when (any x in body.a: x > 2) }
guard "approved" on POST /x { deny when (any u in body.users: approval.by == u.id and "r9" in u.roles) }
guard "members" on POST /x { deny when (any u in body.users: u in body.users and u.id == "nobody") }
guard "lists" on POST /x { deny when [1, 2] in body.c and (any x in body.c: x in body.c and size(x) > 9) }
guard "past" on POST /x { warn when after (POST /x where (any x in body.a: x == past.body.n)) within 1h }
guard "counted" on POST /x {
  warn when (any x in body.a:
    count of (POST /x where past.body.n in body.b) within 1h since (POST /x where past.body.n == 3) > 1)
}
rate "r" per user.id on POST /x when (any x in body.b: x == 1) { 900/1h }
budget "b" per user.id on POST /x when body.a overlaps body.b { count <= 900 within 1h }
"""


def combined(random: Random, longest: int) -> dict[str, object]:
    def numbers() -> list[int]:
        return [random.randint(0, 9) for _ in range(random.choice([0, 1, 3, longest]))]

    users = random.sample(["u", "v", "w"], random.randint(0, 3))
    items = [{"tags": random.choices(["t", "u"], k=random.randint(0, 3))} for _ in range(random.randint(0, 3))]
    lists = [random.choices([1, 2, "x"], [9, 9, 1], k=2) for _ in range(random.randint(0, 4))]
    body = {"a": numbers(), "b": numbers(), "users": users, "items": items, "c": lists}
    if random.random() < 0.8:
        body["n"] = random.randint(0, 4)
    given = {"agent": random.choice(["a", "b", None]), "groups": random.choice([["g"], []])}
    hops = [{**given, "issuer": "acme", "scopes": ["s"]} for _ in range(random.choice([0, 0, 1, 2]))]
    about = bot(random.choice(["a", "b", "c"]), user=random.choice(["alice", None]), scopes=["s"])
    rows = [{"type": "user", "id": "w", "attributes": {"roles": ["r9"]}, "in": [{"type": "team", "id": "t"}]}]
    members = {**about, "body": body, "chain": {"hops": hops}, "entities": rows if random.random() < 0.3 else []}
    return question("POST /x", **members)


ROWS = {
    "user alice": {"roles": ["r1", "x" * 200]}, "user u": {"roles": [], "in": ["team t"]}, "user v": {"roles": ["r9"]},
    "team t": {"in": ["team top"]}, "team top": {},
}  # fmt: skip


@scaled
@pytest.mark.parametrize("most", [60, 200, 500, 1_500])
def test_approvals_rows_chains_and_history_are_counted_as_specified(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", most)
    random, later, longest = Random(most), deque[Asking](), 80 if most > 500 else 12
    stepped = Stepped.of(Setting(None, [], kernel(COMBINED), directory(ROWS)))  # type: ignore[arg-type]
    for minute in range(examples(75, 200)):
        now = NOW + timedelta(minutes=minute // 3)
        asking = later.popleft() if later and random.random() < 0.5 else Asking(combined(random, longest), now)
        if stepped.compare(asking) == Outcome.CONFIRM:
            asked = approved(random, asking.question, stepped.specified.evaluate(asking.question, now), now)
            later.append(Asking(asked, now))
    tally = stepped.tally
    assert tally["exceeded"] > 2
    assert min(tally[f"with {name}"] for name in ("approvals", "rows", "hops", "history")) > (2 if most > 60 else -1)
