"""What a test may claim of a decision beside its outcome, and what is told of a claim that does not hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.runtime.decision import (
    Decision,
    Gate,
    Obligation,
    Outcome,
    Principal,
    Reason,
    Remedy,
    UnknownFact,
)
from policyengine.testcases import DetailMatchMode, ExpectedDetail, ExpectedOutcome
from policyengine.testcases.expected_details import DETAIL_MEMBERS
from policyengine.testing.expectations import DETAIL_VALUES, detail_differences, meets_expectation
from policyengine.testing.report import ResultStatus
from tests.testing.running import REFUND, report

POLICY = """
entity team in team
entity user { roles: set<string>  tenant: string } in team
entity invoice { tenant: string }
facts on POST /v1/invoices/{id: invoice}/refunds { body.amount: number  body.recipient: string  body.card: string? }
scope invoices.read  as "read:invoices"  { GET /v1/invoices/{id: invoice} }
scope refunds.create as "create:refunds" { POST /v1/invoices/{id: invoice}/refunds }
issuer acme { url "https://login.acme.example"  records chains }
attester lab { url "https://attest.acme.example"  age <= 1h }
user where user.roles has "clerk" { may invoices.read, refunds.create, DELETE /v1/invoices/{id: invoice} }
anyone { may GET /health }
agent "bot" { issued by acme  acts for any user  may invoices.read, refunds.create }
agent "planner" {
  issued by acme  acts for any user  may invoices.read  may delegate invoices.read to agent "bot"
}
agent "strict" { issued by acme  acts alone  credential { lifetime <= 15m }  attested by lab  may invoices.read }
guard "tenants are islands" on /v1/invoices/{id}/** { require user.tenant == resource.tenant }
guard "large" on refunds.create {
  confirm by role finance within 15m when body.amount > 500  message "refund of {body.amount} to {body.recipient}"
  audit full
  redact body.card, body.recipient when body.card is present
  notify "records@acme.example" when body.amount > 100
  header "X-Checked" "yes"
}
guard "two of legal" on refunds.create { confirm by 2 of team "legal" when body.amount > 5000 }
guard "odd" on refunds.create {
  warn when body.amount == 13  message "odd: {body.amount}"
  step_up mfa when body.amount == 13
}
guard "proof" on refunds.create { deny when body.amount == 77 and not attestation.verified }
fixture bot {
  given entities {
    user "alice" { roles: ["clerk"], tenant: "acme" }
    invoice "42" { tenant: "acme" }  invoice "66" { tenant: "evil" }
  }
  given agent "bot" from acme for user "alice"
  given credential { kind: jwt, scopes: ["read:invoices", "create:refunds"], lifetime: 10m }
}
"""


def failures(inside: str) -> list[str]:
    """What is told of each claim that does not hold."""
    found = report(f'{POLICY} test "t" {{ use bot {inside} }}')
    assert not [result for result in found.results if result.status in (ResultStatus.ERRORED, ResultStatus.SKIPPED)]
    bad = [result for result in found.results if result.status is ResultStatus.FAILED]
    return [one.render() for result in bad for one in result.differences] or [result.render() for result in bad]


HOLDS = [
    # ── Messages
    f'{REFUND} {{ body.amount: 900, body.recipient: "x \\"y\\"" }} => confirm by "large"'
    ' with { message: "refund of 900 to \\"x \\\\\\"y\\\\\\"\\"" }',
    f'{REFUND} {{ body.amount: 900, body.recipient: "x" }} => confirm with {{ message: "refund of * to *" }}',
    'GET /v1/invoices/66 => deny by "tenants are islands" with { message: "`require user.tenant == resource.tenant`" }',
    'TOOL x => deny by default with { message: "no block grants this*" }',
    # ── Reasons
    'GET /v1/invoices/66 => deny with { reasons: ["tenants are islands"] }',
    'GET /v1/invoices/66 => deny with { reasons: [guard], reason: guard }',
    'POST /v1/invoices/66/refunds { user.roles: [], body.amount: 5 }'
    ' => deny with { reasons: [user, "tenants are islands"], reason: user }',
    f'{REFUND} {{ body.amount: 6000, body.recipient: "x" }} => confirm with {{ reasons: ["two of legal", "large"] }}',
    "GET /health => allow with { reasons: [], remedies: [] }",
    "TOOL x => not allow with { reason: default }",
    # ── Remedies
    f'{REFUND} {{ body.amount: 900, body.recipient: "x" }} => confirm'
    ' with { remedy: "approval by role finance within 15m", remedies: ["approval by role finance within 15m"] }',
    f'{REFUND} {{ body.amount: 6000, body.recipient: "x" }} => confirm'
    ' with { remedies: ["approval by 2 of team \\"legal\\" within 1d", "approval by role *"] }',
    f'{REFUND} {{ body.amount: 5, credential.scopes: ["x"] }} => deny with {{ remedies: ["scope create:refunds"] }}',
    'GET /v1/invoices/66 => deny with { remedies: [] }',
    f'{REFUND} {{ body.amount: 77 }} => deny with {{ remedy: "attestation: a verified attestation" }}',
    'GET /v1/invoices/42 { task.entities: [invoice "7"] } => deny by task'
    ' with { remedies: ["task: a task whose `entities` include this resource"] }',
    # ── Obligations
    f'{REFUND} {{ body.amount: 5 }} => allow with {{ obligations: ["audit full", "header X-Checked yes"] }}',
    f'{REFUND} {{ body.amount: 5, body.card: "1" }} => allow with {{ obligation: "redact body.card, body.recipient" }}',
    f'{REFUND} {{ body.amount: 200 }} => allow with {{ obligations: ["audit *", "notify records@*", "header *"] }}',
    f'{REFUND} {{ body.amount: 13 }} => allow with {{ obligation: "warn odd: 13" }}',
    f'{REFUND} {{ body.amount: 13 }} => allow with {{ obligation: "step_up mfa" }}',
    'POST /v1/invoices/66/refunds { body.amount: 5 } => deny with { obligations: ["audit full"] }',
    "GET /v1/invoices/42 => allow with { obligations: [] }",
    # ── Unknown facts
    f'{REFUND} {{ body.amount: "9" }} => deny by "proof" with {{ unknown: [body.amount, attestation.verified] }}',
    f'{REFUND} {{ body.amount: "9" }} => deny with {{ unknown: body.amount }}',
    "GET /v1/invoices/77 => deny with { unknown: [resource.tenant] }",
    "GET /v1/invoices/42 => allow with { unknown: [] }",
    # ── Who
    'GET /v1/invoices/42 => allow with { chain: ["alice", "bot"], agent: "bot", user: "alice", issuer: acme }',
    'given chain [{ agent: "planner", scopes: ["read:invoices"] }]'
    ' GET /v1/invoices/42 => allow with { chain: ["alice", "planner", "bot"] }',
    "GET /health { agent: absent, user: absent } => allow with { agent: absent, user: absent, chain: [] }",
    'GET /v1/invoices/42 => not deny with { user: user "alice", agent: agent "bot" }',
]  # fmt: skip


@pytest.mark.parametrize("claim", HOLDS)
def test_a_true_detail_passes(claim: str) -> None:
    assert failures(claim) == []


FAILS = [
    (f'{REFUND} {{ body.amount: 900, body.recipient: "x" }} => confirm with {{ message: "refund of 90 *" }}',
     'message: expected "refund of 90 *", got "refund of 900 to \\"x\\""'),
    (f'{REFUND} {{ body.amount: 6000, body.recipient: "x" }} => confirm by "two of legal"'
     ' with { message: "refund of *" }',
     'message: expected "refund of *", got "`confirm by 2 of team \\"legal\\" when body.amount > 5000`"'),
    ('GET /v1/invoices/66 => deny with { reasons: ["tenants are islands", user] }',
     'reasons: expected exactly "tenants are islands" and user, got "tenants are islands"'),
    ('POST /v1/invoices/66/refunds { user.roles: [], body.amount: 5 } => deny with { reasons: [user] }',
     'reasons: expected exactly user, got user and "tenants are islands"'),
    ('GET /v1/invoices/66 => deny with { reason: "large" }',
     'reason: expected "large", got "tenants are islands"'),
    (f'{REFUND} {{ body.amount: 900, body.recipient: "x" }} => confirm with {{ remedies: [] }}',
     'remedies: expected none, got "approval by role finance within 15m"'),
    (f'{REFUND} {{ body.amount: 900, body.recipient: "x" }} => confirm'
     ' with { remedies: ["approval by role finance within 15m", "approval by role boss"] }',
     'remedies: expected exactly "approval by role finance within 15m" and "approval by role boss", got "approval by '
     'role finance within 15m"'),
    ('GET /v1/invoices/66 => deny with { remedy: "scope *" }', 'remedy: expected "scope *", got none'),
    (f'{REFUND} {{ body.amount: 5 }} => allow with {{ obligations: ["audit full"] }}',
     'obligations: expected exactly "audit full", got "audit full" and "header X-Checked yes"'),
    (f'{REFUND} {{ body.amount: 5 }} => allow with {{ obligation: "notify *" }}',
     'obligation: expected "notify *", got "audit full" and "header X-Checked yes"'),
    (f'{REFUND} {{ body.amount: 13 }} => allow with {{ obligation: "warn even: *" }}',
     'obligation: expected "warn even: *", got "audit full", "header X-Checked yes", "warn odd: 13" '
     'and "step_up mfa"'),
    ("GET /v1/invoices/77 => deny with { unknown: [] }", "unknown: expected none, got resource.tenant"),
    ("GET /v1/invoices/77 => deny with { unknown: user.tenant }",
     "unknown: expected user.tenant, got resource.tenant"),
    ('GET /v1/invoices/42 => allow with { chain: ["bot", "alice"] }',
     'chain: expected "bot" → "alice", got "alice" → "bot"'),
    ('GET /v1/invoices/42 => allow with { chain: ["alice"] }',
     'chain: expected "alice", got "alice" → "bot"'),
    ('GET /v1/invoices/42 => allow with { agent: "planner" }', 'agent: expected "planner", got "bot"'),
    ("GET /v1/invoices/42 => allow with { user: absent }", 'user: expected none, got "alice"'),
    ("GET /health { agent: absent, user: absent } => allow with { issuer: acme }",
     'issuer: expected "acme", got none'),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "told"), FAILS, ids=[row[0] for row in FAILS])
def test_a_false_detail_is_reported_with_the_actual_value(claim: str, told: str) -> None:
    assert failures(claim) == [told]


def test_only_failing_details_are_reported() -> None:
    claim = 'GET /v1/invoices/42 => allow with { user: "bob", agent: "bot", unknown: [body.amount] }'
    assert failures(claim) == [
        'user: expected "bob", got "alice"',
        "unknown: expected exactly body.amount, got none",
    ]


def test_details_are_not_reported_when_the_outcome_differs() -> None:
    [text] = failures('GET /v1/invoices/42 => deny with { message: "x" }')
    assert "differs:" not in text
    assert "actual:   allow" in text


def test_differing_details_are_shown_below_the_actual_outcome() -> None:
    claim = 'GET /v1/invoices/42 => allow with { user: "bob", agent: "x" }'
    [result] = report(f'{POLICY} test "t" {{ use bot {claim} }}').results
    assert (
        '  actual:   allow\n  differs:  user: expected "bob", got "alice"\n'
        '            agent: expected "x", got "bot"\n  walk:\n'
    ) in result.render()


def test_the_short_form_of_a_failure_lists_the_differing_details() -> None:
    claim = 'GET /v1/invoices/42 => allow with { user: "bob", agent: "x" }'
    [result] = report(f'{POLICY} test "t" {{ use bot {claim} }}').results
    assert result.in_short == 'user: expected "bob", got "alice"; agent: expected "x", got "bot"'


def test_the_json_result_lists_differences_by_member() -> None:
    [result] = report(f'{POLICY} test "t" {{ use bot GET /v1/invoices/42 => allow with {{ user: "bob" }} }}').results
    assert result.to_dict()["differences"] == [{"member": "user", "expected": '"bob"', "actual": '"alice"'}]
    [passed] = report(f'{POLICY} test "t" {{ use bot GET /v1/invoices/42 => allow with {{ user: "alice" }} }}').results
    assert "differences" not in passed.to_dict()


def test_the_outcome_cell_of_a_table_can_have_details() -> None:
    table = """cases {
      | request             | =>                                                  |
      | GET /v1/invoices/42 | allow with { user: "alice" }                        |
      | GET /v1/invoices/66 | deny with { reason: "tenants are islands" }         |
      | GET /v1/invoices/66 | deny with { reason: "tenants are islands", user: "x" } |
    }"""
    assert failures(table) == ['user: expected "x", got "alice"']


def test_otherwise_can_have_details_with_variables() -> None:
    matrix = """cases for who in ["alice", "bob"], request in [GET /v1/invoices/66] {
      given user.id who
      otherwise deny with { user: who, chain: [who, "bot"] }
    }"""
    assert failures(matrix) == []
    assert failures(matrix.replace("user: who", 'user: "alice"')) == ['user: expected "alice", got "bob"']


# ── The laws of claims ────────────────────────────────────────────────────────────────────────


def test_every_detail_member_has_a_comparison() -> None:
    assert set(DETAIL_VALUES) == set(DETAIL_MEMBERS)


WORDS = st.sampled_from(["a", "b", "a b", "*", "", 'x"y', "guard", "user"])
REASONS = st.builds(
    Reason, st.sampled_from(list(Gate)), WORDS, st.none() | WORDS, st.none(), st.sampled_from(list(Outcome)[:3])
)
DECISIONS = st.builds(
    Decision.of,
    st.sampled_from(list(Outcome)),
    st.none(),
    st.lists(REASONS, max_size=3).map(tuple),
    remedies=st.lists(st.builds(Remedy, WORDS, need=WORDS), max_size=3).map(tuple),
    obligations=st.lists(
        st.builds(Obligation, WORDS, st.lists(WORDS, max_size=2).map(tuple), WORDS, WORDS), max_size=3
    ).map(tuple),
    unknown=st.lists(st.builds(UnknownFact, WORDS, WORDS), max_size=3).map(tuple),
    principal=st.builds(
        Principal, st.none() | WORDS, st.none() | WORDS, st.none() | WORDS, st.lists(WORDS, max_size=3).map(tuple)
    ),
)  # fmt: skip
DETAILS = st.builds(
    lambda name, wanted: ExpectedDetail(name, tuple(wanted), DETAIL_MEMBERS[name].compare),
    st.sampled_from(sorted(DETAIL_MEMBERS)),
    st.lists(WORDS | st.sampled_from(list(Gate)), max_size=3),
)
CLAIMS = st.builds(
    ExpectedOutcome,
    st.sampled_from(list(Outcome)),
    st.just(""),
    st.booleans(),
    details=st.lists(DETAILS, max_size=3).map(tuple),
)


@settings(max_examples=50)
@given(CLAIMS, DECISIONS)
def test_an_expectation_holds_when_the_outcome_matches_and_no_detail_differs(
    claim: ExpectedOutcome, decision: Decision
) -> None:
    plain = ExpectedOutcome(claim.outcome, claim.text, claim.negated)
    assert meets_expectation(claim, decision) == (
        meets_expectation(plain, decision) and not detail_differences(claim, decision)
    )


@settings(max_examples=50)
@given(CLAIMS, DECISIONS)
def test_fewer_details_never_fail_more(claim: ExpectedOutcome, decision: Decision) -> None:
    fewer = ExpectedOutcome(claim.outcome, claim.text, claim.negated, details=claim.details[1:])
    assert meets_expectation(fewer, decision) or not meets_expectation(claim, decision)


@settings(max_examples=50)
@given(DECISIONS)
def test_every_decision_meets_an_expectation_built_from_its_own_details(decision: Decision) -> None:
    for name, member in DETAIL_MEMBERS.items():
        said = DETAIL_VALUES[name](ExpectedOutcome(decision.outcome, ""), decision)
        words = tuple(one.rule or one.gate if isinstance(one, Reason) else one for one in said)
        if member.compare is DetailMatchMode.AMONG:
            details = [ExpectedDetail(name, (word,), member.compare) for word in words]
        else:
            details = [ExpectedDetail(name, words, member.compare)]
        assert meets_expectation(ExpectedOutcome(decision.outcome, "", details=tuple(details)), decision), name
