"""Every way in which a token is not issued: one code for each, counted and logged; and the OAuth error of each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.runtime.structure_checks import quote_input


class TokenErrorCode(StrEnum):
    """RFC 6749, 5.2; RFC 8693, 2.2.2; RFC 9449, 5 and 8."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    UNAUTHORIZED_CLIENT = "unauthorized_client"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    INVALID_SCOPE = "invalid_scope"
    INVALID_TARGET = "invalid_target"
    INVALID_DPOP_PROOF = "invalid_dpop_proof"
    USE_DPOP_NONCE = "use_dpop_nonce"
    UNSUPPORTED_TOKEN_TYPE = "unsupported_token_type"  # RFC 7009, 2.2.1
    UNAVAILABLE = "temporarily_unavailable"


class IssuanceRefusal(StrEnum):
    """The value is the code in logs and metrics, and in docs/issuing.md."""

    PARAMETERS = "parameters"
    GRANT_TYPE = "grant_type"
    TOKEN_TYPE = "token_type_asked"
    # ── The client, who is the actor
    NO_CLIENT = "no_client"
    UNKNOWN_CLIENT = "unknown_client"
    CLIENT_METHOD = "client_method"
    ASSERTION = "assertion"
    ASSERTION_KEY = "assertion_key"
    ASSERTION_AUDIENCE = "assertion_audience"
    ASSERTION_TIME = "assertion_time"
    ASSERTION_REPLAYED = "assertion_replayed"
    CLIENT_KEY = "client_key"
    PROOF = "client_proof"
    ACTOR_TOKEN = "actor_token"
    ACTOR_UNBOUND = "actor_unbound"
    ACTOR_OTHER = "actor_other"
    # ── What it asks for
    SUBJECT_TOKEN = "subject_token"
    SUBJECT_REVOKED = "subject_revoked"
    REVOKED = "asker_revoked"
    MAY_ACT = "may_act"
    CYCLE = "cycle"
    DEPTH = "depth"
    TARGET = "target"
    SCOPE = "scope"
    ACTOR_BLOCK = "actor_block"
    DELEGATION = "delegation"
    DELEGATION_LIMIT = "delegation_limit"
    USER_DOOR = "user_door"
    LIFETIME = "lifetime"
    TASK = "task"
    # ── We ourselves
    KEYS = "keys"
    STORE = "issuing_store"
    FAILURE = "issuing_failure"
    LOG = "issuing_log"

    @property
    def words(self) -> str:
        return ISSUANCE_REFUSAL_INFO[self].words

    @property
    def error(self) -> TokenErrorCode:
        return ISSUANCE_REFUSAL_INFO[self].error


class TokenIssuanceError(Exception):
    """`why` may be told to the client: no part of a secret and no rule of a policy is in it. `error` where it is not
    that of the code."""

    def __init__(self, code: IssuanceRefusal, why: str | None = None, error: TokenErrorCode | None = None) -> None:
        self.code, self.why = code, code.words if why is None else why
        self.error = code.error if error is None else error
        super().__init__(self.why)


def describe_missing_scopes(asked: Sequence[str]) -> str:
    """Only what the client said itself: what an opaque token holds is not for whoever shows it."""
    return f"no token that was shown names a scope that is asked for: {quote_input(' '.join(asked))}"


@dataclass(frozen=True, slots=True)
class IssuanceRefusalInfo:
    words: str
    error: TokenErrorCode


_REQUEST, _CLIENT, _POLICY = (
    TokenErrorCode.INVALID_REQUEST,
    TokenErrorCode.INVALID_CLIENT,
    TokenErrorCode.UNAUTHORIZED_CLIENT,
)
ISSUANCE_REFUSAL_INFO: dict[IssuanceRefusal, IssuanceRefusalInfo] = {
    IssuanceRefusal.PARAMETERS: IssuanceRefusalInfo("a parameter is missing, there twice or none", _REQUEST),
    IssuanceRefusal.GRANT_TYPE: IssuanceRefusalInfo(
        "tokens are exchanged here and nothing else", TokenErrorCode.UNSUPPORTED_GRANT_TYPE
    ),
    IssuanceRefusal.TOKEN_TYPE: IssuanceRefusalInfo("a token of that type is neither taken nor issued", _REQUEST),
    IssuanceRefusal.NO_CLIENT: IssuanceRefusalInfo("the client does not prove who it is", _CLIENT),
    IssuanceRefusal.UNKNOWN_CLIENT: IssuanceRefusalInfo("there is no such client", _CLIENT),
    IssuanceRefusal.CLIENT_METHOD: IssuanceRefusalInfo(
        "the client proves who it is in another way than it has to, or in two", _CLIENT
    ),
    IssuanceRefusal.ASSERTION: IssuanceRefusalInfo("the client's assertion is none", _CLIENT),
    IssuanceRefusal.ASSERTION_KEY: IssuanceRefusalInfo(
        "the client's assertion is not signed by a key of the client", _CLIENT
    ),
    IssuanceRefusal.ASSERTION_AUDIENCE: IssuanceRefusalInfo("the client's assertion is for somebody else", _CLIENT),
    IssuanceRefusal.ASSERTION_TIME: IssuanceRefusalInfo(
        "the client's assertion is too old, of the future, or lasts too long", _CLIENT
    ),
    IssuanceRefusal.ASSERTION_REPLAYED: IssuanceRefusalInfo("the client's assertion was used before", _CLIENT),
    IssuanceRefusal.CLIENT_KEY: IssuanceRefusalInfo("the client's certificate or key is not one of its own", _CLIENT),
    IssuanceRefusal.PROOF: IssuanceRefusalInfo("the proof that came with the request does not hold", _CLIENT),
    IssuanceRefusal.ACTOR_TOKEN: IssuanceRefusalInfo("the actor token is refused", _REQUEST),
    IssuanceRefusal.ACTOR_UNBOUND: IssuanceRefusalInfo(
        "an actor token alone has to be bound to a key that the actor proves to have", _CLIENT
    ),
    IssuanceRefusal.ACTOR_OTHER: IssuanceRefusalInfo("the actor token is of another agent than the client", _CLIENT),
    IssuanceRefusal.SUBJECT_TOKEN: IssuanceRefusalInfo("the subject token is refused", _REQUEST),
    IssuanceRefusal.SUBJECT_REVOKED: IssuanceRefusalInfo(
        "the subject token was revoked, or somebody in its chain was", _REQUEST
    ),
    IssuanceRefusal.REVOKED: IssuanceRefusalInfo("the asker, its key or the task was revoked", _POLICY),
    IssuanceRefusal.MAY_ACT: IssuanceRefusalInfo("the subject token names another who may act", _POLICY),
    IssuanceRefusal.CYCLE: IssuanceRefusalInfo("the actor is in the chain already", _POLICY),
    IssuanceRefusal.DEPTH: IssuanceRefusalInfo("the chain is too long", _POLICY),
    IssuanceRefusal.TARGET: IssuanceRefusalInfo(
        "tokens for that audience or resource are not issued", TokenErrorCode.INVALID_TARGET
    ),
    IssuanceRefusal.SCOPE: IssuanceRefusalInfo(
        "no scope is common to what is asked for, held and handed on", TokenErrorCode.INVALID_SCOPE
    ),
    IssuanceRefusal.ACTOR_BLOCK: IssuanceRefusalInfo("the policy does not let the actor do that", _POLICY),
    IssuanceRefusal.DELEGATION: IssuanceRefusalInfo(
        "the policy does not hand that on to the actor, or not any more", _POLICY
    ),
    IssuanceRefusal.DELEGATION_LIMIT: IssuanceRefusalInfo(
        "the chain would be beyond the policy's limits of delegation", _POLICY
    ),
    IssuanceRefusal.USER_DOOR: IssuanceRefusalInfo("the policy does not let the user do that", _POLICY),
    IssuanceRefusal.LIFETIME: IssuanceRefusalInfo("what it would rest on ends now", _REQUEST),
    IssuanceRefusal.TASK: IssuanceRefusalInfo("the task would be another one, or a wider one", _REQUEST),
    IssuanceRefusal.KEYS: IssuanceRefusalInfo("tokens cannot be signed now", TokenErrorCode.UNAVAILABLE),
    IssuanceRefusal.STORE: IssuanceRefusalInfo("what was used or revoked is not known now", TokenErrorCode.UNAVAILABLE),
    IssuanceRefusal.FAILURE: IssuanceRefusalInfo(
        "the token would say something else than it has to", TokenErrorCode.UNAVAILABLE
    ),
    IssuanceRefusal.LOG: IssuanceRefusalInfo("what is issued cannot be put on record now", TokenErrorCode.UNAVAILABLE),
}


def report_refusal(identity: CredentialAuthenticator, why: TokenIssuanceError) -> None:
    """Counts it, and tells the operator."""
    identity.count(why.code.value)
    code = why.code.value
    identity.telling.tell(
        logging.INFO, f"not issued: {code}", f"no token was issued: {why}", event="token_refused", code=code
    )
