"""The `Host` and `Origin` check of listeners without a token, against requests from web pages and against DNS
rebinding.

A browser sends the requested name in `Host`, and no page can change that: a page whose name was rebound to this machine
is recognized by its `Host`. A page of another site that uses this server's name is recognized by `Origin`, or by
`Sec-Fetch-Site` if it sends no `Origin`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from policyengine.runtime.structure_checks import quote_input

RawHeaderLines = Iterable[tuple[bytes, bytes]]

BYTE = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
LOOPBACK = re.compile(rb"(?:localhost\.?|127(?:\." + BYTE + rb"){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE).fullmatch
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?)\.?(?::[0-9]{0,5})?")
ORIGIN = re.compile(r"https?://(?P<host>[^/?#@]+)")
NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?\.?")
ANY_HOST_NAME = "*"
OWN_SITES = frozenset({b"same-origin", b"none"})
# A page needs a preflight to send these headers to another site, and preflights fail here.
GATEWAY_HEADER_PREFIXES = (b"x-envoy-", b"x-forwarded-")


class AllowedHostError(ValueError):
    """The error for an allowed host that is not a host name."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} ({hint})")
        self.message, self.hint = message, hint


class HostRefusal(NamedTuple):
    """The refusal of a request: the header, a message, and what to do."""

    header: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The host names that a listener accepts in addition to loopback, in lower case and without ports.

    `*.example.com` allows every subdomain; `*` allows every name, which is no protection against rebinding.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, given: Iterable[str]) -> AllowedHosts:
        """Parse allowed hosts. Raises AllowedHostError."""
        return cls(frozenset(map(parse_allowed_host, given)))

    def at_once(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether these headers, in which no name is repeated, are those of an ordinary client. If False,
        `refusal` decides.
        """
        return self.has_own_name(headers) and b"origin" not in headers and b"sec-fetch-site" not in headers

    def has_own_name(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether `Host`, which is not repeated, is a name of this server. If False, `host_refusal` decides."""
        return is_named(headers.get(b"host", b""), self.names)

    def answers(self, host: bytes, own: str | None = None) -> bool:
        """Return whether a `Host` is allowed. `own` is the address of the listener, which cannot be rebound."""
        return is_named(host, self.names) or is_address(parse_host_header(host), own)

    def refusal(
        self, method: str, headers: Sequence[tuple[bytes, bytes]], own: str | None = None
    ) -> HostRefusal | None:
        """Return why a request is refused, or None if it is accepted."""
        return self.host_refusal(headers, own) or self.page_refusal(method, headers)

    def host_refusal(self, headers: RawHeaderLines, own: str | None = None) -> HostRefusal | None:
        hosts = header_values(headers, b"host")
        if len(hosts) == 1 and self.answers(hosts[0], own):
            return None
        if len(hosts) != 1:
            said = "the Host header is missing" if not hosts else "the Host header is repeated"
            return HostRefusal("host", said, "send one, such as `Host: 127.0.0.1`")
        name = quote_input(hosts[0].decode("latin-1"))
        hint = (
            "use `127.0.0.1` or `localhost`; if this server, or a site behind its gateway, has that name, start the "
            "server with `--allowed-host NAME` (without a port), or with `--token-file`, which accepts every name"
        )
        return HostRefusal("host", f"the Host `{name}` is not a name of this server", hint)

    def page_refusal(self, method: str, headers: RawHeaderLines) -> HostRefusal | None:
        """Return the refusal of a request that a page of another site sent, or None."""
        headers = tuple(headers)
        origins, sites = header_values(headers, b"origin"), header_values(headers, b"sec-fetch-site")
        if origins:
            return (
                None
                if len(origins) == 1 and self.is_own(origins[0], headers)
                else foreign_host_refusal("origin", origins[0])
            )
        if all(site in OWN_SITES for site in sites) or is_navigation(method, headers):
            return None
        return foreign_host_refusal("sec-fetch-site", sites[0])

    def is_own(self, origin: bytes, headers: RawHeaderLines) -> bool:
        """Return whether an `Origin` is the origin of this server, or an allowed host."""
        found = ORIGIN.fullmatch(origin.decode("latin-1").lower())
        if found is None:
            return False
        if [found["host"].encode()] == [one.lower() for one in header_values(headers, b"host")]:
            return True
        return is_listed(parse_host_header(found["host"].encode("latin-1")), self.names)


@lru_cache(maxsize=256)  # clients use few hosts, and each request names one
def is_named(host: bytes, names: frozenset[str]) -> bool:
    """Return whether a `Host` is loopback or one of these names."""
    return LOOPBACK(host) is not None or ANY_HOST_NAME in names or is_listed(parse_host_header(host), names)


def parse_host_header(host: bytes) -> str:
    """Return the name in a `Host`, in lower case; empty if malformed."""
    found = HOST.fullmatch(host.decode("latin-1").lower())
    return "" if found is None else found["name"]


def is_listed(name: str, names: frozenset[str]) -> bool:
    return name in names or any(f"*.{parent}" in names for parent in parent_domains(name))


def parse_allowed_host(given: str) -> str:
    """Return the host name as it is compared. Raises AllowedHostError."""
    name = given.strip().lower()
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if ":" in bare and is_literal(bare):
        return f"[{ip_address(bare).compressed}]"
    if name == ANY_HOST_NAME or NAME.fullmatch(name):
        return name.removesuffix(".")
    hint = "write a name or address without scheme, port or path, like pdp.example.com, or `*.example.com`"
    raise AllowedHostError(f"`{quote_input(given)}` is not a host name", hint)


def url_host_names(url: str | None) -> tuple[str, ...]:
    """Return the host name in a URL, if there is one."""
    found = None if url is None else ORIGIN.match(url.lower())
    name = "" if found is None else parse_host_header(found["host"].encode("latin-1", "replace"))
    return (name,) if name else ()


def gateway_refusal(headers: RawHeaderLines) -> HostRefusal | None:
    """Return the refusal of a request to an adapter, if a page could have sent the request without a preflight;
    otherwise None."""
    if any(name.startswith(GATEWAY_HEADER_PREFIXES) for name, _ in headers):
        return None
    hint = "Envoy sends `X-Envoy-…` and `X-Forwarded-For` by itself; for a test, add `-H 'x-forwarded-for: 127.0.0.1'`"
    return HostRefusal("gateway", "the request does not come from a gateway", hint)


def foreign_host_refusal(header: str, value: bytes) -> HostRefusal:
    said = f"`{quote_input(value.decode('latin-1'))}`"
    of = f"from {said}" if header == "origin" else f"from another site (`Sec-Fetch-Site: {said[1:]}"
    end = "" if header == "origin" else ")"
    hint = "if the page is yours, start the server with `--allowed-host` and the host name of the page"
    return HostRefusal(header, f"a page {of}{end} may not send requests here", hint)


def is_navigation(method: str, headers: RawHeaderLines) -> bool:
    """Return whether the request follows a link; the linking page cannot read the answer of such a request."""
    how = header_values(headers, b"sec-fetch-mode"), header_values(headers, b"sec-fetch-dest")
    return method == "GET" and how == ([b"navigate"], [b"document"])


def header_values(headers: RawHeaderLines, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def parent_domains(name: str) -> Iterable[str]:
    """Yield `b.c` and `c` for `a.b.c`."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def is_literal(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_address(name: str, own: str | None) -> bool:
    """Return whether a name is exactly this address."""
    bare = name.removeprefix("[").removesuffix("]")
    return own is not None and is_literal(own) and is_literal(bare) and ip_address(own) == ip_address(bare)
