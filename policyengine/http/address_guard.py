"""Decides which addresses a request to a configured URL may connect to, so that a URL or a host name cannot lead into
the private network or to the metadata service of a cloud.

The address is checked after the name is resolved, and the connection is made to exactly this address, so a name that
resolves differently a moment later leads nowhere else.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
# Networks of IPv6 whose addresses contain an IPv4 address, and how many bits follow that address.
EMBEDDING_NETWORKS: Final = (
    (ip_network("::/96"), 0),
    (ip_network("::ffff:0:0/96"), 0),
    (ip_network("::ffff:0:0:0/96"), 0),
    (ip_network("64:ff9b::/96"), 0),
    (ip_network("64:ff9b:1::/48"), 0),
    (ip_network("2002::/16"), 80),
)
# Metadata services of clouds at addresses that are not link-local.
METADATA_ADDRESSES: Final = frozenset(
    map(ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"))
)
# Networks that some versions of Python regard as public.
OTHER_PRIVATE_NETWORKS: Final = tuple(
    map(ip_network, ("192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10", "3fff::/20", "5f00::/16"))
)
THIS_NETWORK: Final = ip_network("0.0.0.0/8")  # its addresses lead to this machine


class AddressRefusedError(OSError):
    """The error for a host name that leads to an address to which the request may not connect."""


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Resolves host names to addresses that may be used. With `private`, addresses of this machine and of private
    networks may be used, too, but never link-local addresses, at which clouds have their metadata services."""

    private: bool = False

    def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host. Raises AddressRefusedError if one of them may not be used, and OSError if the
        name cannot be resolved.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        for address in addresses:
            if not self.admits(address):
                raise AddressRefusedError("the host name leads to an address that may not be used")
        return addresses

    def admits(self, address: str) -> bool:
        """Return whether a request may connect to an address."""
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return all(map(self._admits, (parsed, *embedded_addresses(parsed))))

    def _admits(self, address: Address) -> bool:
        if address.is_link_local or address.is_multicast or address.is_unspecified or address in THIS_NETWORK:
            return False
        if address in METADATA_ADDRESSES:
            return False
        if any(address in network for network in OTHER_PRIVATE_NETWORKS):
            return self.private
        if isinstance(address, IPv6Address) and any(address in network for network, _ in EMBEDDING_NETWORKS):
            return self.private or address.is_global  # the IPv4 address in it is checked, too
        return self.private or (address.is_global and not address.is_reserved)


def embedded_addresses(address: Address) -> list[Address]:
    """Return the IPv4 address that an IPv6 address contains, if it contains one."""
    if isinstance(address, IPv4Address) or int(address) <= 1:
        return []
    return [
        IPv4Address(int(address) >> shift & 0xFFFF_FFFF) for network, shift in EMBEDDING_NETWORKS if address in network
    ]
