"""Canonical host names, without port, final dot and upper case; any other text is unknown.

A name must be ASCII, as on the wire: international names are written as `xn--…`, because readers spell them
differently.
"""

from __future__ import annotations

import re
from functools import lru_cache

from policyengine.runtime.literals import parse_ip
from policyengine.runtime.values import Invalid

LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")
MAX_HOST_LENGTH, MAX_AUTHORITY_LENGTH = 253, 260
NO_HOST = Invalid("not a plain host")


def parse_host(authority: str) -> str | Invalid:
    """Return the host of `API.Example.:8443`, or of an address; Invalid if it names no host. An IPv6 address is in
    brackets, or alone and without a port.
    """
    return _parse_host(str.__str__(authority)) if len(authority) <= MAX_AUTHORITY_LENGTH else NO_HOST


@lru_cache(maxsize=4_096)  # a gateway has few hosts
def _parse_host(authority: str) -> str | Invalid:
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        return canonical_ipv6(authority) or NO_HOST
    name = match[1].lower()
    return (canonical_ipv6(name[1:-1]) if name.startswith("[") else parse_host_name(name)) or NO_HOST


def canonical_ipv6(text: str) -> str | None:
    """Return an IPv6 address in its canonical spelling; None if it is not valid."""
    address = parse_ip(text) if ":" in text else None
    return None if address is None else str(address)


def parse_host_name(text: str) -> str | None:
    """Return a name of labels; None if it is not valid. If the last label is a number, the name must be an IPv4
    address, because readers differ about names such as `0x7f.1`.
    """
    name = text.removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_HOST_LENGTH or not all(LABEL.fullmatch(label) for label in labels):
        return None
    return name if not NUMERIC.fullmatch(labels[-1]) or parse_ip(name) is not None else None
