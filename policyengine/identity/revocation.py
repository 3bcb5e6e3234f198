"""What is revoked, by whom, and for how long: a token, or all that an agent, a user, a key, a chain or a task is in."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from policyengine.audit.tokens import What
from policyengine.identity.audit_events import By, Operator, about_named, about_task, about_token, told_of_end, word_of
from policyengine.identity.authenticator import Identity
from policyengine.identity.facts import fingerprint, moment, names_of, raw_names, token_name
from policyengine.identity.issue.clients import Actor, confirmed
from policyengine.identity.issue.errors import TokenError
from policyengine.identity.verified import Proved, Token, Who
from policyengine.identity.verify.claims import Claims, members
from policyengine.identity.verify.claims import moment as time_in
from policyengine.identity.verify.jws import read_jws
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.structure_checks import quoted
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

FOR_GOOD = 10 * 365 * 86_400  # seconds
LONGEST_TASK = 30 * 86_400  # seconds after which no token of a task that has ended could be presented
LEEWAY = 300  # seconds that a token may be taken for after its end
RETRY_AFTER = 10  # seconds, by which keys that are not known are asked for anew
# Of a token that was refused for these, more may be known in a moment.
LATER = frozenset({Refusal.PROVIDER, Refusal.UNKNOWN_KEY})
_LOG = logging.getLogger("policyengine")


def verified(identity: Identity, raw: str, now: int) -> tuple[Token, Who]:
    """A token that holds but for what was revoked, whoever presents it. Raises Refused."""
    token = identity.parts.tokens.verify(raw, now)
    return token, whose(identity, token)


def whose(identity: Identity, token: Token) -> Who:
    """Also where somebody else than it names may act: who that is, is asked of whoever acts. Raises Refused."""
    members(token.claims, "may_act")
    plain = {name: value for name, value in token.claims.items() if name != "may_act"}
    return identity.parts.reads(replace(token, claims=plain))


def looked_at(identity: Identity, raw: str, now: int) -> tuple[Token, Who]:
    """A token that holds, whoever presents it. Raises Refused, StoreError."""
    return counting(identity, *verified(identity, raw, now), now)


def counting(identity: Identity, token: Token, who: Who, now: int) -> tuple[Token, Who]:
    """Raises Refused where it was revoked; StoreError."""
    if identity.marks.revoked(names_of(token, who, confirmed(token)), now):
        raise Refused(Refusal.REVOKED)
    return token, who


@dataclass(frozen=True, slots=True)
class Ended:
    """`recorded`: whether the log could be written. `verified` false: nobody knows whose the token is, or was."""

    recorded: bool = True
    verified: bool = True


class NotEnded(Exception):
    """`why` may be told to the client; `later`: more may be known in a moment."""

    def __init__(self, error: TokenError, why: str) -> None:
        self.error, self.why, self.later = error, why, error is TokenError.UNAVAILABLE
        super().__init__(why)


@dataclass(frozen=True)
class Revoking:
    """`ours`: the issuer that we are, if we are one: by its tokens agents are known under that name, too. What has
    ended is in the `log`, if there is one, before anybody is told; it ends whether that can be written or not."""

    identity: Identity
    ours: str | None = None
    log: DecisionLog | None = None

    def token(self, raw: str, by: Operator | Actor, now: int) -> Ended:
        """RFC 7009, but that nothing is said to have ended that has not. What its issuer signed ends, whether it holds
        or not: by an operator, or a client that is in it. What is known of nobody's ends on an operator's word. Raises
        NotEnded, StoreError."""
        try:
            token = self._authentic(raw, now)
        except Refused as refused:
            return self._unverified(raw, refused, by, now)
        try:
            who = None if token.kind == "attestation" else whose(self.identity, token)
        except Refused:
            who = None
        if isinstance(by, Actor) and not (who is not None and self._is_in(by, token, who)):
            raise NotEnded(TokenError.UNAUTHORIZED_CLIENT, "the token is not the client's")
        self._mark(names_of_token(token), end_of(token.claims, now), now, by)
        return self._on_record(told_of_end("token", about_token(token, who, confirmed(token)), by), now)

    def _authentic(self, raw: str, now: int) -> Token:
        """As its issuer or attester signed it. Raises Refused."""
        parts = self.identity.parts
        try:
            return parts.tokens.authentic(raw, now)
        except Refused as refused:
            if refused.refusal is not Refusal.UNKNOWN_ISSUER or parts.attests is None:
                raise
        return parts.attests.authentic(raw, now)

    def _unverified(self, raw: str, refused: Refused, by: Operator | Actor, now: int) -> Ended:
        """No client fills the store with what nobody signed; what has ended by its own word needs no room. Proofs bring
        their key."""
        if refused.refusal is Refusal.KEY_IN_TOKEN:
            why = "what brings a key of its own is no token: revoke that `key`"
            raise NotEnded(TokenError.UNSUPPORTED_TOKEN_TYPE, f"nothing has ended: {why}")
        ends = end_of_unverified(raw, now)
        if isinstance(by, Operator):
            self._mark(raw_names(raw), max(ends, now + LEEWAY), now, by)
            print_ = fingerprint(sha256(raw.encode()).digest())
            about = {"credential": {"fingerprint": print_, "refused": refused.refusal.value}, "verified": False}
            return replace(self._on_record(told_of_end("token", about, by), now), verified=False)
        if ends <= now:
            return Ended(verified=False)
        error = TokenError.UNAVAILABLE if refused.refusal in LATER else TokenError.UNSUPPORTED_TOKEN_TYPE
        raise NotEnded(error, f"the token has not ended: {refused.why}; an operator can end it all the same")

    def _is_in(self, by: Actor, token: Token, who: Who) -> bool:
        known = {(by.client.issuer, by.client.agent), (self.ours, by.client.agent)}
        return not known.isdisjoint({(token.issuer, who.agent), *((hop.issuer, hop.agent) for hop in who.hops)})

    def named(self, kind: str, given: str, name: str, seconds: int | None, by: Operator, now: int) -> Ended:
        """All that it is in; for good where nobody says for how long. `name`: by which it is marked. Raises
        StoreError."""
        until = None if seconds is None else now + seconds
        self._revoke([name], now + FOR_GOOD if until is None else until, now, by)
        return self._on_record(told_of_end(kind, about_named(kind, given), by, until), now)

    def task(self, task: str, issuers: Collection[str], by: Operator, now: int) -> Ended:
        """Every token of it. Raises StoreError."""
        self._revoke([f"task:{issuer}/{task}" for issuer in issuers], now + FOR_GOOD, now, by)
        return self._on_record(told_of_end("task", about_task(task, issuers), by), now)

    def own_task(self, task: str, by: Proved, now: int) -> Ended:
        """The same by an agent that acts in it, of those tokens of its issuer that are for whom its own is, of the task
        that the same agent opened. Raises NotEnded, StoreError."""
        facts = by.facts
        if by.own_task is None or "agent" not in facts or facts.get("task", {}).get("id") != task:
            raise NotEnded(TokenError.UNAUTHORIZED_CLIENT, "the token is of no agent in that task")
        self._revoke([by.own_task], max(now + LONGEST_TASK, by.expires + LEEWAY), now, by)
        issuer = str(facts["credential"]["issuer"])
        return self._on_record(told_of_end("task", about_task(task, (issuer,)), by), now)

    def _mark(self, names: Collection[str], until: int, now: int, by: By) -> None:
        """Whoever asks again needs no more room."""
        if self.identity.marks.revoked(names, now) != frozenset(names):
            self._revoke(names, until, now, by)

    def _revoke(self, names: Collection[str], until: int, now: int, by: By) -> None:
        if not isinstance(by, Operator):
            self._count(client_of(by), now)
        self.identity.marks.revoke(names, until, now, by_operator=isinstance(by, Operator))
        self.identity.count("revoked_now")
        told = [quoted(name) for name in sorted(names) if not name.startswith("token:")]
        extra = {"event": "revoked", "names": told}
        _LOG.info("%s revoked %s", quoted(word_of(by)), ", ".join(told) or "a token", extra=extra)

    def _count(self, client: str, now: int) -> None:
        """Raises NotEnded for a client that has ended very much lately: there is room for everybody's."""
        try:
            self.identity.endings.take(client, now)
        except StoreError as full:
            told = f"nothing has ended: {full}; an operator can end it"
            self.identity.telling.tell(logging.WARNING, "endings", told)
            raise NotEnded(TokenError.UNAVAILABLE, told) from None

    def _on_record(self, told: Mapping[str, object], now: int) -> Ended:
        return Ended(recorded=self.log is None or self.log.note(What.ENDED, told, now))

    # ── What is known of one ──────────────────────────────────────────────────────────────────

    def introspected(self, raw: str, now: int) -> dict[str, object]:
        """RFC 7662; of transaction tokens, too. Raises StoreError."""
        try:
            token, who = self._held(raw, now)
        except Refused:
            return {"active": False}
        single = token.single_use
        if token.expires <= now or (single is not None and self.identity.marks.marked(single.name, now)):
            return {"active": False}
        names = ("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "act", "cnf", "task", "scope")
        told = {name: token.claims[name] for name in names if name in token.claims}
        scope = {} if who.scopes is None else {"scope": " ".join(who.scopes)}
        kind = "DPoP" if confirmed(token).jkt is not None else "Bearer"
        return {"active": True, **plain(told), **scope, "token_type": kind}

    def _held(self, raw: str, now: int) -> tuple[Token, Who]:
        try:
            return looked_at(self.identity, raw, now)
        except Refused as refused:
            if refused.refusal is not Refusal.TOKEN_TYPE:
                raise
        token = self.identity.parts.tokens.verify_txn(raw, now)
        return counting(self.identity, token, whose(self.identity, token), now)


def client_of(by: Actor | Proved) -> str:
    """Who ends something, however often it starts anew."""
    if isinstance(by, Actor):
        return f"{by.client.issuer}/{by.client.agent}"
    agent = by.facts["agent"]
    return f"{agent['issuer']}/{agent['id']}"


def names_of_token(token: Token) -> frozenset[str]:
    """By which the token alone is revoked. What its attester calls an attestation is no name of an issuer's."""
    jti = token.claims.get("jti")
    named = isinstance(jti, str) and token.kind != "attestation"
    return frozenset({token_name(token), *([f"jti:{token.issuer}/{jti}"] if named else [])})


def end_of(claims: Claims, now: int) -> int:
    """When it could be presented no more. What its issuer is asked about may have no end at all."""
    try:
        ends = time_in(claims, "exp")
    except Refused:
        ends = None
    return now + FOR_GOOD if ends is None else max(int(ends), now) + LEEWAY


def end_of_unverified(raw: str, now: int) -> int:
    """By its own word, as it would be signed: past where it has ended, and never later than for good."""
    try:
        ends = time_in(read_jws(raw).claims, "exp")
    except Refused:
        ends = None
    return min(now + FOR_GOOD, now + FOR_GOOD if ends is None else int(ends) + LEEWAY)


def plain(given: Mapping[str, object]) -> dict[str, object]:
    """Whole seconds, as most readers expect times."""
    times = {"exp", "iat", "nbf"}
    return {name: int(value) if name in times and moment(value) else value for name, value in given.items()}  # type: ignore[call-overload]  # a number
