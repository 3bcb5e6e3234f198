"""Describes a refused token and what the policy expects, side by side, for the operator's terminal only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from policyengine.identity.verify.claims import Claims, time_claim
from policyengine.identity.verify.jws import Jws, read_jws
from policyengine.identity.verify.scopes import token_scopes
from policyengine.identity.verify.task_claim import parse_task_claim
from policyengine.kernel import Issuer, Kernel
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.structure_checks import quote_input
from policyengine.time_formats import format_epoch_seconds

TIMES = {"iat": "issued", "nbf": "valid from", "exp": "expires"}
SCHEMES = ("bearer", "dpop")
MAX_LISTED_NAMES = 10  # maximum number of listed issuers or names
READERS: Mapping[str, Callable[[Claims], object]] = {
    **{name: partial(time_claim, name=name) for name in TIMES},
    "scope": token_scopes,
    "task": parse_task_claim,
}


def describe_token(question: bytes, kernel: Kernel, now: int) -> Iterator[str]:
    """Yield lines about the unverified token of a question; yield none if it has no readable token."""
    found = read_token(question)
    if found is None:
        return
    yield f"the token has: {', '.join(claim_lines(found))}"
    times = list(time_lines(found))
    if times:
        yield f"the times of the token: {', '.join(times)}; now is {format_epoch_seconds(now)}"
    wrong = list(claim_type_errors(found))
    if wrong:
        yield f"claims of the wrong type: {', '.join(wrong)}"
    yield f"the policy has: {', '.join(issuer_lines(found, kernel))}"


def read_token(question: bytes) -> Jws | None:
    try:
        raw = json.loads(question)["credentials"]["authorization"]
        scheme, _, token = raw.strip().partition(" ")
        return read_jws(token.strip()) if scheme.lower() in SCHEMES else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CredentialError):
        return None


def claim_lines(token: Jws) -> Iterator[str]:
    for name in ("typ", "kid"):
        yield format_claim(name, token.header.get(name))
    for name in ("iss", "aud", "client_id"):
        yield format_claim(name, token.claims.get(name))
    absent = [name for name in ("sub", "jti", "exp") if name not in token.claims]
    yield from (f"no `{name}`" for name in absent)


def format_claim(name: str, value: object) -> str:
    match value:
        case None:
            return f"no `{name}`"
        case str():
            return f"{name} `{quote_input(value)}`"
        case list():
            return f"{name} " + " and ".join(f"`{quote_input(str(each))}`" for each in value[:MAX_LISTED_NAMES])
        case _:
            return f"a `{name}` that is not a string"


def time_lines(token: Jws) -> Iterator[str]:
    for name, words in TIMES.items():
        try:
            found = time_claim(token.claims, name)
        except CredentialError:
            found = None
        if found is not None:
            yield f"{words} {format_epoch_seconds(int(found))}"


def claim_type_errors(token: Jws) -> Iterator[str]:
    """Yield errors in claims that all issuers write in the same way."""
    for claim, read in READERS.items():
        try:
            read(token.claims)
        except CredentialError as refused:
            if refused.refusal is RefusalCode.CLAIM_TYPE:
                yield f"`{claim}` ({refused.why})"


def issuer_lines(token: Jws, kernel: Kernel) -> Iterator[str]:
    """Yield the token's issuer, or all issuers if none matches."""
    having = [issuer for _, issuer in sorted(kernel.issuers.items()) if issuer.url is not None]
    its = [issuer for issuer in having if issuer.url == token.claims.get("iss")]
    yield from map(describe_issuer, (its or having)[:MAX_LISTED_NAMES])
    if not having:
        yield "no issuer with a `url`"


def describe_issuer(issuer: Issuer) -> str:
    audience = "no `audience`" if issuer.audience is None else f"audience `{issuer.audience}`"
    return f"issuer `{issuer.name}` with url `{issuer.url}` and {audience}"
