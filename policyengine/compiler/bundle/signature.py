"""Ed25519 keys in files, and signatures over the digest of a bundle."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.install_hints import install_command
from policyengine.trusted_files import read_trusted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_FILE_BYTES = 10_000  # maximum bytes of a key file
RAW = re.compile(rb"[A-Za-z0-9_-]{43}=?")  # 32 bytes in base64url, like `x` of a JWK
INSTALL = install_command("sign")
MAKE = "`openssl genpkey -algorithm ed25519 -out private.pem` creates one"
# Prefix of the signed data, so that no signature for another purpose is valid for a bundle.
DOMAIN = b"policyengine bundle signature 1\n"


class KeyFileError(Exception):
    """The error for a key that cannot be used: the file, the problem and a hint."""

    def __init__(self, file: str, message: str, hint: str | None = None) -> None:
        self.file, self.message, self.hint = file, message, hint
        super().__init__(f"{file}: {message}" + (f" ({hint})" if hint else ""))


@dataclass(frozen=True, slots=True)
class BundleSignature:
    """A signature. `key` is the id of its key: 16 hexadecimal digits of the SHA-256 of the public key."""

    key: str
    bytes: bytes


@dataclass(frozen=True, slots=True)
class BundleSigningKey:
    """A private key that signs bundles."""

    id: str
    private: Ed25519PrivateKey

    @classmethod
    def read(cls, path: Path | str) -> BundleSigningKey:
        """Read a private key from a PEM file of `openssl genpkey -algorithm ed25519`. Raises KeyFileError."""
        data = _read_key_file(path)
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            found = load_pem_private_key(data, password=None)
        except TypeError:
            raise KeyFileError(
                str(path), "this key is protected by a passphrase", "use a key without a passphrase"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFileError(str(path), "this is not a private key in PEM", MAKE) from None
        if not isinstance(found, Ed25519PrivateKey):
            raise KeyFileError(str(path), "this private key is not an Ed25519 key", MAKE)
        return cls(key_id(found.public_key()), found)

    def sign(self, digest: bytes) -> BundleSignature:
        return BundleSignature(self.id, self.private.sign(DOMAIN + digest))


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A trusted public key."""

    id: str
    public: Ed25519PublicKey

    @classmethod
    def read(cls, path: Path | str) -> TrustedKey:
        """Read a public key from a PEM file, or from a file with the 32 bytes in base64url. Raises KeyFileError."""
        return cls.of(_read_key_file(path), str(path))

    @classmethod
    def of(cls, data: bytes, name: str = "key") -> TrustedKey:
        """Parse a public key in PEM, in 43 characters of base64url, or as 32 bytes. Raises KeyFileError."""
        _require_cryptography(name)
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        hint = "`openssl pkey -in private.pem -pubout -out public.pem` creates one"
        raw = data if len(data) == 32 else _from_base64(data.strip())
        try:
            found = load_pem_public_key(data) if raw is None else Ed25519PublicKey.from_public_bytes(raw)
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFileError(name, "this is not a public key in PEM or base64url", hint) from None
        if not isinstance(found, Ed25519PublicKey):
            raise KeyFileError(name, "this public key is not an Ed25519 key", hint)
        return cls(key_id(found), found)

    def signed(self, digest: bytes, signature: BundleSignature) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self.public.verify(signature.bytes, DOMAIN + digest)
        except InvalidSignature:
            return False
        return signature.key == self.id


def trusted_keys(keys: Iterable[Path | str | bytes]) -> list[TrustedKey]:
    """Return the trusted keys; paths are files, bytes are keys. Raises KeyFileError."""
    return [TrustedKey.of(key) if isinstance(key, bytes) else TrustedKey.read(key) for key in keys]


def key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def _read_key_file(path: Path | str) -> bytes:
    _require_cryptography(str(path))
    try:
        return read_trusted(path, MAX_KEY_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise KeyFileError(str(path), f"this key cannot be read: {why.lower()}") from None


def _require_cryptography(name: str) -> None:
    """Import the optional dependency when a key is first used, because importing it takes longer than loading many
    policies. Raises KeyFileError if it is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise KeyFileError(name, "signatures need the package `cryptography`", INSTALL) from None


def _from_base64(text: bytes) -> bytes | None:
    return base64.urlsafe_b64decode(text.rstrip(b"=") + b"=") if RAW.fullmatch(text) else None
