"""Parses addresses and networks; policies and requests use the same spelling."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_LITERAL_LENGTH = 64  # maximum characters of an address
PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
MAPPED = IPv6Network("::ffff:0:0/96")


def parse_ip(text: str) -> Address | None:
    """Parse an address without scope and leading zeros; None if invalid. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        return unmap_address(ip_address(text)) if len(text) <= MAX_LITERAL_LENGTH else None
    except ValueError:
        return None


def unmap_address(address: Address) -> Address | None:
    if isinstance(address, IPv4Address):
        return address
    return None if address.scope_id is not None else address.ipv4_mapped or address


def parse_cidr(text: str) -> Network | None:
    """Parse `10.0.0.0/8`: address, slash, prefix length; None if invalid. Bits beyond the prefix must be zero."""
    address, _, prefix = text.partition("/")
    if len(text) > MAX_LITERAL_LENGTH or "%" in address or not PREFIX.fullmatch(prefix):
        return None
    try:
        return unmap_network(ip_network(text))
    except ValueError:
        return None


def unmap_network(network: Network) -> Network:
    """Return a network inside `::ffff:0:0/96` as an IPv4 network, as `parse_ip` does for addresses."""
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network
