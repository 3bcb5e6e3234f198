"""Readers of single claims, which refuse the token if a claim has the wrong type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TypeAlias

from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.typesystem import EntityRef

Claims: TypeAlias = Mapping[str, object]

MAX_TEXT_LENGTH = 2_048
MAX_LIST_LENGTH = 1_000
MAX_NUMERIC_DATE = 253_402_300_799  # the last second of the year 9999
SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749, 3.3
SPIFFE_ID = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})(?P<path>(?:/[A-Za-z0-9._-]+)*)")
DOTS = re.compile(r"/\.\.?(?:/|\Z)")


def claim_type_error(name: str, wanted: str) -> CredentialError:
    return CredentialError(RefusalCode.CLAIM_TYPE, f"the claim `{name}` is not a {wanted}")


def text_claim(claims: Claims, name: str) -> str | None:
    """Return a string, or None if the claim is missing. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, str):
        raise claim_type_error(name, "string")
    if not 0 < len(found) <= MAX_TEXT_LENGTH:
        raise claim_type_error(name, f"string of 1 to {MAX_TEXT_LENGTH:,} characters")
    return found


def text_list_claim(claims: Claims, name: str) -> tuple[str, ...] | None:
    """Return a list of strings, or None if the claim is missing. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise claim_type_error(name, "list of strings")
    if len(found) > MAX_LIST_LENGTH or not all(0 < len(one) <= MAX_TEXT_LENGTH for one in found):
        raise claim_type_error(
            name, f"list of at most {MAX_LIST_LENGTH:,} strings of 1 to {MAX_TEXT_LENGTH:,} characters"
        )
    return tuple(found)


def reference_list_claim(claims: Claims, name: str) -> tuple[EntityRef, ...] | None:
    """Return a list of `{type, id}`, or None if the claim is missing. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, list | tuple):
        raise claim_type_error(name, "list of objects with `type` and `id`")
    if len(found) > MAX_LIST_LENGTH:
        raise claim_type_error(name, f"list of at most {MAX_LIST_LENGTH:,} objects")
    several = [parse_reference(one) for one in found]
    known = tuple(one for one in several if one is not None)
    if len(known) < len(several):
        raise claim_type_error(name, "list of objects with `type` and `id`")
    return known


def parse_reference(found: object) -> EntityRef | None:
    if not isinstance(found, Mapping) or found.keys() != {"type", "id"}:
        return None
    type_, id_ = found["type"], found["id"]
    plain = all(isinstance(one, str) and 0 < len(one) <= MAX_TEXT_LENGTH for one in (type_, id_))
    return EntityRef(type_, id_) if plain else None


def text_or_list_claim(claims: Claims, name: str) -> tuple[str, ...] | None:
    """Return a string, or a non-empty list of strings, as a tuple, or None if the claim is missing. Raises
    CredentialError.
    """
    found = claims.get(name)
    if name not in claims or isinstance(found, str):
        alone = text_claim(claims, name)
        return None if alone is None else (alone,)
    several = text_list_claim(claims, name)
    if not several:
        raise claim_type_error(name, "string or a list with at least one string")
    return several


def object_claim(claims: Claims, name: str) -> Claims | None:
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, Mapping):
        raise claim_type_error(name, "JSON object")
    return found


def time_claim(claims: Claims, name: str) -> Decimal | int | None:
    """Return a NumericDate (seconds since 1970, up to the year 9999), or None if the claim is missing. Raises
    CredentialError.
    """
    if name not in claims:
        return None
    found = claims[name]
    if type(found) is not int and not isinstance(found, Decimal):
        raise claim_type_error(name, "valid time")
    if not 0 <= found <= MAX_NUMERIC_DATE:
        raise claim_type_error(name, "valid time")
    return found


def scope_claim(claims: Claims, name: str) -> tuple[str, ...] | None:
    """Return the scopes in a string, separated by spaces; an empty string has none. Return None if the claim is
    missing. Raises CredentialError.
    """
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, str) or (found and not SCOPES.fullmatch(found)):
        raise claim_type_error(name, "list of scopes")
    return tuple(dict.fromkeys(found.split()))


def parse_trust_domain(text: str) -> str:
    """Return the trust domain of a workload's SPIFFE id in canonical spelling. Raises CredentialError."""
    found = SPIFFE_ID.fullmatch(text) if len(text) <= MAX_TEXT_LENGTH else None
    if found is None or DOTS.search(found["path"]):
        raise CredentialError(RefusalCode.SPIFFE_ID)
    if not found["path"]:
        raise CredentialError(RefusalCode.SPIFFE_ID, "the SPIFFE ID names a trust domain, but no workload")
    return found["domain"]
