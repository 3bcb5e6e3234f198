"""Refusals of credentials: one code for each failed check. Codes are counted, logged and documented.

A code says which check failed, never what the credential contains. The client gets only the OAuth error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OAuthErrorCode(StrEnum):
    """Errors for clients in `WWW-Authenticate` (RFC 6750, 9449, 9470) and at token endpoints (RFC 6749)."""

    INVALID_REQUEST = "invalid_request"
    INVALID_TOKEN = "invalid_token"
    INVALID_DPOP_PROOF = "invalid_dpop_proof"
    USE_DPOP_NONCE = "use_dpop_nonce"


class CredentialError(Exception):
    """The error for a refused credential: the code of the failed check, and a message that contains no part of a
    secret.
    """

    def __init__(self, refusal: RefusalCode, why: str | None = None) -> None:
        self.refusal = refusal
        self.why = refusal.words if why is None else why
        super().__init__(self.why)


@dataclass(frozen=True, slots=True)
class RefusalInfo:
    words: str
    error: OAuthErrorCode = OAuthErrorCode.INVALID_TOKEN


class RefusalCode(StrEnum):
    """A failed check. The value is the code in `reasons`, in metrics and in docs/identity.md."""

    # ── The presented credentials
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
    # ── The signature of a token
    UNKNOWN_KEY = "unknown_key"
    WEAK_KEY = "weak_key"
    WRONG_KEY_USE = "wrong_key_use"
    SIGNATURE = "signature"
    PROVIDER = "provider"
    # ── The claims of a token
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
    # ── Delegation
    CONTRADICTION = "contradiction"
    ACTOR = "actor"
    ACTOR_CYCLE = "actor_cycle"
    ACTOR_DEPTH = "actor_depth"
    MAY_NOT_ACT = "may_not_act"
    # ── Proof of possession
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
    # ── Attestation
    ATTESTATION = "attestation"
    ATTESTER = "attester"
    ATTESTATION_NONCE = "attestation_nonce"
    ATTESTATION_AGE = "attestation_age"
    ATTESTATION_KEY = "attestation_key"
    ATTESTED_MODEL = "attested_model"
    ATTESTED_ENVIRONMENT = "attested_environment"
    # ── Failures of this server
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
    RefusalCode.UNPROVED: RefusalInfo(
        "the request names a caller without a credential, and a credential is required", _REQUEST
    ),
    RefusalCode.NO_SCHEME: RefusalInfo("the scheme of `Authorization` is not supported", _REQUEST),
    RefusalCode.TWO_CREDENTIALS: RefusalInfo("the request has two credentials, and only one is allowed", _REQUEST),
    RefusalCode.TOO_LARGE: RefusalInfo("the credential is too large", _REQUEST),
    RefusalCode.UNKNOWN_ISSUER: RefusalInfo("no policy trusts the issuer of the credential"),
    RefusalCode.NOT_A_TOKEN: RefusalInfo("the credential is not a valid token"),
    RefusalCode.DUPLICATE_MEMBER: RefusalInfo("a member of the token appears twice"),
    RefusalCode.TOO_DEEP: RefusalInfo("the token is nested too deeply"),
    RefusalCode.ALGORITHM: RefusalInfo("the algorithm of the token is not allowed"),
    RefusalCode.CRITICAL_HEADER: RefusalInfo("the header of the token has a critical parameter that is not supported"),
    RefusalCode.KEY_IN_TOKEN: RefusalInfo("the token contains its own key"),
    RefusalCode.ENCODING: RefusalInfo("the encoding of the token is not allowed"),
    RefusalCode.TOKEN_TYPE: RefusalInfo("the type of the token is not allowed"),
    RefusalCode.KEY_ID: RefusalInfo("the key ID of the token is malformed"),
    RefusalCode.UNKNOWN_KEY: RefusalInfo("the issuer has no key with this key ID"),
    RefusalCode.WEAK_KEY: RefusalInfo("the key of the issuer is too weak"),
    RefusalCode.WRONG_KEY_USE: RefusalInfo("the key of the issuer is for another use"),
    RefusalCode.SIGNATURE: RefusalInfo("the signature of the token is not valid"),
    RefusalCode.PROVIDER: RefusalInfo("the issuer of the token does not respond"),
    RefusalCode.ISSUER: RefusalInfo("the token names another issuer"),
    RefusalCode.AUDIENCE: RefusalInfo("the token is for another audience"),
    RefusalCode.EXPIRED: RefusalInfo("the credential has expired"),
    RefusalCode.NOT_YET: RefusalInfo("the credential is not valid yet"),
    RefusalCode.ISSUED_LATER: RefusalInfo("the credential was issued in the future"),
    RefusalCode.MISSING_CLAIM: RefusalInfo("a required claim is missing"),
    RefusalCode.CLAIM_TYPE: RefusalInfo("a claim has the wrong type"),
    RefusalCode.INACTIVE: RefusalInfo("the issuer says that the token is not active"),
    RefusalCode.REPLAYED: RefusalInfo("the token was used before, and may be used only once"),
    RefusalCode.REVOKED: RefusalInfo("the token was revoked, or an agent or user in its chain was revoked"),
    RefusalCode.CONTRADICTION: RefusalInfo("the credential contradicts itself or another credential"),
    RefusalCode.ACTOR: RefusalInfo("the token does not identify the acting agent"),
    RefusalCode.ACTOR_CYCLE: RefusalInfo("an agent appears twice in the chain of the token"),
    RefusalCode.ACTOR_DEPTH: RefusalInfo("the chain of the token is too long"),
    RefusalCode.MAY_NOT_ACT: RefusalInfo("the token does not allow the acting agent (`may_act`)"),
    RefusalCode.PROOF_MISSING: RefusalInfo("the token is bound to a key, but the proof is missing", _PROOF),
    RefusalCode.PROOF_TWICE: RefusalInfo("the request has more than one proof", _PROOF),
    RefusalCode.PROOF: RefusalInfo("the DPoP proof is malformed", _PROOF),
    RefusalCode.PROOF_METHOD: RefusalInfo("the proof is for another method", _PROOF),
    RefusalCode.PROOF_URL: RefusalInfo("the proof is for another URL", _PROOF),
    RefusalCode.FOREIGN_HOST: RefusalInfo("the proof or signature is for a host that this server does not serve"),
    RefusalCode.PROOF_TOKEN: RefusalInfo("the proof is for another token", _PROOF),
    RefusalCode.PROOF_TIME: RefusalInfo("the proof is too old, or from the future", _PROOF),
    RefusalCode.PROOF_REPLAYED: RefusalInfo("the proof was used before", _PROOF),
    RefusalCode.PROOF_NONCE: RefusalInfo("the proof needs a nonce from this server", OAuthErrorCode.USE_DPOP_NONCE),
    RefusalCode.PROOF_KEY: RefusalInfo("the key of the proof is not allowed", _PROOF),
    RefusalCode.BOUND_TO_OTHER: RefusalInfo("the token is bound to another key"),
    RefusalCode.NOT_BOUND: RefusalInfo("the request has a proof, but its token is not bound to a key"),
    RefusalCode.BOUND_HOW: RefusalInfo("the binding of the token is not supported"),
    RefusalCode.WRONG_SCHEME: RefusalInfo(
        "the token is bound to a key, but was sent with the scheme of an unbound token", _PROOF
    ),
    RefusalCode.CERTIFICATE: RefusalInfo("the client certificate is malformed"),
    RefusalCode.CERTIFICATE_CHAIN: RefusalInfo("the client certificate has no chain to a trusted root"),
    RefusalCode.CERTIFICATE_TIME: RefusalInfo("the client certificate is not valid now"),
    RefusalCode.UNTRUSTED_PROXY: RefusalInfo("the client certificate came through an untrusted proxy"),
    RefusalCode.SPIFFE_ID: RefusalInfo("the credential does not contain exactly one SPIFFE ID"),
    RefusalCode.TRUST_DOMAIN: RefusalInfo("no policy trusts the trust domain of the credential"),
    RefusalCode.MESSAGE_SIGNATURE: RefusalInfo("the signature of the message is not valid"),
    RefusalCode.MESSAGE_COMPONENTS: RefusalInfo("the signature does not cover all required components"),
    RefusalCode.MESSAGE_TIME: RefusalInfo("the signature of the message is too old, or from the future"),
    RefusalCode.MESSAGE_REPLAYED: RefusalInfo("the signature of the message was used before"),
    RefusalCode.CONTENT_DIGEST: RefusalInfo("the digest does not match the body"),
    RefusalCode.API_KEY: RefusalInfo("the static key is not known"),
    RefusalCode.ATTESTATION: RefusalInfo("the attestation is malformed"),
    RefusalCode.ATTESTER: RefusalInfo("no policy trusts the attester"),
    RefusalCode.ATTESTATION_NONCE: RefusalInfo(
        "the attestation has no valid, unused nonce of this server, or has too many nonces"
    ),
    RefusalCode.ATTESTATION_AGE: RefusalInfo("the attestation is too old, has expired, or is from the future"),
    RefusalCode.ATTESTATION_KEY: RefusalInfo("the attestation is not bound to the key that was proved"),
    RefusalCode.ATTESTED_MODEL: RefusalInfo("the attested model is not allowed"),
    RefusalCode.ATTESTED_ENVIRONMENT: RefusalInfo("the attested environment is not allowed"),
    RefusalCode.FAILURE: RefusalInfo("the credential could not be verified; the operator's log has the reason"),
    RefusalCode.STORE: RefusalInfo("the store cannot be used, so the credential may have been used or revoked"),
}


def parse_refusal_code(raw: object) -> str:
    """Return the code in `credential.refused`. Any value of this fact means that the credential is refused."""
    return raw if isinstance(raw, str) and raw in REFUSAL_INFO else "refused"


def describe_refusal(code: str) -> str:
    return RefusalCode(code).words if code in REFUSAL_INFO else "the verifier gave no reason"
