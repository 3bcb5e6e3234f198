"""What is revoked, by whom, and for how long: a token, or all that an agent, a user, a key, a chain or a task is in."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum, auto
from typing import TYPE_CHECKING

from policyengine.audit.tokens import What
from policyengine.identity.clients import Actor, confirmed
from policyengine.identity.facts import moment, names_of, token_name
from policyengine.identity.identity import Identity
from policyengine.identity.proved import Proved, Token, Who
from policyengine.identity.recording import By, Operator, about_named, about_task, about_token, told_of_end, word_of
from policyengine.runtime.refusals import Refusal, Refused
from policyengine.runtime.shape import quoted

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

FOR_GOOD = 10 * 365 * 86_400  # seconds
LEEWAY = 300  # seconds that a token may be taken for after its end
# By what an operator revokes; each names an issuer of the policy, but for keys.
NAMED = {"agent": "agent", "user": "user", "task": "task", "chain": "jti", "key": "key"}
# Of a token that was refused for these, nobody knows yet whether it holds, or it will.
LATER = frozenset({Refusal.PROVIDER, Refusal.NOT_YET, Refusal.ISSUED_LATER})
OF_AN_ISSUER = re.compile(r"[^/]{1,256}/.{1,2048}", re.DOTALL)
_LOG = logging.getLogger("policyengine")


def verified(identity: Identity, raw: str, now: int) -> tuple[Token, Who]:
    """A token that holds but for what was revoked, whoever presents it. Raises Refused."""
    token = identity.parts.tokens.verify(raw, now)
    plain = replace(token, claims={name: value for name, value in token.claims.items() if name != "may_act"})
    return token, identity.parts.reads(plain)


def looked_at(identity: Identity, raw: str, now: int) -> tuple[Token, Who]:
    """A token that holds, whoever presents it. Raises Refused, StoreError."""
    token, who = verified(identity, raw, now)
    if identity.marks.revoked(names_of(token, who, confirmed(token)), now):
        raise Refused(Refusal.REVOKED)
    return token, who


class Came(Enum):
    """What came of it. UNRECORDED: it has ended, and the log could not be written."""

    REFUSED = auto()
    ENDED = auto()
    UNRECORDED = auto()


@dataclass(frozen=True)
class Revoking:
    """`ours`: the issuer that we are, if we are one: by its tokens agents are known under that name, too. What has
    ended is in the `log`, if there is one, before anybody is told; it ends whether that can be written or not."""

    identity: Identity
    ours: str | None = None
    log: DecisionLog | None = None

    def token(self, raw: str, by: Operator | Actor, now: int) -> Came:
        """RFC 7009: what is no token any more needs no revoking; one whose agent, say, is revoked for a while does. An
        operator may revoke any, a client what it is in; else it is refused. Raises StoreError, and Refused for what may
        hold later."""
        try:
            token, who = verified(self.identity, raw, now)
        except Refused as refused:
            if refused.refusal in LATER:
                raise
            return Came.ENDED
        if isinstance(by, Actor) and not self._is_in(by, token, who):
            return Came.REFUSED
        jti = token.claims.get("jti")
        names = [token_name(token), *([f"jti:{token.issuer}/{jti}"] if isinstance(jti, str) else [])]
        if not self.identity.marks.revoked(names[:1], now):
            self._revoke(names, end_of(token, now) + LEEWAY, now, by)
        return self._on_record(told_of_end("token", about_token(token, who, confirmed(token)), by), now)

    def _is_in(self, by: Actor, token: Token, who: Who) -> bool:
        known = {(by.client.issuer, by.client.agent), (self.ours, by.client.agent)}
        return not known.isdisjoint({(token.issuer, who.agent), *((hop.issuer, hop.agent) for hop in who.hops)})

    def named(self, kind: str, name: str, seconds: int | None, by: Operator, now: int) -> Came:
        """All that it is in; for good where nobody says for how long. What is no name of that kind is refused. Raises
        StoreError."""
        if kind != "key" and not OF_AN_ISSUER.fullmatch(name):
            return Came.REFUSED
        until = None if seconds is None else now + seconds
        self._revoke([f"{NAMED[kind]}:{name}"], now + FOR_GOOD if until is None else until, now, by)
        return self._on_record(told_of_end(kind, about_named(kind, name), by, until), now)

    def task(self, task: str, issuers: Collection[str], by: Operator, now: int) -> Came:
        """Every token of it. Raises StoreError."""
        self._revoke([f"task:{issuer}/{task}" for issuer in issuers], now + FOR_GOOD, now, by)
        return self._on_record(told_of_end("task", about_task(task, issuers), by), now)

    def own_task(self, task: str, by: Proved, now: int) -> Came:
        """The same by an agent that acts in it, of those tokens of its issuer that are for whom its own is, of the task
        that the same agent opened. Else it is refused. Raises StoreError."""
        facts = by.facts
        if by.own_task is None or "agent" not in facts or facts.get("task", {}).get("id") != task:
            return Came.REFUSED
        issuer = str(facts["credential"]["issuer"])
        self._revoke([by.own_task], now + FOR_GOOD, now, by)
        return self._on_record(told_of_end("task", about_task(task, (issuer,)), by), now)

    def _revoke(self, names: Collection[str], until: int, now: int, by: By) -> None:
        self.identity.marks.revoke(names, until, now)
        self.identity.count("revoked_now")
        told = [quoted(name) for name in names if not name.startswith("token:")]
        extra = {"event": "revoked", "names": told}
        _LOG.info("%s revoked %s", quoted(word_of(by)), ", ".join(told) or "a token", extra=extra)

    def _on_record(self, told: Mapping[str, object], now: int) -> Came:
        recorded = self.log is None or self.log.note(What.ENDED, told, now)
        return Came.ENDED if recorded else Came.UNRECORDED

    # ── What is known of one ──────────────────────────────────────────────────────────────────

    def introspected(self, raw: str, now: int) -> dict[str, object]:
        """RFC 7662. Raises StoreError."""
        try:
            token, who = looked_at(self.identity, raw, now)
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


def end_of(token: Token, now: int) -> int:
    """What its issuer is asked about is asked again long before it ends, and may have no end at all."""
    ends = token.claims.get("exp")
    if isinstance(ends, int | Decimal) and not isinstance(ends, bool):
        return max(int(ends), token.expires)
    return max(token.expires, now + FOR_GOOD)


def plain(given: Mapping[str, object]) -> dict[str, object]:
    """Whole seconds, as most readers expect times."""
    times = {"exp", "iat", "nbf"}
    return {name: int(value) if name in times and moment(value) else value for name, value in given.items()}  # type: ignore[call-overload]  # a number
