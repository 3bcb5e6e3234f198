"""Bundles: a compiled policy as one signed file, which decides like its sources but loads faster.

A file is a MessagePack array. In every format, it begins with the magic word, the number of the format, and the version
of the program that wrote it. In this format, these items follow: `shape` (how the kernel's classes are stored), the
SHA-256 of all previous items and of the payload, the payload, and the signatures.

A bundle holds rules and policy texts, but no program: the tree is built from the rules whenever a bundle is loaded, so
that a bundle cannot decide differently from its rules. Rules are decoded and checked when a decision first needs them:
see `payload.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from msgspec import MsgspecError, msgpack

from policyengine.compiler.bundle.payload import bundle_schema, decode_payload, encode_payload
from policyengine.compiler.bundle.signature import BundleSignature, BundleSigningKey, KeyFileError, trusted_keys
from policyengine.compiler.bundle.tables import BundleDataError
from policyengine.compiler.tree import Tree
from policyengine.diagnostics.model import Diagnostic, PolicyError
from policyengine.gc_pause import gc_paused
from policyengine.kernel import Kernel
from policyengine.runtime.structure_checks import quote_input
from policyengine.source import Source, Span

SUFFIX = ".policybundle"
MAGIC = "policyengine bundle"
FORMAT = 2
MAX_BUNDLE_BYTES = 1 << 30  # 100,000 rules take about 50 million bytes
RECOMPILE_HINT = "compile the policy again with this version of policyengine"

Keys: TypeAlias = Iterable[Path | str | bytes]


class BundleError(PolicyError):
    """The error for a bundle that cannot be used: `file`, `code`, `message` and `hint`. It is a PolicyError with one
    finding, so callers that handle policies need no extra case for bundles."""

    def __init__(self, file: str, code: str, message: str, hint: str | None = None) -> None:
        self.file, self.code, self.message, self.hint = file, code, message, hint
        super().__init__([Diagnostic(code, message, Span(Source(file, ""), 0, 0), hint)])


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """A loaded bundle. `sources` are the policy texts; `digest` is 64 hexadecimal digits; `signed_by` are the ids of
    trusted keys that signed it.
    """

    kernel: Kernel
    tree: Tree
    sources: tuple[Source, ...]
    digest: str
    made_by: str
    signed_by: tuple[str, ...] = ()


# ── Writing ───────────────────────────────────────────────────────────────────────────────────


@gc_paused()
def write_bundle(
    kernel: Kernel, made_by: str, key: BundleSigningKey | None = None, sources: Sequence[Source] = ()
) -> bytes:
    """Return the bundle of a policy. The same sources give the same bytes, independent of their location. `made_by` is
    the version of this program; `sources` are all policy texts, including texts to which no rule refers.
    """
    shape, payload = encode_payload(kernel, sources)
    digest = digest_of(FORMAT, made_by, shape, payload)
    signatures = [] if key is None else [[one.key, one.bytes] for one in (key.sign(digest),)]
    return msgpack.encode([MAGIC, FORMAT, made_by, shape, digest, payload, signatures])


def digest_of(number: int, made_by: str, shape: str, payload: bytes) -> bytes:
    found = hashlib.sha256(msgpack.encode([MAGIC, number, made_by, shape]))
    found.update(payload)
    return found.digest()


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


def read_bundle(path: Path | str, keys: Keys | None = None) -> PolicyBundle:
    """Read a bundle from a file. With `keys` (files of public keys, or their bytes), one of them must have signed it.
    Rules are decoded when first needed. Raises BundleError, also when a rule is decoded.
    """
    return decode_bundle(read_file(path), str(path), keys)


@gc_paused()
def decode_bundle(data: bytes, name: str = "bundle", keys: Keys | None = None) -> PolicyBundle:
    """Decode a bundle from bytes; `name` appears in messages. Raises BundleError."""
    made_by, digest, payload, signatures = open_envelope(data, name)
    signed_by = () if keys is None else verify_signatures(digest, signatures, keys, name)
    try:
        found = decode_payload(payload, lambda why: invalid_bundle(name, why))
    except BundleDataError as error:
        raise invalid_bundle(name, str(error)) from None
    return PolicyBundle(found.kernel, found.tree, found.sources, digest.hex(), made_by, signed_by)


def read_file(path: Path | str) -> bytes:
    name = str(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # opening a pipe may block forever
            raise BundleError(name, "E152", "this is not a regular file", f"pass a bundle: a file named `…{SUFFIX}`")
        with open(path, "rb") as file:
            if status.st_size > MAX_BUNDLE_BYTES:
                raise BundleError(
                    name, "E166", f"this bundle has {status.st_size:,} bytes; the limit is {MAX_BUNDLE_BYTES:,}"
                )
            return file.read(status.st_size + 1)
    except FileNotFoundError:
        raise BundleError(name, "E151", "the file does not exist", "paths are relative to the current folder") from None
    except IsADirectoryError:
        raise BundleError(name, "E152", "this is a folder", f"pass a bundle: a file named `…{SUFFIX}`") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BundleError(name, "E152", f"this bundle cannot be read: {why.lower()}") from None


def is_bundle(path: Path) -> bool:
    """Return whether a file begins like a bundle of any version. Raises OSError."""
    with path.open("rb") as file:
        return has_bundle_magic(file.read(64))


def has_bundle_magic(data: bytes) -> bool:
    return data[1:].startswith(msgpack.encode(MAGIC))


def open_envelope(data: bytes, name: str) -> tuple[str, bytes, bytes, list[BundleSignature]]:
    """Return the version, digest, payload and signatures of an undamaged bundle of this format. Raises BundleError."""
    try:
        head = msgpack.decode(data)
    except (MsgspecError, RecursionError, ValueError):  # truncated, too deep, not UTF-8
        head = None
    match head:
        case [str(magic), int(number), str(made_by), *rest] if magic == MAGIC:
            pass
        case _ if has_bundle_magic(data):
            raise BundleError(name, "E162", "this bundle is damaged: the end is missing", "copy it again")
        case _:
            raise BundleError(name, "E160", "this is not a bundle", "`policyengine compile` creates one from a policy")
    match rest:
        case [str(shape), bytes(digest), bytes(payload), [*signatures]] if number == FORMAT:
            check_digest(digest, number, made_by, shape, payload, name)
            check_shape(made_by, shape, name)
            return made_by, digest, payload, [decode_signature(raw, name) for raw in signatures]
        case _ if number != FORMAT:
            version = printable_version(made_by)
            message = f"this bundle has format {number}, from policyengine {version}; this version reads {FORMAT}"
            raise BundleError(name, "E161", message, f"{RECOMPILE_HINT}, or load the bundle with that version")
        case _:
            raise invalid_bundle(name, "parts in an unexpected order")


def check_digest(digest: bytes, number: int, made_by: str, shape: str, payload: bytes, name: str) -> None:
    if digest_of(number, made_by, shape, payload) != digest:
        raise BundleError(
            name, "E162", "this bundle is damaged: its digest does not match", f"copy it again, or {RECOMPILE_HINT}"
        )


def check_shape(made_by: str, shape: str, name: str) -> None:
    if shape not in (bundle_schema().shape, bundle_schema().early_shape):
        version = printable_version(made_by)
        message = f"policyengine {version} compiled this bundle, and this version stores policies in another format"
        raise BundleError(name, "E161", message, RECOMPILE_HINT)


def printable_version(version: str) -> str:
    """Return a version in a form that is safe to show in messages."""
    return version[:32] if re.fullmatch(r"[0-9A-Za-z.+-]+", version) else "of unknown version"


def decode_signature(raw: object, name: str) -> BundleSignature:
    match raw:
        case [str(key), bytes(signature)]:
            return BundleSignature(key, signature)
        case _:
            raise invalid_bundle(name, "a malformed signature")


def verify_signatures(digest: bytes, signatures: Sequence[BundleSignature], keys: Keys, name: str) -> tuple[str, ...]:
    """Return the ids of the trusted keys that signed the bundle; at least one. Raises BundleError."""
    try:
        trusted = trusted_keys(keys)
    except KeyFileError as error:
        raise BundleError(error.file, "E164", error.message, error.hint) from None
    signed = tuple(one.id for one in trusted if any(one.signed(digest, signature) for signature in signatures))
    if signed:
        return signed
    ids = ", ".join(one.id for one in trusted) or "none"
    if not signatures:
        message, hint = "this bundle is not signed", f"sign it: `policyengine compile … --key private.pem` ({ids})"
    else:
        message = "no trusted key signed this bundle"
        signers = ", ".join(printable_version(one.key) for one in signatures[:4])
        hint = f"the bundle claims to be signed by {signers}; the trusted keys are {ids}"
    raise BundleError(name, "E163", message, hint)


def invalid_bundle(name: str, why: str) -> BundleError:
    return BundleError(name, "E165", f"this bundle has invalid contents: {quote_input(why)}", RECOMPILE_HINT)
