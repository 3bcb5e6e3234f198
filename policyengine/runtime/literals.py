"""Durations, times, addresses and networks as text; policies and requests use the same spelling."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_LITERAL_LENGTH = 64  # no duration, time or address is longer; it bounds the arithmetic below
MILLISECONDS_PER_UNIT = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
PART = re.compile(r"([0-9]+)(ms|s|m|h|d|w)")
DURATION = re.compile(rf"(?:{PART.pattern})+")
RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:([Zz])|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
MAPPED = IPv6Network("::ffff:0:0/96")


def parse_duration(text: str) -> timedelta | None:
    """Parse `10m`, `1h30m` or `500ms`; None if invalid. Durations are neither negative nor fractional."""
    if len(text) > MAX_LITERAL_LENGTH or not DURATION.fullmatch(text):
        return None
    milliseconds = sum(int(count) * MILLISECONDS_PER_UNIT[unit] for count, unit in PART.findall(text))
    try:
        return timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def parse_time(text: str) -> datetime | None:
    """Parse an RFC 3339 time with a zone to UTC; None if invalid. Digits beyond a microsecond are cut off."""
    match = RFC3339.fullmatch(text) if len(text) <= MAX_LITERAL_LENGTH else None
    if match is None:
        return None
    date, clock, fraction, _, sign, hours, minutes = match.groups()
    try:
        local = datetime.fromisoformat(f"{date}T{clock}").replace(tzinfo=parse_offset(sign, hours, minutes))
        return to_utc(local + timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6])))
    except (ValueError, OverflowError):  # an invalid day, or a time outside of the calendar
        return None


def parse_offset(sign: str | None, hours: str, minutes: str) -> timezone:
    if sign is None:
        return UTC
    east = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(east if sign == "+" else -east)


def to_utc(moment: datetime) -> datetime:
    """Return an aware time in UTC. Raises OverflowError outside the years 2 to 9998, as those exist in every zone."""
    utc = moment.astimezone(UTC)
    if not 2 <= utc.year <= 9998:
        raise OverflowError
    return utc


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
    """Return networks inside `::ffff:0:0/96` as IPv4 networks, like their addresses."""
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network
