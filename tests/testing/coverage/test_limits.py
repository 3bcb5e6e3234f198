"""What tests show of rates and budgets: that they let through and stop, what moves them, what is full."""

import pytest

from policyengine.testing.coverage.lcov import render_lcov
from policyengine.testing.coverage.text import render_text
from tests.testing.coverage.seeing import DOORS, coverage, missing, written

RATE = f'{DOORS}rate "r" per agent.id on write {{ 2/1m }}'
PASS, STOP = "rate `r` never let a request pass", "rate `r` never stopped a request"
ONE = written()
FULL = f"repeat 3 in 1s {ONE.replace('not confirm', 'first throttle at 3')}"


@pytest.mark.parametrize(
    ("inside", "lacks"),
    [
        ("GET /docs/1 => allow", [PASS, STOP]),
        (ONE, [STOP]),
        (FULL, []),
        (f"given user absent   {ONE}", [PASS, STOP]),  # denied, and so not counted
    ],
)
def test_coverage_expects_a_rate_to_pass_and_to_stop_requests(inside: str, lacks: list[str]) -> None:
    assert missing(RATE, inside, "rate `r` never") == lacks


def test_coverage_expects_a_request_for_the_endpoint_of_a_rate() -> None:
    assert missing(RATE, "GET /docs/1 => allow", "by rate") == [
        "no request for `POST /docs/{id: doc}` was decided by rate `r`"
    ]
    assert missing(RATE, ONE, "by rate") == []


def test_coverage_expects_the_condition_of_a_rate_to_be_true_false_and_unknown() -> None:
    rate = f'{DOORS}rate "r" per agent.id on write when body.n > 1 {{ 2/1m }}'
    assert missing(rate, ONE, "body.n > 1") == ["`body.n > 1` was never true", "`body.n > 1` was never unknown"]
    assert missing(rate, ONE + written(n="2") + written(n="absent"), "body.n > 1") == []


def test_coverage_expects_a_raise_and_a_clamp_to_act() -> None:
    rate = f"""{DOORS}rate "r" per agent.id on write {{ 2/1m
      raise x2 at most 9/1m when body.urgent   clamp 1/1m when body.n > 1 }}"""
    every = missing(rate, ONE)
    assert "`raise x2 at most 9/1m when body.urgent` never raised anything" in every
    assert "`clamp 1/1m when body.n > 1` never slowed anything" in every
    assert "`body.urgent` was never true" in every
    assert [one for one in missing(rate, written(urgent="true", n="2")) if one.endswith("anything")] == []


def test_an_unknown_condition_applies_a_clamp_but_no_raise() -> None:
    rate = f"""{DOORS}rate "r" per agent.id on write {{ 2/1m
      raise x2 at most 9/1m when body.urgent   clamp 1/1m when body.n > 1 }}"""
    lacks = [one for one in missing(rate, written(urgent="absent", n="absent")) if one.endswith("anything")]
    assert lacks == ["`raise x2 at most 9/1m when body.urgent` never raised anything"]


def test_coverage_expects_a_rate_counting_denials_to_count_one() -> None:
    rate = f"""{DOORS}guard "g" on write {{ deny when body.n > 1 }}
      rate "r" per agent.id on write {{ 2/1m counting denials }}"""
    words = "rate `r` never counted a denied request"
    assert missing(rate, ONE, "counted a denied") == [words]
    assert missing(rate, written(n="2"), "counted a denied") == []


def test_each_part_of_a_limit_is_covered_as_full_separately() -> None:
    rate = f'{DOORS}rate "r" per agent.id on write {{ 2/1m   at most 1 at once }}'
    held = "repeat 2 in 1s " + ONE.replace("not confirm", "first throttle at 2")
    spent = "repeat 3 in 1s " + ONE.replace("not confirm", "first throttle at 3 responded 200")
    assert missing(rate, held, "exhausted") == ['`rate "r"` was never exhausted']
    assert missing(rate, spent, "exhausted") == ["`at most 1 at once` was never exhausted"]
    budget = f'{DOORS}budget "b" per user.id on write {{ count <= 2 within 1h   sum body.n <= 5 within 1h }}'
    assert missing(budget, FULL, "exhausted") == ["`sum body.n <= 5 within 1h` was never exhausted"]
    assert missing(budget, written(n="6"), "exhausted") == ["`count <= 2 within 1h` was never exhausted"]


def test_a_request_throttled_by_another_limit_does_not_cover_passing() -> None:
    rates = f'{RATE}   rate "other" per user.id on write {{ 1/1m }}'
    twice = f"repeat 2 in 1ms {ONE.replace('not confirm', 'first throttle at 2')}"
    assert "rate `other` never stopped a request" not in missing(rates, twice)
    assert STOP in missing(rates, twice)


def test_text_and_lcov_reports_include_limits() -> None:
    found = coverage(RATE, ONE)
    assert "  limits        " in render_text(found)
    assert STOP in render_text(found)
    assert "BRDA" in render_lcov(found)


def test_layout_and_order_do_not_change_coverage() -> None:
    budget = 'budget "b" per user.id on write { count <= 2 within 1h   sum body.n <= 5 within 1h }'
    one = coverage(f"{RATE}\n{budget}", ONE)
    rate = RATE.removeprefix(DOORS)
    other = coverage(f"{budget}\n\n{DOORS}{rate.replace('{ 2', chr(10) + '{ 2')}", ONE)
    assert set(one.points) == set(other.points)
    assert set(one.hits) == set(other.hits)
