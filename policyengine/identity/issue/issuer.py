"""Tokens of our own (RFC 8693): an agent acts for whoever a token is of, if the policy's delegation says so.

Never more than subject, actor, `may delegate` and request have in common; for the shortest time of all; with the actor
at the end of the chain; bound to the actor's key. What is issued is read once more as whoever verifies it will.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from policyengine.audit.token_events import TokenEventKind
from policyengine.identity.audit_events import issued_token_fields, refused_token_fields
from policyengine.identity.authenticator import CredentialAuthenticator, digest_text
from policyengine.identity.config.model import IdentityError, to_seconds
from policyengine.identity.facts import (
    LINKS,
    MAX_CHAIN_LINKS,
    build_facts,
    chain_links,
    fingerprint,
    revocable_names,
    revocable_raw_names,
    task_opener,
)
from policyengine.identity.issue.attenuation import (
    authority_end,
    authority_start,
    cnf_claim,
    common_task,
    innermost_actor,
    narrow_task,
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
from policyengine.identity.verify.chains import MAX_ACTORS
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
    bound_to_key: bool  # by DPoP, not by a certificate

    def to_dict(self) -> dict[str, object]:
        """RFC 8693, 2.2.1."""
        return {
            "access_token": self.token, "issued_token_type": ACCESS_TOKEN, "expires_in": self.lasts,
            "token_type": "DPoP" if self.bound_to_key else "Bearer", "scope": " ".join(self.scopes),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """What is handed on: a token that was verified and is not revoked."""

    token: VerifiedToken
    who: TokenPrincipal


@dataclass(slots=True)
class IssuanceAttempt:
    """What a client asks for, and what is known by now of who it is and of the token that it shows."""

    asked: TokenExchangeRequest
    actor: AuthenticatedClient | None = None
    subject: SubjectToken | None = None


@dataclass(frozen=True)
class TokenIssuer:
    """`name`: the issuer of the policy that we are. `lifetime` in seconds. What is issued is in the `log`, if there is
    one, before anybody has it."""

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
        """As the policy has it now."""
        found = self.handing().kernel.issuers.get(self.name)
        if found is None or found.url is None:
            _LOG.error("no token is issued: the policy has no issuer `%s` with a `url`", self.name)
            raise TokenIssuanceError(IssuanceRefusal.FAILURE)
        return found

    def exchange(
        self, asked: TokenExchangeRequest, credentials: Credentials, request: ProofContext, now: int
    ) -> IssuedToken:
        """`credentials` and `request`: what came with it, to prove a key. Raises TokenIssuanceError. May wait for an
        issuer, a store or whoever has the keys, for bounded times."""
        attempt = IssuanceAttempt(asked)
        try:
            issued = self._exchanged(attempt, credentials, request, now)
        except TokenIssuanceError as why:
            self._tell(why, attempt, now)
            raise
        except (StoreError, IdentityError) as error:
            self.identity.telling.tell(logging.WARNING, "issuing", f"no token was issued: {error}")
            ours = TokenIssuanceError(IssuanceRefusal.STORE if isinstance(error, StoreError) else IssuanceRefusal.KEYS)
            self._tell(ours, attempt, now)
            raise ours from None
        self.identity.count("issued")
        return issued

    def _exchanged(
        self, attempt: IssuanceAttempt, credentials: Credentials, request: ProofContext, now: int
    ) -> IssuedToken:
        asked = attempt.asked
        actor = attempt.actor = self.authenticated(asked.sent, asked.actor, credentials, request, now)
        subject = attempt.subject = self._subject(asked.subject, now)
        check_may_act(subject, actor, self.us, self._issuer_of)
        hops = self._hops(subject, actor)
        audience = self._audience(asked.targets)
        claims = self._claims(subject, actor, hops, asked, audience, now)
        scopes, until = self._scopes(claims, asked, subject, actor, now)
        whole = {**claims, "scope": " ".join(scopes), "exp": until}
        self._check(whole, actor, subject, hops, scopes, now)
        token = self.keys.sign({"typ": token_header_type(whole)}, whole, now)
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenIssuanceError(
                IssuanceRefusal.TASK, "the token would be larger than it may be: ask for less of a task"
            )
        self._use(subject, actor, now)
        self._keep(token, whole, subject, actor, now)
        self._record(token, whole, subject, actor, hops)
        return IssuedToken(token, scopes, until - now, actor.binding.x5t is None)

    # ── Who asks, for whom ────────────────────────────────────────────────────────────────────

    def authenticated(
        self, sent: ClientCredentials, own: str | None, credentials: Credentials, request: ProofContext, now: int
    ) -> AuthenticatedClient:
        """Which client asks; `own`: its actor token. Nobody who was revoked, or by a key that was. Raises
        TokenIssuanceError, StoreError."""
        known = None if own is None else self._verified(own, IssuanceRefusal.ACTOR_TOKEN, now)
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
        return SubjectToken(*self._verified(raw, IssuanceRefusal.SUBJECT_TOKEN, now))

    def _verified(self, raw: str, code: IssuanceRefusal, now: int) -> tuple[VerifiedToken, TokenPrincipal]:
        """Who may act with it is asked here, not of whoever presents it."""
        try:
            return verify_active_token(self.identity, raw, now)
        except CredentialError as refused:
            if refused.refusal is RefusalCode.REVOKED and code is IssuanceRefusal.SUBJECT_TOKEN:
                raise TokenIssuanceError(IssuanceRefusal.SUBJECT_REVOKED) from None
            raise TokenIssuanceError(code, f"{code.words}: {refused.why}") from None

    def _issuer_of(self, name: str) -> str | None:
        found = self.handing().kernel.issuers.get(name)
        return None if found is None else found.url

    def _hops(self, subject: SubjectToken, actor: AuthenticatedClient) -> tuple[Hop, ...]:
        """The chain before the actor. Whoever asks for a narrower token of its own adds nobody."""
        token, who = subject.token, subject.who
        names = {(actor.client.issuer, actor.client.agent), (self.name, actor.client.agent)}
        if any((hop.issuer, hop.agent) in names for hop in who.hops):
            raise TokenIssuanceError(IssuanceRefusal.CYCLE)
        if who.agent is None or (token.issuer, who.agent) in names:
            return who.hops
        if len(who.hops) + 2 > MAX_ACTORS:
            raise TokenIssuanceError(IssuanceRefusal.DEPTH)
        return (*who.hops, Hop(who.agent, token.issuer, authority_start(token), who.scopes))

    def _audience(self, targets: Sequence[str]) -> str:
        """One of ours: a token for several could be used by one of them at another."""
        if not targets:
            return self.audiences[0]
        if len(set(targets)) > 1 or targets[0] not in self.audiences:
            raise TokenIssuanceError(IssuanceRefusal.TARGET)
        return targets[0]

    # ── What it may say ───────────────────────────────────────────────────────────────────────

    def _claims(
        self,
        subject: SubjectToken,
        actor: AuthenticatedClient,
        hops: Sequence[Hop],
        asked: TokenExchangeRequest,
        audience: str,
        now: int,
    ) -> dict[str, object]:
        """All but the scopes, and how long it lasts."""
        groups = actor.token[1].groups if actor.token is not None else None
        act: dict[str, object] = {"sub": actor.client.agent, **({"groups": list(groups)} if groups else {})}
        renewed = subject.who.agent is not None and len(hops) == len(subject.who.hops)
        since = authority_start(subject.token) if renewed else None
        if since is not None:
            act["iat"] = since
        for hop in hops[::-1]:
            inner = self._act_of(hop)
            innermost_actor(act)["act"] = inner
        claims: dict[str, object] = {
            "iss": self.us.url, "aud": audience, "client_id": actor.client.agent, "iat": now, "exp": now + 1,
            "jti": secrets.token_urlsafe(16), "act": act, "cnf": cnf_claim(actor.binding),
            LINKS: self._links(subject, actor),
        }  # fmt: skip
        if subject.who.user is not None:
            claims = {**self._of_the_user(subject), **claims, "sub": subject.who.user}
        if "may_act" in subject.token.claims:
            claims["may_act"] = {"sub": actor.client.agent}
        own = None if actor.token is None else actor.token[1].task
        task = narrow_task(common_task(subject.who.task, own), asked.task)
        return (
            claims if task is None else {**claims, "task": {**task, "opened_by": initial_task_opener(subject, actor)}}
        )

    def _act_of(self, hop: Hop) -> dict[str, object]:
        said: dict[str, object | None] = {
            "sub": hop.agent, "iss": self._issuer_of(hop.issuer), "iat": hop.issued_at,
            "scope": None if hop.scopes is None else " ".join(hop.scopes),
        }  # fmt: skip
        return {name: value for name, value in said.items() if value is not None}

    def _of_the_user(self, subject: SubjectToken) -> dict[str, object]:
        """What the subject's issuer vouches for of the user, under the names by which the policy takes it from us."""
        theirs = self.handing().kernel.issuers.get(subject.token.issuer)
        by_fact = {fact: claim for claim, fact in theirs.claims} if theirs is not None else {}
        found = {
            claim: subject.token.claims.get(by_fact.get(fact, ""))
            for claim, fact in self.us.claims
            if fact[0] == "user"
        }
        return {claim: value for claim, value in found.items() if value is not None}

    def _links(self, subject: SubjectToken, actor: AuthenticatedClient) -> list[str]:
        """What of the chain before can be revoked, so that this token is."""
        names = revocable_names(subject.token, subject.who, token_binding(subject.token)) | chain_links(subject.token)
        if actor.token is not None:
            names |= revocable_names(*actor.token, token_binding(actor.token[0]))
        found = sorted(names | actor.names)
        if len(found) > MAX_CHAIN_LINKS:
            raise TokenIssuanceError(IssuanceRefusal.DEPTH)
        return found

    def _scopes(
        self,
        claims: Mapping[str, object],
        asked: TokenExchangeRequest,
        subject: SubjectToken,
        actor: AuthenticatedClient,
        now: int,
    ) -> tuple[tuple[str, ...], int]:
        """Those that all have in common and the policy hands on, and when the token ends."""
        held = self._held(asked, subject, actor)
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

    def _held(self, asked: TokenExchangeRequest, subject: SubjectToken, actor: AuthenticatedClient) -> tuple[str, ...]:
        """What is asked for and neither subject nor actor lacks. Where an issuer says `scopes none`, its tokens lack
        nothing."""
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
            _LOG.error("a token would not be understood: %s", refused)
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
        """Whoever verifies it reads what was decided, and nothing else; nothing that it names was revoked."""
        token = self._as_token(claims, b"")
        read = self._who(token)
        said = (read.agent, read.user, read.hops, read.scopes)
        if said != (actor.client.agent, subject.who.user, tuple(hops), tuple(scopes)):
            raise TokenIssuanceError(IssuanceRefusal.FAILURE)
        if self.identity.marks.revoked(revocable_names(token, read, token_binding(token)), now):
            raise TokenIssuanceError(IssuanceRefusal.REVOKED)

    def _facts(self, token: VerifiedToken, actor: AuthenticatedClient) -> dict[str, dict[str, object]]:
        """As decisions will have them that are made by it."""
        mapped = self.identity.mapped.get(self.name, frozenset())
        return build_facts(token, self._who(token), actor.binding, None, mapped)

    def _use(self, subject: SubjectToken, actor: AuthenticatedClient, now: int) -> None:
        """What counts once of what came, now that a token can be given for it. Raises TokenIssuanceError,
        StoreError."""
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
        """On record before anybody has it, or nobody gets it. Raises TokenIssuanceError."""
        if self.log is None:
            return
        facts = self._facts(self._as_token(claims, raw.encode()), actor)
        told = issued_token_fields(facts, claims, actor, (subject.token, subject.who), self.handing().kernel)
        if not self.log.note(TokenEventKind.ISSUED, told, now) and not self.log.lets_pass:
            raise TokenIssuanceError(IssuanceRefusal.LOG)

    def _tell(self, why: TokenIssuanceError, attempt: IssuanceAttempt, now: int) -> None:
        """Counts it, and tells the operator; it is on record where the client proved who it is, so that no stranger
        fills the log."""
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


def initial_task_opener(subject: SubjectToken, actor: AuthenticatedClient) -> str:
    """The agent that opened the task, `issuer/agent`: whoever asks, where no token that it shows is of one."""
    shown = ((subject.token, subject.who), *([] if actor.token is None else [actor.token]))
    openers = (task_opener(token, who) for token, who in shown if who.task is not None)
    return next(filter(None, openers), f"{actor.client.issuer}/{actor.client.agent}")


def token_header_type(claims: Mapping[str, object]) -> str:
    """Access tokens of RFC 9068 have a subject; where agents act for nobody but themselves there is none."""
    return "at+jwt" if "sub" in claims else "JWT"


def check_may_act(
    subject: SubjectToken, actor: AuthenticatedClient, us: Issuer, url_of: Callable[[str], str | None]
) -> None:
    if "may_act" not in subject.token.claims:
        return
    allowed = subject.token.claims["may_act"]
    name, url = (allowed.get("sub"), allowed.get("iss")) if isinstance(allowed, Mapping) else (None, None)
    issuers = {actor.client.issuer, us.name}
    known = tuple(url_of(one) for one in issuers) if url is not None else tuple(issuers)  # whatever `iss` is there
    if name != actor.client.agent or (url if url is not None else subject.token.issuer) not in known:
        raise TokenIssuanceError(IssuanceRefusal.MAY_ACT)
