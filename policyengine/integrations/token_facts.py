"""Turns a verified access token into facts about the caller."""

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
    """The error for a token that does not identify the caller; the message says why."""


class AccessToken(Protocol):
    """A verified access token, as in both MCP SDKs."""

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
    """Return the issuers of an engine's policies by exact URL; a URL that two issuers share identifies neither. Return
    an empty mapping for other decision points.
    """
    if not isinstance(decides, Engine):
        return {}
    named = [(one.url, one.name) for one in decides.kernel.issuers.values() if one.url is not None]
    urls = [url for url, _ in named]
    return {url: name for url, name in named if urls.count(url) == 1}


def read_token_facts(token: AccessToken, issuers: Mapping[str, str], issuer: str | None = None) -> Facts:
    """Return the facts of a token: the agent is its client, the user its subject; a delegation chain is read as
    `docs/tokens.md` describes. `issuer` is the issuer of tokens that name none. Raises TokenFactsError if a fact is
    ambiguous.
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
    """Return the task of the token. Raises TokenFactsError if it is malformed."""
    try:
        task = parse_task_claim(decode.from_python(claims))  # type: ignore[arg-type]  # an object stays one
    except CredentialError as refused:
        raise TokenFactsError(f"the token is refused: {refused.why or refused.refusal.words}") from None
    return {} if task is None else {"task": task}


def read_chain_facts(claims: Mapping[str, Any], credential: Mapping[str, object], issuers: Mapping[str, str]) -> Facts:
    """Return the agent, user and chain from the claims of a token that was verified elsewhere. Raises
    TokenFactsError."""
    try:
        from policyengine.identity.verify.delegation_chain import ChainReader
    except ImportError as error:
        why = f"the token has a delegation chain, but `{error.name}` is not installed"
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
        told = "names no issuer" if url is None else "has an issuer that the policy does not declare"
        raise TokenFactsError(f"the token {told}")
    return known


def get_client(token: AccessToken, claims: Mapping[str, Any], subject: object) -> str:
    """Return the client. If a token names no client, some verifiers report its subject or a placeholder, which would
    turn a person into an agent: for such a token, raises TokenFactsError.
    """
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
