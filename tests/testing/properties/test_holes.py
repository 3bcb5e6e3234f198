"""Holes made in sound policies are found, and nothing is found where there is none."""

from __future__ import annotations

import pytest

from policyengine.testcases import Case
from policyengine.testing import ResultStatus, collect, run
from policyengine.testing.properties import ClaimVerdict
from tests.depth import examples, scaled
from tests.testing.properties.trials import (
    OF_PAYMENTS,
    OF_PROJECTS,
    PAYMENTS,
    PROJECTS,
    TENANCY,
    Texts,
    checked,
    tried,
    with_hole,
)

ISLANDS = "user.tenant != resource.tenant => not allow"
LARGE = 'request.path like "*/refunds" and body.amount > 10_000 => not allow'
UNASKED = 'request.path like "*/refunds" and body.amount > 500 and not approval.granted => not allow'
ATTESTED = 'agent.id == "archivist" and request.method == "DELETE" and attestation.verified is absent => not allow'
STALE = 'agent.id == "archivist" and request.method == "DELETE" and attestation.age > 1h => not allow'
LASTING = 'agent.id == "invoice-bot" and request.path != "/health" and credential.lifetime > 15m => not allow'
STATIC = 'agent.id == "invoice-bot" and request.path != "/health" and credential.kind == api_key => not allow'
NO_CLERK = 'not (user.roles has "clerk") and request.path != "/health" => not allow'
HANDED_ON = 'agent.id == "summarizer" and request.path like "/v1/*" and chain.root == "archivist" => not allow'
NIGHT = 'request.path like "*/refunds" and request.ip is absent and not approval.granted' \
    ' and not (time within mon..fri 08:00..18:00 "Europe/Berlin") => not allow'  # fmt: skip
ABSENT = "user.tenant is absent and resource.tenant is present => not allow"
UNHEARD = 'not resource is known and request.path like "/v1/invoices/*" => not allow'
CLOUD = "user.tenant != tenancy.tenant(params.tenant) => not allow"
SUSPENDED = 'user.tenant.suspended and request.method == "POST" => not allow'
EXPORT = 'agent.id is present and user.tenant.plan == team and request.path like "*/export" => not allow'
STRAY = "not (resource in tenancy.tenant(params.tenant)) => not allow"
FOREIGN = 'request.method == "DELETE" and user != resource.owner and not approval.granted => not allow'

IN_PAYMENTS = [
    (ISLANDS, "  require same_tenant\n", "  audit full\n"),
    (ISLANDS, "  require same_tenant\n", "  require same_tenant or user.plan == enterprise\n"),
    (ISLANDS, "/**, ACTION view invoice,", "/**,"),
    (ISLANDS, "on /v1/invoices/{id}/**,", "on /v1/invoices/{id}/refunds,"),
    (ABSENT, "define same_tenant = user.tenant ==", 'define same_tenant = user.tenant else "acme" =='),
    (UNHEARD, "  require same_tenant\n", "  audit full\n"),
    (UNHEARD, "  require same_tenant\n", "  deny when resource is known and not same_tenant\n"),
    (LARGE, "deny when body.amount > 10_000", "deny when body.amount > 100_000"),
    (LARGE, "deny when body.amount > 10_000", "deny when body.amount == 10_000"),
    (UNASKED, "when body.amount > 500 message", "when body.amount > 501 message"),
    (ATTESTED, "   attested by lab ", "  "),
    (STALE, "age <= 1h ", "age <= 24h "),
    (LASTING, "lifetime <= 15m", "lifetime <= 16m"),
    (STATIC, "kind in [jwt, mtls]", "kind in [jwt, mtls, api_key]"),
    (NO_CLERK, 'user where user.roles has "clerk" {', "user any {"),
    (HANDED_ON, "attested by lab   may", 'attested by lab   may delegate invoices.read to agent "summarizer"   may'),
    (NIGHT, "unless office_hours or request.ip within internal", "unless office_hours or request.ip is absent"),
]
IN_PROJECTS = [
    (CLOUD, "require user.tenant == tenant(params.tenant)", "require user.tenant is present"),
    (SUSPENDED, "deny when user.tenant.suspended", "deny unless user.tenant.suspended"),
    (SUSPENDED, "except GET /t/", "except GET|POST /t/"),
    (EXPORT, "user.tenant.plan == enterprise", "user.tenant.plan >= team"),
    (STRAY, "  require resource in tenancy.tenant(params.tenant)\n", "  audit full\n"),
    (FOREIGN, "unless user == resource.owner", 'unless user.roles has "member"'),
]
HOLES = [
    *(((PAYMENTS,), f'{OF_PAYMENTS}test "c" {{ forall request where {claim} }}', a, b) for claim, a, b in IN_PAYMENTS),
    *(((TENANCY, PROJECTS), f'{OF_PROJECTS}test "c" {{ forall request where {claim} }}', a, b)
      for claim, a, b in IN_PROJECTS),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "claim", "sound", "hole"), HOLES, ids=[hole.strip() for *_, hole in HOLES])
def test_a_hole_is_found_and_its_pasted_counterexample_fails_equally(
    texts: Texts, claim: str, sound: str, hole: str
) -> None:
    broken = with_hole(texts, sound, hole)
    [result] = tried(broken, claim)
    assert result.verdict is ClaimVerdict.FAILED
    assert result.text is not None
    assert result.result is not None
    pasted = checked(*broken, claim, f"{claim.partition('test ')[0]}{result.text}")
    assert pasted.kernel is not None
    [again] = run(collect(pasted), pasted.kernel).results
    assert again.status is ResultStatus.FAILED
    assert result.result.decision is not None
    assert again.decision is not None
    assert again.decision.answer == result.result.decision.answer
    assert result.counterexample is not None
    assert asked(again.case) == asked(result.counterexample)


def asked(case: Case) -> tuple[object, ...]:
    """Everything that a decision may depend on."""
    approvals = [(one.rule, one.by, one.issuer, one.age) for one in case.approvals]
    return case.question, case.rows, case.attributes, approvals, case.now, case.expected


@scaled
@pytest.mark.parametrize(("texts", "claim"), dict.fromkeys((texts, claim) for texts, claim, *_ in HOLES))
def test_a_sound_policy_passes_the_claim(texts: Texts, claim: str) -> None:
    if claim.endswith(f"{HANDED_ON} }}"):  # there is no such chain: all is tried that may be
        [result] = tried(texts, claim, examples=examples(5, 100))
        assert result.verdict in (ClaimVerdict.PASSED, ClaimVerdict.UNDECIDED)
    else:
        [result] = tried(texts, claim, examples=examples(20, 100))
        assert result.verdict is ClaimVerdict.PASSED, result.render()


@pytest.mark.parametrize(
    ("approver", "issuers"), [("role finance", "partner"), ("user", "partner, acme"), ('2 of team "money"', "acme")]
)
def test_a_request_with_approvals_of_the_issuers_after_from_is_tried(approver: str, issuers: str) -> None:
    policy = f"""package shop
    entity team
    entity user {{ roles: set<string> }} in team
    issuer acme {{ scopes none }}
    issuer partner {{ scopes none   users like "*@partner.example" }}
    user any {{ may POST /pay }}
    guard "ask" on POST /pay {{ confirm by {approver} from {issuers} }}
    """
    claim = 'package shop\ntest "c" { forall request where approval.granted => not allow }'
    [result] = tried((policy,), claim, examples=60)
    assert result.verdict is ClaimVerdict.FAILED
    assert result.text is not None
    pasted = checked(policy, claim, f"package shop\n{result.text}")
    assert pasted.kernel is not None, [one.render() for one in pasted.diagnostics]
    [again] = run(collect(pasted), pasted.kernel).results
    assert again.status is ResultStatus.FAILED
    assert "issuer: " in result.text
