"""What asking for an approval takes, and what the allow that brings it takes, through an engine on every store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.audit import DecisionLog, read_records
from policyengine.audit.replay import replay_decision
from policyengine.runtime.decision import Decision
from tests.entities.postgres import Postgres
from tests.limits.plain import PlainStore
from tests.stores import paying
from tests.stores.conftest import Fresh
from tests.stores.refunds import BUDGET, HELD, RATE, RULES, TWO, Shop, in_a_process, outcomes
from tests.stores.servers import Server

LIMITS = [
    (BUDGET,),
    (RATE,),
    (HELD,),
    (RATE, BUDGET, HELD),
    ('rate "slow" per agent.id on POST /refund { 1/90d }', BUDGET),
    (
        'rate "sums" per agent.id on POST /refund { 6_000/1d cost body.amount }',
        'rate "all" per request.path on POST /refund { 9/1h }',
    ),
    ('rate "counts" per agent.id on POST /refund { 3/1h counting denials }', BUDGET),
    ('rate "clamped" per agent.id on POST /refund { 9/1h   clamp 2/1h for 1d when body.amount > 100 }',),
]


# ── What a confirm takes ──────────────────────────────────────────────────────────────────────


def test_a_refund_above_half_of_the_budget_can_be_approved(fresh: Fresh) -> None:
    shop = Shop(fresh(), BUDGET)
    asked = shop.refund(3_000)
    assert outcomes(asked, shop.refund(3_000, shop.granted(asked))) == ["confirm", "allow"]
    assert shop.left() == {"refunds": 2_000}


def test_a_confirm_charges_no_budget(fresh: Fresh) -> None:
    shop = Shop(fresh(), BUDGET, HELD)
    assert outcomes(*(shop.refund(3_000 + number) for number in range(9))) == ["confirm"] * 9
    assert shop.left() == {"at work": 0, "refunds": 5_000}


def test_repeated_confirms_charge_each_rate_once(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE, 'rate "all" per request.path on POST /refund { 9/1h }')
    assert outcomes(*(shop.refund() for _ in range(7))) == ["confirm"] * 7
    assert shop.left() == {"asking": 1, "all": 7}


def test_confirms_of_different_requests_are_charged_separately(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE)
    assert outcomes(*(shop.refund(600 + number) for number in range(5))) == ["confirm"] * 3 + ["throttle"] * 2
    assert outcomes(shop.refund(600), shop.refund(601), shop.refund(603)) == ["confirm", "confirm", "throttle"]


@pytest.mark.parametrize("rule", [BUDGET, HELD, RATE])
def test_a_confirm_without_room_is_a_throttle_that_charges_nothing(fresh: Fresh, rule: str) -> None:
    shop = Shop(fresh(), rule, 'rate "all" per request.path on POST /refund { 90/1h }')
    while shop.refund(500).allowed:
        pass
    before = shop.left()
    throttled = shop.refund(3_000)
    assert (throttled.outcome, {one.kind for one in throttled.remedies}) == ("throttle", {"wait"})
    assert [str(one.outcome) for one in throttled.reasons] == ["throttle", "confirm"]
    assert shop.left() == before


def test_a_confirm_is_not_recorded_in_the_history(fresh: Fresh) -> None:
    shop = Shop(fresh(), 'guard "once" on POST /refund { deny when count of POST /refund within 1h > 0 }')
    shop.now += timedelta(hours=1)  # by now all of the hour is known
    asked = shop.refund()
    assert outcomes(asked, shop.refund(), shop.refund(3_000, shop.granted(asked)), shop.refund()) == [
        "confirm", "confirm", "allow", "deny"
    ]  # fmt: skip


# ── Laws ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rules", LIMITS, ids=str)
@pytest.mark.parametrize("waits", [timedelta(0), timedelta(hours=5), timedelta(days=40)], ids=str)
def test_an_approved_request_with_room_is_allowed_after_any_wait(
    fresh: Fresh, rules: tuple[str, ...], waits: timedelta
) -> None:
    shop = Shop(fresh(), *rules)
    asked = shop.refund()
    shop.now += waits
    assert outcomes(shop.refund(3_000, shop.granted(asked))) == ["allow"]


@pytest.mark.parametrize("rules", LIMITS, ids=str)
def test_confirm_and_allow_together_charge_what_a_plain_allow_charges(fresh: Fresh, rules: tuple[str, ...]) -> None:
    asking, plain = Shop(fresh(), *rules), Shop(PlainStore(), *rules, confirms=False)  # type: ignore[arg-type]
    asked = asking.refund()
    assert outcomes(asking.refund(), asking.refund(3_000, asking.granted(asked)), plain.refund()) == [
        "confirm", "allow", "allow"
    ]  # fmt: skip
    assert asking.left() == plain.left()


def test_a_throttled_allow_leaves_approval_and_store_unchanged(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE, BUDGET)
    approval = shop.granted(shop.refund(3_000))
    assert shop.refund(500).allowed
    other = shop.refund(2_000)
    assert shop.refund(2_000, shop.granted(other)).allowed
    before = shop.left()
    assert before == {"asking": 0, "refunds": 2_500}
    throttled = [shop.refund(3_000, approval) for _ in range(3)]
    assert [(str(one.outcome), one.reasons[0].rule) for one in throttled] == [("throttle", "refunds")] * 3
    assert shop.left() == before
    shop.now += timedelta(days=1)
    assert shop.refund(3_000, approval).allowed


def test_two_confirms_of_the_same_request_are_charged_once(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE, TWO)
    asked = shop.refund(9_000)
    first, second = shop.all_granted(asked)
    assert [str(one.outcome) for one in (shop.refund(9_000, first), shop.refund(9_000, second))] == ["confirm"] * 2
    assert shop.refund(9_000, first, second).allowed
    assert shop.left() == {"asking": 1}


def test_an_approval_without_a_confirm_charges_everything_on_the_allow(fresh: Fresh) -> None:
    """Whoever grants it knew the binding by looking: nothing was taken for it before."""
    shop = Shop(fresh(), RATE, BUDGET)
    looked = shop.refund(options={"consume": False})
    assert (looked.outcome, looked.obligations) == ("confirm", ())
    assert shop.refund(3_000, shop.granted(looked)).allowed
    assert shop.left() == {"asking": 1, "refunds": 2_000}


def test_a_peek_leaves_no_receipt(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE)
    for _ in range(3):
        assert shop.refund(options={"consume": False}).rates[0].remaining == 2
    assert outcomes(shop.refund(), shop.refund(options={"consume": False})) == ["confirm"] * 2
    assert shop.left() == {"asking": 1}


def test_a_confirm_reports_limits_without_pending_charges(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE, BUDGET, HELD)
    asked = shop.refund()
    assert [(one.rule, one.remaining) for one in asked.rates] == [("asking", 2), ("at work", 1), ("refunds", 5_000)]
    done = shop.refund(3_000, shop.granted(asked))
    assert [(one.rule, one.remaining) for one in done.rates] == [("asking", 2), ("at work", 0), ("refunds", 2_000)]


def test_confirm_and_allow_under_idempotency_keys_are_charged_once(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE, BUDGET)
    asked = [shop.by_key("k", 3_000) for _ in range(3)]
    assert {one.id for one in asked} == {asked[0].id}
    approval = shop.granted(asked[0])
    done = [shop.by_key("l", 3_000, approval) for _ in range(3)]
    assert outcomes(*done) == ["allow"] * 3
    assert shop.left() == {"asking": 1, "refunds": 2_000}


def test_equal_confirms_in_a_batch_are_charged_once(fresh: Fresh) -> None:
    shop = Shop(fresh(), RATE, BUDGET)
    found = shop.engine.decide_many([shop.question(3_000) for _ in range(5)])
    assert [str(one.outcome) for one in found if isinstance(one, Decision)] == ["confirm"] * 5
    assert shop.left() == {"asking": 1, "refunds": 5_000}


def test_confirm_and_allow_replay_the_same_from_the_log(fresh: Fresh, tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    shop = Shop(fresh(), RATE, BUDGET, log=log)
    asked = shop.refund()
    decisions = [asked, shop.refund(3_000, shop.granted(asked)), shop.refund(4_000)]
    assert outcomes(*decisions) == ["confirm", "allow", "throttle"]
    log.close()
    again = [replay_decision(one, shop.engine.kernel) for one in read_records(tmp_path / "log")]
    assert [one.decision.to_dict()["rates"] for one in again] == [one.to_dict()["rates"] for one in decisions]
    assert all(one.same for one in again)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from([0, 100, 600, 3_000, 4_000]), st.sampled_from(["bot", "bee"])),
        st.tuples(st.just("grant"), st.integers(0, 3), st.just("")),
        st.tuples(st.just("wait"), st.sampled_from([1, 60, 3_600, 86_400, 200_000]), st.just("")),
    ),
    max_size=14,
)


def told(shop: Shop, steps: list[tuple[str, int, str]]) -> list[Any]:
    """What is answered; `grant` brings the approval that one of the latest asked for."""
    open_: list[tuple[int, str, Decision]] = []
    found: list[Any] = []
    for what, number, agent in steps:
        match what:
            case "wait":
                shop.now += timedelta(seconds=number)
                continue
            case "ask":
                decision = shop.refund(number, agent=agent)
                if decision.outcome == "confirm":
                    open_.append((number, agent, decision))
            case _:
                if not open_:
                    continue
                amount, agent, asked = open_[-1 - number % len(open_)]
                decision = shop.refund(amount, shop.granted(asked), agent=agent)
        found.append({**decision.to_dict(), "id": ""})
    return [*found, shop.left(), shop.left("bee")]


@settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None)
@given(rules=st.sampled_from(LIMITS), steps=STEPS)
def test_confirms_on_every_store_agree_with_the_model(
    fresh: Fresh, rules: tuple[str, ...], steps: list[tuple[str, int, str]]
) -> None:
    model = PlainStore()
    assert told(Shop(fresh(), *rules), steps) == told(Shop(model, *rules), steps)  # type: ignore[arg-type]


@pytest.mark.deep
@settings(max_examples=1_500, suppress_health_check=list(HealthCheck), deadline=None)
@given(rules=st.sampled_from(LIMITS), steps=STEPS)
def test_confirms_on_every_store_agree_with_the_model_in_a_long_run(
    fresh: Fresh, rules: tuple[str, ...], steps: list[tuple[str, int, str]]
) -> None:
    model = PlainStore()
    assert told(Shop(fresh(), *rules), steps) == told(Shop(model, *rules), steps)  # type: ignore[arg-type]


# ── Many at once ──────────────────────────────────────────────────────────────────────────────


def test_concurrent_confirms_of_the_same_request_are_charged_once(fresh: Fresh) -> None:
    shop = Shop(fresh(), 'rate "asking" per agent.id on POST /refund { 50/1h }', BUDGET)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: str(shop.refund().outcome), range(24))) == {"confirm"}
    assert shop.left() == {"asking": 48, "refunds": 5_000}


def test_concurrent_requests_with_the_same_approval_are_allowed_once(fresh: Fresh) -> None:
    shop = Shop(fresh(), 'rate "asking" per agent.id on POST /refund { 50/1h }', BUDGET.replace("5_000", "90_000"))
    approval = shop.granted(shop.refund())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: str(shop.refund(3_000, approval).outcome), range(16)))
    assert (found.count("allow"), found.count("confirm")) == (1, 15)
    assert shop.left() == {"asking": 47, "refunds": 87_000}  # who was too late asks anew


@pytest.fixture(params=["sqlite", "redis", pytest.param("valkey", marks=pytest.mark.deep), "cluster", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    kind: str = request.param
    if kind == "sqlite":
        return kind, str(tmp_path / "store.db")
    if kind == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        server.empty("policyengine")
        return kind, str(server.port)
    found = request.getfixturevalue("redis_cluster" if kind == "cluster" else f"{kind}_server")
    servers: list[Server] = found if kind == "cluster" else [found]
    import redis

    for one in servers:
        redis.Redis(port=one.port, protocol=2).flushall()
    return kind, str(servers[0].port)


def test_processes_that_share_a_store_charge_a_confirm_once_and_allow_once(where: tuple[str, str]) -> None:
    def everybody(approvals: list[dict[str, str]], times: int) -> list[str]:
        with get_context("fork").Pool(3) as crew:
            told = crew.starmap(in_a_process, [(*where, 3_000, approvals, times)] * 3, chunksize=1)
        return [outcome for one in told for outcome in one]

    Shop(PlainStore(), *RULES)  # type: ignore[arg-type]  # so that the processes have the compiled policy
    assert set(everybody([], 10)) == {"confirm"}
    shop = Shop(paying.opened(*where), *RULES)
    assert shop.left() == {"asking": 1, "at work": 0, "refunds": 5_000}
    approval = shop.granted(shop.refund())
    assert everybody([approval], 1).count("allow") == 1
    assert shop.left()["refunds"] == 2_000


def test_a_confirm_survives_the_death_of_the_process_that_created_it(where: tuple[str, str]) -> None:
    """The store knows what was taken: nothing is lost, and nothing is taken twice."""
    asked = Shop(paying.opened(*where), *RULES).refund()
    later = Shop(paying.opened(*where), *RULES)
    assert outcomes(later.refund(), later.refund(3_000, later.granted(asked))) == ["confirm", "allow"]
    assert later.left() == {"asking": 2, "at work": 0, "refunds": 2_000}  # there is no room for one more
