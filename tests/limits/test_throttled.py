"""Throttles: a repeated throttle has the same answer, which is created once and kept for a bounded number of limits."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from policyengine.engine import Engine
from policyengine.runtime import apply_limits as limits_module
from policyengine.runtime.apply_limits import apply_limits
from policyengine.runtime.decision import Decision, Effects, Obligation, Outcome
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.memory.store import MemoryStore
from tests.spec.deciding import NOW
from tests.stores.charges import START, asks, rate

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


CLAMPED = """
language 1
package shop
facts { context.tight: bool?   context.strict: bool?   context.small: bool? }
anyone { may GET /a }
rate "feed" per request.host on GET /a {
  6/1m burst 3
  clamp 2/1m for 10m   when context.tight
  clamp 1/1h           when context.strict
  clamp 1/10s          when context.small
}
"""
TIGHT = "`2/1m`, clamped from `6/1m burst 3`: again in 30s"


@pytest.mark.parametrize(
    ("facts", "message", "seconds"),
    [
        ({}, "`6/1m burst 3`: again in 10s", 10),
        ({"tight": True}, "`2/1m`, clamped from `6/1m burst 3`: again in 20s", 20),
        ({"tight": True, "strict": True}, "`1/1h`, clamped from `6/1m burst 3`: again in 30s", 30),
        ({"small": True}, "`1/10s`, clamped from `6/1m burst 3`: again in 30s", 30),
        ({"small": True, "tight": True}, "`2/1m`, clamped from `6/1m burst 3`: again in 30s", 30),
    ],
)
def test_a_throttle_under_a_clamp_names_the_clamped_pace(facts: dict[str, bool], message: str, seconds: int) -> None:
    """The bucket is full, so the wait is until the level is below the size of the clamp. The level falls at the pace of
    the rate, because no request was admitted under the clamp."""
    now = NOW
    engine = Engine.from_text(CLAMPED, clock=lambda: now)
    neutral = {"tight": False, "strict": False, "small": False}
    question = {"request": {"method": "GET", "path": "/a", "host": "h"}, "context": neutral}
    assert [engine.decide(question).outcome for _ in range(3)] == ["allow"] * 3
    question["context"] = {**neutral, **facts}
    throttled = engine.decide(question)
    assert [one.message for one in throttled.reasons] == [message]
    now = NOW + timedelta(seconds=seconds, milliseconds=-1)
    assert not engine.evaluate(question).allowed
    now = NOW + timedelta(seconds=seconds)
    assert engine.decide(question).allowed


ENDED = """
language 1
package shop
facts { context.spree: bool }
anyone { may GET /a }
rate "feed" per request.host on GET /a { 60/1m burst 6   clamp 6/1m when context.spree }
"""
COUNTING = """
language 1
package shop
anyone { may GET /a }
rate "tries" per request.host on GET /a { 6/1m burst 2   counting denials }
"""


def test_the_wait_after_a_clamp_has_ended_is_at_the_pace_of_the_clamp() -> None:
    now = NOW
    engine = Engine.from_text(ENDED, clock=lambda: now)
    question = {"request": {"method": "GET", "path": "/a", "host": "h"}, "context": {"spree": True}}
    assert [engine.decide(question).outcome for _ in range(6)] == ["allow"] * 6
    question["context"] = {"spree": False}
    throttled = engine.decide(question)
    assert [one.message for one in throttled.reasons] == ["`60/1m burst 6`: again in 10s"]
    assert throttled.rates[0].reset_ms == 60_000
    now = NOW + timedelta(seconds=9, milliseconds=999)
    assert not engine.evaluate(question).allowed
    now = NOW + timedelta(seconds=10)
    assert engine.decide(question).allowed


def test_the_wait_of_a_rate_that_counts_denials_includes_the_throttled_request() -> None:
    now = NOW
    engine = Engine.from_text(COUNTING, clock=lambda: now)
    question = {"request": {"method": "GET", "path": "/a", "host": "h"}}
    assert [engine.decide(question).outcome for _ in range(2)] == ["allow"] * 2
    now = NOW + timedelta(seconds=9)
    throttled = engine.decide(question)  # takes what is left, nine tenths
    assert [one.message for one in throttled.reasons] == ["`6/1m burst 2`: again in 10s"]
    assert (throttled.rates[0].remaining, throttled.rates[0].reset_ms) == (0, 20_000)
    now = NOW + timedelta(seconds=18, milliseconds=999)
    assert not engine.evaluate(question).allowed
    now = NOW + timedelta(seconds=19)
    assert engine.decide(question).allowed


def test_a_throttle_under_a_clamp_that_continues_names_the_clamped_pace() -> None:
    engine = Engine.from_text(CLAMPED, clock=lambda: NOW)
    question = {"request": {"method": "GET", "path": "/a", "host": "h"}}
    neutral = {"tight": False, "strict": False, "small": False}
    assert engine.decide({**question, "context": {**neutral, "tight": True}}).allowed
    assert engine.decide({**question, "context": neutral}).allowed
    assert [one.message for one in engine.decide({**question, "context": neutral}).reasons] == [TIGHT]


def test_a_repeated_throttle_under_a_clamp_names_the_clamped_pace() -> None:
    engine = Engine.from_text(CLAMPED, clock=lambda: NOW)
    tight = {"tight": True, "strict": False, "small": False}
    question = {"request": {"method": "GET", "path": "/a", "host": "h"}, "context": tight}
    assert [engine.decide(question).outcome for _ in range(2)] == ["allow"] * 2
    first, again = (engine.decide_once(question, IdempotencyKey("edge", "key", "digest")) for _ in range(2))
    assert ([one.message for one in first.decision.reasons], again.again) == ([TIGHT], True)
    assert again.decision.to_dict() == first.decision.to_dict()


def test_an_explanation_marks_the_clamped_rate_that_is_full() -> None:
    engine = Engine.from_text(CLAMPED, clock=lambda: NOW)
    tight = {"tight": True, "strict": False, "small": False}
    question = {"request": {"method": "GET", "path": "/a", "host": "h"}, "context": tight}
    assert [engine.decide(question).outcome for _ in range(2)] == ["allow"] * 2
    text = engine.explain(question).render()
    assert f'throttle by rate "feed": {TIGHT}' in text
    assert '✗ rate "feed"' in text


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
