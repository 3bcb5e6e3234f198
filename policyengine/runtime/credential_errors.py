"""Every way in which a credential is refused: one code for each, counted, logged and documented.

A code says which check failed, never what was in the credential. What the client is told is the OAuth error alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OAuthError(StrEnum):
    """What a client is told in `WWW-Authenticate` (RFC 6750, 9449, 9470) and token endpoints (RFC 6749)."""

    INVALID_REQUEST = "invalid_request"
    INVALID_TOKEN = "invalid_token"
    INVALID_DPOP_PROOF = "invalid_dpop_proof"
    USE_DPOP_NONCE = "use_dpop_nonce"


class Refused(Exception):
    """A credential that proves nothing: which check failed, and in words what of it. No part of a secret is in them."""

    def __init__(self, refusal: Refusal, why: str | None = None) -> None:
        self.refusal = refusal
        self.why = refusal.words if why is None else why
        super().__init__(self.why)


@dataclass(frozen=True, slots=True)
class Known:
    words: str
    error: OAuthError = OAuthError.INVALID_TOKEN


class Refusal(StrEnum):
    """The value is the code in `reasons`, in metrics and in docs/identity.md."""

    # ── What was presented
    UNPROVED = "unproved"
    NO_SCHEME = "no_scheme"
    TWO_CREDENTIALS = "two_credentials"
    TOO_LARGE = "too_large"
    UNKNOWN_ISSUER = "unknown_issuer"
    # ── The form of a token
    NOT_A_TOKEN = "not_a_token"
    DUPLICATE_MEMBER = "duplicate_member"
    TOO_DEEP = "too_deep"
    ALGORITHM = "algorithm"
    CRITICAL_HEADER = "critical_header"
    KEY_IN_TOKEN = "key_in_token"
    ENCODING = "encoding"
    TOKEN_TYPE = "token_type"
    KEY_ID = "key_id"
    # ── Its signature
    UNKNOWN_KEY = "unknown_key"
    WEAK_KEY = "weak_key"
    WRONG_KEY_USE = "wrong_key_use"
    SIGNATURE = "signature"
    PROVIDER = "provider"
    # ── What it says
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    ISSUED_LATER = "issued_later"
    MISSING_CLAIM = "missing_claim"
    CLAIM_TYPE = "claim_type"
    INACTIVE = "inactive"
    REPLAYED = "replayed"
    REVOKED = "revoked"
    # ── On whose behalf
    CONTRADICTION = "contradiction"
    ACTOR = "actor"
    ACTOR_CYCLE = "actor_cycle"
    ACTOR_DEPTH = "actor_depth"
    MAY_NOT_ACT = "may_not_act"
    # ── Bound to its presenter
    PROOF_MISSING = "proof_missing"
    PROOF_TWICE = "proof_twice"
    PROOF = "proof"
    PROOF_METHOD = "proof_method"
    PROOF_URL = "proof_url"
    FOREIGN_HOST = "foreign_host"
    PROOF_TOKEN = "proof_token"
    PROOF_TIME = "proof_time"
    PROOF_REPLAYED = "proof_replayed"
    PROOF_NONCE = "proof_nonce"
    PROOF_KEY = "proof_key"
    BOUND_TO_OTHER = "bound_to_other"
    NOT_BOUND = "not_bound"
    BOUND_HOW = "bound_how"
    WRONG_SCHEME = "wrong_scheme"
    CERTIFICATE = "certificate"
    CERTIFICATE_CHAIN = "certificate_chain"
    CERTIFICATE_TIME = "certificate_time"
    UNTRUSTED_PROXY = "untrusted_proxy"
    SPIFFE_ID = "spiffe_id"
    TRUST_DOMAIN = "trust_domain"
    MESSAGE_SIGNATURE = "message_signature"
    MESSAGE_COMPONENTS = "message_components"
    MESSAGE_TIME = "message_time"
    MESSAGE_REPLAYED = "message_replayed"
    CONTENT_DIGEST = "content_digest"
    # ── API keys
    API_KEY = "api_key"
    # ── Attested
    ATTESTATION = "attestation"
    ATTESTER = "attester"
    ATTESTATION_NONCE = "attestation_nonce"
    ATTESTATION_AGE = "attestation_age"
    ATTESTATION_KEY = "attestation_key"
    ATTESTED_MODEL = "attested_model"
    ATTESTED_ENVIRONMENT = "attested_environment"
    # ── We ourselves
    FAILURE = "failure"
    STORE = "store"

    @property
    def words(self) -> str:
        return KNOWN[self].words

    @property
    def error(self) -> OAuthError:
        return KNOWN[self].error


_REQUEST, _PROOF = OAuthError.INVALID_REQUEST, OAuthError.INVALID_DPOP_PROOF
KNOWN: dict[Refusal, Known] = {
    Refusal.UNPROVED: Known("who asks is only said, and here it has to be proved", _REQUEST),
    Refusal.NO_SCHEME: Known("`Authorization` has no scheme that is understood", _REQUEST),
    Refusal.TWO_CREDENTIALS: Known("two credentials say who asks, and only one may", _REQUEST),
    Refusal.TOO_LARGE: Known("the credential is too large", _REQUEST),
    Refusal.UNKNOWN_ISSUER: Known("no policy trusts its issuer"),
    Refusal.NOT_A_TOKEN: Known("it is no token"),
    Refusal.DUPLICATE_MEMBER: Known("a member is there twice"),
    Refusal.TOO_DEEP: Known("it is nested too deep"),
    Refusal.ALGORITHM: Known("its algorithm is not allowed"),
    Refusal.CRITICAL_HEADER: Known("its header demands what is not understood"),
    Refusal.KEY_IN_TOKEN: Known("it brings its own key"),
    Refusal.ENCODING: Known("it is encoded in a way that is not allowed"),
    Refusal.TOKEN_TYPE: Known("it is a token of another type"),
    Refusal.KEY_ID: Known("its key id is none"),
    Refusal.UNKNOWN_KEY: Known("its issuer has no such key"),
    Refusal.WEAK_KEY: Known("the key of its issuer is too weak"),
    Refusal.WRONG_KEY_USE: Known("the key of its issuer is for something else"),
    Refusal.SIGNATURE: Known("its signature does not hold"),
    Refusal.PROVIDER: Known("its issuer cannot be asked now"),
    Refusal.ISSUER: Known("it names another issuer"),
    Refusal.AUDIENCE: Known("it is for somebody else"),
    Refusal.EXPIRED: Known("it has expired"),
    Refusal.NOT_YET: Known("it is not valid yet"),
    Refusal.ISSUED_LATER: Known("it was issued in the future"),
    Refusal.MISSING_CLAIM: Known("a claim is missing"),
    Refusal.CLAIM_TYPE: Known("a claim is of the wrong type"),
    Refusal.INACTIVE: Known("its issuer says that it is not active"),
    Refusal.REPLAYED: Known("it was used before, and may be used once"),
    Refusal.REVOKED: Known("it was revoked, or somebody in its chain was"),
    Refusal.CONTRADICTION: Known("it says two different things"),
    Refusal.ACTOR: Known("who acts cannot be told from it"),
    Refusal.ACTOR_CYCLE: Known("somebody is in its chain twice"),
    Refusal.ACTOR_DEPTH: Known("its chain is too long"),
    Refusal.MAY_NOT_ACT: Known("whoever acts is not who may act"),
    Refusal.PROOF_MISSING: Known("it is bound to a key, and the proof is missing", _PROOF),
    Refusal.PROOF_TWICE: Known("there is more than one proof", _PROOF),
    Refusal.PROOF: Known("the proof is none", _PROOF),
    Refusal.PROOF_METHOD: Known("the proof is for another method", _PROOF),
    Refusal.PROOF_URL: Known("the proof is for another URL", _PROOF),
    Refusal.FOREIGN_HOST: Known("what the presenter signed is for a host that is none of ours"),
    Refusal.PROOF_TOKEN: Known("the proof is for another token", _PROOF),
    Refusal.PROOF_TIME: Known("the proof is too old, or of the future", _PROOF),
    Refusal.PROOF_REPLAYED: Known("the proof was used before", _PROOF),
    Refusal.PROOF_NONCE: Known("the proof needs a nonce of ours", OAuthError.USE_DPOP_NONCE),
    Refusal.PROOF_KEY: Known("the proof is by a key that is not allowed", _PROOF),
    Refusal.BOUND_TO_OTHER: Known("it is bound to another key"),
    Refusal.NOT_BOUND: Known("a proof came with a token that is bound to nothing"),
    Refusal.BOUND_HOW: Known("it is bound in a way that is not understood"),
    Refusal.WRONG_SCHEME: Known("it is bound to a key, and came as if it were not", _PROOF),
    Refusal.CERTIFICATE: Known("the client certificate is none"),
    Refusal.CERTIFICATE_CHAIN: Known("the client certificate leads to nobody who is trusted"),
    Refusal.CERTIFICATE_TIME: Known("the client certificate is not valid now"),
    Refusal.UNTRUSTED_PROXY: Known("whoever passed the client certificate on may not"),
    Refusal.SPIFFE_ID: Known("it names no SPIFFE id, or more than one"),
    Refusal.TRUST_DOMAIN: Known("no policy trusts its trust domain"),
    Refusal.MESSAGE_SIGNATURE: Known("the signature of the message does not hold"),
    Refusal.MESSAGE_COMPONENTS: Known("the signature does not cover what it must"),
    Refusal.MESSAGE_TIME: Known("the signature of the message is too old, or of the future"),
    Refusal.MESSAGE_REPLAYED: Known("the signature of the message was used before"),
    Refusal.CONTENT_DIGEST: Known("the digest is of another body"),
    Refusal.API_KEY: Known("the key is not known"),
    Refusal.ATTESTATION: Known("the attestation is none"),
    Refusal.ATTESTER: Known("no policy trusts whoever attests"),
    Refusal.ATTESTATION_NONCE: Known("the attestation answers no nonce of ours, or one that was used"),
    Refusal.ATTESTATION_AGE: Known("the attestation is too old, or of the future"),
    Refusal.ATTESTATION_KEY: Known("the attestation is of somebody else's key"),
    Refusal.ATTESTED_MODEL: Known("the attested model is not allowed"),
    Refusal.ATTESTED_ENVIRONMENT: Known("the attested environment is not allowed"),
    Refusal.FAILURE: Known("it could not be looked at; the operator's log says why"),
    Refusal.STORE: Known("whether it was used or revoked is not known"),
}


def refusal_of(raw: object) -> str:
    """The code in `credential.refused`: whatever is there, the credential is refused."""
    return raw if isinstance(raw, str) and raw in KNOWN else "refused"


def words_of(code: str) -> str:
    return Refusal(code).words if code in KNOWN else "whoever looked at it does not say why"
