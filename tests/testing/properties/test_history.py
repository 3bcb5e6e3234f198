"""Claims about policies that ask of the past: nothing happened before, in the trial and in the test that is printed."""

import pytest

from policyengine.testing.properties import ClaimVerdict
from tests.testing.properties.trials import tried

POLICY = """package claims
facts on /claims/{id}/payments { body.amount: number }
issuer acme { url "https://acme.example"   scopes none }
users unrestricted
agent "bot" { issued by acme   acts for any user   may POST /claims/{id}/approvals, POST /claims/{id}/payments }
"""
APPROVED = """guard "approved" on POST /claims/{id}/payments {
  require after (POST /claims/{id}/approvals by another user where past.params.id == params.id) within 1h
}
"""
OFTEN = 'guard "often" on POST /claims/{id}/payments { deny when count of POST /claims/{id}/approvals within 1h > 0 }\n'
CLAIM = 'forall request where request.path like "/claims/*/payments"'


@pytest.mark.parametrize(
    ("guard", "claim", "verdict"),
    [
        (APPROVED, f"{CLAIM} => deny", ClaimVerdict.PASSED),
        (OFTEN, f"{CLAIM} => deny", ClaimVerdict.FAILED),
        ("", f"{CLAIM} => deny", ClaimVerdict.FAILED),
    ],
)
def test_drawn_requests_have_an_empty_history(guard: str, claim: str, verdict: ClaimVerdict) -> None:
    test = f'package claims\ntest "t" {{ given agent "bot" from acme for user "ann"   {claim} }}'
    (result,) = tried((POLICY + guard,), test, examples=60)
    assert result.verdict is verdict
