"""Sample addresses inside and outside networks: the first and last address of each network, and their neighbors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from policyengine.kernel.binary_relations import is_within

Address: TypeAlias = IPv4Address | IPv6Address

USUAL_ADDRESSES = tuple(map(ip_address, ("203.0.113.9", "2001:db8::9", "198.51.100.7", "10.1.2.3", "127.0.0.1")))


def boundary_addresses(networks: Iterable[object]) -> Iterator[Address]:
    """Yield common addresses first, then the addresses at the edges of networks and next to addresses, inside and
    outside. An address may be repeated.
    """
    yield from USUAL_ADDRESSES
    for network in networks:
        match network:
            case IPv4Network() | IPv6Network():
                yield network[1 if network.num_addresses > 1 else 0]
                yield from (network[0], *shift_address(network[0], -1), *shift_address(network[-1], 1), network[-1])
            case IPv4Address() | IPv6Address():
                yield from (network, *shift_address(network, -1), *shift_address(network, 1))


def shift_address(address: Address, step: int) -> list[Address]:
    """Return the address that is `step` after this one, or nothing if no such address exists."""
    try:
        return [address + step]
    except ValueError:
        return []


def fitting_addresses(networks: object, wanted: bool) -> list[Address]:
    """Return addresses in one of the networks, or outside all of them if `wanted` is false."""
    every = networks if isinstance(networks, tuple) else (networks,)
    known = tuple(one for one in every if one is not None)
    return [one for one in dict.fromkeys(boundary_addresses(known)) if is_within(one, known) is wanted]
