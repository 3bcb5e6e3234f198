"""Every way in which a token is not issued: one code for each, counted and logged; and the OAuth error of each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from policyengine.identity.authenticator import Identity
from policyengine.runtime.structure_checks import quoted


class TokenError(StrEnum):
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


class Unissued(StrEnum):
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
        return KNOWN[self].words

    @property
    def error(self) -> TokenError:
        return KNOWN[self].error


class NotIssued(Exception):
    """`why` may be told to the client: no part of a secret and no rule of a policy is in it. `error` where it is not
    that of the code."""

    def __init__(self, code: Unissued, why: str | None = None, error: TokenError | None = None) -> None:
        self.code, self.why = code, code.words if why is None else why
        self.error = code.error if error is None else error
        super().__init__(self.why)


def not_held(asked: Sequence[str]) -> str:
    """Only what the client said itself: what an opaque token holds is not for whoever shows it."""
    return f"no token that was shown names a scope that is asked for: {quoted(' '.join(asked))}"


@dataclass(frozen=True, slots=True)
class Known:
    words: str
    error: TokenError


_REQUEST, _CLIENT, _POLICY = TokenError.INVALID_REQUEST, TokenError.INVALID_CLIENT, TokenError.UNAUTHORIZED_CLIENT
KNOWN: dict[Unissued, Known] = {
    Unissued.PARAMETERS: Known("a parameter is missing, there twice or none", _REQUEST),
    Unissued.GRANT_TYPE: Known("tokens are exchanged here and nothing else", TokenError.UNSUPPORTED_GRANT_TYPE),
    Unissued.TOKEN_TYPE: Known("a token of that type is neither taken nor issued", _REQUEST),
    Unissued.NO_CLIENT: Known("the client does not prove who it is", _CLIENT),
    Unissued.UNKNOWN_CLIENT: Known("there is no such client", _CLIENT),
    Unissued.CLIENT_METHOD: Known("the client proves who it is in another way than it has to, or in two", _CLIENT),
    Unissued.ASSERTION: Known("the client's assertion is none", _CLIENT),
    Unissued.ASSERTION_KEY: Known("the client's assertion is not signed by a key of the client", _CLIENT),
    Unissued.ASSERTION_AUDIENCE: Known("the client's assertion is for somebody else", _CLIENT),
    Unissued.ASSERTION_TIME: Known("the client's assertion is too old, of the future, or lasts too long", _CLIENT),
    Unissued.ASSERTION_REPLAYED: Known("the client's assertion was used before", _CLIENT),
    Unissued.CLIENT_KEY: Known("the client's certificate or key is not one of its own", _CLIENT),
    Unissued.PROOF: Known("the proof that came with the request does not hold", _CLIENT),
    Unissued.ACTOR_TOKEN: Known("the actor token is refused", _REQUEST),
    Unissued.ACTOR_UNBOUND: Known(
        "an actor token alone has to be bound to a key that the actor proves to have", _CLIENT
    ),
    Unissued.ACTOR_OTHER: Known("the actor token is of another agent than the client", _CLIENT),
    Unissued.SUBJECT_TOKEN: Known("the subject token is refused", _REQUEST),
    Unissued.SUBJECT_REVOKED: Known("the subject token was revoked, or somebody in its chain was", _REQUEST),
    Unissued.REVOKED: Known("the asker, its key or the task was revoked", _POLICY),
    Unissued.MAY_ACT: Known("the subject token names another who may act", _POLICY),
    Unissued.CYCLE: Known("the actor is in the chain already", _POLICY),
    Unissued.DEPTH: Known("the chain is too long", _POLICY),
    Unissued.TARGET: Known("tokens for that audience or resource are not issued", TokenError.INVALID_TARGET),
    Unissued.SCOPE: Known("no scope is common to what is asked for, held and handed on", TokenError.INVALID_SCOPE),
    Unissued.ACTOR_BLOCK: Known("the policy does not let the actor do that", _POLICY),
    Unissued.DELEGATION: Known("the policy does not hand that on to the actor, or not any more", _POLICY),
    Unissued.DELEGATION_LIMIT: Known("the chain would be beyond the policy's limits of delegation", _POLICY),
    Unissued.USER_DOOR: Known("the policy does not let the user do that", _POLICY),
    Unissued.LIFETIME: Known("what it would rest on ends now", _REQUEST),
    Unissued.TASK: Known("the task would be another one, or a wider one", _REQUEST),
    Unissued.KEYS: Known("tokens cannot be signed now", TokenError.UNAVAILABLE),
    Unissued.STORE: Known("what was used or revoked is not known now", TokenError.UNAVAILABLE),
    Unissued.FAILURE: Known("the token would say something else than it has to", TokenError.UNAVAILABLE),
    Unissued.LOG: Known("what is issued cannot be put on record now", TokenError.UNAVAILABLE),
}


def tell(identity: Identity, why: NotIssued) -> None:
    """Counts it, and tells the operator."""
    identity.count(why.code.value)
    code = why.code.value
    identity.telling.tell(
        logging.INFO, f"not issued: {code}", f"no token was issued: {why}", event="token_refused", code=code
    )
