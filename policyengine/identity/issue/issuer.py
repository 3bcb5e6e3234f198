"""Issues tokens by token exchange (RFC 8693): an agent acts for the subject of a token, if the policy delegates it.

A token never exceeds what the subject, the actor, `may delegate` and the request have in common. It has the shortest of
their lifetimes, names the actor at the end of the chain, and is bound to the actor's key. Before a token is returned,
it is read again as its verifiers will read it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from policyengine.audit.token_events import TokenEventKind
from policyengine.identity.audit_events import issued_token_fields, refused_token_fields
from policyengine.identity.authenticator import CredentialAuthenticator, digest_text
from policyengine.identity.config.model import IdentityConfigError, to_seconds
from policyengine.identity.facts import build_facts, fingerprint, revocable_names, revocable_raw_names
from policyengine.identity.issue.attenuation import authority_end
from policyengine.identity.issue.claims import (
    SubjectToken,
    build_claims,
    check_may_act,
    extend_chain,
    issuer_url,
    token_header_type,
)
from policyengine.identity.issue.clients import AuthenticatedClient, ClientCredentials, ClientRegistry, token_binding
from policyengine.identity.issue.delegation_check import DelegationAllowance, DelegationCheck
from policyengine.identity.issue.errors import (
    IssuanceRefusal,
    TokenErrorCode,
    TokenIssuanceError,
    describe_missing_scopes,
    report_refusal,
)
from policyengine.identity.issue.request import ACCESS_TOKEN, TokenExchangeRequest
from policyengine.identity.keys.signing_keys import TokenSigner
from policyengine.identity.revocation import verify_active_token
from policyengine.identity.verified import Hop, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.jws import MAX_TOKEN_LENGTH
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    token: str = field(repr=False)
    scopes: tuple[str, ...]
    lasts: int  # seconds
    bound_to_key: bool  # whether the token is bound to a DPoP key instead of a certificate

    def to_dict(self) -> dict[str, object]:
        """Return the token response of RFC 8693, 2.2.1."""
        return {
            "access_token": self.token, "issued_token_type": ACCESS_TOKEN, "expires_in": self.lasts,
            "token_type": "DPoP" if self.bound_to_key else "Bearer", "scope": " ".join(self.scopes),
        }  # fmt: skip


@dataclass(slots=True)
class IssuanceAttempt:
    """A token request, with the actor and the subject after they are verified."""

    asked: TokenExchangeRequest
    actor: AuthenticatedClient | None = None
    subject: SubjectToken | None = None


@dataclass(frozen=True)
class TokenIssuer:
    """The issuer of tokens. `name` is this server's issuer in the policy; `lifetime` is in seconds. If there is a
    `log`, it records each token before the client receives it.
    """

    identity: CredentialAuthenticator
    handing: Callable[[], DelegationCheck]
    keys: TokenSigner
    clients: ClientRegistry
    name: str
    audiences: tuple[str, ...]
    lifetime: int
    clock: Callable[[], float] = time.time
    log: DecisionLog | None = None

    @property
    def us(self) -> Issuer:
        """This server's issuer in the current policy. Raises TokenIssuanceError if the policy does not declare it."""
        found = self.handing().kernel.issuers.get(self.name)
        if found is None or found.url is None:
            _LOG.error("cannot issue tokens: the policy has no issuer `%s` with a `url`", self.name)
            raise TokenIssuanceError(IssuanceRefusal.FAILURE)
        return found

    def exchange(
        self, asked: TokenExchangeRequest, credentials: Credentials, request: ProofContext, now: int
    ) -> IssuedToken:
        """Issue a token. `credentials` and `request` came with the token request, to prove a key. May wait for an
        issuer, a store or the signer, each within a bounded time. Raises TokenIssuanceError.
        """
        attempt = IssuanceAttempt(asked)
        try:
            issued = self._exchange(attempt, credentials, request, now)
        except TokenIssuanceError as why:
            self._record_refusal(why, attempt, now)
            raise
        except (StoreError, IdentityConfigError) as error:
            self.identity.telling.tell(logging.WARNING, "issuing", f"token not issued: {error}")
            ours = TokenIssuanceError(IssuanceRefusal.STORE if isinstance(error, StoreError) else IssuanceRefusal.KEYS)
            self._record_refusal(ours, attempt, now)
            raise ours from None
        self.identity.count("issued")
        return issued

    def _exchange(
        self, attempt: IssuanceAttempt, credentials: Credentials, request: ProofContext, now: int
    ) -> IssuedToken:
        asked = attempt.asked
        actor = attempt.actor = self.authenticated(asked.sent, asked.actor, credentials, request, now)
        subject = attempt.subject = self._subject(asked.subject, now)
        kernel, us = self.handing().kernel, self.us
        check_may_act(subject, actor, us, partial(issuer_url, kernel))
        hops = extend_chain(subject, actor, self.name)
        audience = self._audience(asked.targets)
        claims = build_claims(kernel, us, subject, actor, hops, asked, audience, now)
        scopes, until = self._scopes(claims, asked, subject, actor, now)
        whole = {**claims, "scope": " ".join(scopes), "exp": until}
        self._check(whole, actor, subject, hops, scopes, now)
        token = self.keys.sign({"typ": token_header_type(whole)}, whole, now)
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenIssuanceError(
                IssuanceRefusal.TASK, "the token would be too large: request a task with fewer tools or entities"
            )
        self._use(subject, actor, now)
        self._keep(token, whole, subject, actor, now)
        self._record(token, whole, subject, actor, hops)
        return IssuedToken(token, scopes, until - now, actor.binding.x5t is None)

    # ── Client and subject ────────────────────────────────────────────────────────────────────

    def authenticated(
        self, sent: ClientCredentials, own: str | None, credentials: Credentials, request: ProofContext, now: int
    ) -> AuthenticatedClient:
        """Authenticate the client; `own` is its actor token. A revoked client or key is refused. Raises
        TokenIssuanceError, StoreError."""
        known = None if own is None else self._verify(own, IssuanceRefusal.ACTOR_TOKEN, now)
        recognizes = partial(self.clients.recognizes, sent, known, now=now)
        try:
            binding = self.identity.parts.binds(credentials, request, None, now, recognizes)
        except CredentialError as refused:
            error = refused.refusal.error.value
            proof = error in (TokenErrorCode.INVALID_DPOP_PROOF, TokenErrorCode.USE_DPOP_NONCE)
            raise TokenIssuanceError(
                IssuanceRefusal.PROOF, refused.why, TokenErrorCode(error) if proof else None
            ) from None
        actor = self.clients.actor(sent, known, binding, now)
        assertion = frozenset[str]() if sent.assertion is None else revocable_raw_names(sent.assertion)
        names = actor.names | assertion | {f"agent:{self.name}/{actor.client.agent}"}
        if self.identity.marks.revoked(names, now):
            raise TokenIssuanceError(IssuanceRefusal.REVOKED)
        return actor

    def _subject(self, raw: str, now: int) -> SubjectToken:
        return SubjectToken(*self._verify(raw, IssuanceRefusal.SUBJECT_TOKEN, now))

    def _verify(self, raw: str, code: IssuanceRefusal, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
        """Verify a token. Its `may_act` is not checked here; `check_may_act` checks it against the actor instead of the
        presenter. Raises TokenIssuanceError, StoreError.
        """
        try:
            return verify_active_token(self.identity, raw, now)
        except CredentialError as refused:
            if refused.refusal is RefusalCode.REVOKED and code is IssuanceRefusal.SUBJECT_TOKEN:
                raise TokenIssuanceError(IssuanceRefusal.SUBJECT_REVOKED) from None
            raise TokenIssuanceError(code, f"{code.words}: {refused.why}") from None

    def _audience(self, targets: Sequence[str]) -> str:
        """Return one accepted audience. A token for several audiences would let one recipient use it at another. Raises
        TokenIssuanceError.
        """
        if not targets:
            return self.audiences[0]
        if len(set(targets)) > 1 or targets[0] not in self.audiences:
            raise TokenIssuanceError(IssuanceRefusal.TARGET)
        return targets[0]

    # ── Audience and scopes ───────────────────────────────────────────────────────────────────

    def _scopes(
        self,
        claims: Mapping[str, object],
        asked: TokenExchangeRequest,
        subject: SubjectToken,
        actor: AuthenticatedClient,
        now: int,
    ) -> tuple[tuple[str, ...], int]:
        """Return the scopes that are requested, held and delegated by the policy, and when the token expires, in
        seconds since 1970. Raises TokenIssuanceError.
        """
        held = self._select_held(asked, subject, actor)
        whole = {**claims, "scope": " ".join(held)}
        roots = self._facts(self._as_token(whole, b""), actor)
        answers = self.handing().asked(roots, held, now)
        granted = {scope: one.lasts for scope, one in answers.items() if isinstance(one, DelegationAllowance)}
        if not granted:
            raise TokenIssuanceError(
                next((one for one in answers.values() if isinstance(one, IssuanceRefusal)), IssuanceRefusal.SCOPE)
            )
        policy = [to_seconds(one) for one in granted.values() if one is not None]
        ends = [authority_end(subject.token), *([authority_end(actor.token[0])] if actor.token is not None else [])]
        until = min(*ends, now + min([self.lifetime, *policy]))
        if until <= now:
            raise TokenIssuanceError(IssuanceRefusal.LIFETIME)
        return tuple(granted), until

    def _select_held(
        self, asked: TokenExchangeRequest, subject: SubjectToken, actor: AuthenticatedClient
    ) -> tuple[str, ...]:
        """Return the requested scopes that both the subject and the actor have. Tokens of an issuer with `scopes none`
        have every scope. Raises TokenIssuanceError if there is no such scope.
        """
        limits = [
            None if who.scopes is None and self._no_scopes(token.issuer) else (who.scopes or ())
            for token, who in ((subject.token, subject.who), *((actor.token,) if actor.token is not None else ()))
        ]
        wanted = next((one for one in (asked.scopes, *limits) if one is not None), ())
        held = tuple(scope for scope in wanted if all(limit is None or scope in limit for limit in limits))
        if not held:
            raise TokenIssuanceError(
                IssuanceRefusal.SCOPE, None if asked.scopes is None else describe_missing_scopes(asked.scopes)
            )
        return held

    def _no_scopes(self, issuer: str) -> bool:
        found = self.handing().kernel.issuers.get(issuer)
        return found is not None and found.scopes_none

    # ── The token ─────────────────────────────────────────────────────────────────────────────

    def _as_token(self, claims: Mapping[str, object], raw: bytes) -> VerifiedToken:
        expires = claims["exp"]
        assert isinstance(expires, int)
        return VerifiedToken(
            "jwt", self.name, claims, {"typ": token_header_type(claims)}, sha256(raw).digest(), expires
        )

    def _who(self, token: VerifiedToken) -> TokenPrincipal:
        try:
            return self.identity.parts.reads(token)
        except CredentialError as refused:
            _LOG.error("an issued token would be refused: %s", refused)
            raise TokenIssuanceError(IssuanceRefusal.FAILURE) from None

    def _check(
        self,
        claims: Mapping[str, object],
        actor: AuthenticatedClient,
        subject: SubjectToken,
        hops: Sequence[Hop],
        scopes: Sequence[str],
        now: int,
    ) -> None:
        """Check that verifiers will read exactly what was decided, and that nothing that the token names is revoked.
        Raises TokenIssuanceError, StoreError.
        """
        token = self._as_token(claims, b"")
        read = self._who(token)
        said = (read.agent, read.user, read.hops, read.scopes)
        if said != (actor.client.agent, subject.who.user, tuple(hops), tuple(scopes)):
            raise TokenIssuanceError(IssuanceRefusal.FAILURE)
        if self.identity.marks.revoked(revocable_names(token, read, token_binding(token)), now):
            raise TokenIssuanceError(IssuanceRefusal.REVOKED)

    def _facts(self, token: VerifiedToken, actor: AuthenticatedClient) -> dict[str, dict[str, object]]:
        """Return the facts that decisions will derive from the token."""
        mapped = self.identity.mapped.get(self.name, frozenset())
        return build_facts(token, self._who(token), actor.binding, None, mapped)

    def _use(self, subject: SubjectToken, actor: AuthenticatedClient, now: int) -> None:
        """Consume the tokens that may be used only once, at the last possible moment. Raises TokenIssuanceError,
        StoreError.
        """
        for code, token in (
            (IssuanceRefusal.SUBJECT_TOKEN, subject.token),
            *(((IssuanceRefusal.ACTOR_TOKEN, actor.token[0]),) if actor.token is not None else ()),
        ):
            try:
                self.identity.use(token.single_use, now)
            except CredentialError as refused:
                raise TokenIssuanceError(code, f"{code.words}: {refused.why}") from None

    def _keep(
        self, raw: str, claims: Mapping[str, object], subject: SubjectToken, actor: AuthenticatedClient, now: int
    ) -> None:
        """Record the token before the client receives it. Raises TokenIssuanceError if the token cannot be recorded."""
        if self.log is None:
            return
        facts = self._facts(self._as_token(claims, raw.encode()), actor)
        told = issued_token_fields(facts, claims, actor, (subject.token, subject.who), self.handing().kernel)
        if not self.log.note(TokenEventKind.ISSUED, told, now) and not self.log.lets_pass:
            raise TokenIssuanceError(IssuanceRefusal.LOG)

    def _record_refusal(self, why: TokenIssuanceError, attempt: IssuanceAttempt, now: int) -> None:
        """Count and log the refusal. Record it only if the client is authenticated, so that others cannot fill the
        log."""
        report_refusal(self.identity, why)
        if self.log is None or attempt.actor is None or why.code is IssuanceRefusal.LOG:
            return
        asked, found = attempt.asked, attempt.subject
        subject = digest_text(asked.subject) if found is None else (found.token, found.who)
        self.log.note(
            TokenEventKind.NOT_ISSUED,
            refused_token_fields(why, asked, attempt.actor, subject, self.handing().kernel),
            now,
        )

    def _record(
        self,
        token: str,
        claims: Mapping[str, object],
        subject: SubjectToken,
        actor: AuthenticatedClient,
        hops: Sequence[Hop],
    ) -> None:
        chain = [*(hop.agent for hop in hops), actor.client.agent]
        task = claims.get("task")
        told = {
            "event": "token_issued", "jti": claims["jti"], "client": actor.client.name, "user": subject.who.user,
            "chain": chain, "scope": claims["scope"], "audience": claims["aud"], "expires": claims["exp"],
            "task": task.get("id") if isinstance(task, Mapping) else None, "subject": fingerprint(subject.token.digest),
            "fingerprint": fingerprint(sha256(token.encode()).digest()),
        }  # fmt: skip
        _LOG.info("a token was issued to client `%s`", actor.client.name, extra=told)
