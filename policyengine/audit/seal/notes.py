"""Signed notes (c2sp.org/signed-note) and checkpoints (c2sp.org/tlog-checkpoint), signed with Ed25519.

Keys are encoded as in Go's `golang.org/x/mod/sumdb/note`: `PRIVATE+KEY+<name>+<id>+<key>` and `<name>+<id>+<key>`.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from policyengine.audit.seal.merkle import HASH_BYTES

ED25519, COSIGNATURE = 1, 4  # kinds of signatures
PRIVATE_PREFIX = "PRIVATE+KEY+"
SIGNATURE_PREFIX = "— "
MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
TIMESTAMP_BYTES = 8
MAX_SIZE_DIGITS = 19


class NoteError(Exception):
    """The error for a note, checkpoint or key that is malformed, or that no trusted key signed; the message says
    which."""


def decode_base64(text: str) -> bytes:
    """Decode base64. Raises NoteError."""
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise NoteError(f"`{text[:80]}` is not base64") from None


def encode_base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """Return the ID of a public key: 4 bytes of a hash of its name, kind and bytes."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def check_name(name: str) -> str:
    """Return the name of a key. Raises NoteError if a note cannot contain it."""
    if not name or "+" in name or re.search(r"\s", name) or not name.isprintable():
        raise NoteError(
            f"`{name[:80]}` is not a valid key name: a name must not be empty, and must have no spaces, "
            f"`+` or control characters"
        )
    return name


@dataclass(frozen=True)
class Signature:
    """A signature line: the name and ID of the key, and the signature itself."""

    name: str
    id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{SIGNATURE_PREFIX}{self.name} {encode_base64(self.id + self.signature)}\n"

    @classmethod
    def parse(cls, line: str) -> Signature:
        """Parse a line without its newline. Raises NoteError."""
        name, space, text = line.removeprefix(SIGNATURE_PREFIX).partition(" ")
        if not line.startswith(SIGNATURE_PREFIX) or not space:
            raise NoteError(f"`{line[:80]}` is not a signature line")
        raw = decode_base64(text)
        if len(raw) < 5:
            raise NoteError(f"the signature of `{name[:80]}` is too short")
        return cls(check_name(name), raw[:4], raw[4:])


@dataclass(frozen=True)
class Verifier:
    """A public key: its name, the kind of its signatures, and its 32 bytes."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        return key_id(self.name, self.kind, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{encode_base64(bytes([self.kind]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Parse `<name>+<id>+<key>`. Raises NoteError."""
        name, id_, raw = split_key(text.strip(), "public")
        found = cls(name, raw[0], raw[1:])
        if found.kind not in (ED25519, COSIGNATURE):
            raise NoteError(f"the public key `{name}` is not an Ed25519 key")
        if len(found.public) != HASH_BYTES or found.id.hex() != id_:
            raise NoteError(f"the public key `{name}` is damaged: its ID or length does not match")
        return found

    def accepts(self, text: str, signature: bytes) -> bool:
        """Return whether `signature` is this key's signature of the text."""
        message = text.encode()
        if self.kind == COSIGNATURE:
            time = int.from_bytes(signature[:TIMESTAMP_BYTES])
            message, signature = f"cosignature/v1\ntime {time}\n".encode() + message, signature[TIMESTAMP_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """A private key with its name."""

    name: str
    key: Ed25519PrivateKey

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Create a key. Raises NoteError if a note cannot contain the name."""
        return cls(check_name(name), Ed25519PrivateKey.generate())

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.name, ED25519, self.key.public_key().public_bytes_raw())

    def encode(self) -> str:
        """Return the text of the private key."""
        seed = encode_base64(bytes([ED25519]) + self.key.private_bytes_raw())
        return f"{PRIVATE_PREFIX}{self.name}+{self.verifier.id.hex()}+{seed}"

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Parse `PRIVATE+KEY+<name>+<id>+<key>`. Raises NoteError."""
        if not text.startswith(PRIVATE_PREFIX):
            raise NoteError("it does not begin with `PRIVATE+KEY+`")
        name, id_, raw = split_key(text.strip().removeprefix(PRIVATE_PREFIX), "private")
        if raw[0] != ED25519 or len(raw) != 1 + HASH_BYTES:
            raise NoteError(f"the private key `{name}` is not an Ed25519 key")
        found = cls(name, Ed25519PrivateKey.from_private_bytes(raw[1:]))
        if found.verifier.id.hex() != id_:
            raise NoteError(f"the private key `{name}` is damaged: its ID does not match")
        return found

    def sign(self, text: str) -> str:
        """Return the note: the text with a signature line. `text` must end with a newline."""
        return f"{text}\n{Signature(self.name, self.verifier.id, self.key.sign(text.encode()))}"


def split_key(text: str, what: str) -> tuple[str, str, bytes]:
    """Return the name, the ID and the raw bytes of a key. `what` is `public` or `private`. Raises NoteError."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not re.fullmatch("[0-9a-f]{8}", parts[1]):
        raise NoteError(f"it is not a {what} key: `<name>+<8 hexadecimal digits>+<base64>` is expected")
    try:
        raw = decode_base64(parts[2])
    except NoteError:  # its message contains the text, which may be a private key
        raise NoteError(f"the {what} key is not base64") from None
    if not raw:
        raise NoteError(f"the {what} key is empty")
    return check_name(parts[0]), parts[1], raw


@dataclass(frozen=True)
class Note:
    """A signed text, which ends with a newline, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    @classmethod
    def parse(cls, written: str | bytes) -> Note:
        """Parse a note without verifying its signatures. Raises NoteError."""
        if len(written) > MAX_NOTE_BYTES:
            raise NoteError("it is too long for a signed note")
        try:
            whole = written.decode() if isinstance(written, bytes) else written
        except UnicodeDecodeError:
            raise NoteError("it is not valid UTF-8") from None
        if any(each < " " and each != "\n" for each in whole):
            raise NoteError("it contains control characters")
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise NoteError("it is not a signed note: a blank line and signature lines are expected at its end")
        signatures = tuple(map(Signature.parse, lines[:-1].split("\n")))
        if len(signatures) > MAX_SIGNATURES:
            raise NoteError(f"it has more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", signatures)

    def verified_by(self, keys: Iterable[Verifier]) -> list[Verifier]:
        """Return the keys that signed the note. Raises NoteError if a signature of one of the keys is wrong."""
        known = {(key.name, key.id): key for key in keys}
        found = []
        for line in self.signatures:
            key = known.get((line.name, line.id))
            if key is None:
                continue
            if not key.accepts(self.text, line.signature):
                raise NoteError(f"the signature of `{line.name}` is wrong")
            found.append(key)
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log: its origin, which is its unique name, the number of its entries, and the root hash of their
    tree. `extension` has any further lines.
    """

    origin: str
    size: int
    root: bytes
    extension: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extension)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Parse the text of a note as a checkpoint. Raises NoteError."""
        lines = text.split("\n")[:-1]
        if len(lines) < 3 or not all(lines):
            raise NoteError("it is not a checkpoint: origin, size and root hash are expected on three lines")
        origin, size, root, *extension = lines
        if not re.fullmatch(r"0|[1-9][0-9]*", size) or len(size) > MAX_SIZE_DIGITS:
            raise NoteError(f"the size `{size[:80]}` of the checkpoint is not a whole number")
        raw = decode_base64(root)
        if len(raw) != HASH_BYTES:
            raise NoteError("the root hash of the checkpoint is not 32 bytes long")
        return cls(origin, int(size), raw, tuple(extension))


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint and the note that signs it."""

    checkpoint: Checkpoint
    note: Note

    @classmethod
    def parse(cls, written: str | bytes) -> SignedCheckpoint:
        """Parse a checkpoint without verifying its signatures. Raises NoteError."""
        note = Note.parse(written)
        return cls(Checkpoint.parse(note.text), note)

    @property
    def size(self) -> int:
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        return self.checkpoint.root

    def log_keys(self, keys: Sequence[Verifier]) -> list[Verifier]:
        """Return the keys that signed the checkpoint as keys of the log. Raises NoteError if none of the keys did."""
        origin = self.checkpoint.origin
        found = [key for key in self.note.verified_by(keys) if key.kind == ED25519 and key.name == origin]
        if not found:
            signers = ", ".join(f"`{each.name}+{each.id.hex()}`" for each in self.note.signatures)
            raise NoteError(f"no trusted key signed the checkpoint; its signatures are by {signers}")
        return found

    def witnesses(self, keys: Sequence[Verifier]) -> list[Verifier]:
        """Return the keys that cosigned the checkpoint as witnesses. Raises NoteError if a cosignature is wrong."""
        return [key for key in self.note.verified_by(keys) if key.kind == COSIGNATURE]

    def cosigned_at(self, witness: Verifier) -> int:
        """Return when a witness cosigned the checkpoint, in seconds since 1970. `witnesses` must have verified it."""
        line = next(each for each in self.note.signatures if (each.name, each.id) == (witness.name, witness.id))
        return int.from_bytes(line.signature[:TIMESTAMP_BYTES])
