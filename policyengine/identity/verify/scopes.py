"""Reads the scopes of a token: `scope`, `scp` and `authorization_details` as one list.

An entry of `authorization_details` (RFC 9396) with only `type` and `actions` stands for the scopes `type:action`. An
entry with more members, such as an amount or an identifier, is narrower than any scope and grants nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policyengine.identity.verify.claims import SCOPES, Claims, scope_claim, text_claim, text_list_claim
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

MAX_DETAILS = 100
DETAILS = "authorization_details"
PLAIN_DETAIL = frozenset({"type", "actions"})


def token_scopes(claims: Claims) -> tuple[str, ...] | None:
    """Return the scopes, or None if the token states none. Raises CredentialError."""
    scope, scp = scope_claim(claims, "scope"), scp_claim(claims)
    if scope is not None and scp is not None and set(scope) != set(scp):
        raise CredentialError(RefusalCode.CONTRADICTION, "`scope` and `scp` differ")
    plain = scp if scope is None else scope
    if DETAILS not in claims:
        return plain
    return tuple(dict.fromkeys((*(plain or ()), *detail_scopes(claims[DETAILS]))))


def scp_claim(claims: Claims) -> tuple[str, ...] | None:
    """Return the scopes in `scp`, which is a string like `scope`, or a list; None if it is missing. Raises
    CredentialError.
    """
    if not isinstance(claims.get("scp"), list | tuple):
        return scope_claim(claims, "scp")
    found = text_list_claim(claims, "scp") or ()
    if any(" " in one or not SCOPES.fullmatch(one) for one in found):
        raise CredentialError(RefusalCode.CLAIM_TYPE, "the claim `scp` is not a list of scopes")
    return tuple(dict.fromkeys(found))


def detail_scopes(given: object) -> Iterator[str]:
    wrong = CredentialError(RefusalCode.CLAIM_TYPE, f"the claim `{DETAILS}` is malformed")
    if not isinstance(given, list | tuple) or len(given) > MAX_DETAILS:
        raise wrong
    for detail in given:
        if not isinstance(detail, Mapping):
            raise wrong
        type_, actions = text_claim(detail, "type"), text_list_claim(detail, "actions") or ()
        scopes = [f"{type_}:{action}" for action in actions]
        if type_ is None or any(" " in one or not SCOPES.fullmatch(one) for one in scopes):
            raise wrong
        if detail.keys() <= PLAIN_DETAIL:
            yield from scopes
