"""Compares URLs from two sources, using the equivalences of RFC 3986."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from policyengine.runtime.credential_errors import CredentialError, RefusalCode

MAX_URL_LENGTH = 8_192
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._~!$&'()*+,;=-]+)(?::(?P<port>[0-9]{0,5}))?"
    r"(?P<path>/[^?#]*)?(?:\?[^#]*)?(?:#.*)?",
    re.IGNORECASE | re.DOTALL,
)
PORTS = {"http": 80, "https": 443}
ESCAPE = re.compile(r"%(?P<code>[0-9A-Fa-f]{2})|%")
UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
ASCII = "".join(map(chr, range(0x21, 0x7F)))
DOTS = re.compile(r"/\.\.?(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class OwnHosts:
    """The hosts to which clients send the requests to decide; if `ours` is None, any host. A gateway reports the host
    that its client named, and a malicious server could name another host to replay a proof that it received.
    """

    ours: frozenset[str] | None = None

    def check(self, url: str | None) -> None:
        """Check that the URL names one of these hosts. Raises CredentialError."""
        if self.ours is not None and (url is None or url_authority(url) not in self.ours):
            raise CredentialError(RefusalCode.FOREIGN_HOST)


ANY_HOST = OwnHosts()


def normalize_url(url: str) -> str | None:
    """Return scheme, host and path, without query and fragment (RFC 9449, `htu`). Return None if the URL cannot belong
    to a request, because it has a user, a malformed host, or a path with dot segments.
    """
    found = URL.fullmatch(url) if len(url) <= MAX_URL_LENGTH else None
    if found is None or not url.isprintable():
        return None
    path = normalize_path(found["path"] or "/")
    if path is None:
        return None
    scheme = found["scheme"].lower()
    port = int(found["port"] or PORTS[scheme])
    return f"{scheme}://{found['host'].lower()}{'' if port == PORTS[scheme] else f':{port}'}{path}"


def url_authority(url: str) -> str | None:
    """Return the host in lower case, with the port unless it is the scheme's default; None if the URL cannot belong to
    a request.
    """
    found = normalize_url(url)
    return None if found is None else found.partition("://")[2].partition("/")[0]


def normalize_path(path: str) -> str | None:
    """Return the path with only necessary escapes, in upper case; None if it is malformed or has dot segments."""
    found = path if path.isascii() else quote(path, safe=ASCII)
    if "%" in found:
        found = ESCAPE.sub(normalize_escape, found)
    return None if "%%" in found or DOTS.search(found) else found


def normalize_escape(escape: re.Match[str]) -> str:
    if escape["code"] is None:
        return "%%"  # marks a malformed escape
    character = chr(int(escape["code"], 16))
    return character if character in UNRESERVED else escape[0].upper()
