"""This server's signing keys, with the times at which each is published, signs and is withdrawn.

A new key is published before it signs, so that verifiers have it by then; an old key stays published until the last
token that it signed has expired. The file holds all these times, so that rotation needs no further action.
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
from math import inf
from pathlib import Path
from typing import Any, Protocol

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey
from joserfc.jws import JWSRegistry

from policyengine.audit.rotation import rotation_lock
from policyengine.identity.base64url import encode_base64url
from policyengine.identity.config.model import IdentityConfigError
from policyengine.identity.secret_reader import ChangingFile, read_private

PrivateKey = ECKey | OKPKey
ALGORITHMS = {"ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
MAX_KEYS = 50
MAX_KEY_SECONDS = 10 * 365 * 86_400  # longest time that a key may wait or stay published
TIME_MEMBERS = ("created", "signs_from", "gone_from")
NEW_KEY_HINT = "create one with `policyengine keys new FILE`"


class KeyState(StrEnum):
    WAITS = "waits"  # published, does not sign yet
    SIGNS = "signs"
    STAYS = "stays"  # published, no longer signs
    GONE = "gone"


class TokenSigner(Protocol):
    """This server's signing keys. Threads may share an instance. `now` is in seconds since 1970."""

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object], now: int) -> str:
        """Return a JWT signed with the current key. May wait for the signer. Raises IdentityConfigError."""
        ...

    def published(self, now: int) -> list[dict[str, object]]:
        """Return the public keys that verify tokens, as members of a JWKS. Raises IdentityConfigError."""
        ...

    def at_hand(self, now: int) -> list[dict[str, object]] | None:
        """Return the keys of `published` without waiting; None if a server would have to be asked. Raises
        IdentityConfigError.
        """
        ...


@dataclass(frozen=True, slots=True)
class JwtSigningKey:
    """A signing key with its times, in seconds since 1970; `gone_from` is None until another key replaces the key."""

    key: PrivateKey = field(repr=False)
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
        """Return the key with its private part, for the key file only."""
        times = {name: value for name in TIME_MEMBERS if (value := getattr(self, name)) is not None}
        return {**self.key.as_dict(private=True), "kid": self.kid, "alg": self.algorithm, "use": "sig", **times}


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The signing keys, in order of creation."""

    keys: tuple[JwtSigningKey, ...]

    def signs(self, now: int) -> JwtSigningKey:
        """Return the newest key that may sign. Raises IdentityConfigError."""
        able = [one for one in self.keys if one.signs_from <= now and not self._is_gone(one, now)]
        if not able:
            raise IdentityConfigError("no key signs now", "run `policyengine keys rotate FILE --ahead 0s`")
        return able[-1]

    def state(self, key: JwtSigningKey, now: int) -> KeyState:
        if self._is_gone(key, now):
            return KeyState.GONE
        able = [one for one in self.keys if one.signs_from <= now and not self._is_gone(one, now)]
        if able and able[-1] is key:
            return KeyState.SIGNS
        later = self.keys[self.keys.index(key) + 1 :]
        waits = key.signs_from > now and all(one.signs_from > key.signs_from for one in later)
        return KeyState.WAITS if waits else KeyState.STAYS

    def published(self, now: int) -> tuple[JwtSigningKey, ...]:
        return tuple(one for one in self.keys if not self._is_gone(one, now))

    @staticmethod
    def _is_gone(key: JwtSigningKey, now: int) -> bool:
        return key.gone_from is not None and key.gone_from <= now

    def rotated(self, algorithm: str, now: int, ahead: int, keep: int) -> KeyRing:
        """Return the ring with a new key that signs `ahead` seconds from now; the older keys are withdrawn `keep`
        seconds after that. Raises IdentityConfigError.
        """
        if max(ahead, keep) > MAX_KEY_SECONDS:
            raise IdentityConfigError("the times of a key are longer than ten years", "choose a shorter time")
        new = new_key(algorithm, now, now + ahead)
        end = new.signs_from + keep
        older = [replace(one, gone_from=min(end, one.gone_from or end)) for one in self.published(now)]
        if len(older) >= MAX_KEYS:
            raise IdentityConfigError(f"{MAX_KEYS} keys are published already", "wait until some are withdrawn")
        return KeyRing((*older, new))

    def to_bytes(self) -> bytes:
        return json.dumps({"keys": [one.to_dict() for one in self.keys]}, indent=1).encode() + b"\n"


def new_ring(algorithm: str, now: int) -> KeyRing:
    return KeyRing((new_key(algorithm, now, now),))


def new_key(algorithm: str, now: int, signs_from: int) -> JwtSigningKey:
    kind, curve = ALGORITHMS[algorithm]
    key: PrivateKey = ECKey.generate_key(curve) if kind == "EC" else OKPKey.generate_key("Ed25519")
    return JwtSigningKey(key, key.thumbprint(), algorithm, now, signs_from)


# ── The file ──────────────────────────────────────────────────────────────────────────────────


def parse_key_ring(content: bytes, name: str) -> KeyRing:
    """Parse a key file. Raises IdentityConfigError, whose message contains nothing from the file."""
    try:
        given = json.loads(content)["keys"]
        keys = tuple(map(parse_signing_key, given))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, JoseError):
        raise IdentityConfigError(f"`{name}` is not a file of signing keys", NEW_KEY_HINT) from None
    if not 0 < len(keys) <= MAX_KEYS + 1 or len({one.kid for one in keys}) < len(keys):
        raise IdentityConfigError(
            f"`{name}` is not a file of signing keys: it has no key, too many keys, or a key twice", NEW_KEY_HINT
        )
    return KeyRing(keys)


def parse_signing_key(given: Mapping[str, Any]) -> JwtSigningKey:
    """Parse one key. Raises ValueError, KeyError, JoseError and similar if it is malformed."""
    algorithm = given["alg"]
    kind, curve = ALGORITHMS[algorithm]
    jwk = {name: given[name] for name in ("kty", "crv", "x", "y", "d") if name in given}
    key: PrivateKey = ECKey.import_key(jwk) if kind == "EC" else OKPKey.import_key(jwk)
    if (jwk["kty"], jwk["crv"]) != (kind, curve) or not key.is_private or given["kid"] != key.thumbprint():
        raise ValueError("the members of a key do not fit each other")
    created, signs_from, gone_from = (given.get(name) for name in TIME_MEMBERS)
    if type(created) is not int or type(signs_from) is not int or type(gone_from) not in (int, type(None)):
        raise ValueError("a time of a key is malformed")
    return JwtSigningKey(key, given["kid"], algorithm, created, signs_from, gone_from)


def rotate_ring(path: Path, algorithm: str | None, now: int, ahead: int, keep: int) -> KeyRing:
    """Rotate the keys in a file, one process at a time. The default `algorithm` is the algorithm of the newest key.
    Raises IdentityConfigError, OSError.
    """
    path = path.resolve()
    with rotation_lock(path, inf):
        ring = read_ring(path)
        found = ring.rotated(algorithm or ring.keys[-1].algorithm, now, ahead, keep)
        write_ring(path, found)
        drop_unfinished(path)
    return found


def drop_unfinished(path: Path) -> None:
    """Delete temporary files of killed processes, because they contain private keys."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}")
    for file in path.parent.iterdir():
        if left.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


def read_ring(path: Path) -> KeyRing:
    """Read a key file. Raises IdentityConfigError."""
    try:
        content = read_private(path)[0]
    except IdentityConfigError as error:
        raise IdentityConfigError(error.message, error.hint if path.exists() else NEW_KEY_HINT) from None
    return parse_key_ring(content, str(path))


def write_ring(path: Path, ring: KeyRing, *, new: bool = False) -> None:
    """Write the key file atomically. With `new`, the file must not exist yet, and only its owner may read it. Otherwise
    its owner and mode stay the same, because servers may run as another user than the operator. Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if not new and path.exists():
                copy_ownership(descriptor, path.stat())
            file.write(ring.to_bytes())
            file.flush()
            os.fsync(descriptor)
        if new:
            os.link(beside, path)  # fails if the file exists
        else:
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def copy_ownership(descriptor: int, before: os.stat_result) -> None:
    """Copy owner and mode. Raises OSError if the owner cannot be kept."""
    made = os.fstat(descriptor)
    if os.name == "posix":
        if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


@dataclass
class KeyRingFile:
    """A TokenSigner with the keys of a file, which is read again when it changes."""

    file: ChangingFile[KeyRing]

    @classmethod
    def of(cls, path: Path) -> KeyRingFile:
        """Open a key file. Raises IdentityConfigError."""
        found = cls(ChangingFile(path, parse_key_ring))
        found.file.read()
        return found

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object], now: int) -> str:
        key = self.file.read().signs(now)
        whole = {**header, "alg": key.algorithm, "kid": key.kid}
        signed = signing_input(whole, claims)
        return f"{signed.decode()}.{encode_base64url(JWSRegistry.algorithms[key.algorithm].sign(signed, key.key))}"

    def published(self, now: int) -> list[dict[str, object]]:
        return [one.public for one in self.file.read().published(now)]

    def at_hand(self, now: int) -> list[dict[str, object]]:
        return self.published(now)


def signing_input(header: Mapping[str, object], claims: Mapping[str, object]) -> bytes:
    """Return the signing input of a compact JWS. Raises IdentityConfigError."""
    parts = (
        json.dumps(one, separators=(",", ":"), ensure_ascii=False, default=normalize_number) for one in (header, claims)
    )
    return ".".join(encode_base64url(part.encode()) for part in parts).encode()


def normalize_number(value: object) -> float:
    """Convert a fractional claim to a float of exactly the same value. Raises IdentityConfigError."""
    found = float(value) if isinstance(value, Decimal) else None
    if found is None or Decimal(repr(found)) != value:
        raise IdentityConfigError("a claim has more digits than an issued token can represent")
    return found


# ── Listing ───────────────────────────────────────────────────────────────────────────────────


def describe_ring(ring: KeyRing, now: int) -> Sequence[dict[str, object]]:
    """Describe the keys without private parts."""
    return [describe_key(one, ring.state(one, now)) for one in ring.keys]


def describe_key(key: JwtSigningKey, state: KeyState) -> dict[str, object]:
    return {
        "kid": key.kid, "algorithm": key.algorithm, "state": state.value, "created": key.created,
        "signs_from": key.signs_from, "gone_from": key.gone_from,
    }  # fmt: skip
