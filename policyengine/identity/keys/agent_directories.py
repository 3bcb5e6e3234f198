"""Directories of the keys that agents sign messages by, each at an origin that an issuer of the policy names.

They are asked as issuers are for their keys: bounded, kept, renewed, one request at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic, time
from typing import Protocol

from policyengine.identity.config.model import Configuration, IdentityError, IssuerSettings, in_seconds
from policyengine.identity.http_fetch import Fetcher, FetchError, fetcher_of, url_of
from policyengine.identity.issuer_documents import DocumentError, json_object
from policyengine.identity.keys.issuer_keys import RemoteKeys
from policyengine.identity.keys.jwks import MOST_KEYS, Keys, Unusable, Usable, VerifyingKey, looks, usable_of
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.trusted_files import read_trusted

WELL_KNOWN = "/.well-known/http-message-signatures-directory"
MEDIA_TYPE = "application/http-message-signatures-directory+json"
LARGEST_FILE = 1_048_576  # bytes
DIRECTORY_KEY = "http-signature"  # as `alg` of a key that a directory holds: its type says which one that is
KEPT = 300  # seconds
RSA_SIGNS = "PS512"  # the JOSE name of the one algorithm that RSA keys sign messages by
_LOG = logging.getLogger("policyengine")


class Held(Protocol):
    """The keys of one directory. Threads may share one."""

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        """By thumbprint, with `DIRECTORY_KEY` as `alg`. It may wait, for a bounded time. Raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class Directories:
    """By origin, as `Signature-Agent` says it letter by letter: the issuer's name and its directory."""

    known: Mapping[str, tuple[str, Held]]

    def key(self, origin: str, keyid: str, now: int) -> tuple[str, VerifyingKey]:
        """The issuer and the key. Raises Refused."""
        found = self.known.get(origin)
        if found is None:
            raise Refused(Refusal.UNKNOWN_ISSUER)
        issuer, held = found
        return issuer, held.find(keyid, DIRECTORY_KEY, now)[0]


@dataclass(frozen=True, slots=True)
class AtOrigin:
    """Loads the keys of a directory. `clock`: seconds since 1970, as keys have a beginning and an end."""

    origin: str
    fetcher: Fetcher
    clock: Callable[[], float] = time

    def __call__(self, until: float) -> tuple[Keys, int | None]:
        answer = self.fetcher.get(self.origin + WELL_KNOWN, until)
        if answer.kind != MEDIA_TYPE:
            raise DocumentError(f"it is no directory: its content type is not `{MEDIA_TYPE}`")
        return read_directory(answer.body, self.clock()), answer.fresh


def directories(
    files: Mapping[str, Path],
    configuration: Configuration,
    issuers: Collection[Issuer],
    before: Directories | None = None,
    clock: Callable[[], float] = monotonic,
) -> Directories:
    """Of all issuers whose `url` is an origin, and nothing more. `files`: by issuer, what is read in place of asking.
    `before`: of other policies, by the same configuration: what is known of an issuer that is the same stays. Nothing
    is asked yet. Raises IdentityError."""
    by_name = {one.name: one.url for one in issuers if one.url is not None and is_origin(one.url)}
    for name in files.keys() - by_name.keys():
        raise IdentityError(
            f"`signatures.directories.{name}`: no issuer of the policy with that name has an origin as `url`"
        )
    made = {} if before is None else before.known
    held: dict[str, tuple[str, Held]] = {}
    for name, origin in by_name.items():
        if origin in made and made[origin][0] == name:
            held[origin] = made[origin]
        elif name in files:
            held[origin] = name, FileDirectory(configuration.folder / files[name], time())
        else:
            held[origin] = name, remote(name, origin, configuration, clock)
    return Directories(held)


def is_origin(url: str) -> bool:
    """`https://host`, with a port or without; `http://` on this machine, or where `plain_http` allows it."""
    try:
        parts = url_of(url, plain_http=True)
    except FetchError:
        return False
    return url == f"{parts.scheme}://{parts.netloc}".lower()


def remote(name: str, origin: str, configuration: Configuration, clock: Callable[[], float]) -> RemoteKeys:
    settings = configuration.issuers.get(name, IssuerSettings())
    fetcher = fetcher_of(settings.ca, settings.plain_http, configuration, clock)
    cache, stale = (in_seconds(one) for one in (settings.cache, settings.stale))
    timeout = configuration.identity.timeout.total_seconds()
    return RemoteKeys(f"{name} (directory)", AtOrigin(origin, fetcher), cache, stale, timeout, clock)


def read_directory(data: bytes, now: float) -> Keys:
    """Named by what they are, whatever `kid` says; those that are not valid `now` are not there. Raises
    DocumentError."""
    given = json_object(data).get("keys")
    if not isinstance(given, list) or len(given) > MOST_KEYS:
        raise DocumentError(f"it is no directory: it has no list `keys`, or more than {MOST_KEYS}")
    usable: dict[str, Usable] = {}
    for one in given:
        try:
            found = usable_of(one)
        except Unusable:
            continue
        name = found.key.thumbprint()
        fits = found.key.key_type != "RSA" or RSA_SIGNS in found.algorithms
        if fits and isinstance(one, dict) and valid(one, now):
            ends = one.get("exp")
            usable[name] = Usable(name, (DIRECTORY_KEY,), found.key, ends if isinstance(ends, int) else None)
    return Keys(tuple(usable.values()))


def valid(jwk: Mapping[str, object], now: float) -> bool:
    begins, ends = jwk.get("nbf", 0), jwk.get("exp")
    return type(begins) is int and begins <= now and (ends is None or (type(ends) is int and now < ends))


class FileDirectory:
    """Of a file, which is read again when it has changed, and once in a while. While it cannot be read it has no keys:
    whoever signs is refused. Threads may share one."""

    def __init__(self, path: Path, now: float) -> None:
        """Raises IdentityError."""
        self._path, self._lock = path, Lock()
        self._seen, self._read_at = looks(path), now
        self._keys: Keys | None = read_file(path, now)

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        with self._lock:
            seen = looks(self._path)
            if seen != self._seen or not 0 <= now - self._read_at < KEPT:
                self._seen, self._read_at = seen, now
                self._keys = self._read_again(now)
            keys = self._keys
        if keys is None:
            raise Refused(Refusal.PROVIDER)
        return keys.find(kid, alg, now)

    def _read_again(self, now: int) -> Keys | None:
        try:
            return read_file(self._path, now)
        except IdentityError as error:
            _LOG.warning("signatures by these keys are refused: %s", error)
            return None


def read_file(path: Path, now: float) -> Keys:
    """Raises IdentityError."""
    try:
        data = read_trusted(path, LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise DocumentError(f"it is longer than {LARGEST_FILE:,} bytes")
        return read_directory(data, now)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise IdentityError(f"cannot read the directory `{path}`: {why}") from None
    except DocumentError as error:
        raise IdentityError(f"the directory `{path}` cannot be used: {error}") from None
