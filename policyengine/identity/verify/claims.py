"""Single claims: of the type that they have to have, or the token is refused."""

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
    return CredentialError(RefusalCode.CLAIM_TYPE, f"its `{name}` is no {wanted}")


def text_claim(claims: Claims, name: str) -> str | None:
    """None where it is not there. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, str) or not 0 < len(found) <= MAX_TEXT_LENGTH:
        raise claim_type_error(name, "text")
    return found


def text_list_claim(claims: Claims, name: str) -> tuple[str, ...] | None:
    """A list of them. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, list | tuple) or len(found) > MAX_LIST_LENGTH:
        raise claim_type_error(name, "list of texts")
    if not all(isinstance(one, str) and 0 < len(one) <= MAX_TEXT_LENGTH for one in found):
        raise claim_type_error(name, "list of texts")
    return tuple(found)


def reference_list_claim(claims: Claims, name: str) -> tuple[EntityRef, ...] | None:
    """A list of `{type, id}`. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, list | tuple) or len(found) > MAX_LIST_LENGTH:
        raise claim_type_error(name, "list of things, each by its `type` and `id`")
    several = [parse_reference(one) for one in found]
    known = tuple(one for one in several if one is not None)
    if len(known) < len(several):
        raise claim_type_error(name, "list of things, each by its `type` and `id`")
    return known


def parse_reference(found: object) -> EntityRef | None:
    if not isinstance(found, Mapping) or found.keys() != {"type", "id"}:
        return None
    type_, id_ = found["type"], found["id"]
    plain = all(isinstance(one, str) and 0 < len(one) <= MAX_TEXT_LENGTH for one in (type_, id_))
    return EntityRef(type_, id_) if plain else None


def text_or_list_claim(claims: Claims, name: str) -> tuple[str, ...] | None:
    """A text, or a list of them that is not empty. Raises CredentialError."""
    found = claims.get(name)
    if name not in claims or isinstance(found, str):
        alone = text_claim(claims, name)
        return None if alone is None else (alone,)
    several = text_list_claim(claims, name)
    if not several:
        raise claim_type_error(name, "text")
    return several


def object_claim(claims: Claims, name: str) -> Claims | None:
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, Mapping):
        raise claim_type_error(name, "object")
    return found


def time_claim(claims: Claims, name: str) -> Decimal | int | None:
    """A NumericDate: seconds since 1970, up to the year 9999. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if type(found) is not int and not isinstance(found, Decimal):
        raise claim_type_error(name, "time")
    if not 0 <= found <= MAX_NUMERIC_DATE:
        raise claim_type_error(name, "time")
    return found


def scope_claim(claims: Claims, name: str) -> tuple[str, ...] | None:
    """Of a text with spaces between. An empty one carries nothing. Raises CredentialError."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, str) or (found and not SCOPES.fullmatch(found)):
        raise claim_type_error(name, "list of scopes")
    return tuple(dict.fromkeys(found.split()))


def parse_trust_domain(text: str) -> str:
    """The trust domain of the SPIFFE id of a workload, spelled in the one way there is. Raises CredentialError."""
    found = SPIFFE_ID.fullmatch(text) if len(text) <= MAX_TEXT_LENGTH else None
    if found is None or DOTS.search(found["path"]):
        raise CredentialError(RefusalCode.SPIFFE_ID)
    if not found["path"]:
        raise CredentialError(RefusalCode.SPIFFE_ID, "it names a trust domain, and no workload of it")
    return found["domain"]
