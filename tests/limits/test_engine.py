"""Rates and budgets through the engine: decisions charge what the specification charges, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.clock import epoch_nanoseconds
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Outcome
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from tests.depth import examples, scaled
from tests.generate.specified import Specified, said
from tests.limits.plain import PlainStore
from tests.spec.deciding import row

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
HEAD = """language 1
package shop
enum plan = free < team
entity user { plan: plan   quota: int }
facts on POST /pay { body.amount: number   body.tokens: int?   body.to: string }
issuer acme { url "https://a.example" audience "x" scopes none }
agent "*" { issued by acme   acts for any user   may GET /things/{id}, POST /pay }
user "ann" { may GET /things/{id}, POST /pay }
user "bob" { may GET /things/{id}, POST /pay }
"""
RULES = (
    'rate "plain" per agent.id on GET /things/** { 3/10s }',
    'rate "burst" per (agent.id, user.id) on /things/**, /pay { 60/1m burst 4 }',
    'rate "everybody" per agent.issuer { 50/7s burst 9 }',
    'rate "slow" per user.id when user.plan == free { 2/5s }',
    'rate "by quota" per user on POST /pay { user.quota/1m burst 3 }',
    'rate "by plan" per user.plan on POST /pay { user.quota/1m }',
    'rate "tokens" per user.id on POST /pay { 100/1m cost body.tokens }',
    'rate "clamped" per agent.id on POST /pay { 30/10s   clamp 1/5s for 20s when body.amount > 90 }',
    'rate "raised" per agent.id on POST /pay { 2/10s   raise x3 at most 5/10s when user.plan == team }',
    'rate "denied too" per agent.id { 9/10s   counting denials }',
    'rate "at once" per user.id on POST /pay { at most 2 at once for 15s }',
    'budget "sum" per user.id on POST /pay { sum body.amount <= 200.5 within 1m }',
    'budget "count" per (user.id, body.to) on POST /pay { count <= 2 within 10s  distinct body.amount <= 3 within 1m }',
    'guard "small" on POST /pay { deny when body.amount > 150   confirm by role boss when body.amount == 100 }',
)  # fmt: skip
ROWS = EntityStore([row("user ann", {"plan": "free", "quota": 6}), row("user bob", {"plan": "team", "quota": 40})])


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def engine(*rules: str, clock: Callable[[], datetime] | None = None) -> Engine:
    text = HEAD.replace("entity user {", "entity user { roles: set<string>  ") + "\n".join(rules)
    return Engine.from_text(text, directory=ROWS, clock=clock or Clock())


def asking(agent: str = "bot", user: str = "ann", **body: Any) -> dict[str, Any]:
    request = {"method": "POST", "path": "/pay"} if body else {"method": "GET", "path": "/things/7"}
    who = {"agent": {"id": agent, "issuer": "acme"}, "user": {"id": user}, "credential": {"kind": "jwt"}}
    return {"request": request, **who, **({"body": {"to": "x", **body}} if body else {})}


ASKED = st.builds(
    asking,
    agent=st.sampled_from(["bot", "bee"]),
    user=st.sampled_from(["ann", "bob", "eve"]),
) | st.builds(
    asking,
    agent=st.sampled_from(["bot", "bee"]),
    user=st.sampled_from(["ann", "bob"]),
    amount=st.sampled_from([1, 60, 91, 100, 151, "x", 0.5]),
    tokens=st.sampled_from([0, 1, 40, 101, None, -1]),
    to=st.sampled_from(["x", "y"]),
)  # fmt: skip


@scaled
@settings(max_examples=examples(30, 240), deadline=None)
@given(
    rules=st.lists(st.sampled_from(RULES), unique=True, min_size=1, max_size=4),
    steps=st.lists(
        st.tuples(st.sampled_from([0, 1, 400, 5_000, 10_000, 60_000]), ASKED, st.booleans()), min_size=1, max_size=25
    ),
)
def test_decisions_charge_what_the_specification_charges(
    rules: list[str], steps: list[tuple[int, dict[str, Any], bool]]
) -> None:
    clock = Clock()
    made = engine(*rules, clock=clock)
    specified = Specified(made.kernel, ROWS, store=PlainStore())  # type: ignore[arg-type]
    for milliseconds, question, peeks in steps:
        clock.now += timedelta(milliseconds=milliseconds)
        if peeks:
            assert said(made.evaluate(question)) == specified.evaluate(question, clock.now)
        else:
            assert said(made.decide(question)) == specified.decide(question, clock.now)
    assert made.failures == 0


# ── What limits do to decisions ───────────────────────────────────────────────────────────────


def test_a_throttle_names_rule_wait_and_remainder() -> None:
    made = engine(RULES[0])
    decisions = [made.decide(asking()) for _ in range(4)]
    assert [one.outcome for one in decisions] == [Outcome.ALLOW] * 3 + [Outcome.THROTTLE]
    assert [[state.remaining for state in one.rates] for one in decisions] == [[2], [1], [0], [0]]
    last = decisions[-1]
    assert (last.gate, last.reasons[0].rule, last.reasons[0].message) == ("rate", "plain", "`3/10s`: again in 3s334ms")
    assert [(one.kind, one.rule, one.within) for one in last.remedies] == [("wait", "plain", "3s334ms")]
    assert last.reasons[0].at is not None


def test_each_key_of_a_rate_is_counted_separately() -> None:
    made = engine('rate "r" per (agent.id, user.id) { 1/1m }')
    for agent, user in (("bot", "ann"), ("bot", "bob"), ("bee", "ann"), ("bee", "bob")):
        assert [made.decide(asking(agent, user)).outcome for _ in range(2)] == ["allow", "throttle"]


def test_keys_that_concatenate_to_the_same_text_are_distinct() -> None:
    made = engine('rate "r" per (agent.id, user.id) { 1/1m }')
    assert made.decide(asking("bot,ann", "bob")).allowed
    assert made.decide(asking("bot", "bob")).allowed


def test_a_decision_charges_all_limits_or_none() -> None:
    made = engine('rate "a" per agent.id { 5/1m }', 'rate "b" per user.id { 1/1m }')
    assert made.decide(asking()).allowed
    for _ in range(3):
        refused = made.decide(asking())
        assert [(state.rule, state.remaining) for state in refused.rates] == [("a", 4), ("b", 0)]
    assert made.decide(asking(user="bob")).rates[0].remaining == 3


def test_a_denied_request_charges_only_rates_that_count_denials() -> None:
    denying = 'guard "never" on GET /things/{id} { deny }'
    made = engine('rate "quiet" per agent.id { 1/1m }', denying)
    assert [made.decide(asking()).outcome for _ in range(3)] == ["deny"] * 3
    assert made.decide(asking(amount=1)).allowed
    counting = engine('rate "loud" per agent.id { 2/1m   counting denials }', denying)
    assert [made_.outcome for made_ in (counting.decide(asking()) for _ in range(3))] == ["deny"] * 3
    assert counting.decide(asking(amount=1)).outcome == "throttle"


def test_an_unknown_limit_key_denies_and_names_the_fact() -> None:
    made = engine('rate "r" per request.ip { 1/1m }')
    decision = made.decide(asking())
    assert (decision.outcome, decision.gate) == ("deny", "rate")
    assert [one.fact for one in decision.unknown] == ["request.ip"]


@pytest.mark.parametrize("amount", ["90", None, -1, True])
def test_an_unknown_or_negative_budget_amount_denies(amount: object) -> None:
    made = engine('budget "b" per user.id on POST /pay { sum body.amount <= 100 within 1h }')
    decision = made.decide(asking(amount=amount))
    assert (decision.outcome, decision.gate) == ("deny", "budget")
    assert made.decide(asking(amount=100)).allowed


def test_a_rate_whose_condition_is_unknown_applies() -> None:
    made = engine('rate "r" per agent.id when user.plan == free { 1/1m }')
    assert [made.decide(asking(user="bob")).rates for _ in range(2)] == [(), ()]
    text = engine('user "eve" { may GET /things/{id} }', 'rate "r" per agent.id when user.plan == free { 1/1m }')
    assert [text.decide(asking(user="eve")).outcome for _ in range(2)] == ["allow", "throttle"]


def test_evaluate_spends_nothing_and_returns_a_consume_obligation() -> None:
    made = engine(RULES[0])
    for _ in range(9):
        peeked = made.evaluate(asking())
        assert (peeked.outcome, [one.kind for one in peeked.obligations]) == ("allow", ["consume"])
    assert made.decide({**asking(), "options": {"consume": False}}).allowed
    assert [made.decide(asking()).outcome for _ in range(4)] == ["allow"] * 3 + ["throttle"]


def test_repeated_confirms_of_a_request_charge_rates_once() -> None:
    made = engine(RULES[-1], 'rate "r" per agent.id on POST /pay { 2/1h }')
    outcomes = [made.decide(asking(amount=100)).outcome for _ in range(5)]
    assert outcomes == ["confirm"] * 5
    assert [made.decide(asking(amount=1)).outcome for _ in range(2)] == ["allow", "throttle"]
    assert made.decide(asking(amount=100)).outcome == "confirm"
    assert made.decide(asking(amount=100, to="y")).outcome == "throttle"


def test_concurrent_threads_are_admitted_exactly_up_to_the_limit() -> None:
    made = engine('rate "r" per agent.id { 500/1h }', 'rate "s" per user.id { 600/1h }')
    found: list[Outcome] = []

    def ask() -> None:
        found.extend([made.decide(asking()).outcome for _ in range(200)])

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(Outcome.ALLOW) == 500
    assert len(found) == 800


def test_a_clock_set_back_refills_nothing() -> None:
    clock = Clock()
    made = engine('rate "r" per agent.id { 1/10s }', clock=clock)
    assert made.decide(asking()).allowed
    clock.now -= timedelta(seconds=5)
    assert made.decide(asking()).outcome == "throttle"
    clock.now = NOW + timedelta(seconds=10)
    assert made.decide(asking()).allowed


# ── What a store in this process holds ────────────────────────────────────────────────────────


def test_the_memory_store_evicts_expired_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.stores.memory.store.MIN_KEYS_TO_SWEEP", 1_000)
    clock = Clock()
    made = engine('rate "r" per agent.id { 1/1s }', clock=clock)
    for number in range(3_000):
        clock.now += timedelta(milliseconds=10)
        assert made.decide(asking(f"bot{number}")).allowed
    assert made.store._keys < 1_500


def test_a_full_memory_store_denies_new_callers() -> None:
    clock = Clock()
    made = engine('rate "r" per agent.id { 5/1h }', clock=clock)
    made.store._most = 20
    assert all(made.decide(asking(f"bot{number}")).allowed for number in range(10))
    refused = made.decide(asking("one too many"))
    assert (refused.outcome, refused.gate) == ("deny", "failure")
    assert made.decide(asking("bot3")).allowed
    clock.now += timedelta(hours=2)
    assert made.decide(asking("one too many")).allowed


OWN_ROOM = {
    "rates": """rate "of strangers" per request.ip on GET /open { 5/1h }
                rate "of users" per user.id on POST /pay { 5/1h }""",
    "rates that move": """rate "of strangers" per request.ip on GET /open { 5/1h clamp 1/1h when request.host == "old" }
                          rate "of users" per user.id on POST /pay { 5/1h clamp 1/1h when request.host == "old" }""",
    "budgets": """budget "of strangers" per request.ip on GET /open { count <= 5 within 1h }
                  budget "of users" per user.id on POST /pay { count <= 5 within 1h }""",
    "histories": """guard "of strangers" on GET /open { deny when count of GET /open within 1h per (request.ip) > 5 }
                    guard "of users" on POST /pay { deny when count of POST /pay within 1h per (user.id) > 5 }""",
}


@pytest.mark.parametrize("rules", OWN_ROOM.values(), ids=OWN_ROOM)
def test_filling_the_keys_of_one_rule_does_not_block_other_rules(rules: str) -> None:
    store = MemoryStore(most_keys=40, history_complete=True)
    made = Engine.from_text(f"anyone {{ may GET /open, POST /pay }} {rules}", clock=Clock(), store=store)

    def stranger(number: int) -> str:
        asked = {"request": {"method": "GET", "path": "/open", "ip": f"10.0.0.{number}", "host": "new"}}
        return made.decide(asked).outcome

    def user(number: int) -> str:
        asked = {"request": {"method": "POST", "path": "/pay", "host": "new"}, "user": {"id": f"user{number}"}}
        return made.decide(asked).outcome

    assert [stranger(number) for number in range(60)] == ["allow"] * 20 + ["deny"] * 40
    assert [user(number) for number in range(10)] == ["allow"] * 10


def test_a_full_memory_store_is_scanned_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looked = Clock(), []
    made = engine('rate "r" per agent.id { 5/1h }', clock=clock)
    store = made.store
    assert isinstance(store, MemoryStore)
    store._most, forget = 2_000, store._forget
    monkeypatch.setattr(store, "_forget", lambda now: looked.append(now) or forget(now))  # type: ignore[func-returns-value]
    for number in range(3_000):
        clock.now += timedelta(microseconds=10)
        made.decide(asking(f"bot{number}"))
    assert 1 < len(looked) <= 4  # 20 ms, at 10 ms for 1,000 keys
    clock.now += timedelta(hours=2)
    assert made.decide(asking("one more")).allowed


def test_a_commit_without_room_leaves_the_store_unchanged() -> None:
    store, made = MemoryStore(most_keys=2), engine(RULES[1])
    moment, evaluator = epoch_nanoseconds(NOW), made.decider.compiled.evaluator
    limits = [evaluator.plan(Request.from_mapping(asking(agent)), moment)[1] for agent in ("bot", "bee")]  # type: ignore[index]
    assert store.commit(limits[0], "one", 1) is not None
    with pytest.raises(StoreError, match=r"`shop/.*` holds 1 of at most 2 keys"):
        store.commit(limits[1], "two", 1)
    assert [store.commit(limits[0], "three", 1).standings[0].remaining] == [2]  # type: ignore[union-attr]


def test_finishing_a_request_frees_its_concurrency_slot() -> None:
    made = engine(RULES[10])
    first, second = made.decide(asking(amount=1)), made.decide(asking(amount=1))
    assert made.decide(asking(amount=1)).outcome == "throttle"
    at = 1_900_000_000_000_000
    assert [made.store.finish(first.id, at - at // 2), made.store.finish(first.id, at)] == ["first", None]
    assert made.decide(asking(amount=1)).allowed
    assert second.id != first.id


def test_a_budget_charge_is_refunded_only_once() -> None:
    made = engine('budget "b" per user.id on POST /pay { sum body.amount <= 100 within 1h }')
    first = made.decide(asking(amount=70))
    assert made.decide(asking(amount=70)).outcome == "throttle"
    now = int(NOW.timestamp()) * 1_000_000
    assert [made.store.finish(first.id, now, refund=True) for _ in range(2)] == ["first", "again"]
    assert made.decide(asking(amount=70)).allowed


def test_a_budget_window_is_half_open() -> None:
    clock = Clock()
    made = engine('budget "b" per user.id on POST /pay { count <= 1 within 10s }', clock=clock)
    assert made.decide(asking(amount=1)).allowed
    clock.now += timedelta(seconds=10) - timedelta(microseconds=1)
    assert made.decide(asking(amount=1)).outcome == "throttle"
    clock.now += timedelta(microseconds=1)
    assert made.decide(asking(amount=1)).allowed


def test_a_clamp_latches_and_releases_after_its_duration() -> None:
    clock = Clock()
    made = engine(RULES[7], clock=clock)
    assert [made.decide(asking(amount=1)).rates[0].limit for _ in range(3)] == [30, 30, 30]
    assert made.decide(asking(amount=91)).outcome == "throttle"  # three are more than the one that the clamp allows
    assert made.decide(asking(amount=1)).outcome == "throttle"
    clock.now += timedelta(seconds=19)
    assert made.decide(asking(amount=1)).rates[0].limit == 1
    clock.now += timedelta(seconds=20)
    assert made.decide(asking(amount=1)).rates[0].limit == 30


def test_a_raise_is_bounded_by_its_maximum() -> None:
    made = engine(RULES[8])
    free, team = made.decide(asking(user="ann", amount=1)), made.decide(asking("bee", user="bob", amount=1))
    assert [(one.rates[0].limit) for one in (free, team)] == [2, 5]
    assert all(a.limit <= b.limit for a, b in pairwise((free.rates[0], team.rates[0])))


def test_a_report_under_a_caller_chosen_id_frees_the_concurrency_slot() -> None:
    names = count()
    text = 'language 1\npackage a\nanyone { may GET /x }\nrate "r" per request.path on GET /x { at most 1 at once }\n'
    engine = Engine.from_text(text, ids=lambda _: f"mine {next(names)}")
    for number in range(3):
        decision = engine.decide({"request": {"method": "GET", "path": "/x"}})
        assert (decision.allowed, decision.id) == (True, f"mine {number}")
        assert engine.report(decision.id)
