"""Single claims: of the type that they have to have, or the token is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TypeAlias

from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.typesystem import EntityRef

Claims: TypeAlias = Mapping[str, object]

LONGEST_TEXT = 2_048
MOST_TEXTS = 1_000
LATEST = 253_402_300_799  # the last second of the year 9999
SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749, 3.3
SPIFFE_ID = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})(?P<path>(?:/[A-Za-z0-9._-]+)*)")
DOTS = re.compile(r"/\.\.?(?:/|\Z)")


def wrong(name: str, wanted: str) -> Refused:
    return Refused(Refusal.CLAIM_TYPE, f"its `{name}` is no {wanted}")


def text(claims: Claims, name: str) -> str | None:
    """None where it is not there. Raises Refused."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, str) or not 0 < len(found) <= LONGEST_TEXT:
        raise wrong(name, "text")
    return found


def texts(claims: Claims, name: str) -> tuple[str, ...] | None:
    """A list of them. Raises Refused."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, list | tuple) or len(found) > MOST_TEXTS:
        raise wrong(name, "list of texts")
    if not all(isinstance(one, str) and 0 < len(one) <= LONGEST_TEXT for one in found):
        raise wrong(name, "list of texts")
    return tuple(found)


def references(claims: Claims, name: str) -> tuple[EntityRef, ...] | None:
    """A list of `{type, id}`. Raises Refused."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, list | tuple) or len(found) > MOST_TEXTS:
        raise wrong(name, "list of things, each by its `type` and `id`")
    several = [reference(one) for one in found]
    known = tuple(one for one in several if one is not None)
    if len(known) < len(several):
        raise wrong(name, "list of things, each by its `type` and `id`")
    return known


def reference(found: object) -> EntityRef | None:
    if not isinstance(found, Mapping) or found.keys() != {"type", "id"}:
        return None
    type_, id_ = found["type"], found["id"]
    plain = all(isinstance(one, str) and 0 < len(one) <= LONGEST_TEXT for one in (type_, id_))
    return EntityRef(type_, id_) if plain else None


def one_or_more(claims: Claims, name: str) -> tuple[str, ...] | None:
    """A text, or a list of them that is not empty. Raises Refused."""
    found = claims.get(name)
    if name not in claims or isinstance(found, str):
        alone = text(claims, name)
        return None if alone is None else (alone,)
    several = texts(claims, name)
    if not several:
        raise wrong(name, "text")
    return several


def members(claims: Claims, name: str) -> Claims | None:
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, Mapping):
        raise wrong(name, "object")
    return found


def moment(claims: Claims, name: str) -> Decimal | int | None:
    """A NumericDate: seconds since 1970, up to the year 9999. Raises Refused."""
    if name not in claims:
        return None
    found = claims[name]
    if type(found) is not int and not isinstance(found, Decimal):
        raise wrong(name, "time")
    if not 0 <= found <= LATEST:
        raise wrong(name, "time")
    return found


def scope_words(claims: Claims, name: str) -> tuple[str, ...] | None:
    """Of a text with spaces between. An empty one carries nothing. Raises Refused."""
    if name not in claims:
        return None
    found = claims[name]
    if not isinstance(found, str) or (found and not SCOPES.fullmatch(found)):
        raise wrong(name, "list of scopes")
    return tuple(dict.fromkeys(found.split()))


def workload(text: str) -> str:
    """The trust domain of the SPIFFE id of a workload, spelled in the one way there is. Raises Refused."""
    found = SPIFFE_ID.fullmatch(text) if len(text) <= LONGEST_TEXT else None
    if found is None or DOTS.search(found["path"]):
        raise Refused(Refusal.SPIFFE_ID)
    if not found["path"]:
        raise Refused(Refusal.SPIFFE_ID, "it names a trust domain, and no workload of it")
    return found["domain"]
