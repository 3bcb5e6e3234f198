"""Tests of policies with limits: their clock, requests that are repeated, what is reported, whose state it is."""

import pytest

from policyengine.testing import RunReport, collect, run
from policyengine.testing.parallel import chunk_cases
from policyengine.testing.properties import try_properties
from policyengine.testing.repl_session import ReplSession
from policyengine.testing.report import ResultStatus
from tests.testing.running import checked

POLICY = """
entity user { roles: set<string> }
facts on POST /refunds { body.amount: number }
issuer acme { url "https://login.acme.example"   scopes none }
users unrestricted
agent "bot" { issued by acme   acts for any user   may GET /a, GET /b, GET /jobs, GET /void, POST /refunds }
guard "void" on GET /void { deny when request.method == "GET" }
guard "asks" on POST /refunds { confirm by role boss when body.amount > 50 }
rate "per agent" per agent.id on GET /a { 100/1m burst 20 }
rate "jobs" per agent.id on GET /jobs { at most 2 at once for 5m }
rate "tries" per agent.id on /void { 3/1m counting denials }
budget "refunds" per user.id on POST /refunds { sum body.amount <= 100 within 24h }
fixture bot {
  given entities { user "carol" { roles: ["boss"] } }
  given agent "bot" from acme for user "alice"
}
"""


def report(inside: str) -> RunReport:
    found = checked(f'{POLICY}\ntest "t" {{ use bot\n{inside} }}')
    assert found.kernel is not None, [one.render() for one in found.diagnostics if one.is_error]
    return run(collect(found), found.kernel)


def failures(inside: str) -> list[str]:
    return [one.in_short for one in report(inside).results if one.status is not ResultStatus.PASSED]


def test_the_example_of_the_language_guide_passes() -> None:
    assert (
        failures("""repeat 21 in 10ms GET /a => first throttle at 21 by "per agent"
                       after 60s GET /a => allow""")
        == []
    )


@pytest.mark.parametrize(
    ("inside", "fails"),
    [
        ("repeat 20 in 1ms GET /a => allow", []),
        ("repeat 20 in 1ms GET /a => not throttle", []),
        ("repeat 21 in 1ms GET /a => allow",
         ["expected allow, but request 21 resulted in throttle by rate \"per agent\""]),
        ("repeat 25 in 1ms GET /a => first throttle at 20",
         ["expected first throttle at 20, but request 20 resulted in allow"]),
        ("repeat 25 in 1ms GET /a => first throttle at 22",
         ["expected first throttle at 22, but request 21 resulted in throttle by rate \"per agent\""]),
        ("repeat 20 in 1ms GET /a => first throttle at 20",
         ["expected first throttle at 20, but request 20 resulted in allow"]),
        ("repeat 25 in 1ms GET /a => first throttle at 21 by \"jobs\"",
         ["expected first throttle at 21 by \"jobs\", but request 21 resulted in throttle by rate \"per agent\""]),
        ("repeat 25 in 1ms GET /a => first throttle at 21 by rate", []),
        ("repeat 3 in 1ms GET /b => allow", []),
    ],
)  # fmt: skip
def test_a_repeat_compares_every_request_or_the_first_throttled_one(inside: str, fails: list[str]) -> None:
    assert failures(inside) == fails


def test_repeated_requests_are_evenly_spread_from_the_start() -> None:
    """One comes back in 600 ms: 100 in a minute are as fast as that, and one more is not."""
    assert failures("repeat 20 in 1ms GET /a => allow   after 599ms repeat 100 in 1m GET /a => allow") == []
    assert (
        failures("repeat 20 in 1ms GET /a => allow   after 598ms repeat 100 in 1m GET /a => first throttle at 1") == []
    )
    assert failures("repeat 119 in 1m GET /a => allow") == []


def test_the_clock_is_at_the_end_of_a_repeat() -> None:
    assert (
        failures("""repeat 2 in 10s GET /b => allow
                       at 2026-01-01T00:00:10Z GET /b => allow""")
        == []
    )


def test_the_wait_remedy_states_the_exact_time_until_a_request_passes() -> None:
    assert (
        failures("""repeat 20 in 1ms GET /a => allow
                       after 598ms GET /a => throttle by "per agent" with { remedies: ["wait 1ms"] }
                       after 1ms   GET /a => allow with { rates: ["per agent: 0 of 20"] }""")
        == []
    )


def test_a_different_rate_level_is_reported() -> None:
    [told] = failures('GET /a => allow with { rates: ["per agent: 20 of 20"] }')
    assert told == 'rates: expected exactly "per agent: 20 of 20", got "per agent: 19 of 20"'


def test_every_test_and_table_row_starts_with_empty_limits() -> None:
    many, table = "repeat 20 in 1ms GET /a => allow", "cases { | request | => | | GET /a | allow | }"
    found = checked(f'{POLICY} test "a" {{ use bot {many} }}', f'test "b" {{ use bot {many} {table} }}')
    assert found.kernel is not None
    assert run(collect(found), found.kernel).ok


def test_a_response_or_a_timeout_ends_a_request_in_flight() -> None:
    assert (
        failures("""GET /jobs => allow responded 200
                       GET /jobs => allow
                       GET /jobs => allow
                       GET /jobs => throttle by "jobs" with { remedies: ["wait 5m"] }
                       after 5m GET /jobs => allow
                       repeat 5 in 1s GET /jobs => allow responded 500""")
        == []
    )


def test_denied_requests_spend_only_where_denials_are_counted() -> None:
    assert (
        failures("""repeat 3 in 1ms GET /void => deny by "void"
                       GET /void => deny by "void" with { rates: ["tries: 0 of 3"] }
                       POST /refunds { body.amount: "5" } => deny with { rates: [] }
                       POST /refunds { body.amount: 50 } => allow
                       POST /refunds { body.amount: 50 } => allow
                       POST /refunds { body.amount: 0.5 } => throttle by "refunds"
                       after 1d POST /refunds { body.amount: 0.5 } => allow""")
        == []
    )


def test_a_throttled_request_keeps_its_approval() -> None:
    assert (
        failures("""POST /refunds { body.amount: 40 } => allow
                       given approval { rule: "asks", by: "carol" }
                       POST /refunds { body.amount: 61 } => throttle by budget
                       after 24h POST /refunds { body.amount: 61 } => allow
                       after 24h POST /refunds { body.amount: 61 } => confirm""")
        == []
    )


def test_a_failed_repeat_names_the_request_and_shows_its_walk() -> None:
    [found] = report("repeat 30 in 1ms GET /a => allow").bad
    assert "request:  repeat 30 in 1ms GET /a\n" in found.render()
    assert 'actual:   request 21: throttle by rate "per agent"' in found.render()
    assert "walk:" in found.render()
    assert found.to_dict()["request_number"] == 21


def test_tests_with_limits_are_not_split_into_chunks() -> None:
    found = checked(f'{POLICY} test "a" {{ use bot {"GET /b => allow " * 200} }}')
    assert [len(chunk) for chunk in chunk_cases(found.cases, 2, counting=True)] == [200]
    assert len(list(chunk_cases(found.cases, 2))) > 1


def test_drawn_requests_start_with_empty_limits() -> None:
    found = checked(f"""{POLICY} test "claims" {{ use bot
      forall request where request.path == "/a" => not throttle
      forall request where request.path == "/refunds" and body.amount > 100 => not allow }}""")
    assert found.kernel is not None
    assert [one.status for one in try_properties(found.properties, found.kernel, examples=40)] == [
        ResultStatus.PASSED,
        ResultStatus.PASSED,
    ]


def test_a_repl_session_is_saved_as_a_passing_test() -> None:
    policy = checked(POLICY)
    session = ReplSession.of(policy)
    for line in ("use bot", "repeat 25 in 1ms GET /a", "after 1m", "repeat 2 in 1s GET /a", "GET /void"):
        session.take(line)
    text = session.test("typed")
    assert 'repeat 25 in 1ms GET /a        => first throttle at 21 by "per agent"' in text
    again = checked(POLICY, text)
    assert again.kernel is not None
    assert run(collect(again), again.kernel).summary == "3 passed"
