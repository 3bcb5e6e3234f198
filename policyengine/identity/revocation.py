"""What is revoked, by whom, and for how long: a token, or all that an agent, a user, a key, a chain or a task is in."""

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

PERMANENT_SECONDS = 10 * 365 * 86_400  # seconds
MAX_TASK_SECONDS = 30 * 86_400  # seconds after which no token of a task that has ended could be presented
LEEWAY_SECONDS = 300  # seconds that a token may be taken for after its end
RETRY_AFTER_SECONDS = 10  # seconds, by which keys that are not known are asked for anew
# Of a token that was refused for these, more may be known in a moment.
RETRYABLE_REFUSALS = frozenset({RefusalCode.PROVIDER, RefusalCode.UNKNOWN_KEY})
_LOG = logging.getLogger("policyengine")


def verify_token(identity: CredentialAuthenticator, raw: str, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
    """A token that holds but for what was revoked, whoever presents it. Raises CredentialError."""
    token = identity.parts.tokens.verify(raw, now)
    return token, token_principal(identity, token)


def token_principal(identity: CredentialAuthenticator, token: VerifiedToken) -> TokenPrincipal:
    """Also where somebody else than it names may act: who that is, is asked of whoever acts. Raises CredentialError."""
    object_claim(token.claims, "may_act")
    plain = {name: value for name, value in token.claims.items() if name != "may_act"}
    return identity.parts.reads(replace(token, claims=plain))


def verify_active_token(identity: CredentialAuthenticator, raw: str, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
    """A token that holds, whoever presents it. Raises CredentialError, StoreError."""
    return check_not_revoked(identity, *verify_token(identity, raw, now), now)


def check_not_revoked(
    identity: CredentialAuthenticator, token: VerifiedToken, who: TokenPrincipal, now: int
) -> tuple[VerifiedToken, TokenPrincipal]:
    """Raises CredentialError where it was revoked; StoreError."""
    if identity.marks.revoked(revocable_names(token, who, token_binding(token)), now):
        raise CredentialError(RefusalCode.REVOKED)
    return token, who


@dataclass(frozen=True, slots=True)
class RevocationResult:
    """`recorded`: whether the log could be written. `verified` false: nobody knows whose the token is, or was."""

    recorded: bool = True
    verified: bool = True


class RevocationError(Exception):
    """`why` may be told to the client; `later`: more may be known in a moment."""

    def __init__(self, error: TokenErrorCode, why: str) -> None:
        self.error, self.why, self.later = error, why, error is TokenErrorCode.UNAVAILABLE
        super().__init__(why)


@dataclass(frozen=True)
class TokenRevoker:
    """`ours`: the issuer that we are, if we are one: by its tokens agents are known under that name, too. What has
    ended is in the `log`, if there is one, before anybody is told; it ends whether that can be written or not."""

    identity: CredentialAuthenticator
    ours: str | None = None
    log: DecisionLog | None = None

    def token(self, raw: str, by: Operator | AuthenticatedClient, now: int) -> RevocationResult:
        """RFC 7009, but that nothing is said to have ended that has not. What its issuer signed ends, whether it holds
        or not: by an operator, or a client that is in it. What is known of nobody's ends on an operator's word. Raises
        RevocationError, StoreError."""
        try:
            token = self._authentic(raw, now)
        except CredentialError as refused:
            return self._unverified(raw, refused, by, now)
        try:
            who = None if token.kind == "attestation" else token_principal(self.identity, token)
        except CredentialError:
            who = None
        if isinstance(by, AuthenticatedClient) and not (who is not None and self._is_in(by, token, who)):
            raise RevocationError(TokenErrorCode.UNAUTHORIZED_CLIENT, "the token is not the client's")
        self._mark(own_token_names(token), token_end(token.claims, now), now, by)
        return self._on_record(
            revocation_fields("token", revoked_token_facts(token, who, token_binding(token)), by), now
        )

    def _authentic(self, raw: str, now: int) -> VerifiedToken:
        """As its issuer or attester signed it. Raises CredentialError."""
        parts = self.identity.parts
        try:
            return parts.tokens.authentic(raw, now)
        except CredentialError as refused:
            if refused.refusal is not RefusalCode.UNKNOWN_ISSUER or parts.attests is None:
                raise
        return parts.attests.authentic(raw, now)

    def _unverified(
        self, raw: str, refused: CredentialError, by: Operator | AuthenticatedClient, now: int
    ) -> RevocationResult:
        """No client fills the store with what nobody signed; what has ended by its own word needs no room. Proofs bring
        their key."""
        if refused.refusal is RefusalCode.KEY_IN_TOKEN:
            why = "what brings a key of its own is no token: revoke that `key`"
            raise RevocationError(TokenErrorCode.UNSUPPORTED_TOKEN_TYPE, f"nothing has ended: {why}")
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
        raise RevocationError(error, f"the token has not ended: {refused.why}; an operator can end it all the same")

    def _is_in(self, by: AuthenticatedClient, token: VerifiedToken, who: TokenPrincipal) -> bool:
        known = {(by.client.issuer, by.client.agent), (self.ours, by.client.agent)}
        return not known.isdisjoint({(token.issuer, who.agent), *((hop.issuer, hop.agent) for hop in who.hops)})

    def named(self, kind: str, given: str, name: str, seconds: int | None, by: Operator, now: int) -> RevocationResult:
        """All that it is in; for good where nobody says for how long. `name`: by which it is marked. Raises
        StoreError."""
        until = None if seconds is None else now + seconds
        self._revoke([name], now + PERMANENT_SECONDS if until is None else until, now, by)
        return self._on_record(revocation_fields(kind, revoked_name_facts(kind, given), by, until), now)

    def task(self, task: str, issuers: Collection[str], by: Operator, now: int) -> RevocationResult:
        """Every token of it. Raises StoreError."""
        self._revoke([f"task:{issuer}/{task}" for issuer in issuers], now + PERMANENT_SECONDS, now, by)
        return self._on_record(revocation_fields("task", revoked_task_facts(task, issuers), by), now)

    def own_task(self, task: str, by: VerifiedCredential, now: int) -> RevocationResult:
        """The same by an agent that acts in it, of those tokens of its issuer that are for whom its own is, of the task
        that the same agent opened. Raises RevocationError, StoreError."""
        facts = by.facts
        if by.own_task is None or "agent" not in facts or facts.get("task", {}).get("id") != task:
            raise RevocationError(TokenErrorCode.UNAUTHORIZED_CLIENT, "the token is of no agent in that task")
        self._revoke([by.own_task], max(now + MAX_TASK_SECONDS, by.expires + LEEWAY_SECONDS), now, by)
        issuer = str(facts["credential"]["issuer"])
        return self._on_record(revocation_fields("task", revoked_task_facts(task, (issuer,)), by), now)

    def _mark(self, names: Collection[str], until: int, now: int, by: EventActor) -> None:
        """Whoever asks again needs no more room."""
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
        """Raises RevocationError for a client that has ended very much lately: there is room for everybody's."""
        try:
            self.identity.endings.take(client, now)
        except StoreError as full:
            told = f"nothing has ended: {full}; an operator can end it"
            self.identity.telling.tell(logging.WARNING, "endings", told)
            raise RevocationError(TokenErrorCode.UNAVAILABLE, told) from None

    def _on_record(self, told: Mapping[str, object], now: int) -> RevocationResult:
        return RevocationResult(recorded=self.log is None or self.log.note(TokenEventKind.ENDED, told, now))

    # ── What is known of one ──────────────────────────────────────────────────────────────────

    def introspected(self, raw: str, now: int) -> dict[str, object]:
        """RFC 7662; of transaction tokens, too. Raises StoreError."""
        try:
            token, who = self._held(raw, now)
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

    def _held(self, raw: str, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
        try:
            return verify_active_token(self.identity, raw, now)
        except CredentialError as refused:
            if refused.refusal is not RefusalCode.TOKEN_TYPE:
                raise
        token = self.identity.parts.tokens.verify_txn(raw, now)
        return check_not_revoked(self.identity, token, token_principal(self.identity, token), now)


def client_key(by: AuthenticatedClient | VerifiedCredential) -> str:
    """Who ends something, however often it starts anew."""
    if isinstance(by, AuthenticatedClient):
        return f"{by.client.issuer}/{by.client.agent}"
    agent = by.facts["agent"]
    return f"{agent['issuer']}/{agent['id']}"


def own_token_names(token: VerifiedToken) -> frozenset[str]:
    """By which the token alone is revoked. What its attester calls an attestation is no name of an issuer's."""
    jti = token.claims.get("jti")
    named = isinstance(jti, str) and token.kind != "attestation"
    return frozenset({revocable_token_name(token), *([f"jti:{token.issuer}/{jti}"] if named else [])})


def token_end(claims: Claims, now: int) -> int:
    """When it could be presented no more. What its issuer is asked about may have no end at all."""
    try:
        ends = time_in(claims, "exp")
    except CredentialError:
        ends = None
    return now + PERMANENT_SECONDS if ends is None else max(int(ends), now) + LEEWAY_SECONDS


def unverified_token_end(raw: str, now: int) -> int:
    """By its own word, as it would be signed: past where it has ended, and never later than for good."""
    try:
        ends = time_in(read_jws(raw).claims, "exp")
    except CredentialError:
        ends = None
    return min(now + PERMANENT_SECONDS, now + PERMANENT_SECONDS if ends is None else int(ends) + LEEWAY_SECONDS)


def whole_seconds(given: Mapping[str, object]) -> dict[str, object]:
    """Whole seconds, as most readers expect times."""
    times = {"exp", "iat", "nbf"}
    return {name: int(value) if name in times and to_datetime(value) else value for name, value in given.items()}  # type: ignore[call-overload]  # a number
