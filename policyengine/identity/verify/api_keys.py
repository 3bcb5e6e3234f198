"""Static API keys, a kind of credential that policies can distinguish and refuse.

Each line of the file has the owner and the digest of a key: `ISSUER/AGENT: sha256:…`. The keys themselves are not
stored.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from hashlib import sha256
from hmac import digest as hmac
from pathlib import Path
from secrets import token_bytes
from threading import Lock
from typing import TypeAlias

from policyengine.identity.config.model import IdentityConfigError
from policyengine.identity.keys.jwks import jwks_file_stamp
from policyengine.identity.verified import UNBOUND, ConfirmedKey, TokenPrincipal, VerifiedToken
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.trusted_files import read_trusted

MIN_KEY_LENGTH = 32  # minimum characters of a key: too many to guess it from its digest
MAX_FILE_BYTES = 16_777_216
RECHECK_SECONDS = 300
KEY = re.compile(r"[\x21-\x7e]+")
LINE = re.compile(r"(?P<issuer>[A-Za-z_][A-Za-z0-9_-]*)/(?P<agent>\S(?:.*\S)?):[ \t]+sha256:(?P<digest>[0-9a-f]{64})")
KeyOwners: TypeAlias = dict[bytes, tuple[str, str]]  # issuer and agent
_LOG = logging.getLogger("policyengine")


def hash_api_key(key: str) -> str:
    """Return the digest of a key as in the file of keys: `sha256:…`. Raises ValueError, whose message does not contain
    the key."""
    if len(key) < MIN_KEY_LENGTH or not KEY.fullmatch(key):
        raise ValueError(f"a key must have at least {MIN_KEY_LENGTH} visible ASCII characters, generated at random")
    return f"sha256:{sha256(key.encode()).hexdigest()}"


class ApiKeys:
    """The API keys of a file, which is read again when it changes. While it cannot be read, all keys are refused.
    Threads may share an instance. Digests are looked up by an HMAC with a secret of this process, so that timing
    reveals nothing about them."""

    def __init__(self, path: Path, issuers: Collection[str]) -> None:
        """Read the file. `issuers` are the names of the policy's issuers. Raises IdentityConfigError."""
        self._path, self._issuers, self._secret, self._lock = path, issuers, token_bytes(32), Lock()
        self._seen = jwks_file_stamp(path)
        self._owners: KeyOwners | None = read_key_owners(path, issuers, self._secret)

    def present(self, key: str, now: int) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey]:
        """Verify a key. Raises CredentialError."""
        digest = sha256(key.encode()).digest()
        owners = self._current()
        if owners is None:
            raise CredentialError(RefusalCode.PROVIDER, "cannot read the file of static keys")
        owner = owners.get(hmac(self._secret, digest, "sha256"))
        if owner is None:
            raise CredentialError(RefusalCode.API_KEY)
        issuer, agent = owner
        token = VerifiedToken(
            "api_key", issuer, {"sub": agent}, {}, digest, now + RECHECK_SECONDS, key=f"sha256:{digest.hex()}"
        )
        return token, TokenPrincipal(agent, None), UNBOUND

    def _current(self) -> KeyOwners | None:
        with self._lock:
            seen = jwks_file_stamp(self._path)
            if seen != self._seen:
                self._seen, self._owners = seen, self._read_again()
            return self._owners

    def _read_again(self) -> KeyOwners | None:
        try:
            return read_key_owners(self._path, self._issuers, self._secret)
        except IdentityConfigError as error:
            _LOG.warning("all static keys are refused: %s", error)
            return None


def read_key_owners(path: Path, issuers: Collection[str], secret: bytes) -> KeyOwners:
    """Return the owners of the keys by HMAC of the key's digest. Raises IdentityConfigError, which names lines and
    contains no digest.
    """
    owners: KeyOwners = {}
    for number, line in enumerate(read_key_lines(path), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"line {number} of `{path}`"
        found = LINE.fullmatch(line.strip())
        if found is None:
            hint = "write `ISSUER/AGENT: sha256:…`, not the key itself"
            raise IdentityConfigError(f"{place} is not an API key", hint)
        if found["issuer"] not in issuers:
            raise IdentityConfigError(f"{place} names an issuer that the policy does not have")
        name = hmac(secret, bytes.fromhex(found["digest"]), "sha256")
        if name in owners:
            raise IdentityConfigError(f"{place} repeats a key", "give each agent its own key")
        owners[name] = (found["issuer"], found["agent"])
    return owners


def read_key_lines(path: Path) -> list[str]:
    try:
        data = read_trusted(path, MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise IdentityConfigError(f"`{path}` is larger than {MAX_FILE_BYTES:,} bytes")
        return data.decode("utf-8").splitlines()
    except OSError as error:
        raise IdentityConfigError(
            f"cannot read the API keys `{path}`: {(error.strerror or str(error)).lower()}"
        ) from None
    except UnicodeDecodeError:
        raise IdentityConfigError(f"`{path}` is not UTF-8 text") from None
