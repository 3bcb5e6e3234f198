"""Static API keys, so that policies can tell them from better credentials and refuse them.

A line of the file says whose a key is and its digest: `ISSUER/AGENT: sha256:…`. The keys themselves are nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest as hmac
from pathlib import Path
from secrets import token_bytes

from policyengine.identity.configuration import IdentityError
from policyengine.identity.proved import UNBOUND, Binding, Token, Who
from policyengine.runtime.refusals import Refusal, Refused

SHORTEST = 32  # characters of a key: too many to be guessed from its digest
LARGEST_FILE = 16_777_216  # bytes
STANDS = 300  # seconds
KEY = re.compile(r"[\x21-\x7e]+")
LINE = re.compile(r"(?P<issuer>[A-Za-z_][A-Za-z0-9_-]*)/(?P<agent>\S(?:.*\S)?):[ \t]+sha256:(?P<digest>[0-9a-f]{64})")


def hashed(key: str) -> str:
    """What stands for a key in a file of them: `sha256:…`. Raises ValueError, which does not show it."""
    if len(key) < SHORTEST or not KEY.fullmatch(key):
        raise ValueError(f"a key has at least {SHORTEST} visible ASCII characters, and was made by chance")
    return f"sha256:{sha256(key.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Digests of keys, found by what only this process makes of them: how long it takes says nothing of any of them."""

    _owners: dict[bytes, tuple[str, str]] = field(repr=False)
    _secret: bytes = field(repr=False)

    def present(self, key: str, now: int) -> tuple[Token, Who, Binding]:
        """Raises Refused."""
        digest = sha256(key.encode()).digest()
        owner = self._owners.get(hmac(self._secret, digest, "sha256"))
        if owner is None:
            raise Refused(Refusal.API_KEY)
        issuer, agent = owner
        token = Token("api_key", issuer, {"sub": agent}, {}, digest, now + STANDS, key=f"sha256:{digest.hex()}")
        return token, Who(agent, None), UNBOUND


def no_keys() -> ApiKeys:
    return ApiKeys({}, b"")


def read_api_keys(path: Path, issuers: Collection[str]) -> ApiKeys:
    """`issuers`: names that the policy has. Raises IdentityError, which names lines and shows no digest."""
    secret, owners = token_bytes(32), {}
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
    return ApiKeys(owners, secret)


def lines_of(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise IdentityError(f"`{path}` is larger than {LARGEST_FILE:,} bytes")
        return data.decode("utf-8").splitlines()
    except OSError as error:
        raise IdentityError(f"cannot read the API keys `{path}`: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise IdentityError(f"`{path}` is no text") from None
