"""What a token lets its presenter do: `scope`, `scp` and `authorization_details` as one list of scopes.

Of `authorization_details` (RFC 9396) one that has `actions` and nothing else that narrows it is the scopes
`type:action`. One that says more, as an amount or an identifier, is narrower than any scope: it grants nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policyengine.identity.verify.claims import SCOPES, Claims, scope_words, text, texts
from policyengine.runtime.credential_errors import Refusal, Refused

MOST_DETAILS = 100
DETAILS = "authorization_details"
PLAIN_DETAIL = frozenset({"type", "actions"})


def scopes_of(claims: Claims) -> tuple[str, ...] | None:
    """None where nothing is said of scopes. Raises Refused."""
    scope, scp = scope_words(claims, "scope"), scp_of(claims)
    if scope is not None and scp is not None and set(scope) != set(scp):
        raise Refused(Refusal.CONTRADICTION, "`scope` and `scp` are two")
    plain = scp if scope is None else scope
    if DETAILS not in claims:
        return plain
    return tuple(dict.fromkeys((*(plain or ()), *detailed(claims[DETAILS]))))


def scp_of(claims: Claims) -> tuple[str, ...] | None:
    """A text as `scope`, or a list. Raises Refused."""
    if not isinstance(claims.get("scp"), list | tuple):
        return scope_words(claims, "scp")
    found = texts(claims, "scp") or ()
    if any(" " in one or not SCOPES.fullmatch(one) for one in found):
        raise Refused(Refusal.CLAIM_TYPE, "its `scp` is no list of scopes")
    return tuple(dict.fromkeys(found))


def detailed(given: object) -> Iterator[str]:
    wrong = Refused(Refusal.CLAIM_TYPE, f"its `{DETAILS}` are none")
    if not isinstance(given, list | tuple) or len(given) > MOST_DETAILS:
        raise wrong
    for detail in given:
        if not isinstance(detail, Mapping):
            raise wrong
        type_, actions = text(detail, "type"), texts(detail, "actions") or ()
        scopes = [f"{type_}:{action}" for action in actions]
        if type_ is None or any(" " in one or not SCOPES.fullmatch(one) for one in scopes):
            raise wrong
        if detail.keys() <= PLAIN_DETAIL:
            yield from scopes
