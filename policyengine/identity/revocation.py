"""Revokes tokens, or everything that names an agent, user, key, chain or task, and introspects tokens."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from policyengine.audit.token_events import TokenEventKind
from policyengine.identity.audit_events import (
    EventActor,
    Operator,
    describe_actor,
    revocation_fields,
    revoked_name_facts,
    revoked_task_facts,
    revoked_token_facts,
)
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.facts import (
    fingerprint,
    revocable_names,
    revocable_raw_names,
    revocable_token_name,
    to_datetime,
)
from policyengine.identity.issue.clients import AuthenticatedClient, token_binding
from policyengine.identity.issue.errors import TokenErrorCode
from policyengine.identity.verified import TokenPrincipal, VerifiedCredential, VerifiedToken
from policyengine.identity.verify.claims import Claims, object_claim
from policyengine.identity.verify.claims import time_claim as time_in
from policyengine.identity.verify.jws import read_jws
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.structure_checks import quote_input
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

PERMANENT_SECONDS = 10 * 365 * 86_400  # seconds that a permanent revocation is kept: ten years
MAX_TASK_SECONDS = 30 * 86_400  # seconds after which every token of an ended task has expired
LEEWAY_SECONDS = 300  # seconds that a token may be accepted after its expiry
RETRY_AFTER_SECONDS = 10  # seconds after which unknown keys are loaded again
# Refusals that may no longer apply a moment later.
RETRYABLE_REFUSALS = frozenset({RefusalCode.PROVIDER, RefusalCode.UNKNOWN_KEY})
_LOG = logging.getLogger("policyengine")


def verify_token(identity: CredentialAuthenticator, raw: str, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
    """Verify a token for any presenter, without checking revocation. Raises CredentialError."""
    token = identity.parts.tokens.verify(raw, now)
    return token, token_principal(identity, token)


def token_principal(identity: CredentialAuthenticator, token: VerifiedToken) -> TokenPrincipal:
    """Return the token's principal, ignoring `may_act`, which the caller checks against the actor. Raises
    CredentialError."""
    object_claim(token.claims, "may_act")
    plain = {name: value for name, value in token.claims.items() if name != "may_act"}
    return identity.parts.reads(replace(token, claims=plain))


def verify_active_token(identity: CredentialAuthenticator, raw: str, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
    """Verify a token for any presenter, and check that it is not revoked. Raises CredentialError, StoreError."""
    return check_not_revoked(identity, *verify_token(identity, raw, now), now)


def check_not_revoked(
    identity: CredentialAuthenticator, token: VerifiedToken, who: TokenPrincipal, now: int
) -> tuple[VerifiedToken, TokenPrincipal]:
    """Return the token and its principal, if it is not revoked. Raises CredentialError if it is revoked, StoreError if
    that is unknown.
    """
    if identity.marks.revoked(revocable_names(token, who, token_binding(token)), now):
        raise CredentialError(RefusalCode.REVOKED)
    return token, who


@dataclass(frozen=True, slots=True)
class RevocationResult:
    """The result of a revocation. `recorded` says whether the decision log has it, `verified` whether the token could
    be verified.
    """

    recorded: bool = True
    verified: bool = True


class RevocationError(Exception):
    """The error for a revocation that failed. `why` is safe to send to the client; `later` means that a retry may
    succeed.
    """

    def __init__(self, error: TokenErrorCode, why: str) -> None:
        self.error, self.why, self.later = error, why, error is TokenErrorCode.UNAVAILABLE
        super().__init__(why)


@dataclass(frozen=True)
class TokenRevoker:
    """Revokes and introspects tokens. `ours` is this server's issuer, if it issues tokens; agents are also known under
    that name. If there is a `log`, it records a revocation before the answer; the revocation takes effect even if that
    fails.
    """

    identity: CredentialAuthenticator
    ours: str | None = None
    log: DecisionLog | None = None

    def token(self, raw: str, by: Operator | AuthenticatedClient, now: int) -> RevocationResult:
        """Revoke a token, as in RFC 7009, but never report a revocation that did not happen.

        An operator, or a client that the token names, can revoke a token with a valid signature, even if it has
        expired. Only an operator can revoke a token that cannot be verified. Raises RevocationError, StoreError.
        """
        try:
            token = self._authentic(raw, now)
        except CredentialError as refused:
            return self._revoke_unverified(raw, refused, by, now)
        try:
            who = None if token.kind == "attestation" else token_principal(self.identity, token)
        except CredentialError:
            who = None
        if isinstance(by, AuthenticatedClient) and not (who is not None and self._is_in(by, token, who)):
            raise RevocationError(TokenErrorCode.UNAUTHORIZED_CLIENT, "the token does not belong to the client")
        self._mark(own_token_names(token), token_end(token.claims, now), now, by)
        return self._on_record(
            revocation_fields("token", revoked_token_facts(token, who, token_binding(token)), by), now
        )

    def _authentic(self, raw: str, now: int) -> VerifiedToken:
        """Verify the signature of the issuer or attester. Raises CredentialError."""
        parts = self.identity.parts
        try:
            return parts.tokens.authentic(raw, now)
        except CredentialError as refused:
            if refused.refusal is not RefusalCode.UNKNOWN_ISSUER or parts.attests is None:
                raise
        return parts.attests.authentic(raw, now)

    def _revoke_unverified(
        self, raw: str, refused: CredentialError, by: Operator | AuthenticatedClient, now: int
    ) -> RevocationResult:
        """Revoke a token that cannot be verified. Clients may not do this, because they could fill the store; an
        expired token needs no mark. A token that contains its own key is a proof and is not revoked. Raises
        RevocationError, StoreError.
        """
        if refused.refusal is RefusalCode.KEY_IN_TOKEN:
            why = "the text is a proof that contains its own key: to revoke that key, send its thumbprint as `key`"
            raise RevocationError(TokenErrorCode.UNSUPPORTED_TOKEN_TYPE, f"nothing was revoked: {why}")
        ends = unverified_token_end(raw, now)
        if isinstance(by, Operator):
            self._mark(revocable_raw_names(raw), max(ends, now + LEEWAY_SECONDS), now, by)
            print_ = fingerprint(sha256(raw.encode()).digest())
            about = {"credential": {"fingerprint": print_, "refused": refused.refusal.value}, "verified": False}
            return replace(self._on_record(revocation_fields("token", about, by), now), verified=False)
        if ends <= now:
            return RevocationResult(verified=False)
        error = (
            TokenErrorCode.UNAVAILABLE
            if refused.refusal in RETRYABLE_REFUSALS
            else TokenErrorCode.UNSUPPORTED_TOKEN_TYPE
        )
        raise RevocationError(error, f"the token was not revoked: {refused.why}; an operator can revoke it anyway")

    def _is_in(self, by: AuthenticatedClient, token: VerifiedToken, who: TokenPrincipal) -> bool:
        known = {(by.client.issuer, by.client.agent), (self.ours, by.client.agent)}
        return not known.isdisjoint({(token.issuer, who.agent), *((hop.issuer, hop.agent) for hop in who.hops)})

    def named(self, kind: str, given: str, name: str, seconds: int | None, by: Operator, now: int) -> RevocationResult:
        """Revoke everything with this name, permanently if `seconds` is None. `name` is the revocation mark. Raises
        StoreError.
        """
        until = None if seconds is None else now + seconds
        self._revoke([name], now + PERMANENT_SECONDS if until is None else until, now, by)
        return self._on_record(revocation_fields(kind, revoked_name_facts(kind, given), by, until), now)

    def task(self, task: str, issuers: Collection[str], by: Operator, now: int) -> RevocationResult:
        """Revoke every token of a task. Raises StoreError."""
        self._revoke([f"task:{issuer}/{task}" for issuer in issuers], now + PERMANENT_SECONDS, now, by)
        return self._on_record(revocation_fields("task", revoked_task_facts(task, issuers), by), now)

    def own_task(self, task: str, by: VerifiedCredential, now: int) -> RevocationResult:
        """Revoke the tokens of the presenter's task that come from the same issuer, opener and user. Raises
        RevocationError, StoreError."""
        facts = by.facts
        if by.own_task is None or "agent" not in facts or facts.get("task", {}).get("id") != task:
            raise RevocationError(
                TokenErrorCode.UNAUTHORIZED_CLIENT, "the token does not belong to an agent in that task"
            )
        self._revoke([by.own_task], max(now + MAX_TASK_SECONDS, by.expires + LEEWAY_SECONDS), now, by)
        issuer = str(facts["credential"]["issuer"])
        return self._on_record(revocation_fields("task", revoked_task_facts(task, (issuer,)), by), now)

    def _mark(self, names: Collection[str], until: int, now: int, by: EventActor) -> None:
        """Revoke the names, unless all of them are already revoked, so that repeated requests need no space."""
        if self.identity.marks.revoked(names, now) != frozenset(names):
            self._revoke(names, until, now, by)

    def _revoke(self, names: Collection[str], until: int, now: int, by: EventActor) -> None:
        if not isinstance(by, Operator):
            self._count(client_key(by), now)
        self.identity.marks.revoke(names, until, now, by_operator=isinstance(by, Operator))
        self.identity.count("revoked_now")
        told = [quote_input(name) for name in sorted(names) if not name.startswith("token:")]
        extra = {"event": "revoked", "names": told}
        _LOG.info("%s revoked %s", quote_input(describe_actor(by)), ", ".join(told) or "a token", extra=extra)

    def _count(self, client: str, now: int) -> None:
        """Count a revocation that the client requested. Raises RevocationError if the client is above its quota,
        because clients share the store's capacity.
        """
        try:
            self.identity.endings.take(client, now)
        except StoreError as full:
            told = f"nothing was revoked: {full}; an operator can revoke it"
            self.identity.telling.tell(logging.WARNING, "endings", told)
            raise RevocationError(TokenErrorCode.UNAVAILABLE, told) from None

    def _on_record(self, told: Mapping[str, object], now: int) -> RevocationResult:
        return RevocationResult(recorded=self.log is None or self.log.note(TokenEventKind.ENDED, told, now))

    # ── Introspection ─────────────────────────────────────────────────────────────────────────

    def introspected(self, raw: str, now: int) -> dict[str, object]:
        """Return the introspection response for a token (RFC 7662), which may be a transaction token. Raises
        StoreError.
        """
        try:
            token, who = self._verify_unrevoked(raw, now)
        except CredentialError:
            return {"active": False}
        single = token.single_use
        if token.expires <= now or (single is not None and self.identity.marks.marked(single.name, now)):
            return {"active": False}
        names = ("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "act", "cnf", "task", "scope")
        told = {name: token.claims[name] for name in names if name in token.claims}
        scope = {} if who.scopes is None else {"scope": " ".join(who.scopes)}
        kind = "DPoP" if token_binding(token).jkt is not None else "Bearer"
        return {"active": True, **whole_seconds(told), **scope, "token_type": kind}

    def _verify_unrevoked(self, raw: str, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
        try:
            return verify_active_token(self.identity, raw, now)
        except CredentialError as refused:
            if refused.refusal is not RefusalCode.TOKEN_TYPE:
                raise
        token = self.identity.parts.tokens.verify_txn(raw, now)
        return check_not_revoked(self.identity, token, token_principal(self.identity, token), now)


def client_key(by: AuthenticatedClient | VerifiedCredential) -> str:
    """Return the client's name for its quota, the same across restarts of the client."""
    if isinstance(by, AuthenticatedClient):
        return f"{by.client.issuer}/{by.client.agent}"
    agent = by.facts["agent"]
    return f"{agent['issuer']}/{agent['id']}"


def own_token_names(token: VerifiedToken) -> frozenset[str]:
    """Return the names that revoke only this token. The `jti` of an attestation is left out, because an attestation is
    not a token of an issuer.
    """
    jti = token.claims.get("jti")
    named = isinstance(jti, str) and token.kind != "attestation"
    return frozenset({revocable_token_name(token), *([f"jti:{token.issuer}/{jti}"] if named else [])})


def token_end(claims: Claims, now: int) -> int:
    """Return the time, in Unix seconds, from which the token is certainly invalid. For a token without expiry, this is
    the end of a permanent revocation.
    """
    try:
        ends = time_in(claims, "exp")
    except CredentialError:
        ends = None
    return now + PERMANENT_SECONDS if ends is None else max(int(ends), now) + LEEWAY_SECONDS


def unverified_token_end(raw: str, now: int) -> int:
    """Return the expiry that an unverified token states, plus the leeway, in Unix seconds. The result is in the past if
    the token has expired, and the end of a permanent revocation if the token states no earlier expiry.
    """
    try:
        ends = time_in(read_jws(raw).claims, "exp")
    except CredentialError:
        ends = None
    return min(now + PERMANENT_SECONDS, now + PERMANENT_SECONDS if ends is None else int(ends) + LEEWAY_SECONDS)


def whole_seconds(given: Mapping[str, object]) -> dict[str, object]:
    """Truncate times to whole seconds, which most parsers expect."""
    times = {"exp", "iat", "nbf"}
    return {name: int(value) if name in times and to_datetime(value) else value for name, value in given.items()}  # type: ignore[call-overload]  # a number
