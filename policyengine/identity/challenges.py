"""Challenges (RFC 6750, RFC 9449) for clients whose credentials are missing or refused."""

from __future__ import annotations

from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import SAFE_ALGORITHMS
from policyengine.runtime.credential_errors import REFUSAL_INFO, OAuthErrorCode, RefusalCode
from policyengine.runtime.decision import Decision

ChallengeHeaders = tuple[tuple[str, str], ...]
REALM = 'realm="agents"'
ALGORITHMS = " ".join(SAFE_ALGORITHMS)
PROOF_ERRORS = (OAuthErrorCode.INVALID_DPOP_PROOF, OAuthErrorCode.USE_DPOP_NONCE)


def challenge_headers(decision: Decision, identity: CredentialAuthenticator | None = None) -> ChallengeHeaders:
    """Return `WWW-Authenticate`, and a nonce if one is needed. The challenge names the check that failed and contains
    no secret; for DPoP it lists the accepted algorithms (RFC 9449, 7.1)."""
    code = decision.reasons[0].code if decision.reasons else None
    if code not in REFUSAL_INFO:
        return (("www-authenticate", f"Bearer {REALM}"),)
    return challenge_for_refusal(RefusalCode(code), identity)


def challenge_for_refusal(refusal: RefusalCode, identity: CredentialAuthenticator | None) -> ChallengeHeaders:
    said = f'{REALM}, error="{refusal.error}", error_description="{quotable_description(refusal)}"'
    if refusal.error not in PROOF_ERRORS:
        return (("www-authenticate", f"Bearer {said}"),)
    nonce = None if identity is None else identity.nonce()
    return (("www-authenticate", f'DPoP {said}, algs="{ALGORITHMS}"'), *((("dpop-nonce", nonce),) if nonce else ()))


def quotable_description(refusal: RefusalCode) -> str:
    """Return the description with only those characters that RFC 6750 allows."""
    return refusal.words.replace("`", "'").replace('"', "'").replace("\\", "/")
