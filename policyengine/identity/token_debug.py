"""What a token that was refused says, beside what the policy has: for its operator's terminal alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial

from policyengine.identity.verify.claims import Claims, moment
from policyengine.identity.verify.jws import Jws, read_jws
from policyengine.identity.verify.scopes import scopes_of
from policyengine.identity.verify.task_claim import task_of
from policyengine.kernel import Issuer, Kernel
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.structure_checks import quoted

TIMES = {"iat": "issued", "nbf": "valid from", "exp": "ends"}
SCHEMES = ("bearer", "dpop")
LONGEST = 10  # issuers, or names
READERS: Mapping[str, Callable[[Claims], object]] = {
    **{name: partial(moment, name=name) for name in TIMES},
    "scope": scopes_of,
    "task": task_of,
}


def said(question: bytes, kernel: Kernel, now: int) -> Iterator[str]:
    """Of the token of a question, in lines: nobody verified a word of it. None where no token can be read there."""
    found = token_in(question)
    if found is None:
        return
    yield f"it says: {', '.join(names_of(found))}"
    times = list(times_of(found))
    if times:
        yield f"its times: {', '.join(times)}; here it is {at(now)}"
    wrong = list(wrong_types_of(found))
    if wrong:
        yield f"of the wrong type: {', '.join(wrong)}"
    yield f"the policy has: {', '.join(issuers_of(found, kernel))}"


def token_in(question: bytes) -> Jws | None:
    try:
        raw = json.loads(question)["credentials"]["authorization"]
        scheme, _, token = raw.strip().partition(" ")
        return read_jws(token.strip()) if scheme.lower() in SCHEMES else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Refused):
        return None


def names_of(token: Jws) -> Iterator[str]:
    for name in ("typ", "kid"):
        yield one(name, token.header.get(name))
    for name in ("iss", "aud", "client_id"):
        yield one(name, token.claims.get(name))
    absent = [name for name in ("sub", "jti", "exp") if name not in token.claims]
    yield from (f"no `{name}`" for name in absent)


def one(name: str, value: object) -> str:
    match value:
        case None:
            return f"no `{name}`"
        case str():
            return f"{name} `{quoted(value)}`"
        case list():
            return f"{name} " + " and ".join(f"`{quoted(str(each))}`" for each in value[:LONGEST])
        case _:
            return f"a `{name}` that is no text"


def times_of(token: Jws) -> Iterator[str]:
    for name, words in TIMES.items():
        try:
            found = moment(token.claims, name)
        except Refused:
            found = None
        if found is not None:
            yield f"{words} {at(int(found))}"


def wrong_types_of(token: Jws) -> Iterator[str]:
    """Of the claims that are read alike whoever issued it."""
    for claim, read in READERS.items():
        try:
            read(token.claims)
        except Refused as refused:
            if refused.refusal is Refusal.CLAIM_TYPE:
                yield f"`{claim}` ({refused.why})"


def at(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def issuers_of(token: Jws, kernel: Kernel) -> Iterator[str]:
    """Its own, or all of which it could be."""
    having = [issuer for _, issuer in sorted(kernel.issuers.items()) if issuer.url is not None]
    its = [issuer for issuer in having if issuer.url == token.claims.get("iss")]
    yield from map(told, (its or having)[:LONGEST])
    if not having:
        yield "no issuer with a `url`"


def told(issuer: Issuer) -> str:
    audience = "no `audience`" if issuer.audience is None else f"audience `{issuer.audience}`"
    return f"issuer `{issuer.name}` with url `{issuer.url}` and {audience}"
