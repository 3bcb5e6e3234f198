"""A key that others can sign by is refused, whoever it is of: a client, its certificate, or ourselves as a client."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from policyengine.identity.config.model import IdentityConfigError, parse_identity_config
from policyengine.identity.issue.clients import ClientCredentials, load_clients
from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.identity.keys.jwks import SMALL_ORDER_POINTS
from policyengine.identity.verified import UNBOUND, ProofContext
from policyengine.identity.verify.introspection import parse_assertion_key
from policyengine.runtime.credential_errors import CredentialError
from tests.identity.attacks import alone, mtls
from tests.identity.bound_world import NOW, SVID, World, at, authority, named, write_files
from tests.identity.issuing import b64
from tests.identity.keys import public
from tests.identity.minting import DESK, Desk

ORDER_ONE = bytes([1]) + bytes(31)


def forged(name: str) -> str:
    """An assertion of the client that nobody signed: by the point of order one any signature of this form holds."""
    claims = {"iss": name, "sub": name, "aud": DESK, "iat": NOW, "exp": NOW + 60, "jti": "forged"}
    head, body = (b64(json.dumps(one).encode()) for one in ({"alg": "Ed25519"}, claims))
    return f"{head}.{body}.{b64(ORDER_ONE + bytes(32))}"


@cache
def small_rsa(bits: int = 2_048, exponent: int = 65_537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


def rsa_jwk(bits: int = 2_048, exponent: int = 65_537) -> dict[str, Any]:
    numbers = small_rsa(bits, exponent).public_key().public_numbers()
    parts = {"n": numbers.n, "e": numbers.e}
    return {"kty": "RSA", **{name: b64(n.to_bytes((n.bit_length() + 7) // 8, "big")) for name, n in parts.items()}}


def point(raw: bytes) -> dict[str, Any]:
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}


WEAK: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    **{f"a point of small order, {one.hex()[:6]}…{one.hex()[-4:]}": (lambda one=one: point(one), "small order")  # type: ignore[misc]
       for one in sorted(SMALL_ORDER_POINTS) if one.hex()[2:4] != "ff"},
    "a point of small order with its sign": (lambda: point(bytes(31) + b"\x80"), "small order"),
    "RSA with the exponent three": (lambda: rsa_jwk(exponent=3), "exponent"),
    "RSA of 1,024 bits": (lambda: rsa_jwk(bits=1_024), "bits"),
    "a shared secret": (lambda: {"kty": "oct", "k": b64(b"s" * 32)}, "shared secret"),
    "a key for encryption": (lambda: {**rsa_jwk(), "use": "enc"}, "`use`"),
    "a curve that is used for coins": (lambda: {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}, "curve"),
    "no object": (lambda: "key", "not a JSON object"),  # type: ignore[dict-item,return-value]
}  # fmt: skip


def clients(folder: Path, method: str, *keys: Any) -> Any:
    (folder / "bot.json").write_text(json.dumps({"keys": keys}))
    given = {"agent": "bot", "issuer": "acme", "method": method, "keys": "bot.json"}
    return load_clients(parse_identity_config({"clients": {"bot": given}}, folder))


@pytest.mark.parametrize("method", ["private_key_jwt", "dpop"])
@pytest.mark.parametrize(("made", "why"), WEAK.values(), ids=WEAK)
def test_a_weak_client_key_is_rejected_at_startup(
    tmp_path: Path, made: Callable[[], Any], why: str, method: str
) -> None:
    with pytest.raises(IdentityConfigError) as caught:
        clients(tmp_path, method, public("ES256"), made())
    assert caught.value.message.startswith("`clients.bot.keys`: ")
    assert why in caught.value.message


def test_a_forged_assertion_is_rejected_after_the_key_file_becomes_weak(tmp_path: Path) -> None:
    """A file that becomes weak later goes on with what it held, as one that cannot be read does."""
    desk = Desk(tmp_path)
    (tmp_path / "summarizer.json").write_text(json.dumps({"keys": [point(ORDER_ONE)]}))
    with pytest.raises(TokenIssuanceError) as caught:
        desk.issuing.clients.actor(ClientCredentials(assertion=forged("summarizer")), None, UNBOUND, NOW)
    assert caught.value.code is IssuanceRefusal.ASSERTION_KEY


@pytest.mark.parametrize("alg", ["ES256", "PS256", "RS256", "EdDSA"])
def test_a_strong_client_key_is_accepted(tmp_path: Path, alg: str) -> None:
    found = clients(tmp_path, "private_key_jwt", public(alg))
    assert [one.kid for one in found["bot"].keys.read()] == [public(alg)["kid"]]


def test_a_client_key_is_used_only_with_its_own_algorithm(tmp_path: Path) -> None:
    (usable,) = clients(tmp_path, "private_key_jwt", {**rsa_jwk(), "alg": "PS256"})["bot"].keys.read()
    assert usable.algorithms == ("PS256",)


# ── Certificates ──────────────────────────────────────────────────────────────────────────────


def certificate(key: Any) -> x509.Certificate:
    """Of a workload, signed by the authority that its trust domain has: only the key is not as it should be."""
    signer = authority("acme")
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SVID)])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    return (
        x509.CertificateBuilder(signer.certificate.subject, named("bot"), key, x509.random_serial_number())
        .not_valid_before(at(NOW - 60))
        .not_valid_after(at(NOW + 3_600))
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(issuer, critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer.key, hashes.SHA256())
    )


OF_CERTIFICATES: dict[str, Callable[[], Any]] = {
    "a point of small order": lambda: Ed25519PublicKey.from_public_bytes(ORDER_ONE),
    "RSA with the exponent three": lambda: small_rsa(exponent=3).public_key(),
    "RSA of 1,024 bits": lambda: small_rsa(bits=1_024).public_key(),
    "a curve of 224 bits": lambda: ec.generate_private_key(ec.SECP224R1()).public_key(),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(write_files(tmp_path_factory.mktemp("weak")))


@pytest.mark.parametrize("made", OF_CERTIFICATES.values(), ids=OF_CERTIFICATES)
def test_a_certificate_with_a_weak_key_is_rejected(world: World, made: Callable[[], Any]) -> None:
    found = certificate(made())
    assert world.refusal(alone(found)(world)) == "weak_key"
    assert world.refusal(mtls(world, found)) == "weak_key"


def test_a_client_certificate_with_a_weak_key_is_rejected_at_the_token_endpoint(world: World) -> None:
    shown = alone(certificate(small_rsa(exponent=3).public_key()))(world)
    with pytest.raises(CredentialError, match="exponent"):
        world.parts.binds(shown, ProofContext("POST", "https://a.example/token"), None, NOW)


def test_a_certificate_with_a_strong_rsa_key_is_accepted(world: World) -> None:
    assert world.refusal(alone(certificate(small_rsa().public_key()))(world)) == "proved"


# ── Our own ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("bits", "exponent"), [(1_024, 65_537), (2_048, 3)])
def test_a_weak_key_is_rejected_for_our_own_client_assertions(bits: int, exponent: int) -> None:
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    with pytest.raises(IdentityConfigError, match=r"neither a private key|exponent"):
        parse_assertion_key(small_rsa(bits, exponent).private_bytes(*form).decode())
