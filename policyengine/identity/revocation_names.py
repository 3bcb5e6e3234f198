"""What is revoked by name, as operators write it: nobody should think that something ended that has another name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from unicodedata import category

from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.identity.verify.claims import MAX_TEXT_LENGTH
from policyengine.identity.verify.jws import MAX_TOKEN_LENGTH
from policyengine.runtime.structure_checks import did_you_mean, quote_input

# By what an operator revokes; each names an issuer of the policy, but for keys.
NAME_KINDS = {"agent": "agent", "user": "user", "task": "task", "chain": "jti", "key": "key"}
# SHA-256 in base64url, which has bits of its last digit that mean nothing; a static key as the file of keys has it.
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]|sha256:[0-9a-f]{64}")
KEY_HINT = (
    "`key` is the thumbprint of a key (RFC 7638) or `x5t#S256` of a certificate, 43 characters of base64url, or "
    "`sha256:` and 64 hexadecimal digits of a static key"
)
TOKEN_PATTERN = re.compile(r"[\x21-\x7e]+")


def revocation_name(kind: str, given: str, issuers: Collection[str], people: Mapping[str, Collection[str]]) -> str:
    """By which it is marked. `people`: by issuer, clients by which people ask. Raises TokenIssuanceError for what is no
    name of that kind, and for an issuer that the policy does not have: a slip of the pen would revoke nothing."""
    if kind == "key":
        if not KEY_PATTERN.fullmatch(given):
            raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, KEY_HINT)
        return f"key:{given}"
    issuer, slash, name = given.partition("/")
    if not slash or not is_name(name):
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS,
            f"`{kind}` is `issuer/name`, the issuer as the policy calls it and the name as its tokens have it, with no "
            "blank around it",
        )
    if issuer not in issuers:
        meant = did_you_mean(issuer, issuers) or f"it has {', '.join(sorted(issuers))}"
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS, f"`{kind}`: the policy has no issuer `{quote_input(issuer)}`: {meant}"
        )
    if kind == "agent" and name in people.get(issuer, ()):
        why = (
            f"`{quote_input(name)}` is no agent, as people ask by it (`people` of `issuers.{issuer}`): revoke a `user`"
        )
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, why)
    return f"{NAME_KINDS[kind]}:{given}"


def is_name(given: str) -> bool:
    """Whether a claim of a token could be it."""
    return 0 < len(given) <= MAX_TEXT_LENGTH and given == given.strip() and not any(map(is_control, given))


def is_control(char: str) -> bool:
    return category(char) in ("Cc", "Cs", "Zl", "Zp")


def check_token_text(given: str) -> str:
    """What somebody could present. Raises TokenIssuanceError."""
    raw = given.strip()
    if len(raw) > MAX_TOKEN_LENGTH:
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS,
            f"`token` is longer than {MAX_TOKEN_LENGTH:,} characters, and none of these counts",
        )
    if not TOKEN_PATTERN.fullmatch(raw):
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS, "`token` is the token alone: without its scheme, in visible ASCII"
        )
    return raw
