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

from policyengine.audit.rotation import rotation_lock
from policyengine.identity.base64url import encode_base64url
from policyengine.identity.config.model import IdentityError
from policyengine.identity.secret_reader import ChangingFile, read_private

PrivateKey = ECKey | OKPKey
ALGORITHMS = {"ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
MAX_KEYS = 50
MAX_KEY_SECONDS = 10 * 365 * 86_400  # seconds that a key waits, or stays
TIME_MEMBERS = ("created", "signs_from", "gone_from")
NEW_KEY_HINT = "`policyengine keys new FILE` makes one"


class KeyState(StrEnum):
    WAITS = "waits"  # published, and does not sign yet
    SIGNS = "signs"
    STAYS = "stays"  # published, and does not sign any more
    GONE = "gone"


class TokenSigner(Protocol):
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
class JwtSigningKey:
    """`gone_from` None: nobody has put another in its place."""

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
        """With the private half: for the file alone."""
        times = {name: value for name in TIME_MEMBERS if (value := getattr(self, name)) is not None}
        return {**self.key.as_dict(private=True), "kid": self.kid, "alg": self.algorithm, "use": "sig", **times}


@dataclass(frozen=True, slots=True)
class KeyRing:
    """In the order in which they were made."""

    keys: tuple[JwtSigningKey, ...]

    def signs(self, now: int) -> JwtSigningKey:
        """Of those that may sign the one that was made last. Raises IdentityError."""
        able = [one for one in self.keys if one.signs_from <= now and not self._gone(one, now)]
        if not able:
            raise IdentityError("no key signs now", "`policyengine keys rotate FILE --ahead 0s` makes one that does")
        return able[-1]

    def state(self, key: JwtSigningKey, now: int) -> KeyState:
        if self._gone(key, now):
            return KeyState.GONE
        able = [one for one in self.keys if one.signs_from <= now and not self._gone(one, now)]
        if able and able[-1] is key:
            return KeyState.SIGNS
        later = self.keys[self.keys.index(key) + 1 :]
        waits = key.signs_from > now and all(one.signs_from > key.signs_from for one in later)
        return KeyState.WAITS if waits else KeyState.STAYS

    def published(self, now: int) -> tuple[JwtSigningKey, ...]:
        return tuple(one for one in self.keys if not self._gone(one, now))

    @staticmethod
    def _gone(key: JwtSigningKey, now: int) -> bool:
        return key.gone_from is not None and key.gone_from <= now

    def rotated(self, algorithm: str, now: int, ahead: int, keep: int) -> KeyRing:
        """With one that signs `ahead` seconds later; `keep` seconds after that those before it are published no more.
        Raises IdentityError."""
        if max(ahead, keep) > MAX_KEY_SECONDS:
            raise IdentityError("a key waits for ten years at most, and stays for as long", "take a shorter time")
        new = new_key(algorithm, now, now + ahead)
        end = new.signs_from + keep
        older = [replace(one, gone_from=min(end, one.gone_from or end)) for one in self.published(now)]
        if len(older) >= MAX_KEYS:
            raise IdentityError(f"{MAX_KEYS} keys are published already", "wait until some of them are gone")
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


def parse_ring(content: bytes, name: str) -> KeyRing:
    """Raises IdentityError, which shows nothing of the file."""
    try:
        given = json.loads(content)["keys"]
        keys = tuple(map(parse_signing_key, given))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, JoseError):
        raise IdentityError(f"`{name}` is no file of signing keys", NEW_KEY_HINT) from None
    if not 0 < len(keys) <= MAX_KEYS + 1 or len({one.kid for one in keys}) < len(keys):
        raise IdentityError(f"`{name}` is no file of signing keys: it holds none, too many, or one twice", NEW_KEY_HINT)
    return KeyRing(keys)


def parse_signing_key(given: Mapping[str, Any]) -> JwtSigningKey:
    """Raises ValueError, KeyError, JoseError, and the like for what is none."""
    algorithm = given["alg"]
    kind, curve = ALGORITHMS[algorithm]
    jwk = {name: given[name] for name in ("kty", "crv", "x", "y", "d") if name in given}
    key: PrivateKey = ECKey.import_key(jwk) if kind == "EC" else OKPKey.import_key(jwk)
    if (jwk["kty"], jwk["crv"]) != (kind, curve) or not key.is_private or given["kid"] != key.thumbprint():
        raise ValueError("the members of a key do not fit each other")
    created, signs_from, gone_from = (given.get(name) for name in TIME_MEMBERS)
    if type(created) is not int or type(signs_from) is not int or type(gone_from) not in (int, type(None)):
        raise ValueError("a time of a key is none")
    return JwtSigningKey(key, given["kid"], algorithm, created, signs_from, gone_from)


def rotate_ring(path: Path, algorithm: str | None, now: int, ahead: int, keep: int) -> KeyRing:
    """Whoever else rotates meanwhile goes after. Without `algorithm` that of the newest key. Raises IdentityError,
    OSError."""
    path = path.resolve()
    with rotation_lock(path):
        ring = read_ring(path)
        found = ring.rotated(algorithm or ring.keys[-1].algorithm, now, ahead, keep)
        write_ring(path, found)
        drop_unfinished(path)
    return found


def drop_unfinished(path: Path) -> None:
    """What others left beside it who were killed: private keys are in that."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}")
    for file in path.parent.iterdir():
        if left.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


def read_ring(path: Path) -> KeyRing:
    """Raises IdentityError."""
    try:
        content = read_private(path)[0]
    except IdentityError as error:
        raise IdentityError(error.message, error.hint if path.exists() else NEW_KEY_HINT) from None
    return parse_ring(content, str(path))


def write_ring(path: Path, ring: KeyRing, *, new: bool = False) -> None:
    """All of it or nothing. With `new` it replaces nothing and is for its owner alone; else it stays readable for whom
    it was: servers run as others than whoever rotates. Raises OSError."""
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
            os.link(beside, path)  # fails where something is there
        else:
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def copy_ownership(descriptor: int, before: os.stat_result) -> None:
    """Raises OSError where it cannot belong to whom it did."""
    made = os.fstat(descriptor)
    if os.name == "posix":
        if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


@dataclass
class KeyRingFile:
    """The keys of a file, which is read again when it changes."""

    file: ChangingFile[KeyRing]

    @classmethod
    def of(cls, path: Path) -> KeyRingFile:
        """Raises IdentityError."""
        found = cls(ChangingFile(path, parse_ring))
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
    """Of a JWS in compact form. Raises IdentityError."""
    parts = (
        json.dumps(one, separators=(",", ":"), ensure_ascii=False, default=normalize_number) for one in (header, claims)
    )
    return ".".join(encode_base64url(part.encode()) for part in parts).encode()


def normalize_number(value: object) -> float:
    """Of a fraction as claims have it, which stays what it is. Raises IdentityError."""
    found = float(value) if isinstance(value, Decimal) else None
    if found is None or Decimal(repr(found)) != value:
        raise IdentityError("a claim has more digits than a token of ours can have")
    return found


# ── What people see ───────────────────────────────────────────────────────────────────────────


def describe_ring(ring: KeyRing, now: int) -> Sequence[dict[str, object]]:
    """Nothing of it is private."""
    return [describe_key(one, ring.state(one, now)) for one in ring.keys]


def describe_key(key: JwtSigningKey, state: KeyState) -> dict[str, object]:
    return {
        "kid": key.kid, "algorithm": key.algorithm, "state": state.value, "created": key.created,
        "signs_from": key.signs_from, "gone_from": key.gone_from,
    }  # fmt: skip
