"""Static API keys, so that policies can tell them from better credentials and refuse them.

A line of the file says whose a key is and its digest: `ISSUER/AGENT: sha256:…`. The keys themselves are nowhere.
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

from policyengine.identity.config.model import IdentityError
from policyengine.identity.keys.jwks import looks
from policyengine.identity.verified import UNBOUND, Binding, Token, Who
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.trusted_files import read_trusted

SHORTEST = 32  # characters of a key: too many to be guessed from its digest
LARGEST_FILE = 16_777_216  # bytes
STANDS = 300  # seconds
KEY = re.compile(r"[\x21-\x7e]+")
LINE = re.compile(r"(?P<issuer>[A-Za-z_][A-Za-z0-9_-]*)/(?P<agent>\S(?:.*\S)?):[ \t]+sha256:(?P<digest>[0-9a-f]{64})")
Owners: TypeAlias = dict[bytes, tuple[str, str]]  # issuer and agent
_LOG = logging.getLogger("policyengine")


def hashed(key: str) -> str:
    """What stands for a key in a file of them: `sha256:…`. Raises ValueError, which does not show it."""
    if len(key) < SHORTEST or not KEY.fullmatch(key):
        raise ValueError(f"a key has at least {SHORTEST} visible ASCII characters, and was made by chance")
    return f"sha256:{sha256(key.encode()).hexdigest()}"


class ApiKeys:
    """Of a file, which is read again when it has changed. While it cannot be read no key counts. Threads may share one.

    Digests of keys are found by what only this process makes of them: how long it takes says nothing of any of them.
    """

    def __init__(self, path: Path, issuers: Collection[str]) -> None:
        """`issuers`: names that the policy has. Raises IdentityError."""
        self._path, self._issuers, self._secret, self._lock = path, issuers, token_bytes(32), Lock()
        self._seen = looks(path)
        self._owners: Owners | None = read_owners(path, issuers, self._secret)

    def present(self, key: str, now: int) -> tuple[Token, Who, Binding]:
        """Raises Refused."""
        digest = sha256(key.encode()).digest()
        owners = self._current()
        if owners is None:
            raise Refused(Refusal.PROVIDER, "the file of static keys cannot be read")
        owner = owners.get(hmac(self._secret, digest, "sha256"))
        if owner is None:
            raise Refused(Refusal.API_KEY)
        issuer, agent = owner
        token = Token("api_key", issuer, {"sub": agent}, {}, digest, now + STANDS, key=f"sha256:{digest.hex()}")
        return token, Who(agent, None), UNBOUND

    def _current(self) -> Owners | None:
        with self._lock:
            seen = looks(self._path)
            if seen != self._seen:
                self._seen, self._owners = seen, self._read_again()
            return self._owners

    def _read_again(self) -> Owners | None:
        try:
            return read_owners(self._path, self._issuers, self._secret)
        except IdentityError as error:
            _LOG.warning("no static key counts: %s", error)
            return None


def read_owners(path: Path, issuers: Collection[str], secret: bytes) -> Owners:
    """Raises IdentityError, which names lines and shows no digest."""
    owners: Owners = {}
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"line {number} of `{path}`"
        found = LINE.fullmatch(line.strip())
        if found is None:
            hint = "write `ISSUER/AGENT: sha256:…`; a key itself has no place there"
            raise IdentityError(f"{place} is no API key", hint)
        if found["issuer"] not in issuers:
            raise IdentityError(f"{place} names an issuer that the policy does not have")
        name = hmac(secret, bytes.fromhex(found["digest"]), "sha256")
        if name in owners:
            raise IdentityError(f"{place} has a key that is there already", "give each agent a key of its own")
        owners[name] = (found["issuer"], found["agent"])
    return owners


def lines_of(path: Path) -> list[str]:
    try:
        data = read_trusted(path, LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise IdentityError(f"`{path}` is larger than {LARGEST_FILE:,} bytes")
        return data.decode("utf-8").splitlines()
    except OSError as error:
        raise IdentityError(f"cannot read the API keys `{path}`: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise IdentityError(f"`{path}` is no text") from None
