"""Who asks, by what the application in front verified: the facts of an access token, or those of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from policyengine.engine import Engine
from policyengine.identity.factory import INSTALL
from policyengine.identity.facts import hop_facts
from policyengine.identity.verified import VerifiedToken
from policyengine.identity.verify.task_claim import parse_task_claim
from policyengine.integrations.enforcement_point import Facts
from policyengine.runtime import decode
from policyengine.runtime.credential_errors import CredentialError


class TokenFactsError(Exception):
    """Who asks cannot be told from a token; what to do about it."""


class AccessToken(Protocol):
    """An access token that was verified, as both MCP SDKs have it."""

    @property
    def client_id(self) -> str: ...

    @property
    def scopes(self) -> Sequence[str]: ...

    @property
    def expires_at(self) -> int | None: ...

    @property
    def subject(self) -> str | None: ...

    @property
    def claims(self) -> Mapping[str, Any] | None: ...


def get_issuers(decides: object) -> Mapping[str, str]:
    """The issuers of an engine's policies, by exact URL; one that two of them share names none. Of others: none."""
    if not isinstance(decides, Engine):
        return {}
    named = [(one.url, one.name) for one in decides.kernel.issuers.values() if one.url is not None]
    urls = [url for url, _ in named]
    return {url: name for url, name in named if urls.count(url) == 1}


def read_token_facts(token: AccessToken, issuers: Mapping[str, str], issuer: str | None = None) -> Facts:
    """The agent is the token's client, the user its subject; of a chain of delegation both are as `docs/tokens.md`
    reads them. `issuer` is for tokens that name none.

    Raises IdentityError for what would have to be guessed.
    """
    claims = token.claims or {}
    name = get_issuer_name(claims, issuers, issuer)
    credential = {"issuer": name, "scopes": list(token.scopes), **get_times(token, claims)}
    if claims.get("act") is not None or claims.get("may_act") is not None:
        return read_chain_facts(claims, credential, {**issuers, **({} if "iss" in claims else {"": name})})
    subject = token.subject if token.subject is not None else claims.get("sub")
    agent = get_client(token, claims, subject)
    user = {} if subject is None or subject == agent else {"user": {"id": subject}}
    named = {} if subject is None else {"subject": subject}
    return {"agent": {"id": agent, "issuer": name}, **user, "credential": {**credential, **named}, **read_task(claims)}


def read_task(claims: Mapping[str, Any]) -> Facts:
    """What bounds the token. Raises IdentityError for one that could be read in two ways."""
    try:
        task = parse_task_claim(decode.from_python(claims))  # type: ignore[arg-type]  # an object stays one
    except CredentialError as refused:
        raise TokenFactsError(f"the token is refused: {refused.why or refused.refusal.words}") from None
    return {} if task is None else {"task": task}


def read_chain_facts(claims: Mapping[str, Any], credential: Mapping[str, object], issuers: Mapping[str, str]) -> Facts:
    """Who acts for whom, through whom, by the claims of a token that was verified elsewhere. Raises IdentityError."""
    try:
        from policyengine.identity.verify.delegation_chain import ChainReader
    except ImportError as error:
        why = f"the token tells of a chain of delegation, and `{error.name}` is not installed"
        raise TokenFactsError(f"{why}: {INSTALL}") from None
    given = VerifiedToken("jwt", str(credential["issuer"]), decode.from_python(claims), {}, b"", 0)  # type: ignore[arg-type]
    try:
        who = ChainReader(issuers)(given)
    except CredentialError as refused:
        raise TokenFactsError(f"the token is refused: {refused.why or refused.refusal.words}") from None
    found: dict[str, object] = {"agent": {"id": who.agent, "issuer": credential["issuer"]}}
    found |= {} if who.user is None else {"user": {"id": who.user}}
    found |= {"chain": {"hops": [hop_facts(one) for one in who.hops]}} if who.hops else {}
    found |= {} if who.task is None else {"task": dict(who.task)}
    subject = claims.get("sub")
    return {**found, "credential": {**credential, **({} if subject is None else {"subject": subject})}}


def get_issuer_name(claims: Mapping[str, Any], issuers: Mapping[str, str], issuer: str | None) -> str:
    url = claims.get("iss")
    known = issuer if url is None else issuers.get(url) if isinstance(url, str) else None
    if known is None:
        told = "names no issuer" if url is None else "is of an issuer that no policy knows"
        raise TokenFactsError(f"the token {told}")
    return known


def get_client(token: AccessToken, claims: Mapping[str, Any], subject: object) -> str:
    """Some verifiers put the subject, or a word, where a token names no client: then a person would be an agent."""
    named = {claims.get("client_id"), claims.get("azp")} - {None}
    if claims and token.client_id in (subject, "unknown") and token.client_id not in named:
        raise TokenFactsError("the token names no client")
    return token.client_id


def get_times(token: AccessToken, claims: Mapping[str, Any]) -> dict[str, datetime]:
    known = {"expires_at": token.expires_at, "issued_at": claims.get("iat")}
    return {
        name: datetime.fromtimestamp(value, UTC)
        for name, value in known.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
