"""Pasted secrets are found, nothing else is, and no finding shows one."""

import pytest

from policyengine.lint.rules.secrets import secrets_in
from tests.lint.test_opinions import lint_text

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
SECRETS = [
    JWT,
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN EC PRIVATE KEY-----",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "11ABCDEFG0" * 5,
    "glpat-" + "a1B2" * 5,
    "xoxb-" + "123456789012-abcdef",
    "sk-proj-" + "a1B2" * 8,
    "sk-ant-api03-" + "a1B2" * 8,
    "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "hvs." + "CAESIJ1a" * 4,
    "Bearer " + "a1B2c3D4" * 4,
    "postgres://app:hunter22@db/prod",
    '"' + "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY9" + '"',
]
PLAIN = [
    "sha256:" + "9f2c41ab" * 8,
    '"' + "9f2c41ab" * 8 + '"',
    '"550e8400-e29b-41d4-a716-446655440000"',
    '"https://login.acme.example/realms/agents/protocol/openid-connect"',
    '"spiffe://acme.example/ns/payments/sa/invoice-bot"',
    '"a-very-long-name-of-an-agent-that-writes-invoices-2"',
    '"TheQuickBrownFoxJumpsOverTheLazyDogAndMore"',
    '"/v1/invoices/{id: invoice}/refunds/approvals/history"',
    "Bearer tokens are bound",
    "the bearer authorization-header-of-the-request",
    "ask-for-approval-of-large-refunds-and-more",
    "sk-something-written-in-plain-words",
    "task-1234-invoice-bot-production-eu",
    "https://acme.example:8443/a@b",
    '"read:invoices write:invoices"',
    '"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAa1"',
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_pasted_secret_is_reported_without_showing_it(secret):
    policy = f"anyone {{ # {secret}\n may GET /a }}\n"
    (found,) = [one for one in lint_text(policy) if one.code == "W265"]
    bare = secret.strip('"')
    assert bare not in found.render() + str(found.to_dict())
    assert found.span.line == 1
    assert found.span.start == policy.index(bare)


@pytest.mark.parametrize("text", PLAIN)
def test_long_text_that_is_not_a_secret_is_not_reported(text):
    assert secrets_in(text) == []


def test_a_secret_in_a_rule_is_found():
    policy = (
        'anyone { may GET /a }\nguard "x" { deny when request.headers["x-key"] == "ghp_'
        + "a1B2" * 9
        + '" message "no" }\n'
    )
    assert [one.message for one in lint_text(policy) if one.code == "W265"] == ["this looks like a GitHub token"]


def test_a_pasted_secret_can_be_allowed_with_a_reason():
    policy = f"anyone {{ may GET /a }} # {JWT}\n"
    allowed = f"# lint: allow pasted-secret because it is of RFC 7519\n{policy}"
    assert [one.code for one in lint_text(policy)] == ["W265"]
    assert [one.code for one in lint_text(allowed)] == []
