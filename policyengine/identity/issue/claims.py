"""Builds the claims of an issued token: the chain of agents, the user, the task and the bound key."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from policyengine.identity.facts import LINKS, MAX_CHAIN_LINKS, revocable_chain_links, revocable_names, task_opener
from policyengine.identity.issue.attenuation import (
    authority_start,
    cnf_claim,
    common_task,
    innermost_actor,
    narrow_task,
)
from policyengine.identity.issue.clients import AuthenticatedClient, token_binding
from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.identity.issue.request import TokenExchangeRequest
from policyengine.identity.verified import Hop, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.delegation_chain import MAX_ACTORS
from policyengine.kernel import Issuer, Kernel


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """The token whose authority is delegated, verified and not revoked."""

    token: VerifiedToken
    who: TokenPrincipal


def build_claims(
    kernel: Kernel,
    us: Issuer,
    subject: SubjectToken,
    actor: AuthenticatedClient,
    hops: Sequence[Hop],
    asked: TokenExchangeRequest,
    audience: str,
    now: int,
) -> dict[str, object]:
    """Return all claims except the scopes and the final expiry. Raises TokenIssuanceError."""
    groups = actor.token[1].groups if actor.token is not None else None
    act: dict[str, object] = {"sub": actor.client.agent, **({"groups": list(groups)} if groups else {})}
    renewed = subject.who.agent is not None and len(hops) == len(subject.who.hops)
    since = authority_start(subject.token) if renewed else None
    if since is not None:
        act["iat"] = since
    for hop in hops[::-1]:
        inner = act_claim(kernel, hop)
        innermost_actor(act)["act"] = inner
    claims: dict[str, object] = {
        "iss": us.url, "aud": audience, "client_id": actor.client.agent, "iat": now, "exp": now + 1,
        "jti": secrets.token_urlsafe(16), "act": act, "cnf": cnf_claim(actor.binding),
        LINKS: revocation_links(subject, actor),
    }  # fmt: skip
    if subject.who.user is not None:
        claims = {**user_claims(kernel, us, subject), **claims, "sub": subject.who.user}
    if "may_act" in subject.token.claims:
        claims["may_act"] = {"sub": actor.client.agent}
    own = None if actor.token is None else actor.token[1].task
    task = narrow_task(common_task(subject.who.task, own), asked.task)
    return claims if task is None else {**claims, "task": {**task, "opened_by": initial_task_opener(subject, actor)}}


def extend_chain(subject: SubjectToken, actor: AuthenticatedClient, own_issuer: str) -> tuple[Hop, ...]:
    """Return the chain before the actor. An actor that exchanges its own token for a narrower token adds no hop. Raises
    TokenIssuanceError.
    """
    token, who = subject.token, subject.who
    names = {(actor.client.issuer, actor.client.agent), (own_issuer, actor.client.agent)}
    if any((hop.issuer, hop.agent) in names for hop in who.hops):
        raise TokenIssuanceError(IssuanceRefusal.CYCLE)
    if who.agent is None or (token.issuer, who.agent) in names:
        return who.hops
    if len(who.hops) + 2 > MAX_ACTORS:
        raise TokenIssuanceError(IssuanceRefusal.DEPTH)
    return (*who.hops, Hop(who.agent, token.issuer, authority_start(token), who.scopes))


def issuer_url(kernel: Kernel, name: str) -> str | None:
    found = kernel.issuers.get(name)
    return None if found is None else found.url


def act_claim(kernel: Kernel, hop: Hop) -> dict[str, object]:
    claims: dict[str, object | None] = {
        "sub": hop.agent, "iss": issuer_url(kernel, hop.issuer), "iat": hop.issued_at,
        "scope": None if hop.scopes is None else " ".join(hop.scopes),
    }  # fmt: skip
    return {name: value for name, value in claims.items() if value is not None}


def user_claims(kernel: Kernel, us: Issuer, subject: SubjectToken) -> dict[str, object]:
    """Return the user claims that the subject's issuer asserts, renamed to the claims that the policy reads from this
    server's tokens.
    """
    theirs = kernel.issuers.get(subject.token.issuer)
    by_fact = {fact: claim for claim, fact in theirs.claims} if theirs is not None else {}
    found = {claim: subject.token.claims.get(by_fact.get(fact, "")) for claim, fact in us.claims if fact[0] == "user"}
    return {claim: value for claim, value in found.items() if value is not None}


def revocation_links(subject: SubjectToken, actor: AuthenticatedClient) -> list[str]:
    """Return the names whose revocation revokes the chain, and this token with it. Raises TokenIssuanceError."""
    names = revocable_names(subject.token, subject.who, token_binding(subject.token)) | revocable_chain_links(
        subject.token
    )
    if actor.token is not None:
        names |= revocable_names(*actor.token, token_binding(actor.token[0]))
    found = sorted(names | actor.names)
    if len(found) > MAX_CHAIN_LINKS:
        raise TokenIssuanceError(IssuanceRefusal.DEPTH)
    return found


def initial_task_opener(subject: SubjectToken, actor: AuthenticatedClient) -> str:
    """Return the agent that opened the task, as `issuer/agent`; this is the client if no presented token has a task."""
    shown = ((subject.token, subject.who), *([] if actor.token is None else [actor.token]))
    openers = (task_opener(token, who) for token, who in shown if who.task is not None)
    return next(filter(None, openers), f"{actor.client.issuer}/{actor.client.agent}")


def token_header_type(claims: Mapping[str, object]) -> str:
    """Return the `typ` header: access tokens of RFC 9068 require a subject, which a token of an agent without a user
    lacks."""
    return "at+jwt" if "sub" in claims else "JWT"


def check_may_act(
    subject: SubjectToken, actor: AuthenticatedClient, us: Issuer, url_of: Callable[[str], str | None]
) -> None:
    if "may_act" not in subject.token.claims:
        return
    allowed = subject.token.claims["may_act"]
    name, url = (allowed.get("sub"), allowed.get("iss")) if isinstance(allowed, Mapping) else (None, None)
    issuers = {actor.client.issuer, us.name}
    known = tuple(url_of(one) for one in issuers) if url is not None else tuple(issuers)  # `iss` may have any type
    if name != actor.client.agent or (url if url is not None else subject.token.issuer) not in known:
        raise TokenIssuanceError(IssuanceRefusal.MAY_ACT)
