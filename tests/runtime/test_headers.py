"""How limits stand, as headers: the tightest of them, in structured fields, and when to come again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.http.rate_limit_headers import format_string, rate_limit_headers
from policyengine.runtime.decision import Decision, Outcome, RateState

BASE = "language 1\npackage shop\nfacts on /pay { body.tokens: number }\nanyone { may POST /pay }\n"
STRING = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"')


class Shop:
    """An engine with these limits, and a clock that stands until it is moved."""

    def __init__(self, limits: str) -> None:
        self.now = datetime(2027, 1, 4, 12, tzinfo=UTC)
        self.engine = Engine.from_text(BASE + limits, clock=lambda: self.now)

    def ask(self, times: int = 1, tokens: int = 1, **request: Any) -> dict[str, str]:
        question = {
            "request": {"method": "POST", "path": "/pay", "ip": "10.0.0.1", **request},
            "body": {"tokens": tokens},
        }
        for _ in range(times):
            decision = self.engine.decide(question)
        return dict(rate_limit_headers(decision))


def test_a_decision_without_limits_has_no_ratelimit_headers() -> None:
    assert Shop("").ask() == {}


def test_a_rate_sends_its_quota_window_and_remaining_count() -> None:
    assert Shop('rate "calls" per request.ip { 100/1m burst 20 }').ask() == {
        "ratelimit-policy": '"calls";q=20;w=12',
        "ratelimit": '"calls";r=19;t=1',
    }


def test_the_headers_show_the_tightest_limit() -> None:
    limits = 'rate "wide" per request.ip { 100/1m }\nrate "narrow" per request.ip { 3/1h }'
    assert Shop(limits).ask()["ratelimit"] == '"narrow";r=2;t=1200'


def test_the_headers_show_the_longer_wait_of_two_equally_tight_limits() -> None:
    limits = 'rate "short" per request.ip { 4/1s }\nrate "long" per request.ip { 4/1h }'
    assert Shop(limits).ask()["ratelimit"] == '"long";r=3;t=900'


def test_retry_after_is_rounded_up_to_whole_seconds() -> None:
    shop = Shop('rate "calls" per request.ip { 2/5s }')
    assert shop.ask(3) == {
        "ratelimit-policy": '"calls";q=2;w=5',
        "ratelimit": '"calls";r=0;t=5',
        "retry-after": "3",
    }


def test_a_request_after_retry_after_is_allowed() -> None:
    shop = Shop('rate "calls" per request.ip { 2/5s }')
    shop.now += timedelta(seconds=int(shop.ask(3)["retry-after"]))
    assert "retry-after" not in shop.ask()


def test_retry_after_is_the_longest_wait_of_the_exceeded_limits() -> None:
    limits = 'rate "short" per request.ip { 1/1s }\nrate "long" per request.ip { 1/1h }'
    told = Shop(limits).ask(2)
    assert (told["retry-after"], told["ratelimit"]) == ("3600", '"long";r=0;t=3600')


def test_the_headers_show_the_exceeded_limit_even_with_units_remaining() -> None:
    limits = 'rate "dear" per request.ip on /pay { 10/1m  cost body.tokens }\nrate "other" per request.ip { 2/1m }'
    told = Shop(limits).ask(2, tokens=6)
    assert told["ratelimit"] == '"dear";r=4;t=36'


def test_a_request_that_can_never_pass_has_no_retry_after() -> None:
    told = Shop('rate "dear" per request.ip on /pay { 10/1m  cost body.tokens }').ask(tokens=11)
    assert told == {"ratelimit-policy": '"dear";q=10;w=60', "ratelimit": '"dear";r=10;t=0'}


def test_an_active_clamp_changes_the_ratelimit_policy() -> None:
    shop = Shop('rate "calls" per request.ip { 60/1m  clamp 6/1m when request.host == "slow" }')
    assert shop.ask(host="slow")["ratelimit-policy"] == '"calls";q=6;w=60'


def test_an_active_raise_changes_the_ratelimit_policy() -> None:
    shop = Shop('rate "calls" per request.ip { 60/1m  raise x2 at most 90/1m when request.host == "quick" }')
    assert shop.ask(host="quick")["ratelimit-policy"] == '"calls";q=90;w=60'


def test_a_budget_sends_its_window() -> None:
    told = Shop('budget "orders" per request.ip on /pay { count <= 5 within 24h }').ask()
    assert told == {"ratelimit-policy": '"orders";q=5;w=86400', "ratelimit": '"orders";r=4;t=86400'}


def test_a_concurrency_limit_sends_the_concurrent_requests_unit() -> None:
    told = Shop('rate "slots" per request.ip { at most 2 at once for 5m }').ask()
    assert told == {"ratelimit-policy": '"slots";q=2;qu="concurrent-requests"', "ratelimit": '"slots";r=1;t=300'}


def test_a_rate_state_without_a_window_sends_no_window() -> None:
    decision = Decision.of(Outcome.ALLOW, rates=(RateState("calls", 10, 4, 1_500, 1.0),))
    assert rate_limit_headers(decision) == (("ratelimit-policy", '"calls";q=10'), ("ratelimit", '"calls";r=4;t=2'))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("per agent", '"per agent"'),
        ('a "quoted" one', '"a %22quoted%22 one"'),
        ("back\\slash", '"back%5Cslash"'),
        ("größe", '"gr%C3%B6%C3%9Fe"'),
        ("100%", '"100%25"'),
        ("two\r\nlines", '"two%0D%0Alines"'),
        ("x" * 70, f'"{"x" * 64}"'),
        ("", '""'),
    ],
)
def test_a_rule_name_is_escaped_as_a_structured_field_string(name: str, written: str) -> None:
    assert format_string(name) == written
    assert STRING.fullmatch(written)
