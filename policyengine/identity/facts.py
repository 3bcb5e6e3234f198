"""From what was proved to the facts of a question, in its shape."""

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

LINKS = "links"  # a claim of our own tokens
MAX_CHAIN_LINKS = 200


def build_facts(
    token: VerifiedToken,
    who: TokenPrincipal,
    binding: ConfirmedKey,
    attestation: Mapping[str, object] | None = None,
    mapped: Collection[str] = (),
) -> dict[str, dict[str, object]]:
    """By root, as a question that was read has them. Of the claims only those that the policy asks for (`mapped`) are
    told. Raises CredentialError where one of these is no value at all."""
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
    """Of a NumericDate; who verified the token has seen that it is one."""
    match seconds:
        case bool() | None:
            return None
        case int() | float() | Decimal():
            return datetime.fromtimestamp(float(seconds), UTC)
        case _:
            return None


def fingerprint(digest: bytes) -> str:
    """What logs say of a credential: enough to tell two apart, and nothing to present."""
    return f"sha256:{digest.hex()[:32]}"


def revocable_token_name(token: VerifiedToken) -> str:
    """By which a token is revoked, also where its signature is spelled in another way that holds."""
    return f"token:{(token.signed or token.digest).hex()}"


def revocable_raw_names(raw: str) -> frozenset[str]:
    """By which a credential would be revoked that nobody verified: as it is and, where it has the form of a signed
    token, by what would be signed."""
    told, _, signature = raw.rpartition(".")
    parts = (raw, told) if signature and told.count(".") == 1 else (raw,)
    return frozenset(f"token:{sha256(one.encode('utf-8', 'surrogatepass')).hexdigest()}" for one in parts)


def revocable_names(token: VerifiedToken, who: TokenPrincipal, binding: ConfirmedKey) -> frozenset[str]:
    """What can be revoked so that this credential is: itself, whoever is in it, its task, the keys that it is bound to,
    and the links of its chain."""
    names = {revocable_token_name(token), *(f"agent:{hop.issuer}/{hop.agent}" for hop in who.hops)}
    names |= {f"{kind}:{token.issuer}/{name}" for kind, name in (("agent", who.agent), ("user", who.user)) if name}
    names |= revocable_key_names(binding, token.key)
    other = token.claims.get("sub") if who.subject is not None else None
    if isinstance(other, str):  # whoever that is has two names, and may be revoked by either
        names |= {f"{kind}:{token.issuer}/{other}" for kind in ("agent", "user")}
    task = revocable_task_name(who)
    if task is not None:
        names |= {f"task:{token.issuer}/{task}", *filter(None, [own_task_name(token, who)])}
    identifier = token.claims.get("jti")
    if isinstance(identifier, str):
        names.add(f"jti:{token.issuer}/{identifier}")
    return frozenset(names) | chain_links(token)


def revocable_key_names(binding: ConfirmedKey, *more: str | None) -> frozenset[str]:
    """Of every key that was proved, and of a certificate both its digest and its key."""
    keys = (binding.jkt, binding.x5t, binding.key, *more)
    return frozenset(f"key:{key}" for key in keys if key is not None)


def revocable_task_name(who: TokenPrincipal) -> str | None:
    task = None if who.task is None else who.task.get("id")
    return task if isinstance(task, str) else None


def task_opener(token: VerifiedToken, who: TokenPrincipal) -> str | None:
    """The agent that opened its task, `issuer/agent`: the first of the chain, where the token does not say who did."""
    if who.opener is not None:
        return who.opener
    if who.hops:
        return f"{who.hops[0].issuer}/{who.hops[0].agent}"
    return None if who.agent is None else f"{token.issuer}/{who.agent}"


def own_task_name(token: VerifiedToken, who: TokenPrincipal) -> str | None:
    """By which an agent ends its task: of those that are called so the one that the same agent opened for the same user
    or, for none, of the same first agent. Who opens a task calls it as it likes, and may not end what others call so.
    None where no agent is in it."""
    task, opener = revocable_task_name(who), task_opener(token, who)
    if task is None or opener is None:
        return None
    first = who.hops[0].agent if who.hops else who.agent
    whose = f"agent:{first}" if who.user is None else f"user:{who.user}"
    return f"own-task:{token.issuer}/{quote(whose, safe='')}/{quote(opener, safe='')}/{task}"


def chain_links(token: VerifiedToken) -> frozenset[str]:
    """What can be revoked of the chain before, as we write it into tokens that we issue. Of another issuer it takes
    away and never gives."""
    links = token.claims.get(LINKS)
    if not isinstance(links, list | tuple):
        return frozenset()
    return frozenset(one for one in links[:MAX_CHAIN_LINKS] if isinstance(one, str))


def watched_names(token: VerifiedToken, binding: ConfirmedKey) -> tuple[str, ...]:
    """Of these names those that nobody else should have: the keys, or the credential where it is bound to none. It is
    watched by what its issuer signed, as whoever stole it may spell the signature anew; so it is with a certificate
    that comes alone, and its key is known."""
    keys = dict.fromkeys(f"key:{key}" for key in (binding.jkt, token.key or binding.x5t) if key is not None)
    return tuple(keys) or (revocable_token_name(token),)


def presenter_name(token: VerifiedToken, who: TokenPrincipal) -> str:
    return f"{token.issuer}/{who.agent or who.user}#{who.instance or ''}"
