"""Turns a verified credential into facts, in the form that questions have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import cast
from urllib.parse import quote

from policyengine.identity.verified import ConfirmedKey, Hop, TokenPrincipal, VerifiedToken
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.decode import DecodeError, from_python

LINKS = "links"  # claim of tokens that this server issues
MAX_CHAIN_LINKS = 200


def build_facts(
    token: VerifiedToken,
    who: TokenPrincipal,
    binding: ConfirmedKey,
    attestation: Mapping[str, object] | None = None,
    mapped: Collection[str] = (),
) -> dict[str, dict[str, object]]:
    """Return the facts by root, as in a parsed question. Only the claims that the policy uses (`mapped`) are included.
    Raises CredentialError if one of these is not a valid value."""
    found: dict[str, dict[str, object]] = {"credential": credential_facts(token, who, binding, mapped)}
    if who.agent is not None:
        more = {"instance": who.instance, "groups": None if who.groups is None else list(who.groups)}
        found["agent"] = {"id": who.agent, "issuer": token.issuer, **without_none(more)}
    if who.user is not None:
        found["user"] = {"id": who.user}
    if who.hops:
        found["chain"] = {"hops": [hop_facts(one) for one in who.hops]}
    if who.task is not None:
        found["task"] = dict(who.task)
    if attestation is not None:
        found["attestation"] = dict(attestation)
    return clean_facts(found)


def clean_facts(found: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    try:
        return cast("dict[str, dict[str, object]]", from_python(found))
    except DecodeError:
        raise CredentialError(RefusalCode.CLAIM_TYPE) from None


def credential_facts(
    token: VerifiedToken, who: TokenPrincipal, binding: ConfirmedKey, mapped: Collection[str]
) -> dict[str, object]:
    claims = {name: token.claims[name] for name in mapped if name in token.claims}
    return without_none(
        {
            "kind": token.kind,
            "issuer": token.issuer,
            "subject": token.claims.get("sub") if who.subject is None else who.subject,
            "scopes": None if who.scopes is None else list(who.scopes),
            "issued_at": to_datetime(token.claims.get("iat")),
            "expires_at": to_datetime(token.claims.get("exp")),
            "bound": binding.jkt is not None or binding.x5t is not None,
            "fingerprint": fingerprint(token.digest),
            "claims": claims or None,
        }
    )


def hop_facts(hop: Hop) -> dict[str, object]:
    scopes = None if hop.scopes is None else list(hop.scopes)
    return without_none(
        {"agent": hop.agent, "issuer": hop.issuer, "issued_at": to_datetime(hop.issued_at), "scopes": scopes}
    )


def without_none(given: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in given.items() if value is not None}


def to_datetime(seconds: object) -> datetime | None:
    """Return a NumericDate, which the verifier has checked, as a time; None for any other value."""
    match seconds:
        case bool() | None:
            return None
        case int() | float() | Decimal():
            return datetime.fromtimestamp(float(seconds), UTC)
        case _:
            return None


def fingerprint(digest: bytes) -> str:
    """Return the name of a credential in logs, which identifies the credential but cannot be presented as one."""
    return f"sha256:{digest.hex()[:32]}"


def revocable_token_name(token: VerifiedToken) -> str:
    """Return the revocation name of a token, the same for every valid spelling of its signature."""
    return f"token:{(token.signed or token.digest).hex()}"


def revocable_raw_names(raw: str) -> frozenset[str]:
    """Return the revocation names of a credential that was not verified: its digest and, if it has the form of a signed
    token, the digest of the signed part."""
    told, _, signature = raw.rpartition(".")
    parts = (raw, told) if signature and told.count(".") == 1 else (raw,)
    return frozenset(f"token:{sha256(one.encode('utf-8', 'surrogatepass')).hexdigest()}" for one in parts)


def revocable_names(token: VerifiedToken, who: TokenPrincipal, binding: ConfirmedKey) -> frozenset[str]:
    """Return every name whose revocation revokes this credential: its own, those of its agents, user, task and bound
    keys, and the links of its chain."""
    names = {revocable_token_name(token), *(f"agent:{hop.issuer}/{hop.agent}" for hop in who.hops)}
    names |= {f"{kind}:{token.issuer}/{name}" for kind, name in (("agent", who.agent), ("user", who.user)) if name}
    names |= revocable_key_names(binding, token.key)
    other = token.claims.get("sub") if who.subject is not None else None
    if isinstance(other, str):  # this principal has two names, and each of them may be revoked
        names |= {f"{kind}:{token.issuer}/{other}" for kind in ("agent", "user")}
    task = revocable_task_name(who)
    if task is not None:
        names |= {f"task:{token.issuer}/{task}", *filter(None, [own_task_name(token, who)])}
    identifier = token.claims.get("jti")
    if isinstance(identifier, str):
        names.add(f"jti:{token.issuer}/{identifier}")
    return frozenset(names) | revocable_chain_links(token)


def revocable_key_names(binding: ConfirmedKey, *more: str | None) -> frozenset[str]:
    """Return the names of all proved keys; a certificate has two, its digest and its key."""
    keys = (binding.jkt, binding.x5t, binding.key, *more)
    return frozenset(f"key:{key}" for key in keys if key is not None)


def revocable_task_name(who: TokenPrincipal) -> str | None:
    task = None if who.task is None else who.task.get("id")
    return task if isinstance(task, str) else None


def task_opener(token: VerifiedToken, who: TokenPrincipal) -> str | None:
    """Return the agent that opened the task, as `issuer/agent`: the opener that the token names, or else the first
    agent of its chain, or else its presenter; None if no agent is known.
    """
    if who.opener is not None:
        return who.opener
    if who.hops:
        return f"{who.hops[0].issuer}/{who.hops[0].agent}"
    return None if who.agent is None else f"{token.issuer}/{who.agent}"


def own_task_name(token: VerifiedToken, who: TokenPrincipal) -> str | None:
    """Return the name with which an agent ends its own task; None without an agent. The name includes the task's opener
    and the user (or, without a user, the first agent), because openers choose task ids freely and must not end tasks of
    others with the same id.
    """
    task, opener = revocable_task_name(who), task_opener(token, who)
    if task is None or opener is None:
        return None
    first = who.hops[0].agent if who.hops else who.agent
    whose = f"agent:{first}" if who.user is None else f"user:{who.user}"
    return f"own-task:{token.issuer}/{quote(whose, safe='')}/{quote(opener, safe='')}/{task}"


def revocable_chain_links(token: VerifiedToken) -> frozenset[str]:
    """Return the revocation names of the chain, which this server writes into the tokens that it issues. In another
    issuer's token, they can only cause more revocations, and never grant anything.
    """
    links = token.claims.get(LINKS)
    if not isinstance(links, list | tuple):
        return frozenset()
    return frozenset(one for one in links[:MAX_CHAIN_LINKS] if isinstance(one, str))


def watched_names(token: VerifiedToken, binding: ConfirmedKey) -> tuple[str, ...]:
    """Return the names that only one presenter should use: the bound keys, or the credential itself if it is not bound.
    An unbound credential is identified by its signed part, because a thief may respell the signature; a certificate
    without a token is identified by its key, if the key is known.
    """
    keys = dict.fromkeys(f"key:{key}" for key in (binding.jkt, token.key or binding.x5t) if key is not None)
    return tuple(keys) or (revocable_token_name(token),)


def presenter_name(token: VerifiedToken, who: TokenPrincipal) -> str:
    return f"{token.issuer}/{who.agent or who.user}#{who.instance or ''}"
