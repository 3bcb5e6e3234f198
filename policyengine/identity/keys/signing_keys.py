"""Keys that tokens of our own are signed by, and when each of them is published and signs.

A new key is published before it signs, so that whoever verifies knows it by then; an old one stays published until the
last token that it signed has ended. All of that is times in the file: nobody has to do anything at any of them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey
from joserfc.jws import JWSRegistry

from policyengine.audit.rotation import alone
from policyengine.identity.base64url import b64url
from policyengine.identity.config.model import IdentityError
from policyengine.identity.secrets import ChangingFile, read_private

Key = ECKey | OKPKey
ALGORITHMS = {"ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
MOST_KEYS = 50
LONGEST = 10 * 365 * 86_400  # seconds that a key waits, or stays
TIMES = ("created", "signs_from", "gone_from")
MAKE = "`policyengine keys new FILE` makes one"


class State(StrEnum):
    WAITS = "waits"  # published, and does not sign yet
    SIGNS = "signs"
    STAYS = "stays"  # published, and does not sign any more
    GONE = "gone"


class Signing(Protocol):
    """Keys of our own. Threads may share one. `now` in seconds since 1970."""

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object], now: int) -> str:
        """A JWT, by the key that signs now. May wait for whoever has the key. Raises IdentityError."""
        ...

    def published(self, now: int) -> list[dict[str, object]]:
        """The public keys by which tokens are verified, as members of a JWKS. Raises IdentityError."""
        ...

    def at_hand(self, now: int) -> list[dict[str, object]] | None:
        """The same, waiting for nobody; None where somebody would have to be asked. Raises IdentityError."""
        ...


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`gone_from` None: nobody has put another in its place."""

    key: Key = field(repr=False)
    kid: str
    algorithm: str
    created: int
    signs_from: int
    gone_from: int | None = None

    @property
    def public(self) -> dict[str, object]:
        told: dict[str, object] = dict(self.key.as_dict(private=False))
        return {**told, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def to_dict(self) -> dict[str, object]:
        """With the private half: for the file alone."""
        times = {name: value for name in TIMES if (value := getattr(self, name)) is not None}
        return {**self.key.as_dict(private=True), "kid": self.kid, "alg": self.algorithm, "use": "sig", **times}


@dataclass(frozen=True, slots=True)
class KeyRing:
    """In the order in which they were made."""

    keys: tuple[SigningKey, ...]

    def signs(self, now: int) -> SigningKey:
        """Of those that may sign the one that was made last. Raises IdentityError."""
        able = [one for one in self.keys if one.signs_from <= now and not self._gone(one, now)]
        if not able:
            raise IdentityError("no key signs now", "`policyengine keys rotate FILE --ahead 0s` makes one that does")
        return able[-1]

    def state(self, key: SigningKey, now: int) -> State:
        if self._gone(key, now):
            return State.GONE
        able = [one for one in self.keys if one.signs_from <= now and not self._gone(one, now)]
        if able and able[-1] is key:
            return State.SIGNS
        later = self.keys[self.keys.index(key) + 1 :]
        waits = key.signs_from > now and all(one.signs_from > key.signs_from for one in later)
        return State.WAITS if waits else State.STAYS

    def published(self, now: int) -> tuple[SigningKey, ...]:
        return tuple(one for one in self.keys if not self._gone(one, now))

    @staticmethod
    def _gone(key: SigningKey, now: int) -> bool:
        return key.gone_from is not None and key.gone_from <= now

    def rotated(self, algorithm: str, now: int, ahead: int, keep: int) -> KeyRing:
        """With one that signs `ahead` seconds later; `keep` seconds after that those before it are published no more.
        Raises IdentityError."""
        if max(ahead, keep) > LONGEST:
            raise IdentityError("a key waits for ten years at most, and stays for as long", "take a shorter time")
        new = new_key(algorithm, now, now + ahead)
        end = new.signs_from + keep
        older = [replace(one, gone_from=min(end, one.gone_from or end)) for one in self.published(now)]
        if len(older) >= MOST_KEYS:
            raise IdentityError(f"{MOST_KEYS} keys are published already", "wait until some of them are gone")
        return KeyRing((*older, new))

    def to_bytes(self) -> bytes:
        return json.dumps({"keys": [one.to_dict() for one in self.keys]}, indent=1).encode() + b"\n"


def new_ring(algorithm: str, now: int) -> KeyRing:
    return KeyRing((new_key(algorithm, now, now),))


def new_key(algorithm: str, now: int, signs_from: int) -> SigningKey:
    kind, curve = ALGORITHMS[algorithm]
    key: Key = ECKey.generate_key(curve) if kind == "EC" else OKPKey.generate_key("Ed25519")
    return SigningKey(key, key.thumbprint(), algorithm, now, signs_from)


# ── The file ──────────────────────────────────────────────────────────────────────────────────


def ring_of(content: bytes, name: str) -> KeyRing:
    """Raises IdentityError, which shows nothing of the file."""
    try:
        given = json.loads(content)["keys"]
        keys = tuple(map(key_of, given))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, JoseError):
        raise IdentityError(f"`{name}` is no file of signing keys", MAKE) from None
    if not 0 < len(keys) <= MOST_KEYS + 1 or len({one.kid for one in keys}) < len(keys):
        raise IdentityError(f"`{name}` is no file of signing keys: it holds none, too many, or one twice", MAKE)
    return KeyRing(keys)


def key_of(given: Mapping[str, Any]) -> SigningKey:
    """Raises ValueError, KeyError, JoseError, and the like for what is none."""
    algorithm = given["alg"]
    kind, curve = ALGORITHMS[algorithm]
    jwk = {name: given[name] for name in ("kty", "crv", "x", "y", "d") if name in given}
    key: Key = ECKey.import_key(jwk) if kind == "EC" else OKPKey.import_key(jwk)
    if (jwk["kty"], jwk["crv"]) != (kind, curve) or not key.is_private or given["kid"] != key.thumbprint():
        raise ValueError("the members of a key do not fit each other")
    created, signs_from, gone_from = (given.get(name) for name in TIMES)
    if type(created) is not int or type(signs_from) is not int or type(gone_from) not in (int, type(None)):
        raise ValueError("a time of a key is none")
    return SigningKey(key, given["kid"], algorithm, created, signs_from, gone_from)


def rotate(path: Path, algorithm: str | None, now: int, ahead: int, keep: int) -> KeyRing:
    """Whoever else rotates meanwhile goes after. Without `algorithm` that of the newest key. Raises IdentityError,
    OSError."""
    path = path.resolve()
    with alone(path):
        ring = read_ring(path)
        found = ring.rotated(algorithm or ring.keys[-1].algorithm, now, ahead, keep)
        write_ring(path, found)
        drop_unfinished(path)
    return found


def drop_unfinished(path: Path) -> None:
    """What others left beside it who were killed: private keys are in that."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}")
    for one in path.parent.iterdir():
        if left.fullmatch(one.name):
            with suppress(OSError):
                one.unlink()


def read_ring(path: Path) -> KeyRing:
    """Raises IdentityError."""
    try:
        content = read_private(path)[0]
    except IdentityError as error:
        raise IdentityError(error.message, error.hint if path.exists() else MAKE) from None
    return ring_of(content, str(path))


def write_ring(path: Path, ring: KeyRing, *, new: bool = False) -> None:
    """All of it or nothing. With `new` it replaces nothing and is for its owner alone; else it stays readable for whom
    it was: servers run as others than whoever rotates. Raises OSError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if not new and path.exists():
                like(descriptor, path.stat())
            file.write(ring.to_bytes())
            file.flush()
            os.fsync(descriptor)
        if new:
            os.link(beside, path)  # fails where something is there
        else:
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def like(descriptor: int, before: os.stat_result) -> None:
    """Raises OSError where it cannot belong to whom it did."""
    made = os.fstat(descriptor)
    if os.name == "posix":
        if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


@dataclass
class FileKeys:
    """The keys of a file, which is read again when it changes."""

    file: ChangingFile[KeyRing]

    @classmethod
    def of(cls, path: Path) -> FileKeys:
        """Raises IdentityError."""
        found = cls(ChangingFile(path, ring_of))
        found.file.read()
        return found

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object], now: int) -> str:
        key = self.file.read().signs(now)
        whole = {**header, "alg": key.algorithm, "kid": key.kid}
        signed = signing_input(whole, claims)
        return f"{signed.decode()}.{b64url(JWSRegistry.algorithms[key.algorithm].sign(signed, key.key))}"

    def published(self, now: int) -> list[dict[str, object]]:
        return [one.public for one in self.file.read().published(now)]

    def at_hand(self, now: int) -> list[dict[str, object]]:
        return self.published(now)


def signing_input(header: Mapping[str, object], claims: Mapping[str, object]) -> bytes:
    """Of a JWS in compact form. Raises IdentityError."""
    parts = (json.dumps(one, separators=(",", ":"), ensure_ascii=False, default=number) for one in (header, claims))
    return ".".join(b64url(part.encode()) for part in parts).encode()


def number(value: object) -> float:
    """Of a fraction as claims have it, which stays what it is. Raises IdentityError."""
    found = float(value) if isinstance(value, Decimal) else None
    if found is None or Decimal(repr(found)) != value:
        raise IdentityError("a claim has more digits than a token of ours can have")
    return found


# ── What people see ───────────────────────────────────────────────────────────────────────────


def told(ring: KeyRing, now: int) -> Sequence[dict[str, object]]:
    """Nothing of it is private."""
    return [row_of(one, ring.state(one, now)) for one in ring.keys]


def row_of(key: SigningKey, state: State) -> dict[str, object]:
    return {
        "kid": key.kid, "algorithm": key.algorithm, "state": state.value, "created": key.created,
        "signs_from": key.signs_from, "gone_from": key.gone_from,
    }  # fmt: skip
