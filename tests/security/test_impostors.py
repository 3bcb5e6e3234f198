"""Objects that say they are something else: whoever brings one is decided by what it is, and leaves nothing behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import lru_cache
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policyengine.engine import Engine
from policyengine.runtime.decision import Outcome
from policyengine.runtime.request import HttpEndpoint, Request, RequestError
from policyengine.typesystem import EntityRef
from tests.evaluator.equality import Refusal, UnderTest, answer
from tests.generate.asking import chosen, setting
from tests.generate.impostors import ASKED, Agreeable, Changing, Elements, impostor, with_impostor
from tests.generate.requests import NOW, Question
from tests.generate.specified import Specified, said

POLICY = """
entity user { roles: set<string> }
facts { context.risk: number?   context.zone: string?   context.card: { kind: string }? }
facts on POST /pay/{id} { body.amount: number   body.note: string? }
scope pay { POST /pay/{id} }
scope tools { TOOL files/read   ACTION view user }
issuer acme { claims { roles -> user.roles } }
user any { may pay, tools }
agent "bot" { issued by acme   acts for any user   may pay, tools when context.zone == "eu" }
agent group "ops" { issued by acme   acts for any user   may pay }
anyone { may GET /open/{id} }
guard "small" on POST /pay/{id} { deny when body.amount > 100   deny when body.note == "urgent" }
guard "calm" on pay, TOOL files/* { deny when context.risk > 5   deny when context.card.kind == "black" }
guard "clerks" on POST /pay/{id} { require user.roles has "clerk" }
rate "pays" per agent.id on POST /pay/{id} { 1000/1m }
"""
PAY: Question = {
    "agent": {"id": "bot", "issuer": "acme", "groups": ["day"]}, "user": {"id": "alice"},
    "credential": {"issuer": "acme", "scopes": ["pay"], "claims": {"roles": ["clerk"]}},
    "request": {"method": "POST", "path": "/pay/7", "headers": {"x-id": "1"}, "query": {"page": "7"}},
    "body": {"amount": 5, "note": "x"}, "context": {"risk": 1, "zone": "eu", "card": {"kind": "blue"}},
}  # fmt: skip
OPEN: Question = {"request": {"method": "GET", "path": "/open/1"}}


def put(question: Question, place: str, value: Any, name: Any = None) -> Question:
    """A copy with something else at `agent.id`, under another name where one is given."""
    root, _, member = place.partition(".")
    if not member:
        return replaced(question, root, value, name)
    return replaced(question, root, replaced(question[root], member, value, name), None)


def replaced(members: Question, member: str, value: Any, name: Any) -> Question:
    found = {one: kept for one, kept in members.items() if one != member}
    return {**found, member if name is None else name: value}


# ── What was found ────────────────────────────────────────────────────────────────────────────


def test_a_method_object_with_false_equality_is_decided_by_its_real_value() -> None:
    engine = Engine.from_text(POLICY)
    assert engine.decide(OPEN).allowed
    assert not engine.decide(put(OPEN, "request.method", Agreeable("DELETE"))).allowed
    assert not engine.decide(put(OPEN, "request.method", "DELETE")).allowed
    assert not engine.decide(put(OPEN, "request.method", impostor("DELETE", "GET"))).allowed
    assert engine.decide(put(OPEN, "request.method", impostor("GET", "DELETE"))).allowed


def test_a_path_object_with_false_equality_is_decided_by_its_real_value() -> None:
    engine = Engine.from_text(POLICY)
    assert not engine.decide(put(OPEN, "request.path", impostor("/secret", "/open/1"))).allowed
    assert engine.decide(put(OPEN, "request.path", impostor("/open/1", "/secret"))).allowed
    assert not engine.decide(put(OPEN, "request.path", "/secret")).allowed


@pytest.mark.parametrize(
    ("place", "is_", "says"),
    [
        ("agent.id", "mallory", "bot"), ("agent.issuer", "evil", "acme"), ("credential.issuer", "evil", "acme"),
        ("request.method", "GET", "POST"), ("request.path", "/elsewhere", "/pay/7"), ("context.zone", "us", "eu"),
        ("body.note", "urgent", "x"), ("body.amount", 500, 5), ("body.amount", Decimal(500), Decimal(5)),
        ("body.amount", 500.0, 5.0), ("context.risk", 9, 1), ("credential.scopes", ["x"], ["pay"]),
    ],
)  # fmt: skip
def test_a_fact_object_with_false_equality_is_denied_by_its_real_value(place: str, is_: Any, says: Any) -> None:
    engine = Engine.from_text(POLICY)
    posing = Elements(is_, says) if isinstance(is_, list) else impostor(is_, says)
    for asked in (put(PAY, place, posing), put(PAY, place, is_)):
        for ask in (engine.decide, engine.evaluate):
            assert not ask(asked).allowed
        assert not engine.decide_many([asked])[0].allowed  # type: ignore[union-attr]
        assert not engine.explain(asked).decision.allowed
    assert engine.decide(PAY).allowed


@pytest.mark.parametrize("place", ["agent", "body", "request", "context", "agent.id", "body.amount", "request.method"])
def test_a_key_object_with_false_equality_is_read_as_its_real_name(place: str) -> None:
    engine = Engine.from_text(POLICY)
    root, _, member = place.partition(".")
    value = PAY[root][member] if member else PAY[root]
    asked = put(PAY, place, value, impostor("else", member or root))
    found = answer(lambda: said(engine.decide(asked)))
    assert isinstance(found, Refusal) or found.outcome is Outcome.DENY
    assert engine.decide(put(PAY, place, value, impostor(member or root, "else"))).allowed
    assert engine.decide(PAY).allowed


def test_two_keys_with_the_same_real_name_are_a_duplicate() -> None:
    engine = Engine.from_text(POLICY)
    asked = {**PAY, "body": {**PAY["body"], impostor("amount", "else"): 500}}
    decision = engine.decide(asked)
    assert [(one.fact, one.why) for one in decision.unknown] == [("body.amount", "a duplicate key")]


def test_an_object_that_changes_between_reads_is_read_once() -> None:
    engine = Engine.from_text(POLICY)
    large, small = {"amount": 500, "note": "x"}, {"amount": 5, "note": "x"}
    assert not engine.decide({**PAY, "body": Changing(large, small)}).allowed
    assert engine.decide({**PAY, "body": Changing(small, large)}).allowed
    mallory = {**PAY, "agent": {**PAY["agent"], "id": "mallory"}}
    assert not engine.decide(Changing(mallory, PAY)).allowed
    assert engine.decide(Changing(PAY, mallory)).allowed


# ── What is usual ─────────────────────────────────────────────────────────────────────────────


class Method(StrEnum):
    PAY = "POST"


class Amount(IntEnum):
    SMALL = 5
    LARGE = 500


class Zone(tzinfo):
    """A zone of one's own, as libraries for times have it."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=2)


def test_enum_members_are_read_as_their_values() -> None:
    engine = Engine.from_text(POLICY)
    assert engine.decide(put(PAY, "request.method", Method.PAY)).allowed
    assert engine.decide(put(PAY, "body.amount", Amount.SMALL)).allowed
    assert not engine.decide(put(PAY, "body.amount", Amount.LARGE)).allowed


def test_times_of_other_classes_are_converted_to_plain_times() -> None:
    times = {"at": datetime(2027, 1, 1, 12, tzinfo=Zone()), "for": impostor(timedelta(1), timedelta(9))}
    facts = Request.from_mapping({"tool": {"name": "x"}, "context": times}).facts["context"]
    assert facts == {"at": datetime(2027, 1, 1, 10, tzinfo=UTC), "for": timedelta(1)}  # type: ignore[comparison-overlap]
    assert type(facts["at"].tzinfo) is not Zone  # type: ignore[index]


def test_an_entity_reference_is_converted_to_its_real_strings() -> None:
    raw = EntityRef(impostor("user", "team"), impostor("mallory", "alice"))
    found = Request.from_mapping({"tool": {"name": "x"}, "context": {"who": raw}}).fact("context", "who")
    assert found == EntityRef("user", "mallory")


def test_a_hand_made_request_rejects_values_that_are_not_plain() -> None:
    with pytest.raises(RequestError, match="the endpoint contains values that are not plain strings"):
        Request(HttpEndpoint(Agreeable("DELETE"), "/open/1", ("open", "1")))
    with pytest.raises(RequestError, match="the facts are not plain values"):
        Request(HttpEndpoint("GET", "/open/1", ("open", "1")), {"body": {"amount": impostor(500, 5)}})


class Failing(dict[str, Any]):
    def items(self) -> Any:
        raise LookupError("not there any more")


def test_an_unreadable_body_raises_a_request_error() -> None:
    engine = Engine.from_text(POLICY)
    with pytest.raises(RequestError, match="the data cannot be read: LookupError"):
        engine.decide({**PAY, "body": Failing()})
    assert engine.failures == 0


# ── Methods of objects in a question ──────────────────────────────────────────────────────

LEAVES = [
    f"{root}.{name}" for root, members in PAY.items() for name, value in members.items() if isinstance(value, str)
]


TOOL: Question = {
    **{name: one for name, one in PAY.items() if name != "request"},
    "tool": {"server": "files", "name": "read"},
}


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        pytest.param(question, place, id=f"{kind} {place}")
        for kind, question in (("http", PAY), ("tool", TOOL))
        for place in (*LEAVES, "tool.server", "tool.name", "body.amount", "context.risk")
        if place.partition(".")[0] in question
    ],
)
def test_an_engine_calls_no_methods_of_question_objects(asked: Question, place: str) -> None:
    root, _, member = place.partition(".")
    value = asked[root][member]
    engine = Engine.from_text(POLICY)
    lists = {"credential": {**asked["credential"], "scopes": [impostor("pay", "pay")]}}
    for one in (put(asked, place, impostor(value, value)), {**asked, **lists}):
        for named in (one, put(asked, place, value, impostor(member, member))):
            ASKED.clear()
            engine.decide(named)
            assert not ASKED


# ── In every place of every question ──────────────────────────────────────────────────────────

POLICIES = 12


class Sides:
    """The specification and the engine, side by side: what one has spent the other has, impostors or not."""

    def __init__(self, seed: int) -> None:
        self.asked = setting(seed)
        self.bases = chosen(Random(seed), seed)
        self.specified = Specified(self.asked.kernel, self.asked.directory)
        self.tested = UnderTest(self.asked, NOW)

    def agree(self, ask: str, asked: Any, real: Any) -> None:
        expected = answer(getattr(self.specified, ask), real, NOW)
        found = answer(getattr(self.tested, ask), asked)
        if isinstance(expected, Refusal):
            assert isinstance(found, Refusal), f"{ask}: {found}\n{asked}\n{self.asked}"
        else:
            assert found == expected, f"{ask}\nspecified: {expected}\n    found: {found}\n{asked}\n{self.asked}"


@lru_cache(maxsize=POLICIES)
def sides(seed: int) -> Sides:
    return Sides(seed)


@settings(suppress_health_check=[HealthCheck.too_slow])
@example(seed=0, which=0, chance=63828)  # a name that equals another replaces it in the dictionary
@given(seed=st.integers(0, POLICIES - 1), which=st.integers(0, 2**16), chance=st.integers(0, 2**32))
def test_impostor_objects_are_decided_as_specified_and_do_not_affect_later_decisions(
    seed: int, which: int, chance: int
) -> None:
    both, random = sides(seed), Random(chance)
    base = both.bases[which % len(both.bases)]
    pair = with_impostor(random, base)
    if pair.real is None:  # nobody says which of two members of one name counts
        answer(both.tested.evaluate, pair.asked)
    else:
        both.agree(random.choice(["decide", "evaluate"]), pair.asked, pair.real)
    both.agree("decide", base, base)
    assert said(both.tested.engine.explain(base).decision) == both.specified.evaluate(base, NOW)
