"""Reads from a token who acts for whom: every way to state a chain becomes one `TokenPrincipal`, and contradictions are
refused.

| in the token | is |
|---|---|
| `act`, outermost (RFC 8693, the access-request draft) | the presenter |
| `act` within `act` | the agents that delegated the work, the innermost first |
| `req_wl` of a transaction token, one or several | the workloads that took over after `act`; the last presents it |
| without both: the claim `agent` of the configuration, `client_id`, `azp`; `aud` of an ID token | the presenter |
| `sub` of a workload (SPIFFE) | the presenter |
| `sub` that is also the first of the chain, or no `sub` | no user: agents alone |
| `sub` with `sub_profile` `ai_agent` | the first agent of the chain, and no user |
| any other `sub` | the user |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from policyengine.identity.config.model import IdentityConfig, IssuerSettings, to_seconds
from policyengine.identity.verified import Hop, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.claims import (
    Claims,
    object_claim,
    scope_claim,
    text_claim,
    text_list_claim,
    text_or_list_claim,
    time_claim,
)
from policyengine.identity.verify.jws import parse_type
from policyengine.identity.verify.scopes import token_scopes
from policyengine.identity.verify.task_claim import parse_task_claim, task_opener_claim
from policyengine.identity.verify.tokens import is_id_token
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

MAX_ACTORS = 16
AI_AGENT, PERSON = "ai_agent", "user"
PERSON_CLAIMS = ("auth_time", "amr")  # claims that show that a person signed in
DEFAULT_SETTINGS = IssuerSettings()
AGENT = "{agent}"  # placeholder in settings
NO_PROFILE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChainActor:
    """An actor of a chain; `said` holds the claims that name it."""

    issuer: str
    id: str
    said: Claims = field(repr=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.issuer, self.id

    @property
    def hop(self) -> Hop:
        issued = time_claim(self.said, "iat")
        return Hop(self.id, self.issuer, None if issued is None else int(issued), scope_claim(self.said, "scope"))


@dataclass(frozen=True)
class ChainReader:
    """A reader of delegation chains. `issuers` are names in the policy, by the exact text of `iss`; `settings` are by
    that name; `leeway` is in seconds.
    """

    issuers: Mapping[str, str]
    settings: Mapping[str, IssuerSettings] = field(default_factory=dict)
    leeway: int = 30

    def __call__(self, token: VerifiedToken) -> TokenPrincipal:
        """Return the principal that the token names. Raises CredentialError."""
        claims = token.claims
        settings = self.settings.get(token.issuer, DEFAULT_SETTINGS)
        client = token_client(token, settings.agent)
        subject = token_subject(token, settings.user, client)
        check_user_claims(token, subject)
        alone = "act" not in claims and token.kind not in ("txn_token", "spiffe")  # no actor is named
        if client is not None and client in settings.people and alone:
            return with_subject_as_user(person_principal(claims, subject, client), claims)
        if client is not None and alone and acts_alone(claims, settings.alone, client):
            return with_agent_id(claims, client)
        chain = self._chain(token, subject, client)
        user, chain = user_and_chain(token, subject, chain, acted="act" in claims or token.kind == "txn_token")
        self._check(token, chain)
        self._check_may_act(token, chain[-1], alone=user is None and len(chain) == 1)
        return with_subject_as_user(build_principal(claims, user, chain), claims)

    # ── The chain ─────────────────────────────────────────────────────────────────────────────

    def _chain(self, token: VerifiedToken, subject: str | None, client: str | None) -> list[ChainActor]:
        """Return the chain, first to last; it has at least one actor, and the last presents the token. Raises
        CredentialError."""
        chain = self._actors(token)
        if token.kind == "txn_token":
            chain += transaction_actors(token, chain)
        elif token.kind == "spiffe" and not chain and subject is not None:
            chain = [ChainActor(token.issuer, subject, {})]
        elif not chain and client is not None:
            chain = [ChainActor(token.issuer, client, {})]
        if not chain:
            raise CredentialError(
                RefusalCode.ACTOR, "no claim names an agent: set `agent` of its issuer to the claim that does"
            )
        if chain[-1].issuer != token.issuer:
            raise CredentialError(RefusalCode.ACTOR, "the presenter's issuer is not the token's issuer")
        if client is not None and client != chain[-1].id:
            raise CredentialError(RefusalCode.CONTRADICTION, "the actor and the client differ")
        return chain

    def _actors(self, token: VerifiedToken) -> list[ChainActor]:
        """Return the actors of `act`, the innermost first. Raises CredentialError."""
        found: list[ChainActor] = []
        act = object_claim(token.claims, "act")
        while act is not None:
            if len(found) == MAX_ACTORS:
                raise CredentialError(RefusalCode.ACTOR_DEPTH)
            found.append(self._actor(act, token.issuer))
            act = object_claim(act, "act")
        return found[::-1]

    def _actor(self, act: Claims, issuer: str) -> ChainActor:
        """Return one actor; its issuer defaults to the token's. Raises CredentialError."""
        name, url, client = text_claim(act, "sub"), text_claim(act, "iss"), text_claim(act, "client_id")
        if name is None:
            raise CredentialError(RefusalCode.ACTOR, "an actor has no `sub`")
        if client is not None and client != name:
            raise CredentialError(RefusalCode.CONTRADICTION, "an actor has two names")
        if url is not None and url not in self.issuers:
            raise CredentialError(RefusalCode.ACTOR, "the policy does not trust the issuer of an actor")
        if PERSON in subject_profile(act):
            raise CredentialError(RefusalCode.CONTRADICTION, "an actor is marked as a person")
        return ChainActor(issuer if url is None else self.issuers[url], name, act)

    def _check(self, token: VerifiedToken, chain: list[ChainActor]) -> None:
        """Check that no actor occurs twice and that the times are in the order of delegation. Raises
        CredentialError.
        """
        if len(chain) == 1 and not chain[0].said:
            return
        if len(chain) > MAX_ACTORS:
            raise CredentialError(RefusalCode.ACTOR_DEPTH)
        if len({one.key for one in chain}) < len(chain):
            raise CredentialError(RefusalCode.ACTOR_CYCLE)
        times = [time_claim(one.said, "iat") for one in chain] + [time_claim(token.claims, "iat")]
        told = [one for one in times if one is not None]
        if any(later + self.leeway < earlier for earlier, later in pairwise(told)):
            raise CredentialError(RefusalCode.CONTRADICTION, "an actor took over before the actor that delegated to it")

    def _check_may_act(self, token: VerifiedToken, presenter: ChainActor, *, alone: bool) -> None:
        """Check that `may_act` allows the presenter. Raises CredentialError."""
        allowed = object_claim(token.claims, "may_act")
        if allowed is None:
            return
        name, url = text_claim(allowed, "sub"), text_claim(allowed, "iss")
        if name is None:
            raise CredentialError(RefusalCode.MAY_NOT_ACT)
        issuer = token.issuer if url is None else self.issuers.get(url)
        if not alone and (issuer, name) != presenter.key:
            raise CredentialError(RefusalCode.MAY_NOT_ACT)


def create_chain_reader(issuers: Mapping[str, Issuer], configuration: IdentityConfig) -> ChainReader:
    """Create a reader; a URL that two issuers share identifies neither."""
    named = [(one.url, one.name) for one in issuers.values() if one.url is not None]
    urls = [url for url, _ in named]
    by_url = {url: name for url, name in named if urls.count(url) == 1}
    return ChainReader(by_url, configuration.issuers, to_seconds(configuration.identity.leeway))


# ── Principals ────────────────────────────────────────────────────────────────────────────────


def token_client(token: VerifiedToken, agent: str) -> str | None:
    """Return the client of the token; for an ID token that names no client, its only audience; None if neither is
    named. Raises CredentialError if the token names two clients.
    """
    claims = token.claims
    names = {text_claim(claims, name) for name in (agent, "client_id", "azp") if name in claims}
    if len(names) > 1:
        raise CredentialError(RefusalCode.CONTRADICTION, "the token names two clients")
    if not names and token.kind == "jwt" and is_id_token(claims, parse_type(token.header) or "jwt"):
        for_whom = text_or_list_claim(claims, "aud") or ()
        return for_whom[0] if len(for_whom) == 1 else None
    return next(iter(names), None)


def token_subject(token: VerifiedToken, user: str, client: str | None) -> str | None:
    """Return the subject: `sub`, or the claim that the settings name for users; None if the token has neither. Raises
    CredentialError if a person's token lacks that claim.
    """
    own = text_claim(token.claims, "sub")
    if user == "sub" or token.kind == "spiffe" or AI_AGENT in subject_profile(token.claims):
        return own
    found = text_claim(token.claims, user)
    if found is None and own is not None and own != client:
        raise CredentialError(RefusalCode.MISSING_CLAIM, "the claim that names the user is missing")
    return own if found is None else found


def with_subject_as_user(who: TokenPrincipal, claims: Claims) -> TokenPrincipal:
    """Return the principal with the user as subject, if the settings name users by a claim other than `sub`."""
    return who if who.user is None or who.user == claims.get("sub") else replace(who, subject=who.user)


def check_user_claims(token: VerifiedToken, subject: str | None) -> None:
    """Check that a token without a subject shows no other sign of a person. Raises CredentialError."""
    if subject is not None:
        return
    named = token.kind == "opaque" and "username" in token.claims  # RFC 7662: the person who authorized it
    if named or PERSON in subject_profile(token.claims) or any(name in token.claims for name in PERSON_CLAIMS):
        raise CredentialError(RefusalCode.MISSING_CLAIM, "the token is a person's, but its `sub` is missing")


def person_principal(claims: Claims, subject: str | None, client: str) -> TokenPrincipal:
    """Return the principal of a person who acts directly, through an application. Raises CredentialError."""
    if subject is None or subject == client:
        raise CredentialError(RefusalCode.ACTOR, "the token names no person")
    if AI_AGENT in subject_profile(claims):
        raise CredentialError(RefusalCode.CONTRADICTION, "an agent uses a client of people")
    return TokenPrincipal(
        None, subject, scopes=token_scopes(claims), task=parse_task_claim(claims), opener=task_opener_claim(claims)
    )


def acts_alone(claims: Claims, wanted: Mapping[str, str], agent: str) -> bool:
    """Return whether the token has all claims with which its issuer marks an agent that acts for no user."""
    return bool(wanted) and all(claims.get(name) == value.replace(AGENT, agent) for name, value in wanted.items())


def with_agent_id(claims: Claims, agent: str) -> TokenPrincipal:
    """Return the principal of an agent that acts for no user; its `sub` may be an internal id of the issuer. Raises
    CredentialError.
    """
    if PERSON in subject_profile(claims) or any(name in claims for name in PERSON_CLAIMS):
        raise CredentialError(
            RefusalCode.CONTRADICTION, "the agent acts for no user, but the token states that a person signed in"
        )
    found = build_principal(claims, None, [ChainActor("", agent, {})])
    return replace(found, subject=agent)


def transaction_actors(token: VerifiedToken, before: list[ChainActor]) -> list[ChainActor]:
    """Return the workloads of a transaction token in the order of their requests. Raises CredentialError."""
    workloads = [ChainActor(token.issuer, one, {}) for one in text_or_list_claim(token.claims, "req_wl") or ()]
    known = before and workloads and workloads[0].key == before[-1].key
    return workloads[1:] if known else workloads


def user_and_chain(
    token: VerifiedToken, subject: str | None, chain: list[ChainActor], *, acted: bool
) -> tuple[str | None, list[ChainActor]]:
    """Return the user and the chain; if the subject is an agent, it is added to the chain. Raises CredentialError."""
    said = subject_profile(token.claims)
    if subject is None:
        return None, chain
    agent = ChainActor(token.issuer, subject, {})
    if agent.key == chain[0].key:
        if PERSON in said or any(name in token.claims for name in PERSON_CLAIMS):
            raise CredentialError(RefusalCode.CONTRADICTION, "the agent is marked as a person")
        return None, chain
    if any(one.key == agent.key for one in chain):
        raise CredentialError(RefusalCode.ACTOR_CYCLE)
    if AI_AGENT not in said and token.kind != "spiffe":
        return subject, chain
    if not acted:
        raise CredentialError(RefusalCode.CONTRADICTION, "the subject is an agent, but not the client")
    return None, [agent, *chain]


def subject_profile(claims: Claims) -> frozenset[str]:
    """Return the kinds of entity that `sub_profile` states. Raises CredentialError."""
    if "sub_profile" not in claims:
        return NO_PROFILE
    found = frozenset((text_claim(claims, "sub_profile") or "").split())
    if {PERSON, AI_AGENT} <= found:
        raise CredentialError(RefusalCode.CONTRADICTION, "`sub_profile` marks both a person and an agent")
    return found


def build_principal(claims: Claims, user: str | None, chain: list[ChainActor]) -> TokenPrincipal:
    """Build the principal. Groups and instance are the presenter's only if its own claims state them: a token's
    top-level `groups` belong to its subject. Raises CredentialError."""
    presenter = chain[-1]
    alone = user is None and len(chain) == 1
    of_presenter = claims if alone and not presenter.said else presenter.said
    return TokenPrincipal(
        presenter.id,
        user,
        tuple(one.hop for one in chain[:-1]),
        token_scopes(claims),
        text_claim(of_presenter, "instance"),
        text_list_claim(of_presenter, "groups"),
        parse_task_claim(claims),
        opener=task_opener_claim(claims),
    )
