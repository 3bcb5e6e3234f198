"""Every way in which a credential is refused: one code for each, counted, logged and documented.

A code says which check failed, never what was in the credential. What the client is told is the OAuth error alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OAuthErrorCode(StrEnum):
    """What a client is told in `WWW-Authenticate` (RFC 6750, 9449, 9470) and token endpoints (RFC 6749)."""

    INVALID_REQUEST = "invalid_request"
    INVALID_TOKEN = "invalid_token"
    INVALID_DPOP_PROOF = "invalid_dpop_proof"
    USE_DPOP_NONCE = "use_dpop_nonce"


class CredentialError(Exception):
    """A credential that proves nothing: which check failed, and in words what of it. No part of a secret is in them."""

    def __init__(self, refusal: RefusalCode, why: str | None = None) -> None:
        self.refusal = refusal
        self.why = refusal.words if why is None else why
        super().__init__(self.why)


@dataclass(frozen=True, slots=True)
class RefusalInfo:
    words: str
    error: OAuthErrorCode = OAuthErrorCode.INVALID_TOKEN


class RefusalCode(StrEnum):
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
        return REFUSAL_INFO[self].words

    @property
    def error(self) -> OAuthErrorCode:
        return REFUSAL_INFO[self].error


_REQUEST, _PROOF = OAuthErrorCode.INVALID_REQUEST, OAuthErrorCode.INVALID_DPOP_PROOF
REFUSAL_INFO: dict[RefusalCode, RefusalInfo] = {
    RefusalCode.UNPROVED: RefusalInfo("who asks is only said, and here it has to be proved", _REQUEST),
    RefusalCode.NO_SCHEME: RefusalInfo("`Authorization` has no scheme that is understood", _REQUEST),
    RefusalCode.TWO_CREDENTIALS: RefusalInfo("two credentials say who asks, and only one may", _REQUEST),
    RefusalCode.TOO_LARGE: RefusalInfo("the credential is too large", _REQUEST),
    RefusalCode.UNKNOWN_ISSUER: RefusalInfo("no policy trusts its issuer"),
    RefusalCode.NOT_A_TOKEN: RefusalInfo("it is no token"),
    RefusalCode.DUPLICATE_MEMBER: RefusalInfo("a member is there twice"),
    RefusalCode.TOO_DEEP: RefusalInfo("it is nested too deep"),
    RefusalCode.ALGORITHM: RefusalInfo("its algorithm is not allowed"),
    RefusalCode.CRITICAL_HEADER: RefusalInfo("its header demands what is not understood"),
    RefusalCode.KEY_IN_TOKEN: RefusalInfo("it brings its own key"),
    RefusalCode.ENCODING: RefusalInfo("it is encoded in a way that is not allowed"),
    RefusalCode.TOKEN_TYPE: RefusalInfo("it is a token of another type"),
    RefusalCode.KEY_ID: RefusalInfo("its key id is none"),
    RefusalCode.UNKNOWN_KEY: RefusalInfo("its issuer has no such key"),
    RefusalCode.WEAK_KEY: RefusalInfo("the key of its issuer is too weak"),
    RefusalCode.WRONG_KEY_USE: RefusalInfo("the key of its issuer is for something else"),
    RefusalCode.SIGNATURE: RefusalInfo("its signature does not hold"),
    RefusalCode.PROVIDER: RefusalInfo("its issuer cannot be asked now"),
    RefusalCode.ISSUER: RefusalInfo("it names another issuer"),
    RefusalCode.AUDIENCE: RefusalInfo("it is for somebody else"),
    RefusalCode.EXPIRED: RefusalInfo("it has expired"),
    RefusalCode.NOT_YET: RefusalInfo("it is not valid yet"),
    RefusalCode.ISSUED_LATER: RefusalInfo("it was issued in the future"),
    RefusalCode.MISSING_CLAIM: RefusalInfo("a claim is missing"),
    RefusalCode.CLAIM_TYPE: RefusalInfo("a claim is of the wrong type"),
    RefusalCode.INACTIVE: RefusalInfo("its issuer says that it is not active"),
    RefusalCode.REPLAYED: RefusalInfo("it was used before, and may be used once"),
    RefusalCode.REVOKED: RefusalInfo("it was revoked, or somebody in its chain was"),
    RefusalCode.CONTRADICTION: RefusalInfo("it says two different things"),
    RefusalCode.ACTOR: RefusalInfo("who acts cannot be told from it"),
    RefusalCode.ACTOR_CYCLE: RefusalInfo("somebody is in its chain twice"),
    RefusalCode.ACTOR_DEPTH: RefusalInfo("its chain is too long"),
    RefusalCode.MAY_NOT_ACT: RefusalInfo("whoever acts is not who may act"),
    RefusalCode.PROOF_MISSING: RefusalInfo("it is bound to a key, and the proof is missing", _PROOF),
    RefusalCode.PROOF_TWICE: RefusalInfo("there is more than one proof", _PROOF),
    RefusalCode.PROOF: RefusalInfo("the proof is none", _PROOF),
    RefusalCode.PROOF_METHOD: RefusalInfo("the proof is for another method", _PROOF),
    RefusalCode.PROOF_URL: RefusalInfo("the proof is for another URL", _PROOF),
    RefusalCode.FOREIGN_HOST: RefusalInfo("what the presenter signed is for a host that is none of ours"),
    RefusalCode.PROOF_TOKEN: RefusalInfo("the proof is for another token", _PROOF),
    RefusalCode.PROOF_TIME: RefusalInfo("the proof is too old, or of the future", _PROOF),
    RefusalCode.PROOF_REPLAYED: RefusalInfo("the proof was used before", _PROOF),
    RefusalCode.PROOF_NONCE: RefusalInfo("the proof needs a nonce of ours", OAuthErrorCode.USE_DPOP_NONCE),
    RefusalCode.PROOF_KEY: RefusalInfo("the proof is by a key that is not allowed", _PROOF),
    RefusalCode.BOUND_TO_OTHER: RefusalInfo("it is bound to another key"),
    RefusalCode.NOT_BOUND: RefusalInfo("a proof came with a token that is bound to nothing"),
    RefusalCode.BOUND_HOW: RefusalInfo("it is bound in a way that is not understood"),
    RefusalCode.WRONG_SCHEME: RefusalInfo("it is bound to a key, and came as if it were not", _PROOF),
    RefusalCode.CERTIFICATE: RefusalInfo("the client certificate is none"),
    RefusalCode.CERTIFICATE_CHAIN: RefusalInfo("the client certificate leads to nobody who is trusted"),
    RefusalCode.CERTIFICATE_TIME: RefusalInfo("the client certificate is not valid now"),
    RefusalCode.UNTRUSTED_PROXY: RefusalInfo("whoever passed the client certificate on may not"),
    RefusalCode.SPIFFE_ID: RefusalInfo("it names no SPIFFE id, or more than one"),
    RefusalCode.TRUST_DOMAIN: RefusalInfo("no policy trusts its trust domain"),
    RefusalCode.MESSAGE_SIGNATURE: RefusalInfo("the signature of the message does not hold"),
    RefusalCode.MESSAGE_COMPONENTS: RefusalInfo("the signature does not cover what it must"),
    RefusalCode.MESSAGE_TIME: RefusalInfo("the signature of the message is too old, or of the future"),
    RefusalCode.MESSAGE_REPLAYED: RefusalInfo("the signature of the message was used before"),
    RefusalCode.CONTENT_DIGEST: RefusalInfo("the digest is of another body"),
    RefusalCode.API_KEY: RefusalInfo("the key is not known"),
    RefusalCode.ATTESTATION: RefusalInfo("the attestation is none"),
    RefusalCode.ATTESTER: RefusalInfo("no policy trusts whoever attests"),
    RefusalCode.ATTESTATION_NONCE: RefusalInfo("the attestation answers no nonce of ours, or one that was used"),
    RefusalCode.ATTESTATION_AGE: RefusalInfo("the attestation is too old, or of the future"),
    RefusalCode.ATTESTATION_KEY: RefusalInfo("the attestation is of somebody else's key"),
    RefusalCode.ATTESTED_MODEL: RefusalInfo("the attested model is not allowed"),
    RefusalCode.ATTESTED_ENVIRONMENT: RefusalInfo("the attested environment is not allowed"),
    RefusalCode.FAILURE: RefusalInfo("it could not be looked at; the operator's log says why"),
    RefusalCode.STORE: RefusalInfo("whether it was used or revoked is not known"),
}


def parse_refusal_code(raw: object) -> str:
    """The code in `credential.refused`: whatever is there, the credential is refused."""
    return raw if isinstance(raw, str) and raw in REFUSAL_INFO else "refused"


def describe_refusal(code: str) -> str:
    return RefusalCode(code).words if code in REFUSAL_INFO else "whoever looked at it does not say why"
