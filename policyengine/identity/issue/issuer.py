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

from policyengine.audit.tokens import What
from policyengine.identity.audit_events import told_of_issued, told_of_refused
from policyengine.identity.authenticator import Identity, digest_of
from policyengine.identity.config.model import IdentityError, in_seconds
from policyengine.identity.facts import (
    LINKS,
    MOST_LINKS,
    facts_of,
    fingerprint,
    links_of,
    names_of,
    opener_of,
    raw_names,
)
from policyengine.identity.issue.attenuation import began, confirmation, end_of, innermost, narrowed, shared
from policyengine.identity.issue.clients import Actor, Clients, Sent, confirmed
from policyengine.identity.issue.delegation_check import HandedOn, Handing
from policyengine.identity.issue.errors import NotIssued, TokenError, Unissued, not_held, tell
from policyengine.identity.issue.request import ACCESS_TOKEN, Asked
from policyengine.identity.keys.signing_keys import Signing
from policyengine.identity.revocation import looked_at
from policyengine.identity.verified import Hop, Request, Token, Who
from policyengine.identity.verify.chains import MOST_ACTORS
from policyengine.identity.verify.jws import LARGEST
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.credentials import Credentials
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class Issued:
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
class Subject:
    """What is handed on: a token that was verified and is not revoked."""

    token: Token
    who: Who


@dataclass(slots=True)
class Attempt:
    """What a client asks for, and what is known by now of who it is and of the token that it shows."""

    asked: Asked
    actor: Actor | None = None
    subject: Subject | None = None


@dataclass(frozen=True)
class Issuing:
    """`name`: the issuer of the policy that we are. `lifetime` in seconds. What is issued is in the `log`, if there is
    one, before anybody has it."""

    identity: Identity
    handing: Callable[[], Handing]
    keys: Signing
    clients: Clients
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
            raise NotIssued(Unissued.FAILURE)
        return found

    def exchange(self, asked: Asked, credentials: Credentials, request: Request, now: int) -> Issued:
        """`credentials` and `request`: what came with it, to prove a key. Raises NotIssued. May wait for an issuer, a
        store or whoever has the keys, for bounded times."""
        attempt = Attempt(asked)
        try:
            issued = self._exchanged(attempt, credentials, request, now)
        except NotIssued as why:
            self._tell(why, attempt, now)
            raise
        except (StoreError, IdentityError) as error:
            self.identity.telling.tell(logging.WARNING, "issuing", f"no token was issued: {error}")
            ours = NotIssued(Unissued.STORE if isinstance(error, StoreError) else Unissued.KEYS)
            self._tell(ours, attempt, now)
            raise ours from None
        self.identity.count("issued")
        return issued

    def _exchanged(self, attempt: Attempt, credentials: Credentials, request: Request, now: int) -> Issued:
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
        token = self.keys.sign({"typ": type_of(whole)}, whole, now)
        if len(token) > LARGEST:
            raise NotIssued(Unissued.TASK, "the token would be larger than it may be: ask for less of a task")
        self._use(subject, actor, now)
        self._keep(token, whole, subject, actor, now)
        self._record(token, whole, subject, actor, hops)
        return Issued(token, scopes, until - now, actor.binding.x5t is None)

    # ── Who asks, for whom ────────────────────────────────────────────────────────────────────

    def authenticated(self, sent: Sent, own: str | None, credentials: Credentials, request: Request, now: int) -> Actor:
        """Which client asks; `own`: its actor token. Nobody who was revoked, or by a key that was. Raises NotIssued,
        StoreError."""
        known = None if own is None else self._verified(own, Unissued.ACTOR_TOKEN, now)
        recognizes = partial(self.clients.recognizes, sent, known, now=now)
        try:
            binding = self.identity.parts.binds(credentials, request, None, now, recognizes)
        except Refused as refused:
            error = refused.refusal.error.value
            proof = error in (TokenError.INVALID_DPOP_PROOF, TokenError.USE_DPOP_NONCE)
            raise NotIssued(Unissued.PROOF, refused.why, TokenError(error) if proof else None) from None
        actor = self.clients.actor(sent, known, binding, now)
        assertion = frozenset[str]() if sent.assertion is None else raw_names(sent.assertion)
        names = actor.names | assertion | {f"agent:{self.name}/{actor.client.agent}"}
        if self.identity.marks.revoked(names, now):
            raise NotIssued(Unissued.REVOKED)
        return actor

    def _subject(self, raw: str, now: int) -> Subject:
        return Subject(*self._verified(raw, Unissued.SUBJECT_TOKEN, now))

    def _verified(self, raw: str, code: Unissued, now: int) -> tuple[Token, Who]:
        """Who may act with it is asked here, not of whoever presents it."""
        try:
            return looked_at(self.identity, raw, now)
        except Refused as refused:
            if refused.refusal is Refusal.REVOKED and code is Unissued.SUBJECT_TOKEN:
                raise NotIssued(Unissued.SUBJECT_REVOKED) from None
            raise NotIssued(code, f"{code.words}: {refused.why}") from None

    def _issuer_of(self, name: str) -> str | None:
        found = self.handing().kernel.issuers.get(name)
        return None if found is None else found.url

    def _hops(self, subject: Subject, actor: Actor) -> tuple[Hop, ...]:
        """The chain before the actor. Whoever asks for a narrower token of its own adds nobody."""
        token, who = subject.token, subject.who
        names = {(actor.client.issuer, actor.client.agent), (self.name, actor.client.agent)}
        if any((hop.issuer, hop.agent) in names for hop in who.hops):
            raise NotIssued(Unissued.CYCLE)
        if who.agent is None or (token.issuer, who.agent) in names:
            return who.hops
        if len(who.hops) + 2 > MOST_ACTORS:
            raise NotIssued(Unissued.DEPTH)
        return (*who.hops, Hop(who.agent, token.issuer, began(token), who.scopes))

    def _audience(self, targets: Sequence[str]) -> str:
        """One of ours: a token for several could be used by one of them at another."""
        if not targets:
            return self.audiences[0]
        if len(set(targets)) > 1 or targets[0] not in self.audiences:
            raise NotIssued(Unissued.TARGET)
        return targets[0]

    # ── What it may say ───────────────────────────────────────────────────────────────────────

    def _claims(
        self, subject: Subject, actor: Actor, hops: Sequence[Hop], asked: Asked, audience: str, now: int
    ) -> dict[str, object]:
        """All but the scopes, and how long it lasts."""
        groups = actor.token[1].groups if actor.token is not None else None
        act: dict[str, object] = {"sub": actor.client.agent, **({"groups": list(groups)} if groups else {})}
        renewed = subject.who.agent is not None and len(hops) == len(subject.who.hops)
        since = began(subject.token) if renewed else None
        if since is not None:
            act["iat"] = since
        for hop in hops[::-1]:
            inner = self._act_of(hop)
            innermost(act)["act"] = inner
        claims: dict[str, object] = {
            "iss": self.us.url, "aud": audience, "client_id": actor.client.agent, "iat": now, "exp": now + 1,
            "jti": secrets.token_urlsafe(16), "act": act, "cnf": confirmation(actor.binding),
            LINKS: self._links(subject, actor),
        }  # fmt: skip
        if subject.who.user is not None:
            claims = {**self._of_the_user(subject), **claims, "sub": subject.who.user}
        if "may_act" in subject.token.claims:
            claims["may_act"] = {"sub": actor.client.agent}
        own = None if actor.token is None else actor.token[1].task
        task = narrowed(shared(subject.who.task, own), asked.task)
        return claims if task is None else {**claims, "task": {**task, "opened_by": opened_by(subject, actor)}}

    def _act_of(self, hop: Hop) -> dict[str, object]:
        said: dict[str, object | None] = {
            "sub": hop.agent, "iss": self._issuer_of(hop.issuer), "iat": hop.issued_at,
            "scope": None if hop.scopes is None else " ".join(hop.scopes),
        }  # fmt: skip
        return {name: value for name, value in said.items() if value is not None}

    def _of_the_user(self, subject: Subject) -> dict[str, object]:
        """What the subject's issuer vouches for of the user, under the names by which the policy takes it from us."""
        theirs = self.handing().kernel.issuers.get(subject.token.issuer)
        by_fact = {fact: claim for claim, fact in theirs.claims} if theirs is not None else {}
        found = {
            claim: subject.token.claims.get(by_fact.get(fact, ""))
            for claim, fact in self.us.claims
            if fact[0] == "user"
        }
        return {claim: value for claim, value in found.items() if value is not None}

    def _links(self, subject: Subject, actor: Actor) -> list[str]:
        """What of the chain before can be revoked, so that this token is."""
        names = names_of(subject.token, subject.who, confirmed(subject.token)) | links_of(subject.token)
        if actor.token is not None:
            names |= names_of(*actor.token, confirmed(actor.token[0]))
        found = sorted(names | actor.names)
        if len(found) > MOST_LINKS:
            raise NotIssued(Unissued.DEPTH)
        return found

    def _scopes(
        self, claims: Mapping[str, object], asked: Asked, subject: Subject, actor: Actor, now: int
    ) -> tuple[tuple[str, ...], int]:
        """Those that all have in common and the policy hands on, and when the token ends."""
        held = self._held(asked, subject, actor)
        whole = {**claims, "scope": " ".join(held)}
        roots = self._facts(self._as_token(whole, b""), actor)
        answers = self.handing().asked(roots, held, now)
        granted = {scope: one.lasts for scope, one in answers.items() if isinstance(one, HandedOn)}
        if not granted:
            raise NotIssued(next((one for one in answers.values() if isinstance(one, Unissued)), Unissued.SCOPE))
        policy = [in_seconds(one) for one in granted.values() if one is not None]
        ends = [end_of(subject.token), *([end_of(actor.token[0])] if actor.token is not None else [])]
        until = min(*ends, now + min([self.lifetime, *policy]))
        if until <= now:
            raise NotIssued(Unissued.LIFETIME)
        return tuple(granted), until

    def _held(self, asked: Asked, subject: Subject, actor: Actor) -> tuple[str, ...]:
        """What is asked for and neither subject nor actor lacks. Where an issuer says `scopes none`, its tokens lack
        nothing."""
        limits = [
            None if who.scopes is None and self._no_scopes(token.issuer) else (who.scopes or ())
            for token, who in ((subject.token, subject.who), *((actor.token,) if actor.token is not None else ()))
        ]
        wanted = next((one for one in (asked.scopes, *limits) if one is not None), ())
        held = tuple(scope for scope in wanted if all(limit is None or scope in limit for limit in limits))
        if not held:
            raise NotIssued(Unissued.SCOPE, None if asked.scopes is None else not_held(asked.scopes))
        return held

    def _no_scopes(self, issuer: str) -> bool:
        found = self.handing().kernel.issuers.get(issuer)
        return found is not None and found.scopes_none

    # ── The token ─────────────────────────────────────────────────────────────────────────────

    def _as_token(self, claims: Mapping[str, object], raw: bytes) -> Token:
        expires = claims["exp"]
        assert isinstance(expires, int)
        return Token("jwt", self.name, claims, {"typ": type_of(claims)}, sha256(raw).digest(), expires)

    def _who(self, token: Token) -> Who:
        try:
            return self.identity.parts.reads(token)
        except Refused as refused:
            _LOG.error("a token would not be understood: %s", refused)
            raise NotIssued(Unissued.FAILURE) from None

    def _check(
        self,
        claims: Mapping[str, object],
        actor: Actor,
        subject: Subject,
        hops: Sequence[Hop],
        scopes: Sequence[str],
        now: int,
    ) -> None:
        """Whoever verifies it reads what was decided, and nothing else; nothing that it names was revoked."""
        token = self._as_token(claims, b"")
        read = self._who(token)
        said = (read.agent, read.user, read.hops, read.scopes)
        if said != (actor.client.agent, subject.who.user, tuple(hops), tuple(scopes)):
            raise NotIssued(Unissued.FAILURE)
        if self.identity.marks.revoked(names_of(token, read, confirmed(token)), now):
            raise NotIssued(Unissued.REVOKED)

    def _facts(self, token: Token, actor: Actor) -> dict[str, dict[str, object]]:
        """As decisions will have them that are made by it."""
        mapped = self.identity.mapped.get(self.name, frozenset())
        return facts_of(token, self._who(token), actor.binding, None, mapped)

    def _use(self, subject: Subject, actor: Actor, now: int) -> None:
        """What counts once of what came, now that a token can be given for it. Raises NotIssued, StoreError."""
        for code, token in (
            (Unissued.SUBJECT_TOKEN, subject.token),
            *(((Unissued.ACTOR_TOKEN, actor.token[0]),) if actor.token is not None else ()),
        ):
            try:
                self.identity.use(token.single_use, now)
            except Refused as refused:
                raise NotIssued(code, f"{code.words}: {refused.why}") from None

    def _keep(self, raw: str, claims: Mapping[str, object], subject: Subject, actor: Actor, now: int) -> None:
        """On record before anybody has it, or nobody gets it. Raises NotIssued."""
        if self.log is None:
            return
        facts = self._facts(self._as_token(claims, raw.encode()), actor)
        told = told_of_issued(facts, claims, actor, (subject.token, subject.who), self.handing().kernel)
        if not self.log.note(What.ISSUED, told, now) and not self.log.lets_pass:
            raise NotIssued(Unissued.LOG)

    def _tell(self, why: NotIssued, attempt: Attempt, now: int) -> None:
        """Counts it, and tells the operator; it is on record where the client proved who it is, so that no stranger
        fills the log."""
        tell(self.identity, why)
        if self.log is None or attempt.actor is None or why.code is Unissued.LOG:
            return
        asked, found = attempt.asked, attempt.subject
        subject = digest_of(asked.subject) if found is None else (found.token, found.who)
        self.log.note(What.NOT_ISSUED, told_of_refused(why, asked, attempt.actor, subject, self.handing().kernel), now)

    def _record(
        self, token: str, claims: Mapping[str, object], subject: Subject, actor: Actor, hops: Sequence[Hop]
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


def opened_by(subject: Subject, actor: Actor) -> str:
    """The agent that opened the task, `issuer/agent`: whoever asks, where no token that it shows is of one."""
    shown = ((subject.token, subject.who), *([] if actor.token is None else [actor.token]))
    openers = (opener_of(token, who) for token, who in shown if who.task is not None)
    return next(filter(None, openers), f"{actor.client.issuer}/{actor.client.agent}")


def type_of(claims: Mapping[str, object]) -> str:
    """Access tokens of RFC 9068 have a subject; where agents act for nobody but themselves there is none."""
    return "at+jwt" if "sub" in claims else "JWT"


def check_may_act(subject: Subject, actor: Actor, us: Issuer, url_of: Callable[[str], str | None]) -> None:
    if "may_act" not in subject.token.claims:
        return
    allowed = subject.token.claims["may_act"]
    name, url = (allowed.get("sub"), allowed.get("iss")) if isinstance(allowed, Mapping) else (None, None)
    issuers = {actor.client.issuer, us.name}
    known = tuple(url_of(one) for one in issuers) if url is not None else tuple(issuers)  # whatever `iss` is there
    if name != actor.client.agent or (url if url is not None else subject.token.issuer) not in known:
        raise NotIssued(Unissued.MAY_ACT)
