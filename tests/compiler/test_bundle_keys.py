"""Signatures of bundles: made by a private key, and accepted only from keys that are trusted."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from policyengine.compiler.bundle.file import BundleError, decode_bundle, write_bundle
from policyengine.compiler.bundle.signature import DOMAIN, BundleSigningKey, KeyFileError, TrustedKey, key_id
from policyengine.engine import Engine
from policyengine.install_hints import install_command

KERNEL = Engine.from_text("anyone { may GET /health }").kernel


class Pair:
    """A key pair as files, as `openssl` would write them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        self.private.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    @property
    def raw(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        return key_id(self.key.public_key())


@pytest.fixture
def ours(tmp_path: Path) -> Pair:
    return Pair(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Pair:
    return Pair(tmp_path, "theirs")


def signed(pair: Pair) -> bytes:
    return write_bundle(KERNEL, "0.1.0", BundleSigningKey.read(pair.private))


def refused(data: bytes, keys: Any) -> BundleError:
    with pytest.raises(BundleError) as found:
        decode_bundle(data, "some.policybundle", keys)
    return found.value


# ── Who is believed ───────────────────────────────────────────────────────────────────────────


def test_a_bundle_signed_with_a_trusted_key_is_loaded(ours: Pair) -> None:
    found = decode_bundle(signed(ours), keys=[ours.public])
    assert found.signed_by == (ours.id,)
    assert found.kernel == KERNEL


def test_one_trusted_key_among_several_is_enough(ours: Pair, theirs: Pair) -> None:
    assert decode_bundle(signed(ours), keys=[theirs.public, ours.public]).signed_by == (ours.id,)


@pytest.mark.parametrize("form", ["file", "text", "pem", "raw", "base64", "file of base64"])
def test_a_public_key_is_given_in_any_form(ours: Pair, tmp_path: Path, form: str) -> None:
    encoded = base64.urlsafe_b64encode(ours.raw).rstrip(b"=")
    (tmp_path / "key.b64").write_bytes(encoded + b"\n")
    keys: dict[str, Path | str | bytes] = {
        "file": ours.public, "text": str(ours.public), "pem": ours.public.read_bytes(), "raw": ours.raw,
        "base64": encoded, "file of base64": tmp_path / "key.b64",
    }  # fmt: skip
    assert decode_bundle(signed(ours), keys=[keys[form]]).signed_by == (ours.id,)


def test_an_unsigned_bundle_is_refused_if_keys_are_given(ours: Pair) -> None:
    error = refused(write_bundle(KERNEL, "0.1.0"), [ours.public])
    assert (error.code, error.message) == ("E163", "this bundle is not signed")
    assert ours.id in str(error.hint)


def test_a_bundle_signed_with_another_key_is_refused(ours: Pair, theirs: Pair) -> None:
    error = refused(signed(theirs), [ours.public])
    assert error.code == "E163"
    assert theirs.id in str(error.hint)
    assert ours.id in str(error.hint)


def test_no_keys_at_all_trust_nobody(ours: Pair) -> None:
    assert refused(signed(ours), []).code == "E163"


def test_without_keys_no_signature_is_checked(ours: Pair) -> None:
    assert decode_bundle(write_bundle(KERNEL, "0.1.0")).signed_by == ()
    assert decode_bundle(signed(ours)).signed_by == ()


def test_a_key_signs_the_same_bundle_alike(ours: Pair) -> None:
    assert signed(ours) == signed(ours)


# ── Forgeries ─────────────────────────────────────────────────────────────────────────────────


def resigned(data: bytes, signatures: object) -> bytes:
    return msgpack.packb([*msgpack.unpackb(data)[:-1], signatures])  # type: ignore[no-any-return]


def test_a_signature_of_another_bundle_counts_for_nothing(ours: Pair) -> None:
    other = write_bundle(Engine.from_text("anyone { may GET /x }").kernel, "0.1.0", BundleSigningKey.read(ours.private))
    assert refused(resigned(signed(ours), msgpack.unpackb(other)[-1]), [ours.public]).code == "E163"


def test_a_signature_without_its_domain_counts_for_nothing(ours: Pair) -> None:
    digest = msgpack.unpackb(signed(ours))[4]
    assert refused(resigned(signed(ours), [[ours.id, ours.key.sign(digest)]]), [ours.public]).code == "E163"
    assert decode_bundle(resigned(signed(ours), [[ours.id, ours.key.sign(DOMAIN + digest)]]), keys=[ours.public])


def test_a_signature_under_another_name_counts_for_nothing(ours: Pair, theirs: Pair) -> None:
    digest = msgpack.unpackb(signed(ours))[4]
    forged = resigned(signed(ours), [[ours.id, theirs.key.sign(DOMAIN + digest)]])
    assert refused(forged, [ours.public]).code == "E163"


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\xff" * 64, b"x" * 10_000])
def test_a_signature_that_is_none_counts_for_nothing(ours: Pair, signature: bytes) -> None:
    assert refused(resigned(signed(ours), [[ours.id, signature]]), [ours.public]).code == "E163"


@pytest.mark.parametrize("signatures", [None, 1, [1], [[]], [["id"]], [[1, b""]], [["id", "text"]]])
def test_data_that_is_not_a_list_of_signatures_is_refused(ours: Pair, signatures: object) -> None:
    assert refused(resigned(signed(ours), signatures), [ours.public]).code == "E165"


# ── Keys that cannot be used ──────────────────────────────────────────────────────────────────


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyFileError, match="this private key is not an Ed25519 key"):
        BundleSigningKey.read(tmp_path / "ec.pem")
    with pytest.raises(KeyFileError, match="this public key is not an Ed25519 key"):
        TrustedKey.of(public)


def test_a_key_under_a_passphrase_is_refused(ours: Pair, tmp_path: Path) -> None:
    locked = ours.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.pem").write_bytes(locked)
    with pytest.raises(KeyFileError, match="protected by a passphrase"):
        BundleSigningKey.read(tmp_path / "locked.pem")


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 43, b"-----BEGIN PUBLIC KEY-----\n", b"\xff" * 99])
def test_data_that_is_not_a_key_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(KeyFileError, match="this is not a private key"):
        BundleSigningKey.read(tmp_path / "key")
    with pytest.raises(KeyFileError, match="this is not a public key"):
        TrustedKey.read(tmp_path / "key")


def test_a_private_key_is_not_accepted_as_a_public_key(ours: Pair) -> None:
    error = refused(signed(ours), [ours.private])
    assert (error.code, error.file) == ("E164", str(ours.private))


@pytest.mark.parametrize("name", ["nowhere.pem", ".", "a\0b"])
def test_a_key_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="this key cannot be read"):
        BundleSigningKey.read(f"{tmp_path}/{name}")


@pytest.mark.parametrize("used", ["BundleSigningKey.read('ours.pem')", "TrustedKey.read('ours.pub.pem')"])
def test_without_the_library_the_message_says_what_to_install(ours: Pair, used: str) -> None:
    program = f"""
import sys
sys.modules["cryptography"] = None
from policyengine.compiler.bundle.file import decode_bundle
from policyengine.compiler.bundle.signature import BundleSigningKey, KeyFileError, TrustedKey
decode_bundle(open("bundle", "rb").read())
try:
    {used}
except KeyFileError as error:
    print(error.message, error.hint)
"""
    (ours.public.parent / "bundle").write_bytes(signed(ours))
    done = subprocess.run([sys.executable, "-c", program], cwd=ours.public.parent, capture_output=True, text=True)
    assert done.stdout == f"signatures need the package `cryptography` {install_command('sign')}\n"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing: apt install openssl")
def test_keys_of_openssl_are_used_as_they_are(tmp_path: Path) -> None:
    for command in (
        "openssl genpkey -algorithm ed25519 -out private.pem",
        "openssl pkey -in private.pem -pubout -out public.pem",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    data = write_bundle(KERNEL, "0.1.0", BundleSigningKey.read(tmp_path / "private.pem"))
    assert len(decode_bundle(data, keys=[tmp_path / "public.pem"]).signed_by) == 1
