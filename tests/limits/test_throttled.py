"""Who is refused comes again and again: what it is told is the same, however it is found quickly."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.compiler.charging import MOST_CALLERS, Charged, charged
from policyengine.engine import Engine
from policyengine.runtime import apply_limits as limits_module
from policyengine.runtime.apply_limits import apply_limits
from policyengine.runtime.decision import Decision, Effects, Obligation, Outcome
from policyengine.runtime.limits import ChargeResult, LimitCharge, SteadyRate
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from tests.spec.deciding import NOW
from tests.stores.charges import SECOND, START, asks, rate

METERS = tuple(
    SteadyRate(LimitCharge(rate(count, within, burst, rule=f"{count}/{within}"), f"{count}", "p:1", "words"))
    for count, within, burst in ((3, SECOND, None), (5, 7 * SECOND, 2), (60, 3_600 * SECOND, 4))
)
ASKED = st.lists(
    st.tuples(
        st.lists(st.sampled_from(METERS), min_size=1, max_size=3, unique_by=id),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from([0, 0, 0, 1, 999, SECOND // 3, SECOND, 9 * SECOND, -SECOND]),
    ),
    max_size=30,
)


@given(asked=ASKED)
def test_plain_rates_have_the_same_standings_as_a_commit(asked: list[Any]) -> None:
    quick, careful, now = MemoryStore(), MemoryStore(), START
    for meters, key, step in asked:
        now += step
        told = careful.commit(asks(*(meter.by((key,)).charge for meter in meters)), "", now)
        assert told is not None
        assert quick.plainly([(meter, key) for meter in meters], now * 1_000) == told.standings


def test_a_full_store_rejects_a_new_key_and_charges_nothing() -> None:
    store = MemoryStore(most_keys=2)
    first, second, _ = METERS
    store.plainly([(first, "ann"), (second, "ann")], START * 1_000)
    with pytest.raises(StoreError):
        store.plainly([(first, "ann"), (second, "bob")], START * 1_000)
    [stands] = store.plainly([(first, "ann")], START * 1_000)
    assert stands.remaining == 1


# ── What is said ──────────────────────────────────────────────────────────────────────────────

POLICY = """
language 1
package shop
anyone { may GET /a, GET /b }
rate "first" per request.host on GET /a { 1/1h }
rate "second" per request.host on GET /b { 1/1h }
guard "told" { audit full   notify "ops"   warn }
"""


class Asking:
    def __init__(self) -> None:
        self.now: datetime = NOW
        self.engine = Engine.from_text(POLICY, clock=lambda: self.now)

    def ask(self, path: str, host: str = "h") -> Decision:
        return self.engine.decide({"request": {"method": "GET", "path": path, "host": host}})


def test_simultaneous_throttles_share_the_answer_but_not_the_id() -> None:
    asking = Asking()
    asking.ask("/a"), asking.ask("/a", "other")
    first, second, third = asking.ask("/a"), asking.ask("/a"), asking.ask("/a", "other")
    assert first.answer == second.answer == third.answer
    assert len({first.id, second.id, third.id}) == 3
    assert first.to_dict()["reasons"][0]["message"] == "`1/1h`: again in 1h"


def test_a_throttle_names_its_own_rule_and_wait() -> None:
    asking = Asking()
    asking.ask("/a"), asking.ask("/b")
    told = [asking.ask("/a")]
    asking.now += timedelta(milliseconds=1_500)
    told += [asking.ask("/a"), asking.ask("/b")]
    assert [(one.reasons[0].rule, one.remedies[0].within) for one in told] == [
        ("first", "1h"),
        ("first", "59m58s500ms"),
        ("second", "59m58s500ms"),
    ]
    assert [one.kind for one in told[0].obligations] == ["audit", "notify"]


def test_the_throttle_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MAX_CACHED_THROTTLES", 3)
    limits_module._throttle_cache.clear()
    limit = asks(rate()).limits
    for wait in range(20):
        told = MemoryStore().commit(Effects(limits=limit), "", START)
        assert told is not None
        [stands] = told.standings
        refused = stands._replace(admitted=False, retry=wait * 1_000)
        apply_limits(Decision.of(Outcome.ALLOW), limit, (refused,))
        assert len(limits_module._throttle_cache) <= 3


def test_a_reused_object_id_does_not_return_a_stale_throttle() -> None:
    """Each is made and gone at once, so that numbers of objects are used again."""
    limit = asks(rate()).limits
    told = MemoryStore().commit(Effects(limits=limit), "", START)
    assert isinstance(told, ChargeResult)
    refused = (told.standings[0]._replace(admitted=False, retry=1_000),)
    for number in range(3_000):
        duty = Obligation("audit", (f"{number}",), "g", "p:1")
        said = apply_limits(Decision.of(Outcome.ALLOW, obligations=(duty,)), limit, refused)
        assert said.obligations == (duty,)


# ── What is asked ─────────────────────────────────────────────────────────────────────────────

[LIMIT] = Engine.from_text(
    'language 1\npackage shop\nanyone { may GET /a }\nrate "r" per request.host on GET /a { 5/1s counting denials }'
).kernel.limits


@given(
    asked=st.lists(
        st.tuples(
            st.tuples(st.sampled_from(["a", "b", "a" * 300, 1, True, Decimal(1), Decimal("1.0"), NOW, ("a",), ["a"]])),
            st.tuples(st.sampled_from([1, True]), st.just(1)),
        ),
        max_size=12,
    )
)
def test_cached_charges_equal_newly_computed_ones(asked: list[Any]) -> None:
    remembering = Charged(LIMIT)
    for keys, numbers in asked:
        assert remembering(keys, numbers) == charged(LIMIT, keys, numbers)


def test_the_cache_of_charges_is_bounded() -> None:
    remembering = Charged(LIMIT)
    for number in range(3 * MOST_CALLERS):
        assert remembering((f"{number}",), (1, 1)) == charged(LIMIT, (f"{number}",), (1, 1))
        assert len(remembering.known) <= MOST_CALLERS


def test_a_throttle_is_the_same_on_the_fast_and_the_slow_path() -> None:
    quick, careful = Asking(), Asking()
    question = {"request": {"method": "GET", "path": "/a", "host": "h"}}
    for _ in range(3):
        one = quick.engine.decide(question)
        other = careful.engine.decide(Request.from_mapping(question))
        assert one.with_id("") == other.with_id("")
