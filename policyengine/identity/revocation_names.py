"""Parses the names that operators revoke; a name that would revoke nothing is an error."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from unicodedata import category

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.identity.verify.claims import MAX_TEXT_LENGTH
from policyengine.identity.verify.jws import MAX_TOKEN_LENGTH
from policyengine.runtime.structure_checks import quote_input

# Kinds of names and their marks; each except `key` names an issuer of the policy.
NAME_KINDS = {"agent": "agent", "user": "user", "task": "task", "chain": "jti", "key": "key"}
# A SHA-256 digest in base64url, whose last digit has unused bits; or the digest of a static key as in the file of API
# keys.
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]|sha256:[0-9a-f]{64}")
KEY_HINT = (
    "`key` must be a key's thumbprint (RFC 7638) or a certificate's `x5t#S256` (43 characters of base64url), or "
    "`sha256:` and 64 hexadecimal digits of a static key"
)
TOKEN_PATTERN = re.compile(r"[\x21-\x7e]+")


def revocation_name(kind: str, given: str, issuers: Collection[str], people: Mapping[str, Collection[str]]) -> str:
    """Return the mark of a name. `people` are the clients of people, by issuer. Raises TokenIssuanceError for a
    malformed name, and for an issuer that the policy does not have, because a misspelled name would revoke nothing.
    """
    if kind == "key":
        if not KEY_PATTERN.fullmatch(given):
            raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, KEY_HINT)
        return f"key:{given}"
    issuer, slash, name = given.partition("/")
    if not slash or not is_name(name):
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS,
            f"`{kind}` must be `issuer/name`: the issuer's name in the policy and the name in its tokens, with no "
            "spaces around it",
        )
    if issuer not in issuers:
        meant = did_you_mean(issuer, issuers) or f"known: {', '.join(sorted(issuers))}"
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS, f"`{kind}`: the policy has no issuer `{quote_input(issuer)}`: {meant}"
        )
    if kind == "agent" and name in people.get(issuer, ()):
        why = f"`{quote_input(name)}` is a client of people (`people` of `issuers.{issuer}`): revoke a `user`"
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, why)
    return f"{NAME_KINDS[kind]}:{given}"


def is_name(given: str) -> bool:
    """Return whether a claim of a token could be this name."""
    return 0 < len(given) <= MAX_TEXT_LENGTH and given == given.strip() and not any(map(is_control, given))


def is_control(char: str) -> bool:
    return category(char) in ("Cc", "Cs", "Zl", "Zp")


def check_token_text(given: str) -> str:
    """Return the token, if it could be presented. Raises TokenIssuanceError."""
    raw = given.strip()
    if len(raw) > MAX_TOKEN_LENGTH:
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS,
            f"`token` is longer than {MAX_TOKEN_LENGTH:,} characters, and is never accepted",
        )
    if not TOKEN_PATTERN.fullmatch(raw):
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS, "`token` must be the token without its scheme, in visible ASCII"
        )
    return raw
