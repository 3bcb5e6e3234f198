"""The functions of the language on known values: pure, total, and unknown for undefined results."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address

from policyengine.runtime.arithmetic import collect_unknown, neg
from policyengine.runtime.host_names import parse_host, parse_host_name
from policyengine.runtime.values import Known, Unknown, Value, describe_raw_value

# Only URLs on which all parsers agree: no userinfo, no backslash, no escapes in the host.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?(?:[/?#][^\\]*)?")
MAIL = re.compile(r"[^@\s\"\\(),:;<>\[\]]+@([A-Za-z0-9.-]+)")


def call_function(name: str, arguments: tuple[Known, ...]) -> Known | Unknown:
    """Return the result of the function with this name; Unknown if it is not defined for these arguments."""
    match name, arguments:
        case "lower", (str() as text,):
            return text.lower()
        case "upper", (str() as text,):
            return text.upper()
        case "starts_with", (str() as text, str() as prefix):
            return text.startswith(prefix)
        case "ends_with", (str() as text, str() as suffix):
            return text.endswith(suffix)
        case "contains", (str() as text, str() as part):
            return part in text
        case "size", (str() | tuple() as value,):
            return size(value)
        case "host", (str() as url,):
            return host(url)
        case "domain", (str() as address,):
            return domain(address)
        case "address", (IPv4Address() | IPv6Address() as known,):
            return known
        case "bucket", (str() as text, int() as buckets):
            return bucket(text, buckets)
        case "abs", (value,):
            return absolute_value(value)
        case (("min" | "max"), (left, right)):
            return extreme(name, left, right)
        case _:
            return unknown_result(
                name, f"not for {' and '.join(describe_raw_value(argument) for argument in arguments)}"
            )


def unknown_result(name: str, why: str) -> Unknown:
    return Unknown.of(f"{name}()", why)


def size(value: str | tuple[Value, ...]) -> int | Unknown:
    """Return the number of characters or elements; unknown if an element is unknown, because it could equal another
    element.
    """
    if isinstance(value, str):
        return len(value)
    return collect_unknown(value) or len(value)


def host(url: str) -> str | Unknown:
    """Return the host of an absolute URL in the spelling of `request.host`; Unknown if parsers may disagree about the
    URL.
    """
    match = URL.fullmatch(url)
    found = parse_host(match[1]) if match is not None and url.isprintable() and " " not in url else None
    return found if isinstance(found, str) else unknown_result("host", "not a plain URL with a host")


def domain(address: str) -> str | Unknown:
    """Return the domain of a mail address in lower case; Unknown if the text is not a plain address."""
    match = MAIL.fullmatch(address)
    name = parse_host_name(match[1].lower()) if match and address.isprintable() else None
    return name or unknown_result("domain", "not a plain mail address")


def bucket(text: str, buckets: int) -> int | Unknown:
    """Return the SHA-256 of the text, as a number, modulo the number of buckets; Unknown for fewer than one bucket.
    Every version returns the same result.
    """
    if isinstance(buckets, bool) or buckets < 1:
        return unknown_result("bucket", "fewer than one bucket")
    return int.from_bytes(sha256(text.encode("utf-8")).digest(), "big") % buckets


def absolute_value(value: Known) -> Known | Unknown:
    match value:
        case bool():
            return unknown_result("abs", "not for bool")
        case int() | Decimal():
            return neg(value) if value < 0 else value
        case timedelta():
            return neg(value) if value < timedelta() else value
        case _:
            return unknown_result("abs", f"not for {describe_raw_value(value)}")


def extreme(name: str, left: Known, right: Known) -> Known | Unknown:
    """Return the smaller value (`min`) or the larger value (`max`); the left one if they are equal. Return Unknown if
    the values have no common order.
    """
    match left, right:
        case (bool(), _) | (_, bool()):
            return unknown_result(name, "not for bool")
        case (int() | Decimal(), int() | Decimal()):
            swap = right < left if name == "min" else right > left
        case (timedelta(), timedelta()):
            swap = right < left if name == "min" else right > left
        case (datetime(), datetime()):
            swap = right < left if name == "min" else right > left
        case _:
            return unknown_result(name, f"not for {describe_raw_value(left)} and {describe_raw_value(right)}")
    return right if swap else left
