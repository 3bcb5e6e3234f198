"""URLs that two sides wrote, compared after what RFC 3986 says means the same."""

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
    """By which clients reach what is decided here; None: by any. A gateway tells which host its client named, and a
    client may name one of somebody else, whose proof it was sent."""

    ours: frozenset[str] | None = None

    def check(self, url: str | None) -> None:
        """Raises CredentialError."""
        if self.ours is not None and (url is None or url_authority(url) not in self.ours):
            raise CredentialError(RefusalCode.FOREIGN_HOST)


ANY_HOST = OwnHosts()


def normalize_url(url: str) -> str | None:
    """Scheme, host and path, without query and fragment (RFC 9449, `htu`); None for what is no URL of a request: with a
    user, a host that is none, or a path that leads elsewhere than it says."""
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
    """Host and, where it is not the scheme's own, port: in lower case. None for what is no URL of a request."""
    found = normalize_url(url)
    return None if found is None else found.partition("://")[2].partition("/")[0]


def normalize_path(path: str) -> str | None:
    """Escapes in upper case, and only where one is needed."""
    found = path if path.isascii() else quote(path, safe=ASCII)
    if "%" in found:
        found = ESCAPE.sub(normalize_escape, found)
    return None if "%%" in found or DOTS.search(found) else found


def normalize_escape(escape: re.Match[str]) -> str:
    if escape["code"] is None:
        return "%%"  # in no path that is one
    character = chr(int(escape["code"], 16))
    return character if character in UNRESERVED else escape[0].upper()
