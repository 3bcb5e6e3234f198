"""Faults in rates and budgets, as the lines they leave; and that tests with a clock notice them."""

from __future__ import annotations

import pytest

from policyengine.testing.mutation import MutantStatus, mutate
from policyengine.testing.mutation.limits import half_window
from tests.testing.mutation.faulty import checked, faults, lines_with

WORLD = """
enum plan = free < team
entity user { tenant: string   plan: plan   quota: int }
facts on /a { body.amount: number   body.tokens: int   body.urgent: bool }
anyone { may POST /a, GET /b }
"""


def rate(inside: str, head: str = "per user.id on /a") -> str:
    return f'{WORLD}rate "r" {head} {{\n  {inside}\n}}'


@pytest.mark.parametrize(
    ("policy", "operator", "lines"),
    [
        (rate("100/1m burst 20"), "move a bound",
         ["99/1m burst 20", "101/1m burst 20", "100/59s burst 20", "100/61s burst 20", "100/1m burst 19",
          "100/1m burst 21"]),
        (rate("100/1m burst 20"), "halve a window", ["100/30s burst 20"]),
        (rate("100/1m burst 20"), "drop a burst", ["100/1m"]),
        (rate("1/1s"), "move a bound", ["2/1s", "1/999ms", "1/1001ms"]),
        (rate("user.quota/1d"), "move a bound", ["user.quota/23h", "user.quota/25h"]),
        (rate("9/1m\n  raise x2.5 at most 60/1m when body.urgent"), "move a bound", [
            "8/1m", "10/1m", "9/59s", "9/61s", "raise x2.4 at most 60/1m when body.urgent",
            "raise x2.6 at most 60/1m when body.urgent", "raise x2.5 at most 61/1m when body.urgent",
            "raise x2.5 at most 59/1m when body.urgent", "raise x2.5 at most 60/59s when body.urgent",
            "raise x2.5 at most 60/61s when body.urgent"]),
        (rate("9/1m\n  raise x2 at most 20/1m when body.urgent"), "drop a raise",
         ["raise x2 at most 20/1m when body.urgent"]),
        (rate("9/1m\n  raise x2 at most 20/1m when body.urgent"), "negate a condition",
         ["raise x2 at most 20/1m when not (body.urgent)"]),
        (rate("9/1m\n  clamp 2/1m for 10m when body.urgent"), "drop a clamp",
         ["clamp 2/1m for 10m when body.urgent"]),
        (rate("9/1m\n  clamp 2/1m for 10m when body.urgent"), "drop a limit of time",
         ["clamp 2/1m when body.urgent"]),
        (rate("9/1m\n  clamp 2/1h for 10m when body.amount > 5"), "flip a comparison",
         ["clamp 2/1h for 10m when body.amount >= 5"]),
        (rate("9/1m\n  floor 2/1m", "per cluster.id"), "drop a floor", ["floor 2/1m"]),
        (rate("9/1m\n  floor 2/1m", "per cluster.id"), "move a bound", [
            "8/1m", "10/1m", "9/59s", "9/61s", "floor 1/1m", "floor 3/1m", "floor 2/59s", "floor 2/61s"]),
        (rate("9/1m\n  counting denials"), "drop counting denials", ["counting denials"]),
        (rate("9/1m\n  cost body.tokens"), "drop a cost", ["cost body.tokens"]),
        (rate("9/1m\n  at most 2 at once for 5m"), "drop at once", ["at most 2 at once for 5m"]),
        (rate("9/1m\n  at most 2 at once for 5m"), "drop a limit", ["9/1m"]),
        (rate("at most 2 at once for 5m"), "move a bound", [
            "at most 1 at once for 5m", "at most 3 at once for 5m", "at most 2 at once for 4m",
            "at most 2 at once for 6m"]),
        (rate("at most 2 at once"), "drop at once", []),
        (rate("9/1m", "per (user.tenant, user.id)"), "drop a key",
         ['rate "r" per (user.id) {', 'rate "r" per (user.tenant) {']),
        (rate("9/1m", "per user.id"), "drop a key", []),
        (rate("9/1m", "per user.id on /a when user.plan == free"), "drop a condition",
         ['rate "r" per user.id on /a {']),
        (rate("9/1m", "per (user.id) when user.plan == free"), "drop a condition", ['rate "r" per (user.id) {']),
        (rate("9/1m"), "drop a rate", ['rate "r" per user.id on /a {']),
        (rate("9/1m\n  on store failure allow"), "drop a line", []),
        (f'{WORLD}budget "b" per user.id on /a {{ sum body.amount <= 50 within 1h }}', "drop a budget",
         ['budget "b" per user.id on /a { sum body.amount <= 50 within 1h }']),
        (f'{WORLD}budget "b" per user.id on /a {{\n sum body.amount <= 50 within 1h\n count <= 2 within 24h }}',
         "halve a window", ["sum body.amount <= 50 within 30m", "count <= 2 within 12h }"]),
        (f'{WORLD}budget "b" per user.id on /a {{\n sum body.amount <= 50 within 1h\n count <= 2 within 24h\n}}',
         "drop a limit", ["sum body.amount <= 50 within 1h", "count <= 2 within 24h"]),
    ],
)  # fmt: skip
def test_each_mutation_operator_generates_the_expected_lines(policy: str, operator: str, lines: list[str]) -> None:
    assert sorted(lines_with(policy, operator)) == sorted(lines)


def test_the_endpoint_pattern_of_a_limit_is_widened() -> None:
    found = [one.lines.telling for one in faults(rate("9/1m")) if one.operator == "widen a place"]
    assert 'rate "r" per user.id {' in found
    assert 'rate "r" per user.id on /** {' in found


@pytest.mark.parametrize(
    ("window", "half"),
    [("1m", "30s"), ("1h", "30m"), ("24h", "12h"), ("3s", "1500ms"), ("1h30m", "45m"), ("1d", "12h"), ("5m", "150s")],
)
def test_a_halved_window_is_written_in_one_unit(window: str, half: str) -> None:
    assert half_window(window) == half


def test_a_mutant_is_tested_with_the_whole_request_sequence() -> None:
    """The guard denies the first request of each test but one: what it no longer denies is counted."""
    policy = f"""{WORLD}guard "g" on /a {{ deny when body.amount > 5 }}
      rate "r" per user.id on /a {{ 2/1m }}
      test "three" {{ given user "ann"
        POST /a {{ body.amount: 9 }} => not throttle
        POST /a {{ body.amount: 1 }} => allow
        POST /a {{ body.amount: 1 }} => allow }}"""
    outcomes = {one.operator: one for one in mutate(checked(policy)).outcomes}
    dropped = outcomes["drop a guard"]
    assert dropped.fate is MutantStatus.KILLED
    assert dropped.killer is not None
    assert dropped.killer.request == "POST /a { body.amount: 1 }"
    assert outcomes["drop a rate"].fate is MutantStatus.SURVIVED


def test_the_report_of_a_survivor_shows_the_changed_line() -> None:
    policy = f'{rate("9/1m")} test "t" {{ given user "ann" repeat 10 in 1ms POST /a => first throttle at 10 }}'
    found = mutate(checked(policy))
    told = found.render()
    assert "survived: halve a window" in told
    assert "    -  9/1m\n    +  9/30s" in told
    assert "  10 requests of `t`: all pass" in told
