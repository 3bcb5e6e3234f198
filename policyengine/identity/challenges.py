"""What a client is told that has to prove who it is: a challenge of RFC 6750 or 9449, by how it was refused."""

from __future__ import annotations

from policyengine.identity.authenticator import Identity
from policyengine.identity.config.model import SAFE_ALGORITHMS
from policyengine.runtime.credential_errors import KNOWN, OAuthError, Refusal
from policyengine.runtime.decision import Decision

Lines = tuple[tuple[str, str], ...]
REALM = 'realm="agents"'
ALGORITHMS = " ".join(SAFE_ALGORITHMS)
OF_PROOFS = (OAuthError.INVALID_DPOP_PROOF, OAuthError.USE_DPOP_NONCE)


def challenges_of(decision: Decision, identity: Identity | None = None) -> Lines:
    """`WWW-Authenticate`, and a nonce where one is needed: which check failed, and nothing of a secret. Of proofs it
    says by which algorithms they may be (RFC 9449, 7.1)."""
    code = decision.reasons[0].code if decision.reasons else None
    if code not in KNOWN:
        return (("www-authenticate", f"Bearer {REALM}"),)
    return challenge(Refusal(code), identity)


def challenge(refusal: Refusal, identity: Identity | None) -> Lines:
    said = f'{REALM}, error="{refusal.error}", error_description="{described(refusal)}"'
    if refusal.error not in OF_PROOFS:
        return (("www-authenticate", f"Bearer {said}"),)
    nonce = None if identity is None else identity.nonce()
    return (("www-authenticate", f'DPoP {said}, algs="{ALGORITHMS}"'), *((("dpop-nonce", nonce),) if nonce else ()))


def described(refusal: Refusal) -> str:
    """Of the characters that RFC 6750 allows there."""
    return refusal.words.replace("`", "'").replace('"', "'").replace("\\", "/")
