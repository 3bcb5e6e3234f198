"""A hostile bundle with limits and history: each promise about them that later stages rely on is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from policyengine import kernel as k
from policyengine.checker.lower.history import event_digest
from policyengine.compiler.bundle.file import BundleError, PolicyBundle, decode_bundle, write_bundle
from policyengine.compiler.bundle.payload import bundle_schema, read_everything
from policyengine.compiler.bundle.tables import BundleDataError
from policyengine.compiler.bundle.verify import CHECKS
from policyengine.engine import Engine
from policyengine.spec.required_history import history_conditions
from policyengine.spec.tasks import NOWHERE
from policyengine.stores.memory.store import MemoryStore
from policyengine.typesystem import Scalar, Type, UnresolvedType
from tests.compiler.hostile import bundled, members_of, mutated
from tests.spec.deciding import NOW

POLICY = """language 1
package acme
entity user { quota: int }
facts on /pay/{id} { body.amount: number  body.to: string  body.tokens: int }
anyone { may POST /pay/{id}, GET /report, POST /review/{id} }
rate "plain" per request.ip on /pay/{id} { 10/1m burst 3 counting denials }
rate "moving" per user.id on /pay/{id} when body.amount > 1 { 100/1m burst 20 cost body.tokens
  raise x1.5 at most 300/1m when body.amount > 5   clamp 5/1m for 10m when body.amount > 9 }
rate "by quota" per user.id on /pay/{id} { user.quota/1d }
rate "few" per user.id { at most 2 at once for 1m }
budget "spent" per user.id on /pay/{id} {
  sum body.amount <= 100 within 1d   count <= 9 within 1h   distinct body.to <= 3 within 1h
}
guard "looks back" on /pay/{id} {
  require after (POST /review/{id} by another user where past.params.id == params.id) within 1h since GET /report
  deny when sum past.body.amount of (POST /pay/{id}) within 1d > 100
  deny when count of (denied POST /pay/{id}) within 1h per (request.ip) > 5
  deny when distinct past.output.state of POST /review/{id} within 1h > 3
  deny when sum (past.status else past.output.cost else 5) of POST /review/{id} within 1h > 900
  require no (POST /review/{id} where past.output.note is absent and past.output.state == "bad") within 1h
}
"""
Members = dict[str, Any]
Where = Callable[[Members], Any]


@pytest.fixture(scope="module")
def written() -> bytes:
    return bytes(msgpack.packb(members_of(write_bundle(Engine.from_text(POLICY).kernel, "0.1.0"))))


@pytest.fixture
def members(written: bytes) -> Members:
    found: Members = msgpack.unpackb(written)
    return found


def read(data: bytes) -> PolicyBundle:
    """A bundle with everything in it read."""
    found = decode_bundle(data)
    read_everything(found.kernel)
    return found


# ── Where the parts stand ─────────────────────────────────────────────────────────────────────


def at(kind: type, member: str) -> int:
    """Where a member stands in the array of a part, which begins with the number of its class."""
    return bundle_schema().classes[kind].names.index(member) + 1


def limit(name: str) -> Where:
    place = at(k.Rate, "name")
    return lambda members: next(one for one in members["limits"] if one[place] == name)


def inside(outer: Where, kind: type, member: str, *steps: int) -> Where:
    def find(members: Members) -> Any:
        found = outer(members)[at(kind, member)]
        for step in steps:
            found = found[step]
        return found

    return find


def of_limit(name: str, member: str, *steps: int) -> Where:
    kind = k.Budget if name == "spent" else k.Rate
    return inside(limit(name), kind, member, *steps)


def effect(number: int) -> Where:
    """What a `deny` of the guard compares: the history; of the `require`, what must have happened."""

    def find(members: Members) -> Any:
        condition = members["guards"][0][at(k.Guard, "effects")][number][2]
        return condition[2] if number == 0 else condition[at(k.Relation, "left")]

    return find


MOVING, SUM, COUNT = limit("moving"), of_limit("spent", "quotas", 0), of_limit("spent", "quotas", 1)
RAISE, CLAMP = of_limit("moving", "raises", 0), of_limit("moving", "clamps", 0)
HAPPENED, SUMMED, COUNTED, DIFFERENT, FILLED = (effect(number) for number in range(5))
EVENT = inside(HAPPENED, k.HistoryCondition, "event")
PAST = inside(SUMMED, k.Aggregate, "field")
DEFAULT = inside(FILLED, k.Aggregate, "field")
FILLED_EVENT = inside(FILLED, k.Aggregate, "event")
STATE = inside(inside(DIFFERENT, k.Aggregate, "field"), k.PastFact, "fact")


def watch(members: Members) -> Any:
    return members["watches"][0]


NONE, NOTHING = [0, 0, 0], "a pace with a zero"
PACE = bundle_schema().classes[k.Pace].number
# Where, of which class, its member, what is put there, and what is said.
WRONG: list[tuple[Where, type, str, Any, str]] = [
    (of_limit("plain", "pace"), k.Pace, "count", 0, NOTHING),
    (of_limit("plain", "pace"), k.Pace, "count", -1, NOTHING),
    (of_limit("plain", "pace"), k.Pace, "burst", 0, NOTHING),
    (of_limit("plain", "pace"), k.Pace, "within", NONE, NOTHING),
    (of_limit("plain", "pace"), k.Pace, "within", [-1, 0, 0], NOTHING),
    (of_limit("plain", "pace"), k.Pace, "within", [2**40, 0, 0], "Expected `int` <= 999999999"),
    (of_limit("plain", "pace"), k.Pace, "count", 2**62, "a rate that cannot be counted"),
    (of_limit("plain", "pace"), k.Pace, "burst", 2**62, "a rate that cannot be counted"),
    (of_limit("by quota", "pace"), k.PaceByFact, "burst", 0, NOTHING),
    (of_limit("by quota", "pace"), k.PaceByFact, "within", NONE, NOTHING),
    (RAISE, k.Raise, "factor", [1, 1], "a raise without an effect"),
    (RAISE, k.Raise, "factor", [1, 2], "a raise without an effect"),
    (RAISE, k.Raise, "factor", [3, 0], "a raise without an effect"),
    (RAISE, k.Raise, "factor", [-3, -4], "a raise without an effect"),
    (RAISE, k.Raise, "at_most", [PACE, 0, [0, 60, 0], 1], NOTHING),
    (CLAMP, k.Clamp, "lasts", NONE, "a clamp with an empty duration"),
    (CLAMP, k.Clamp, "lasts", [-1, 0, 0], "a clamp with an empty duration"),
    (CLAMP, k.Clamp, "pace", [PACE, 5, [0, 60, 0], 0], NOTHING),
    (of_limit("few", "at_once"), k.ConcurrencyLimit, "most", 0, "a concurrency limit with a zero"),
    (of_limit("few", "at_once"), k.ConcurrencyLimit, "lease", NONE, "a concurrency limit with a zero"),
    (limit("few"), k.Rate, "at_once", None, "a rate without a limit"),
    (MOVING, k.Rate, "pace", None, "a rate without a limit"),
    (MOVING, k.Rate, "failing", "maybe", "Invalid enum value 'maybe'"),
    (MOVING, k.Rate, "counting_denials", 1, "Expected `bool`, got `int`"),
    (MOVING, k.Rate, "floor", [PACE, 0, [0, 60, 0], 1], NOTHING),
    (limit("spent"), k.Budget, "quotas", [], "a budget without a limit"),
    (limit("spent"), k.Budget, "failing", "", "Invalid enum value ''"),
    (SUM, k.BudgetLimit, "within", NONE, "a budget without a period or a bound"),
    (SUM, k.BudgetLimit, "fact", None, "a `count` of a fact, or a sum without a fact"),
    (SUM, k.BudgetLimit, "function", "count", "a `count` of a fact, or a sum without a fact"),
    (SUM, k.BudgetLimit, "function", "product", "Invalid enum value 'product'"),
    (COUNT, k.BudgetLimit, "function", "sum", "a `count` of a fact, or a sum without a fact"),
    (HAPPENED, k.HistoryCondition, "within", NONE, "a history with an empty window"),
    (SUMMED, k.Aggregate, "within", [-1, 0, 0], "a history with an empty window"),
    (SUMMED, k.Aggregate, "field", None, "a `count` of a fact, or a sum without a fact"),
    (SUMMED, k.Aggregate, "function", "count", "a `count` of a fact, or a sum without a fact"),
    (COUNTED, k.Aggregate, "function", "sum", "a `count` of a fact, or a sum without a fact"),
    (COUNTED, k.Aggregate, "function", "median", "Invalid enum value 'median'"),
    (DIFFERENT, k.Aggregate, "function", "sum", "a sum of values that are not numbers"),
    (EVENT, k.EventPattern, "watch", "0" * 24, "an event with another name"),
    (EVENT, k.EventPattern, "latest", True, "an event with another name"),
    (EVENT, k.EventPattern, "denied", True, "an event with another name"),
    (EVENT, k.EventPattern, "facts", [], "an event with another name"),
    (EVENT, k.EventPattern, "outputs", [["state"]], "an event with another name"),
    (EVENT, k.EventPattern, "keys", None, "an event with another name"),
    (FILLED_EVENT, k.EventPattern, "status", False, "an event with another name"),
    (FILLED_EVENT, k.EventPattern, "status", 1, "Expected `bool`, got `int`"),
    (FILLED, k.Aggregate, "function", "count", "a `count` of a fact, or a sum without a fact"),
    (DEFAULT, k.Default, "type", 0, "`else` with a value of another type"),
    (PAST, k.PastFact, "type", 0, "an earlier fact of another type"),
    (STATE, k.Fact, "path", ["past", "secret"], "an outcome that cannot be reported"),
    (STATE, k.Fact, "path", ["past", "output"], "an outcome that cannot be reported"),
    (STATE, k.Fact, "path", ["past", "status"], "an outcome that cannot be reported"),
    (STATE, k.Fact, "path", ["past", "output", "other"], "an outcome that is not recorded"),
    (watch, k.EventRetention, "within", NONE, "a history with an empty window"),
]


@pytest.mark.parametrize(
    ("where", "kind", "member", "value", "why"),
    [pytest.param(*one, id=f"{one[1].__name__}.{one[2]}-{number}") for number, one in enumerate(WRONG)],
)
def test_a_limit_or_a_history_that_the_checker_could_not_have_made_is_refused(
    members: Members, where: Where, kind: type, member: str, value: Any, why: str
) -> None:
    where(members)[at(kind, member)] = value
    assert_refused(members, why)


def assert_refused(changed: Members, why: str) -> None:
    with pytest.raises(BundleError) as found:
        read(bundled(changed))
    assert found.value.code == "E165"
    assert why in found.value.message
    assert found.value.hint


# ── What is read of the past ──────────────────────────────────────────────────────────────────

UNUSED: Any = None  # the tables of a bundle, which these checks do not read
NOTE, COST = ("past", "output", "note"), ("past", "output", "cost")


def aggregate() -> k.Aggregate:
    """The sum with defaults."""
    kernel = Engine.from_text(POLICY).kernel
    return next(one for one in history_conditions(kernel.guards) if getattr(one, "field", None) and one.event.status)  # type: ignore[return-value]


def refuses(node: k.Node, why: str) -> None:
    with pytest.raises(BundleDataError, match=why):
        CHECKS[type(node)](node, UNUSED)


def renamed(event: k.EventPattern, **members: Any) -> k.EventPattern:
    """Another event, under its own name."""
    changed = replace(event, **members)
    return replace(changed, watch=event_digest(changed))


def output(path: tuple[str, ...], type_: Type) -> k.PastFact:
    return k.PastFact(k.Fact(path, type_, True, span=NOWHERE), type_, True, span=NOWHERE)


def test_an_outcome_without_a_type_can_only_be_tested_for_presence() -> None:
    untyped = output(NOTE, UnresolvedType())
    tested = k.IsPresent(untyped, span=NOWHERE)
    one = k.Constant(1, Scalar.INT, span=NOWHERE)
    pattern = renamed(aggregate().event, where=tested, outputs=(NOTE[2:], COST[2:]))
    CHECKS[k.EventPattern](pattern, UNUSED)
    compared = k.Relation("==", untyped, one, span=NOWHERE)
    defaulted = k.Relation("==", k.Default(untyped, one, Scalar.INT, span=NOWHERE), one, span=NOWHERE)
    for wrong in (compared, k.And((tested, compared), span=NOWHERE), defaulted):
        refuses(renamed(pattern, where=wrong), "an outcome without a type")


def test_a_sum_has_only_recorded_parts() -> None:
    summed = aggregate()
    CHECKS[k.Aggregate](summed, UNUSED)
    assert isinstance(summed.field, k.Default)
    own = k.Fact(("body", "tokens"), Scalar.INT, span=NOWHERE)
    with_own = replace(summed.field, fallback=own)
    refuses(replace(summed, field=with_own), "a sum of values that are not recorded")
    refuses(replace(summed, event=renamed(summed.event, status=False)), "an outcome that is not recorded")
    refuses(replace(summed, event=renamed(summed.event, outputs=())), "an outcome that is not recorded")
    earlier = replace(summed.field, fallback=k.PastFact(own, Scalar.INT, span=NOWHERE))
    refuses(replace(summed, field=earlier), "an earlier fact that is not recorded")
    other = output(COST, UnresolvedType())
    refuses(replace(summed, field=other, function="distinct", type=Scalar.INT), "an outcome without a type")


# What stands where an expression is expected: one of another type.
MISTYPED: list[tuple[Where, type, str, str]] = [
    (MOVING, k.Rate, "when", "neither true nor false"),
    (MOVING, k.Rate, "cost", "a cost that is not a number"),
    (RAISE, k.Raise, "when", "neither true nor false"),
    (CLAMP, k.Clamp, "when", "neither true nor false"),
    (of_limit("by quota", "pace"), k.PaceByFact, "count", NOTHING),
    (limit("spent"), k.Budget, "when", "neither true nor false"),
    (SUM, k.BudgetLimit, "fact", "a sum of values that are not numbers"),
    (SUM, k.BudgetLimit, "bound", "a budget without a period or a bound"),
    (EVENT, k.EventPattern, "where", "neither true nor false"),
]


@pytest.mark.parametrize(
    ("where", "kind", "member", "why"),
    [pytest.param(*one, id=f"{one[1].__name__}.{one[2]}") for one in MISTYPED],
)
def test_an_operand_of_another_type_in_a_limit_is_refused(
    members: Members, where: Where, kind: type, member: str, why: str
) -> None:
    members["types"].append("duration")
    number = bundle_schema().classes[k.Constant].number
    duration = [number, [0, 0, 0], ["duration", [1, 0, 0]], len(members["types"]) - 1]
    where(members)[at(kind, member)] = duration
    assert_refused(members, why)


def test_what_is_changed_above_is_read_unchanged(members: Members) -> None:
    assert read(bundled(members)).kernel == Engine.from_text(POLICY).kernel


# ── By chance ─────────────────────────────────────────────────────────────────────────────────

ASKED = [
    {"request": {"method": method, "path": path, "ip": "10.0.0.1"}, "user": {"id": "ann"}, "body": body}
    for method, path, body in (
        ("POST", "/review/1", {}),
        ("POST", "/pay/1", {"amount": 7, "to": "bob", "tokens": 3}),
        ("POST", "/pay/1", {"amount": "7"}),
        ("GET", "/report", {}),
    )
]


def refused_or_decides(members: Members) -> bool:
    """Whether a bundle that was changed by chance is refused; every other one decides all that is asked, twice."""
    try:
        found = decode_bundle(bundled(members))
        kernel = read_everything(found.kernel)
    except BundleError:
        return True
    engine = Engine(kernel, tree=found.tree, clock=lambda: NOW, store=MemoryStore(history_complete=True))
    for question in (*ASKED, *ASKED):
        decision = engine.decide(question)
        engine.evaluate(question)
        engine.explain(question)
        engine.report(decision.id, status=200, output={"state": "good"})
    assert engine.failures == 0
    return False


def narrowed(members: Members) -> Members:
    """Only the limits, the guards and the watches: what the chance below is to hit."""
    return {name: members[name] for name in ("limits", "guards", "watches")}


def by_chance(written: bytes, seeds: range) -> int:
    refused = 0
    for seed in seeds:
        members: Members = msgpack.unpackb(written)
        refused += refused_or_decides({**members, **mutated(Random(seed), narrowed(members))})
    return refused


def test_limits_and_histories_changed_by_chance_are_refused_or_decide_without_failing(written: bytes) -> None:
    assert 20 < by_chance(written, range(60)) < 60


@pytest.mark.deep
def test_limits_and_histories_changed_by_chance_for_long(written: bytes) -> None:
    assert by_chance(written, range(1_000, 9_000)) > 1_000
