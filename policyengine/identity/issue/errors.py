"""The reasons why a token is not issued: a code for logs and metrics, and the OAuth error for each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.runtime.structure_checks import quote_input


class TokenErrorCode(StrEnum):
    """OAuth error codes of RFC 6749, 5.2; RFC 8693, 2.2.2; RFC 9449, 5 and 8."""

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
    """The reason why a token is not issued. Its value is the code in logs, in metrics and in docs/issuing.md."""

    PARAMETERS = "parameters"
    GRANT_TYPE = "grant_type"
    TOKEN_TYPE = "token_type_asked"
    # ── The client, which is the actor
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
    # ── The requested token
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
    # ── This server
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
    """The error for a token that is not issued. `why` is safe to send to the client: it contains no secret and no rule
    of a policy. `error` overrides the OAuth error of the code.
    """

    def __init__(self, code: IssuanceRefusal, why: str | None = None, error: TokenErrorCode | None = None) -> None:
        self.code, self.why = code, code.words if why is None else why
        self.error = code.error if error is None else error
        super().__init__(self.why)


def describe_missing_scopes(asked: Sequence[str]) -> str:
    """Describe the refusal with only those values that the client sent, because the content of an opaque token is not
    meant for its presenter.
    """
    return f"the presented tokens have none of the requested scopes: {quote_input(' '.join(asked))}"


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
    IssuanceRefusal.PARAMETERS: IssuanceRefusalInfo("a parameter is missing, repeated or malformed", _REQUEST),
    IssuanceRefusal.GRANT_TYPE: IssuanceRefusalInfo(
        "the only supported grant type is token exchange", TokenErrorCode.UNSUPPORTED_GRANT_TYPE
    ),
    IssuanceRefusal.TOKEN_TYPE: IssuanceRefusalInfo("the token type is neither accepted nor issued", _REQUEST),
    IssuanceRefusal.NO_CLIENT: IssuanceRefusalInfo("the client is not authenticated", _CLIENT),
    IssuanceRefusal.UNKNOWN_CLIENT: IssuanceRefusalInfo("the client is unknown", _CLIENT),
    IssuanceRefusal.CLIENT_METHOD: IssuanceRefusalInfo(
        "the client does not authenticate with its method, or uses two methods", _CLIENT
    ),
    IssuanceRefusal.ASSERTION: IssuanceRefusalInfo("the client's assertion is malformed", _CLIENT),
    IssuanceRefusal.ASSERTION_KEY: IssuanceRefusalInfo(
        "the client's assertion is not signed by a key of the client", _CLIENT
    ),
    IssuanceRefusal.ASSERTION_AUDIENCE: IssuanceRefusalInfo("the client's assertion is for another audience", _CLIENT),
    IssuanceRefusal.ASSERTION_TIME: IssuanceRefusalInfo(
        "the client's assertion has expired, is not yet valid, or lasts too long", _CLIENT
    ),
    IssuanceRefusal.ASSERTION_REPLAYED: IssuanceRefusalInfo("the client's assertion was used before", _CLIENT),
    IssuanceRefusal.CLIENT_KEY: IssuanceRefusalInfo("the certificate or key does not belong to the client", _CLIENT),
    IssuanceRefusal.PROOF: IssuanceRefusalInfo("the proof in the request is not valid", _CLIENT),
    IssuanceRefusal.ACTOR_TOKEN: IssuanceRefusalInfo("the actor token is refused", _REQUEST),
    IssuanceRefusal.ACTOR_UNBOUND: IssuanceRefusalInfo(
        "an actor token without other credentials must be bound to a key that the actor proves", _CLIENT
    ),
    IssuanceRefusal.ACTOR_OTHER: IssuanceRefusalInfo(
        "the actor token belongs to an agent other than the client", _CLIENT
    ),
    IssuanceRefusal.SUBJECT_TOKEN: IssuanceRefusalInfo("the subject token is refused", _REQUEST),
    IssuanceRefusal.SUBJECT_REVOKED: IssuanceRefusalInfo(
        "the subject token, or an agent, user or key in its chain, was revoked", _REQUEST
    ),
    IssuanceRefusal.REVOKED: IssuanceRefusalInfo("the client, its key or the task was revoked", _POLICY),
    IssuanceRefusal.MAY_ACT: IssuanceRefusalInfo("the subject token allows only another actor (`may_act`)", _POLICY),
    IssuanceRefusal.CYCLE: IssuanceRefusalInfo("the actor is already in the chain", _POLICY),
    IssuanceRefusal.DEPTH: IssuanceRefusalInfo("the chain is too long", _POLICY),
    IssuanceRefusal.TARGET: IssuanceRefusalInfo(
        "the server issues no tokens for that audience or resource", TokenErrorCode.INVALID_TARGET
    ),
    IssuanceRefusal.SCOPE: IssuanceRefusalInfo(
        "no requested scope is both held by the tokens and delegated by the policy", TokenErrorCode.INVALID_SCOPE
    ),
    IssuanceRefusal.ACTOR_BLOCK: IssuanceRefusalInfo(
        "the policy does not grant the requested scopes to the actor", _POLICY
    ),
    IssuanceRefusal.DELEGATION: IssuanceRefusalInfo(
        "the policy does not delegate, or no longer delegates, the requested scopes to the actor", _POLICY
    ),
    IssuanceRefusal.DELEGATION_LIMIT: IssuanceRefusalInfo(
        "the chain would exceed the policy's delegation limits", _POLICY
    ),
    IssuanceRefusal.USER_DOOR: IssuanceRefusalInfo(
        "the policy does not grant the requested scopes to the user", _POLICY
    ),
    IssuanceRefusal.LIFETIME: IssuanceRefusalInfo(
        "the tokens that the new token would be derived from are about to expire", _REQUEST
    ),
    IssuanceRefusal.TASK: IssuanceRefusalInfo(
        "the requested task differs from the task of the token, or is wider", _REQUEST
    ),
    IssuanceRefusal.KEYS: IssuanceRefusalInfo("tokens cannot be signed at the moment", TokenErrorCode.UNAVAILABLE),
    IssuanceRefusal.STORE: IssuanceRefusalInfo(
        "the store of used and revoked credentials does not answer", TokenErrorCode.UNAVAILABLE
    ),
    IssuanceRefusal.FAILURE: IssuanceRefusalInfo("the token would not match the decision", TokenErrorCode.UNAVAILABLE),
    IssuanceRefusal.LOG: IssuanceRefusalInfo(
        "the issued token cannot be recorded in the decision log", TokenErrorCode.UNAVAILABLE
    ),
}


def report_refusal(identity: CredentialAuthenticator, why: TokenIssuanceError) -> None:
    """Count the refusal and log it for the operator."""
    identity.count(why.code.value)
    code = why.code.value
    identity.telling.tell(
        logging.INFO, f"not issued: {code}", f"token not issued: {why}", event="token_refused", code=code
    )
