"""Directories of the keys with which agents sign messages, each at an origin that an issuer of the policy names. They
are loaded like the keys of issuers: with limits, cached, refreshed, and with one request at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic, time
from typing import Protocol

from policyengine.http.fetch import Fetcher, FetchError, parse_fetch_url
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError, IssuerSettings, to_seconds
from policyengine.identity.http_fetch import create_fetcher
from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.identity.keys.issuer_keys import RemoteKeySource
from policyengine.identity.keys.jwks import (
    MAX_KEYS,
    JwkSet,
    PublicJwk,
    UnusableKeyError,
    VerifyingKey,
    jwks_file_stamp,
    parse_public_jwk,
)
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.trusted_files import read_trusted

WELL_KNOWN = "/.well-known/http-message-signatures-directory"
MEDIA_TYPE = "application/http-message-signatures-directory+json"
MAX_FILE_BYTES = 1_048_576
DIRECTORY_KEY = "http-signature"  # the `alg` of a directory's key, whose type determines the algorithm
CACHE_SECONDS = 300
RSA_ALGORITHM = "PS512"  # JOSE name of the only algorithm for RSA message signatures
_LOG = logging.getLogger("policyengine")


class DirectoryKeys(Protocol):
    """The keys of one directory. Threads may share an instance."""

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        """Return the key by thumbprint, with `DIRECTORY_KEY` as `alg`. May wait for a bounded time. Raises
        CredentialError."""
        ...


@dataclass(frozen=True, slots=True)
class SignatureAgentKeys:
    """The issuer's name and the directory of each origin. An origin is spelled exactly as in `Signature-Agent`."""

    known: Mapping[str, tuple[str, DirectoryKeys]]

    def key(self, origin: str, keyid: str, now: int) -> tuple[str, VerifyingKey]:
        """Return the issuer and the key. Raises CredentialError."""
        found = self.known.get(origin)
        if found is None:
            raise CredentialError(RefusalCode.UNKNOWN_ISSUER)
        issuer, held = found
        return issuer, held.find(keyid, DIRECTORY_KEY, now)[0]


@dataclass(frozen=True, slots=True)
class SignatureAgentKeyLoader:
    """Loads the keys of a directory. `clock` returns seconds since 1970, because keys have validity times."""

    origin: str
    fetcher: Fetcher
    clock: Callable[[], float] = time

    def __call__(self, until: float) -> tuple[JwkSet, int | None]:
        answer = self.fetcher.get(self.origin + WELL_KNOWN, until)
        if answer.kind != MEDIA_TYPE:
            raise DocumentError(f"the answer is not a directory: its content type is not `{MEDIA_TYPE}`")
        return parse_directory(answer.body, self.clock()), answer.fresh


def open_agent_directories(
    files: Mapping[str, Path],
    configuration: IdentityConfig,
    issuers: Collection[Issuer],
    before: SignatureAgentKeys | None = None,
    clock: Callable[[], float] = monotonic,
) -> SignatureAgentKeys:
    """Open a directory for each issuer whose `url` is exactly an origin.

    `files` are files to read instead, by issuer name. `before` are the directories that the same configuration opened
    for the previous policies; those of unchanged issuers are kept. Nothing is loaded yet. Raises IdentityConfigError.
    """
    by_name = {one.name: one.url for one in issuers if one.url is not None and is_origin(one.url)}
    for name in files.keys() - by_name.keys():
        raise IdentityConfigError(
            f"`signatures.directories.{name}`: the policy has no issuer of that name whose `url` is an origin"
        )
    made = {} if before is None else before.known
    held: dict[str, tuple[str, DirectoryKeys]] = {}
    for name, origin in by_name.items():
        if origin in made and made[origin][0] == name:
            held[origin] = made[origin]
        elif name in files:
            held[origin] = name, FileDirectory(configuration.folder / files[name], time())
        else:
            held[origin] = name, remote_directory(name, origin, configuration, clock)
    return SignatureAgentKeys(held)


def is_origin(url: str) -> bool:
    """Return whether the URL has only a scheme, a host and an optional port. The fetcher checks `http://`."""
    try:
        parts = parse_fetch_url(url, plain_http=True)
    except FetchError:
        return False
    return url == f"{parts.scheme}://{parts.netloc}".lower()


def remote_directory(
    name: str, origin: str, configuration: IdentityConfig, clock: Callable[[], float]
) -> RemoteKeySource:
    settings = configuration.issuers.get(name, IssuerSettings())
    fetcher = create_fetcher(settings.ca, settings.plain_http, configuration, clock)
    cache, stale = (to_seconds(one) for one in (settings.cache, settings.stale))
    timeout = configuration.identity.timeout.total_seconds()
    return RemoteKeySource(
        f"{name} (directory)", SignatureAgentKeyLoader(origin, fetcher), cache, stale, timeout, clock
    )


def parse_directory(data: bytes, now: float) -> JwkSet:
    """Parse a directory. Keys are named by thumbprint, not by `kid`; keys that are not valid at `now` are left out.
    Raises DocumentError.
    """
    given = parse_document(data).get("keys")
    if not isinstance(given, list) or len(given) > MAX_KEYS:
        raise DocumentError(f"the document is not a directory: `keys` is not a list of at most {MAX_KEYS} keys")
    usable: dict[str, PublicJwk] = {}
    for jwk in given:
        try:
            found = parse_public_jwk(jwk)
        except UnusableKeyError:
            continue
        name = found.key.thumbprint()
        fits = found.key.key_type != "RSA" or RSA_ALGORITHM in found.algorithms
        if fits and isinstance(jwk, dict) and is_valid_at(jwk, now):
            ends = jwk.get("exp")
            usable[name] = PublicJwk(name, (DIRECTORY_KEY,), found.key, ends if isinstance(ends, int) else None)
    return JwkSet(tuple(usable.values()))


def is_valid_at(jwk: Mapping[str, object], now: float) -> bool:
    begins, ends = jwk.get("nbf", 0), jwk.get("exp")
    return type(begins) is int and begins <= now and (ends is None or (type(ends) is int and now < ends))


class FileDirectory:
    """A directory in a file, which is read again when it changes, and at intervals. While it cannot be read, it has no
    keys and signatures are refused. Threads may share it."""

    def __init__(self, path: Path, now: float) -> None:
        """Read the file. Raises IdentityConfigError."""
        self._path, self._lock = path, Lock()
        self._seen, self._read_at = jwks_file_stamp(path), now
        self._keys: JwkSet | None = read_directory_file(path, now)

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        with self._lock:
            seen = jwks_file_stamp(self._path)
            if seen != self._seen or not 0 <= now - self._read_at < CACHE_SECONDS:
                self._seen, self._read_at = seen, now
                self._keys = self._read_again(now)
            keys = self._keys
        if keys is None:
            raise CredentialError(RefusalCode.PROVIDER)
        return keys.find(kid, alg, now)

    def _read_again(self, now: int) -> JwkSet | None:
        try:
            return read_directory_file(self._path, now)
        except IdentityConfigError as error:
            _LOG.warning("signatures with these keys are refused: %s", error)
            return None


def read_directory_file(path: Path, now: float) -> JwkSet:
    """Read and parse a directory file. Raises IdentityConfigError."""
    try:
        data = read_trusted(path, MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DocumentError(f"the file is longer than {MAX_FILE_BYTES:,} bytes")
        return parse_directory(data, now)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise IdentityConfigError(f"cannot read the directory `{path}`: {why}") from None
    except DocumentError as error:
        raise IdentityConfigError(f"the directory `{path}` cannot be used: {error}") from None
