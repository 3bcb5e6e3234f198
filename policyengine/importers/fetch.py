"""Bytes of a file or a URL, bounded in size and time. Nothing else of an import reads files or asks the network."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from policyengine.importers.errors import ApiImportError

MAX_BYTES = 32 * 1024 * 1024
TIMEOUT_SECONDS = 20.0
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class FileBase:
    """`root` is the folder of the specification: what it refers to lies in there, or is not read."""

    path: Path
    root: Path

    @property
    def name(self) -> str:
        return self.path.as_posix()


@dataclass(frozen=True, slots=True)
class UrlBase:
    name: str


DocumentBase: TypeAlias = FileBase | UrlBase


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def base_of(source: str) -> DocumentBase:
    return UrlBase(source) if is_url(source) else FileBase(Path(source), Path(source).parent)


def read_base(base: DocumentBase) -> bytes:
    return _read_file(base.path) if isinstance(base, FileBase) else _read_url(base.name)


def resolve_reference(base: DocumentBase, reference: str) -> DocumentBase:
    """What a `$ref` to another document means; an ApiImportError where it leads out of where its own one lies."""
    if isinstance(base, UrlBase):
        there = urldefrag(urljoin(base.name, reference)).url
        if not is_url(there) or origin(there) != origin(base.name):
            raise ApiImportError(f"`{reference[:200]}` leads to another server", hint="only its own one is asked")
        return UrlBase(there)
    if urlsplit(reference).scheme or "\0" in reference or reference.startswith(("/", "\\")):
        raise ApiImportError(
            f"`{reference[:200]}` is not below the folder of the specification",
            hint="put a copy beside it: the network and other folders are not read",
        )
    path = base.path.parent / reference
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base.root)):
        raise ApiImportError(f"`{reference[:200]}` leads out of the folder of the specification")
    return FileBase(path, base.root)


def origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise ApiImportError(f"`{url[:200]}` is no URL") from None


def _read_file(path: Path) -> bytes:
    try:
        if not path.is_file():
            message = "there is no such file" if not path.exists() else "this is no file"
            raise ApiImportError(message, f"`{path.as_posix()}`")
        with path.open("rb") as stream:
            return bytes(_check_size(stream.read(MAX_BYTES + 1), path.as_posix()))
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ApiImportError(f"this cannot be read: {why}", f"`{path.as_posix()}`") from None


def _check_size(data: bytes | bytearray, name: str) -> bytes | bytearray:
    if len(data) > MAX_BYTES:
        raise ApiImportError(f"this is longer than {MAX_BYTES:,} bytes", f"`{name}`")
    return data


class _SameOrigin(HTTPRedirectHandler):
    """A redirect that leads elsewhere is not followed: nobody named that server."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if origin(newurl) != origin(req.full_url):
            raise ApiImportError(f"it redirects to `{newurl[:200]}`, which is another server", hint="name that one")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_url(url: str) -> bytes:
    until = time.monotonic() + TIMEOUT_SECONDS
    request = Request(url, headers={"Accept": "application/json, application/yaml, */*"})
    try:
        with build_opener(_SameOrigin).open(request, timeout=TIMEOUT_SECONDS) as answer:
            return _read_answer(answer, url, until)
    except ApiImportError as problem:
        raise ApiImportError(problem.message, f"`{url}`", problem.hint) from None
    except HTTPError as error:
        raise ApiImportError(f"it answers {error.code} {error.reason}".rstrip(), f"`{url}`") from None
    except (URLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise ApiImportError(f"it cannot be read: {why}".lower(), f"`{url}`") from None


def _read_answer(answer: HTTPResponse, url: str, until: float) -> bytes:
    data = bytearray()
    while chunk := answer.read1(CHUNK_BYTES):
        data += chunk
        _check_size(data, url)
        if time.monotonic() > until:
            raise ApiImportError(f"no whole answer within {TIMEOUT_SECONDS:.0f} s", f"`{url}`")
    return bytes(data)
