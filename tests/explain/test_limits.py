"""Rates and budgets in an explanation: whose count, how fast, why, and how each stands."""

from datetime import UTC, datetime
from itertools import count

import pytest

from policyengine.engine import Engine
from policyengine.explain.explanation import Explanation
from policyengine.explain.lines import ExplanationLine, Mark

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
language 1
package shop
facts on /pay { body.tokens: number  body.amount: number }
anyone { may POST /pay, GET /health }
rate "calls" per request.ip on /pay {
  10/1m burst 4
  cost body.tokens
  raise x2 at most 20/1m when request.host == "vip"
  clamp 5/1m for 10m when request.host == "slow"
  at most 3 at once for 5m
}
rate "elsewhere" per request.ip on /health { 1/1s }
rate "night" per request.ip on /pay when request.host == "night" { 1/1s }
budget "spending" per request.ip on /pay { sum body.amount <= 50 within 1h }
"""


@pytest.fixture
def engine() -> Engine:
    ids = count()
    return Engine.from_text(POLICY, clock=lambda: NOW, ids=lambda _: f"id-{next(ids)}")


def ask(host: str = "day", ip: str | None = "10.0.0.1", **body: object) -> dict[str, object]:
    request = {"method": "POST", "path": "/pay", "host": host, **({} if ip is None else {"ip": ip})}
    return {"request": request, "body": {"tokens": 1, "amount": 20, **body}}


def gate(explanation: Explanation) -> ExplanationLine:
    return explanation.gates[-1]


def limit(explanation: Explanation, text: str) -> ExplanationLine:
    (found,) = (line for line in gate(explanation).parts if line.text == text)
    return found


def lines(explanation: Explanation, text: str) -> list[str]:
    return list(limit(explanation, text).render())


def test_the_limit_gate_is_passed_if_every_limit_has_room(engine: Engine) -> None:
    assert (gate(engine.explain(ask())).text, gate(engine.explain(ask())).mark) == ("rates and budgets", Mark.YES)


def test_a_policy_without_limits_has_no_limit_gate() -> None:
    plain = Engine.from_text("language 1\npackage shop\nanyone { may GET /health }\n")
    explained = plain.explain({"request": {"method": "GET", "path": "/health"}})
    assert [one.text for one in explained.gates][-1] == "guards"


def test_a_rate_shows_its_key_cost_adjustments_and_remainder(engine: Engine) -> None:
    assert lines(engine.explain(ask(tokens=2)), 'rate "calls"') == [
        '✓ rate "calls"  (policy.policy:6)',
        "  ✓ request.ip = 10.0.0.1",
        "  ✓ cost body.tokens = 2",
        "  · raise x2 at most 20/1m — does not act  (policy.policy:9)",
        '    ✗ request.host == "vip"',
        '      ✓ request.host = "day"',
        "  · clamp 5/1m for 10m — does not act now  (policy.policy:10)",
        '    ✗ request.host == "slow"',
        '      ✓ request.host = "day"',
        "  ✓ 10/1m burst 4 — 2 of 4 left, full again in 12s  (policy.policy:6)",
        "  ✓ at most 3 at once for 5m — 2 of 3 left, full again in 5m  (policy.policy:11)",
    ]


def test_the_remainder_of_a_rate_reflects_earlier_decisions(engine: Engine) -> None:
    engine.decide(ask())
    assert "  ✓ 10/1m burst 4 — 2 of 4 left, full again in 12s  (policy.policy:6)" in lines(
        engine.explain(ask()), 'rate "calls"'
    )


def test_explain_spends_nothing(engine: Engine) -> None:
    assert lines(engine.explain(ask()), 'rate "calls"') == lines(engine.explain(ask()), 'rate "calls"')


def test_an_active_raise_shows_the_resulting_rate(engine: Engine) -> None:
    shown = "\n".join(lines(engine.explain(ask("vip")), 'rate "calls"'))
    assert "✓ raise x2 at most 20/1m — acts  (policy.policy:9)" in shown
    assert "7 of 8 left" in shown


def test_an_active_clamp_shows_its_factor(engine: Engine) -> None:
    shown = "\n".join(lines(engine.explain(ask("slow")), 'rate "calls"'))
    assert "✗ clamp 5/1m for 10m — acts  (policy.policy:10)" in shown
    assert "at 0.5 times the pace" in shown


def test_a_latched_clamp_shows_its_factor_after_its_condition_ends(engine: Engine) -> None:
    engine.decide(ask("slow"))
    shown = "\n".join(lines(engine.explain(ask("day")), 'rate "calls"'))
    assert "· clamp 5/1m for 10m — does not act now" in shown
    assert "at 0.5 times the pace" in shown


def test_a_budget_shows_the_amount_of_the_request_and_the_remainder(engine: Engine) -> None:
    assert lines(engine.explain(ask()), 'budget "spending"') == [
        '✓ budget "spending"  (policy.policy:15)',
        "  ✓ request.ip = 10.0.0.1",
        "  ✓ body.amount = 20",
        "  ✓ sum body.amount <= 50 within 1h — 30 of 50 left, full again in 1h  (policy.policy:15)",
    ]


def test_a_confirm_shows_which_charges_wait_for_the_approval() -> None:
    rules = 'guard "ask" on POST /pay { confirm by user }'
    asked = Engine.from_text(f"{POLICY}\n{rules}", clock=lambda: NOW).explain(ask())
    assert lines(asked, 'budget "spending"')[-1].strip() == (
        "✓ sum body.amount <= 50 within 1h — 50 of 50 left; not charged before the approval  (policy.policy:15)"
    )
    assert [line.strip().partition(" — ")[2] for line in lines(asked, 'rate "calls"')[-2:]] == [
        "3 of 4 left, full again in 6s  (policy.policy:6)",
        "3 of 3 left; not charged before the approval  (policy.policy:11)",
    ]


def test_only_the_full_limit_stops_the_request(engine: Engine) -> None:
    for _ in range(2):
        engine.decide(ask())
    explained = engine.explain(ask())
    assert [line.text for line in gate(explained).parts if line.mark is Mark.NO] == ['budget "spending"']
    assert gate(explained).mark is Mark.NO
    assert 'waiting for 1h, until "spending" has room again' in explained.render()


def test_a_limit_of_another_endpoint_is_skipped(engine: Engine) -> None:
    assert lines(engine.explain(ask()), 'rate "elsewhere"') == [
        '· rate "elsewhere" — not about this endpoint  (policy.policy:13)'
    ]


def test_a_limit_with_a_false_condition_is_skipped_with_the_reason(engine: Engine) -> None:
    assert lines(engine.explain(ask()), 'rate "night"')[:2] == [
        '· rate "night" — does not apply  (policy.policy:14)',
        '  ✗ request.host == "night"',
    ]


def test_a_limit_with_an_unknown_key_stops_the_request(engine: Engine) -> None:
    found = limit(engine.explain(ask(ip=None)), 'rate "calls"')
    assert (found.mark, found.note) == (Mark.UNKNOWN, "stops: its cost or its key is unknown")
    assert "  ? request.ip — `request.ip` is absent" in found.render()


def test_the_json_explanation_has_the_same_lines(engine: Engine) -> None:
    walk = engine.explain(ask()).to_dict()["walk"]["gates"][-1]
    assert walk["text"] == "rates and budgets"
    assert [one["text"] for one in walk["parts"]] == [one.text for one in gate(engine.explain(ask())).parts]
