"""What tests of policies come to: the world they give, the request they make, what they expect of it."""

import logging
from dataclasses import replace

import pytest

from policyengine.runtime.request import Request
from policyengine.testing import ResultStatus, Selection, collect, run
from tests.testing.running import PAYMENTS, REFUND, checked, failures, outcomes, report, results, written

DENIED = "deny by tenants are islands"
CONFIRM = "confirm by large refunds need a human"
APPROVED = 'given approval { rule: "large refunds need a human", by: "carol"'


def test_the_example_of_the_language_guide_passes() -> None:
    assert failures("""use clerks_bot
      GET   /v1/invoices/42                                    => allow
      GET   /v1/invoices/66                                    => deny by "tenants are islands"
      POST  /v1/invoices/42/refunds { body.amount: 90 }        => allow
      POST  /v1/invoices/42/refunds { body.amount: 900 }       => confirm by "large refunds need a human"
      POST  /v1/invoices/42/refunds { body.amount: "900" }     => deny by "large refunds need a human"
      TOOL  billing/refund_invoice { args.invoice_id: "42", args.amount: 90 }  => allow
      DELETE /v1/invoices/42                                   => deny by default
      GET "/v1//x" => deny by malformed_path
      ACTION view invoice "42" => allow""") == []  # fmt: skip


# ── Expectations ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_", "expected", "passes"),
    [
        ("GET /v1/invoices/42", "allow", True),
        ("GET /v1/invoices/42", "deny", False),
        ("GET /v1/invoices/42", "not deny", True),
        ("GET /v1/invoices/42", "not allow", False),
        ("GET /v1/invoices/66", "deny", True),
        ("GET /v1/invoices/66", "confirm", False),
        ("GET /v1/invoices/66", "not allow", True),
        ("GET /v1/invoices/66", 'not allow by "tenants are islands"', True),
        ("GET /v1/invoices/66", "not allow by default", False),
        ("GET /v1/invoices/66", "deny by guard", True),
        ("GET /v1/invoices/66", 'deny by "few headers"', False),
        ("DELETE /v1/invoices/42", "deny by default", True),
        ("DELETE /v1/invoices/42", "deny by user", True),
        ("DELETE /v1/invoices/42", "deny by identity", False),
        # Also in need of a confirmation, but that is no reason for the denial.
        ("POST /v1/invoices/66/refunds { body.amount: 900 }", 'deny by "tenants are islands"', True),
        ("POST /v1/invoices/66/refunds { body.amount: 900 }", 'deny by "large refunds need a human"', False),
    ],
)
def test_an_expectation_holds_when_outcome_and_reason_match_the_decision(
    request_: str, expected: str, passes: bool
) -> None:
    [result] = results(f"use clerks_bot {request_} => {expected}")
    assert result.status is (ResultStatus.PASSED if passes else ResultStatus.FAILED)


# ── The world ─────────────────────────────────────────────────────────────────────────────────


def test_a_later_given_replaces_an_earlier_one_for_later_requests() -> None:
    inside = "use clerks_bot GET /v1/invoices/42 => allow given user.tenant 7 GET /v1/invoices/42 => allow"
    assert outcomes(inside) == ["allow", DENIED]


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ("given credential { lifetime: 1h }", "deny by identity"),
        ("given credential { bound: absent }", "deny by identity"),
        ("given credential.kind api_key", "deny by identity"),
        ('given credential { issuer: "other" }', "deny by identity"),
        ("given credential absent", "deny by identity"),
        ("given credential.scopes [\"read:invoices\"]", "allow"),
        ("given attestation { age: 2h }", "deny by identity"),
        ('given attestation { model: "other-7b" }', "deny by identity"),
        ("given attestation { environment: absent }", "deny by identity"),
        ('given attestation { environment: "tdx" }', "allow"),
        ('given agent "invoice-bot" from other', "deny by identity"),
        ('given agent "invoice-bot"', "deny by identity"),
        ('given user "bob"', "deny by identity"),
        ("given user absent", "deny by identity"),
        ('given user.roles ["guest"]', "deny by identity"),
        ('given resource.tenant "evil"', DENIED),
        ("given resource.tenant absent", DENIED),
        ("given user.tenant 5", DENIED),
        ("given time 2028-01-01", "deny by identity"),
        ("given time 2027-12-31T23:59:59Z", "allow"),
        ('given request { headers: { "X-Odd": "yes" } }', "deny by few headers"),
        ('given request.headers { "x-odd": "no" }', "allow"),
    ],
)  # fmt: skip
def test_a_given_changes_the_decision(given: str, outcome: str) -> None:
    assert outcomes(f"use clerks_bot {given} GET /v1/invoices/42 => allow") == [outcome]


def test_facts_of_a_request_override_givens_for_that_request_only() -> None:
    inside = 'use clerks_bot GET /v1/invoices/42 { user.tenant: "evil" } => deny GET /v1/invoices/42 => allow'
    assert failures(inside) == []


def test_a_repeated_entity_row_replaces_the_whole_row() -> None:
    again = 'given entities { user "alice" { roles: ["clerk"] } }'
    assert outcomes(f"use clerks_bot {again} GET /v1/invoices/42 => allow") == [DENIED]


def test_resource_attributes_apply_to_a_resource_bound_by_a_tool() -> None:
    call = 'TOOL billing/refund_invoice { args.invoice_id: "42", args.amount: 9, resource.tenant: "evil" }'
    assert outcomes(f"use clerks_bot {call} => deny") == ["deny by default"]


@pytest.mark.parametrize(
    ("inside", "problem"),
    [
        ('use clerks_bot GET /v1/invoices { resource.tenant: "a" } => allow',
         "`resource.tenant` is given, but nothing binds `resource` at this endpoint"),
        ('GET /health { user.tenant: "a" } => allow', "`user.tenant` is given, but there is no user"),
    ],
)  # fmt: skip
def test_a_given_without_its_entity_makes_the_test_errored(inside: str, problem: str) -> None:
    [result] = results(inside)
    assert (result.status, result.problem) == (ResultStatus.ERRORED, problem)


def test_fixtures_use_each_other_across_the_files_of_a_package() -> None:
    text = 'anyone { may GET /a when request.size == 5 } test "t" { use mine GET /a => allow }'
    assert report(text, "fixture mine { use base } fixture base { given request.size 5 }").ok


def test_the_later_of_two_fixtures_wins() -> None:
    text = """anyone { may GET /a when request.size == 5 }
      fixture a { given request.size 1 }
      fixture b { given request.size 5 }
      test "t" { use a, b GET /a => allow }
      test "u" { use b, a GET /a => deny }"""
    assert report(text).ok


EMPTY_BODIES = """
users unrestricted
issuer idp { url "https://id.example"   scopes none }
facts { body.amount: number?   body.card.number: string? }
agent "bot" { issued by idp   acts for any user   may POST /pay }
guard "small" on POST /pay { confirm by user within 15m when not (body.amount > 5) }
"""


@pytest.mark.parametrize("body", [{}, {"amount": 7}, {"card": {}}, None])
def test_a_body_of_a_test_is_the_same_body_in_a_request(body: dict[str, object] | None) -> None:
    written = "absent" if body is None else "{ card: {} }" if "card" in body else str(body).replace("'", "")
    [case] = collect(
        checked(f"""{EMPTY_BODIES} test "t" {{
      given agent "bot" from idp for user "u"
      given body {written}
      POST /pay => confirm
    }}""")
    )
    asked = {"request": {"method": "POST", "path": "/pay"}, "body": body}
    assert Request.from_mapping(case.question).fact("body") == Request.from_mapping(asked).fact("body")


def test_an_empty_body_replaces_the_body_of_a_fixture() -> None:
    found = report(f"""{EMPTY_BODIES}
    fixture bot {{ given agent "bot" from idp for user "u"   given body {{ amount: 7, card.number: "1" }} }}
    test "t" {{
      use bot
      POST /pay => allow
      POST /pay {{ body: {{}} }} => confirm by "small"
      POST /pay {{ body.card: {{}} }} => allow
    }}""")
    assert [result.status for result in found.results] == [ResultStatus.PASSED] * 3


@pytest.mark.parametrize(("of", "outcome"), [("absent", "allow"), ("{}", "confirm"), ("{ amount: absent }", "confirm")])
def test_an_approval_of_an_empty_body_is_not_one_of_no_body(of: str, outcome: str) -> None:
    found = report(f"""{EMPTY_BODIES} test "t" {{
      given agent "bot" from idp for user "u"
      given approval {{ rule: "small", by: user "u", of: {{ body: {of} }} }}
      POST /pay => {outcome}
    }}""")
    assert [result.status for result in found.results] == [ResultStatus.PASSED]


def test_members_of_an_agent_may_be_empty() -> None:
    [case] = collect(checked(written('given agent "invoice-bot" from acme {} GET /health => allow')))
    assert case.question["agent"] == {"id": "invoice-bot", "issuer": "acme"}


# ── Clock and chain ───────────────────────────────────────────────────────────────────────────


def test_the_clock_starts_with_2026_and_moves_with_after_and_at() -> None:
    cases = collect(checked(written("""use clerks_bot
      GET /health => allow
      after 90s GET /health => allow
      after 1m after 30s GET /health => allow
      at 2026-02-01T10:00:00+02:00 GET /health => allow
      GET /health => allow""")))  # fmt: skip
    times = ["01-01T00:00:00", "01-01T00:01:30", "01-01T00:03:00", "02-01T08:00:00", "02-01T08:00:00"]
    assert [case.now.isoformat() for case in cases] == [f"2026-{time}+00:00" for time in times]


def test_a_time_condition_uses_the_clock_of_the_test() -> None:
    night = 'given credential { scopes: ["read:invoices"] } given time 2026-03-01T21:59:59Z'
    shots = "GET /v1/invoices => deny by default after 1s GET /v1/invoices => allow"
    assert failures(f'use people given agent "night-bot" from other for user "alice" {night} {shots}') == []


CHAIN = 'use people given agent "summarizer" from acme for user "alice" given credential.scopes ["read:invoices"]'
HOP = 'agent: "planner", scopes: ["read:invoices"]'


@pytest.mark.parametrize(
    ("chain", "outcome"),
    [
        (f"[{{ {HOP} }}]", "allow"),
        (f"{{ hops: [{{ {HOP} }}] }}", "allow"),
        (f"[{{ {HOP}, age: 30m }}]", "allow"),
        (f"[{{ {HOP}, age: 31m }}]", "deny by chain"),
        (f"[{{ {HOP}, age: absent }}]", "deny by chain"),
        (f"[{{ {HOP}, issuer: other }}]", "deny by chain"),
        (f"[{{ {HOP}, issued_at: 2025-12-31T23:45:00Z }}]", "allow"),
        ('[agent "planner"]', "deny by chain"),
        ("[]", "allow"),
        ("absent", "allow"),
    ],
)
def test_hops_default_to_the_issuer_of_the_presenter_and_the_request_time(chain: str, outcome: str) -> None:
    assert outcomes(f"{CHAIN} given chain {chain} GET /v1/invoices => allow") == [outcome]


# ── Approvals ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("approval", "outcome"),
    [
        (f"{APPROVED} }}", "allow"),
        (f"{APPROVED}, age: 15m }}", "allow"),
        (f"{APPROVED}, age: 16m }}", CONFIRM),
        ('given approval { rule: "large refunds need a human", by: user "dave" }', "allow"),
        ('given approval { rule: "large refunds need a human", by: "alice" }', CONFIRM),
        ('given approval { rule: "two of legal", by: "lea" }', CONFIRM),
        (f"{APPROVED} }} given approval absent", CONFIRM),
        (f"{APPROVED} }} given approval []", CONFIRM),
    ],
)
def test_an_approval_is_bound_to_the_request_of_the_test(approval: str, outcome: str) -> None:
    assert outcomes(f"use clerks_bot {approval} {REFUND} {{ body.amount: 900 }} => allow") == [outcome]


@pytest.mark.parametrize(
    ("of", "outcome"),
    [
        ("body.amount: 900", "allow"),
        ("body.amount: 901", CONFIRM),
        ("body.amount: absent", CONFIRM),
        ('body.recipient: "bob"', CONFIRM),
        ('body["x-id"]: "1"', CONFIRM),
        ('user: "lea"', CONFIRM),
        ("body.amount: 1", CONFIRM),
        ("context: {}", "allow"),
        ("args: {}", CONFIRM),
    ],
)
def test_an_approval_of_another_request_applies_when_its_bound_facts_are_equal(of: str, outcome: str) -> None:
    """A request that needed none has none."""
    given = f"{APPROVED}, of: {{ {of} }} }}"
    assert outcomes(f"use clerks_bot {given} {REFUND} {{ body.amount: 900 }} => allow") == [outcome]


def test_an_approval_does_not_lift_a_denial() -> None:
    assert outcomes(f"use clerks_bot {APPROVED} }} {REFUND} {{ body.amount: 90_000 }} => deny") == [
        "deny by large refunds need a human"
    ]


def test_an_approval_is_spent_by_the_allow_it_produced() -> None:
    shots = f"{REFUND} {{ body.amount: 900 }} => allow\n" * 2
    assert outcomes(f"use clerks_bot {APPROVED} }} {shots}") == ["allow", CONFIRM]


def test_an_approval_spent_by_one_test_is_available_to_the_next() -> None:
    shot = f"use clerks_bot {APPROVED} }} {REFUND} {{ body.amount: 900 }} => allow"
    assert report(f'{PAYMENTS} test "a" {{ {shot} }} test "b" {{ {shot} }}').ok


def test_each_row_of_a_table_has_its_own_approvals() -> None:
    table = f"cases {{ | request | body.amount | => |\n| {REFUND} | 900 | allow |\n| {REFUND} | 900 | allow | }}"
    assert failures(f"use clerks_bot {APPROVED} }} {table}") == []


@pytest.mark.parametrize(("second", "outcome"), [("lou", "allow"), ("lea", "confirm by two of legal")])
def test_a_quorum_takes_a_list_of_approvals(second: str, outcome: str) -> None:
    both = ", ".join(f'{{ rule: "two of legal", by: "{by}" }}' for by in ("lea", second))
    inside = f"given user.plan enterprise given approval [{both}] PATCH /v1/invoices/42 => allow"
    assert outcomes(f"use clerks_bot {inside}") == [outcome]


# ── Running ───────────────────────────────────────────────────────────────────────────────────


def test_a_skipped_test_is_not_run() -> None:
    [result] = results('skip "waits for #12" GET /health => deny')
    assert (result.status, result.decision, result.case.skip) == (ResultStatus.SKIPPED, None, "waits for #12")


@pytest.mark.parametrize(("only", "names"), [(None, ["Refunds", "health"]), ("FUND", ["Refunds"]), ("x", [])])
def test_tests_are_chosen_by_a_part_of_their_name(only: str | None, names: list[str]) -> None:
    text = 'anyone { may GET /h } test "Refunds" { GET /h => allow } test "health" { GET /h => allow }'
    assert [case.test for case in collect(checked(text), Selection(only))] == names


def test_a_policy_with_errors_has_no_tests() -> None:
    assert collect(checked('anyone { may GET /h when nonsense } test "t" { GET /h => allow }')) == ()


def test_the_order_of_tests_does_not_change_the_results() -> None:
    found = checked(
        f'{PAYMENTS} test "a" {{ use clerks_bot GET /v1/invoices/66 => deny }} test "b" {{ GET /v1/x => allow }}'
    )
    assert found.kernel
    cases = collect(found)
    forwards, backwards = run(cases, found.kernel), run(cases[::-1], found.kernel)
    assert forwards.results == backwards.results[::-1]


def test_an_exception_in_a_decision_errors_only_that_test(caplog: pytest.LogCaptureFixture) -> None:
    found = checked('anyone { may GET /h } test "t" { GET /h => allow GET /h => allow }')
    assert found.kernel
    first, second = collect(found)
    broken = replace(first, rows=None)  # type: ignore[arg-type]
    with caplog.at_level(logging.CRITICAL, "policyengine"):
        results_ = run([broken, second], found.kernel).results
    assert [result.status for result in results_] == [ResultStatus.ERRORED, ResultStatus.PASSED]
    assert (results_[0].problem or "").startswith("deciding failed: AttributeError: ")
