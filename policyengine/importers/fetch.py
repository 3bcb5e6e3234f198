"""Reads the bytes of a file or a URL, with limits on size and time. No other module of an import reads
files or URLs.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from policyengine.importers.errors import ApiImportError

MAX_BYTES = 32 * 1024 * 1024
TIMEOUT_SECONDS = 20.0
MAX_REDIRECTS = 10
ACCEPT = "application/json, application/yaml, */*"


@dataclass(frozen=True, slots=True)
class SpecificationFile:
    """A file. `root` is the folder of the specification; references that leave this folder are refused."""

    path: Path
    root: Path

    @property
    def name(self) -> str:
        return self.path.as_posix()


@dataclass(frozen=True, slots=True)
class UrlBase:
    name: str


DocumentBase: TypeAlias = SpecificationFile | UrlBase


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def base_of(source: str) -> DocumentBase:
    return UrlBase(source) if is_url(source) else SpecificationFile(Path(source), Path(source).parent)


def read_base(base: DocumentBase) -> bytes:
    return _read_file(base.path) if isinstance(base, SpecificationFile) else _read_url(base.name)


def resolve_reference(base: DocumentBase, reference: str) -> DocumentBase:
    """Return the document of a `$ref`. Raises ApiImportError if it leaves its document's folder or server."""
    if isinstance(base, UrlBase):
        there = urldefrag(urljoin(base.name, reference)).url
        if not is_url(there) or origin(there) != origin(base.name):
            raise ApiImportError(
                f"`{reference[:200]}` leads to another server", hint="only the server of the specification is contacted"
            )
        return UrlBase(there)
    if urlsplit(reference).scheme or "\0" in reference or reference.startswith(("/", "\\")):
        raise ApiImportError(
            f"`{reference[:200]}` is outside the folder of the specification",
            hint="put a copy into that folder, because the network and other folders are not read",
        )
    path = base.path.parent / reference
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base.root)):
        raise ApiImportError(f"`{reference[:200]}` leads out of the folder of the specification")
    return SpecificationFile(path, base.root)


def origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise ApiImportError(f"`{url[:200]}` is not a URL") from None


def _read_file(path: Path) -> bytes:
    try:
        if not path.is_file():
            message = "the file does not exist" if not path.exists() else "this is not a regular file"
            raise ApiImportError(message, f"`{path.as_posix()}`")
        with path.open("rb") as stream:
            return _check_size(stream.read(MAX_BYTES + 1), path.as_posix())
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ApiImportError(f"this cannot be read: {why}", f"`{path.as_posix()}`") from None


def _check_size(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise ApiImportError(f"this is longer than {MAX_BYTES:,} bytes", f"`{name}`")
    return data


def _read_url(url: str) -> bytes:
    from policyengine.http.fetch import Fetcher, FetchError, RedirectError

    fetcher = Fetcher(plain_http=True, proxy=environment_proxy(url), largest=MAX_BYTES, redirects=MAX_REDIRECTS)
    try:
        return fetcher.get(urldefrag(url).url, time.monotonic() + TIMEOUT_SECONDS, ACCEPT).body
    except RedirectError as error:
        message = f"the server redirects to another server, `{error.target[:200]}`"
        raise ApiImportError(message, f"`{url}`", "pass the URL of that server instead") from None
    except FetchError as error:
        raise ApiImportError(describe_status(error.status) if error.status else error.why, f"`{url}`") from None


def describe_status(status: int) -> str:
    try:
        return f"the server responded with {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the server responded with {status}"


def environment_proxy(url: str) -> str | None:
    """Return the proxy for a URL from the system or environment settings, because an import runs for the user of the
    command. Return None if there is none.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme.lower())
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
