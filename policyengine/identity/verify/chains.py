"""On whose behalf: of every way in which a token tells of a chain one `Who`, and of what it tells twice nothing else.

| in the token | is |
|---|---|
| `act`, outermost (RFC 8693, the access-request draft) | the presenter |
| `act` within `act` | who handed the work on, the innermost first |
| `req_wl` of a transaction token, one or several | who took over after those of `act`; the last presents it |
| without both: the claim `agent` of the configuration, `client_id`, `azp`; `aud` of an ID token | the presenter |
| `sub` of a workload (SPIFFE) | the presenter |
| `sub` that is also the first of the chain, or none | no user: agents alone |
| `sub` with `sub_profile` `ai_agent` | the first agent of the chain, and no user |
| any other `sub` | the user |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from policyengine.identity.config.model import Configuration, IssuerSettings, in_seconds
from policyengine.identity.verified import Hop, Token, Who
from policyengine.identity.verify.claims import Claims, members, moment, one_or_more, scope_words, text, texts
from policyengine.identity.verify.jws import type_of
from policyengine.identity.verify.scopes import scopes_of
from policyengine.identity.verify.task_claim import opener_of, task_of
from policyengine.identity.verify.tokens import is_id_token
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import Refusal, Refused

MOST_ACTORS = 16
AI_AGENT, PERSON = "ai_agent", "user"
OF_PEOPLE = ("auth_time", "amr")  # somebody signed in
PLAIN = IssuerSettings()
AGENT = "{agent}"  # in settings
UNSAID: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Actor:
    """One of a chain, by the claims that name it."""

    issuer: str
    id: str
    said: Claims = field(repr=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.issuer, self.id

    @property
    def hop(self) -> Hop:
        issued = moment(self.said, "iat")
        return Hop(self.id, self.issuer, None if issued is None else int(issued), scope_words(self.said, "scope"))


@dataclass(frozen=True)
class Reader:
    """`issuers`: names in the policy, by the exact text of `iss`; `settings` by that name. `leeway` in seconds."""

    issuers: Mapping[str, str]
    settings: Mapping[str, IssuerSettings] = field(default_factory=dict)
    leeway: int = 30

    def __call__(self, token: Token) -> Who:
        """Raises Refused."""
        claims = token.claims
        settings = self.settings.get(token.issuer, PLAIN)
        client = client_of(token, settings.agent)
        subject = subject_of(token, settings.user, client)
        check_somebody(token, subject)
        alone = "act" not in claims and token.kind not in ("txn_token", "spiffe")  # no agent is in it
        if client is not None and client in settings.people and alone:
            return named(person(claims, subject, client), claims)
        if client is not None and alone and says_alone(claims, settings.alone, client):
            return by_itself(claims, client)
        chain = self._chain(token, subject, client)
        user, chain = served(token, subject, chain, acted="act" in claims or token.kind == "txn_token")
        self._check(token, chain)
        self._check_may_act(token, chain[-1], alone=user is None and len(chain) == 1)
        return named(who_of(claims, user, chain), claims)

    # ── The chain ─────────────────────────────────────────────────────────────────────────────

    def _chain(self, token: Token, subject: str | None, client: str | None) -> list[Actor]:
        """First to last: at least one, and the last presents the token. Raises Refused."""
        chain = self._actors(token)
        if token.kind == "txn_token":
            chain += took_over(token, chain)
        elif token.kind == "spiffe" and not chain and subject is not None:
            chain = [Actor(token.issuer, subject, {})]
        elif not chain and client is not None:
            chain = [Actor(token.issuer, client, {})]
        if not chain:
            raise Refused(Refusal.ACTOR, "none of its claims names an agent: `agent` of its issuer says which one does")
        if chain[-1].issuer != token.issuer:
            raise Refused(Refusal.ACTOR, "whoever presents it is of another issuer than the token")
        if client is not None and client != chain[-1].id:
            raise Refused(Refusal.CONTRADICTION, "who acts and its client are two")
        return chain

    def _actors(self, token: Token) -> list[Actor]:
        """Those of `act`, the innermost first. Raises Refused."""
        found: list[Actor] = []
        act = members(token.claims, "act")
        while act is not None:
            if len(found) == MOST_ACTORS:
                raise Refused(Refusal.ACTOR_DEPTH)
            found.append(self._actor(act, token.issuer))
            act = members(act, "act")
        return found[::-1]

    def _actor(self, act: Claims, issuer: str) -> Actor:
        """Of the issuer of the token, where it names none. Raises Refused."""
        name, url, client = text(act, "sub"), text(act, "iss"), text(act, "client_id")
        if name is None:
            raise Refused(Refusal.ACTOR, "an actor has no `sub`")
        if client is not None and client != name:
            raise Refused(Refusal.CONTRADICTION, "an actor has two names")
        if url is not None and url not in self.issuers:
            raise Refused(Refusal.ACTOR, "no policy trusts the issuer of an actor")
        if PERSON in profile(act):
            raise Refused(Refusal.CONTRADICTION, "an actor is said to be a person")
        return Actor(issuer if url is None else self.issuers[url], name, act)

    def _check(self, token: Token, chain: list[Actor]) -> None:
        """Nobody twice, and in the order in which work was handed on. Raises Refused."""
        if len(chain) == 1 and not chain[0].said:
            return
        if len(chain) > MOST_ACTORS:
            raise Refused(Refusal.ACTOR_DEPTH)
        if len({one.key for one in chain}) < len(chain):
            raise Refused(Refusal.ACTOR_CYCLE)
        times = [moment(one.said, "iat") for one in chain] + [moment(token.claims, "iat")]
        told = [one for one in times if one is not None]
        if any(later + self.leeway < earlier for earlier, later in pairwise(told)):
            raise Refused(Refusal.CONTRADICTION, "an actor took over before the one from whom it did")

    def _check_may_act(self, token: Token, presenter: Actor, *, alone: bool) -> None:
        """Whoever acts for another has to be who may. Raises Refused."""
        allowed = members(token.claims, "may_act")
        if allowed is None:
            return
        name, url = text(allowed, "sub"), text(allowed, "iss")
        if name is None:
            raise Refused(Refusal.MAY_NOT_ACT)
        issuer = token.issuer if url is None else self.issuers.get(url)
        if not alone and (issuer, name) != presenter.key:
            raise Refused(Refusal.MAY_NOT_ACT)


def reader_of(issuers: Mapping[str, Issuer], configuration: Configuration) -> Reader:
    """A URL that two issuers share names none."""
    named = [(one.url, one.name) for one in issuers.values() if one.url is not None]
    urls = [url for url, _ in named]
    by_url = {url: name for url, name in named if urls.count(url) == 1}
    return Reader(by_url, configuration.issuers, in_seconds(configuration.identity.leeway))


# ── Who is who ────────────────────────────────────────────────────────────────────────────────


def client_of(token: Token, agent: str) -> str | None:
    """Raises Refused where it names two. An ID token is for its client."""
    claims = token.claims
    names = {text(claims, name) for name in (agent, "client_id", "azp") if name in claims}
    if len(names) > 1:
        raise Refused(Refusal.CONTRADICTION, "it names two clients")
    if not names and token.kind == "jwt" and is_id_token(claims, type_of(token.header) or "jwt"):
        for_whom = one_or_more(claims, "aud") or ()
        return for_whom[0] if len(for_whom) == 1 else None
    return next(iter(names), None)


def subject_of(token: Token, user: str, client: str | None) -> str | None:
    """Whom it is of: `sub`, or where its issuer names people by another claim that. Raises Refused for a person whom
    that claim does not name."""
    own = text(token.claims, "sub")
    if user == "sub" or token.kind == "spiffe" or AI_AGENT in profile(token.claims):
        return own
    found = text(token.claims, user)
    if found is None and own is not None and own != client:
        raise Refused(Refusal.MISSING_CLAIM, "the claim that names its user is missing")
    return own if found is None else found


def named(who: Who, claims: Claims) -> Who:
    """Its `sub` is its user, by whichever name."""
    return who if who.user is None or who.user == claims.get("sub") else replace(who, subject=who.user)


def check_somebody(token: Token, subject: str | None) -> None:
    """Without `sub` nobody is served: then nothing else may tell of somebody who is. Raises Refused."""
    if subject is not None:
        return
    named = token.kind == "opaque" and "username" in token.claims  # RFC 7662: whoever allowed it
    if named or PERSON in profile(token.claims) or any(name in token.claims for name in OF_PEOPLE):
        raise Refused(Refusal.MISSING_CLAIM, "it is of a person, and its `sub` is missing")


def person(claims: Claims, subject: str | None, client: str) -> Who:
    """Somebody who asks by an application of their own. Raises Refused."""
    if subject is None or subject == client:
        raise Refused(Refusal.ACTOR, "it names no person")
    if AI_AGENT in profile(claims):
        raise Refused(Refusal.CONTRADICTION, "an agent asks by what people ask by")
    return Who(None, subject, scopes=scopes_of(claims), task=task_of(claims), opener=opener_of(claims))


def says_alone(claims: Claims, wanted: Mapping[str, str], agent: str) -> bool:
    """Whether it says all that its issuer writes where an agent acts for nobody."""
    return bool(wanted) and all(claims.get(name) == value.replace(AGENT, agent) for name, value in wanted.items())


def by_itself(claims: Claims, agent: str) -> Who:
    """An agent that its issuer knows by a number or a made-up name, too. Raises Refused."""
    if PERSON in profile(claims) or any(name in claims for name in OF_PEOPLE):
        raise Refused(Refusal.CONTRADICTION, "its agent acts for nobody, and somebody signed in")
    found = who_of(claims, None, [Actor("", agent, {})])
    return replace(found, subject=agent)


def took_over(token: Token, before: list[Actor]) -> list[Actor]:
    """The workloads of a transaction token, who act in the order in which they asked for it. Raises Refused."""
    workloads = [Actor(token.issuer, one, {}) for one in one_or_more(token.claims, "req_wl") or ()]
    known = before and workloads and workloads[0].key == before[-1].key
    return workloads[1:] if known else workloads


def served(token: Token, subject: str | None, chain: list[Actor], *, acted: bool) -> tuple[str | None, list[Actor]]:
    """The user, and the chain with whoever else is the subject. Raises Refused."""
    said = profile(token.claims)
    if subject is None:
        return None, chain
    agent = Actor(token.issuer, subject, {})
    if agent.key == chain[0].key:
        if PERSON in said or any(name in token.claims for name in OF_PEOPLE):
            raise Refused(Refusal.CONTRADICTION, "its agent is said to be a person")
        return None, chain
    if any(one.key == agent.key for one in chain):
        raise Refused(Refusal.ACTOR_CYCLE)
    if AI_AGENT not in said and token.kind != "spiffe":
        return subject, chain
    if not acted:
        raise Refused(Refusal.CONTRADICTION, "its subject is an agent, and its client is another")
    return None, [agent, *chain]


def profile(claims: Claims) -> frozenset[str]:
    """What kind of entity `sub` is (`sub_profile`). Raises Refused."""
    if "sub_profile" not in claims:
        return UNSAID
    found = frozenset((text(claims, "sub_profile") or "").split())
    if {PERSON, AI_AGENT} <= found:
        raise Refused(Refusal.CONTRADICTION, "somebody is both a person and an agent")
    return found


def who_of(claims: Claims, user: str | None, chain: list[Actor]) -> Who:
    """Groups and the running copy are the presenter's only where it is said of it: a token's own `groups` are those of
    its subject. Raises Refused."""
    presenter = chain[-1]
    alone = user is None and len(chain) == 1
    of_presenter = claims if alone and not presenter.said else presenter.said
    return Who(
        presenter.id,
        user,
        tuple(one.hop for one in chain[:-1]),
        scopes_of(claims),
        text(of_presenter, "instance"),
        texts(of_presenter, "groups"),
        task_of(claims),
        opener=opener_of(claims),
    )
