"""Attacks on what binds a token to its presenter's key: each is refused by the front, with its own code, and counted.

The rows that are `proved` are the controls: the same credential, unattacked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OctKey

from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.proof.dpop import DpopNonces
from policyengine.identity.proof.key_confirmation import create_proof_verifiers
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credentials import Credentials
from policyengine.stores.credential_marks import MemoryMarks
from tests.identity.attacks import Attack, named
from tests.identity.bound_world import (
    API_KEY,
    HTU,
    NOW,
    World,
    digest,
    ec_key,
    ed_key,
    jkt,
    proof,
    rsa_key,
    signed,
    workload,
    x5t,
)

# ── DPoP ──────────────────────────────────────────────────────────────────────────────────────


def bound(
    w: World, header: dict[str, object] | None = None, key: Any = None, alg: str = "ES256", **claims: object
) -> Any:
    """A token bound to the key, with a proof of it."""
    token = w.issued.token({"jkt": jkt(key)})
    return Credentials(authorization=f"DPoP {token}", dpop=proof(token, key, header, alg, **claims))


def with_token(w: World, cnf: object, scheme: str = "DPoP", **given: Any) -> Credentials:
    token = w.issued.token(cnf)
    return Credentials(authorization=f"{scheme} {token}", **{"dpop": proof(token), **given})


def hmac_by_public_key(w: World) -> Credentials:
    """The old trick: a shared secret that everybody has, as it is the public key."""
    token = w.issued.token({"jkt": jkt()})
    secret = OctKey.import_key(json.dumps(ec_key().as_dict(private=False)).encode())
    header = {"typ": "dpop+jwt", "alg": "HS256", "jwk": ec_key().as_dict(private=False)}
    claims = json.dumps({"jti": "p", "htm": "GET", "htu": HTU, "iat": NOW, "ath": digest(token)})
    return Credentials(authorization=f"DPoP {token}", dpop=signed(header, claims, secret, "HS256"))  # type: ignore[arg-type]


def unsigned(w: World) -> Credentials:
    given = bound(w, {"alg": "none"})
    return replace(given, dpop=given.dpop.rpartition(".")[0] + ".")


def twice_in_claims(w: World) -> Credentials:
    token = w.issued.token({"jkt": jkt()})
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": ec_key().as_dict(private=False)}
    claims = json.dumps({"jti": "p", "htm": "GET", "htu": HTU, "iat": NOW, "ath": digest(token)})
    return Credentials(
        authorization=f"DPoP {token}",
        dpop=signed(header, claims.replace("{", '{"htm": "POST", ', 1), ec_key(), "ES256"),
    )


def malleable(w: World) -> Credentials:
    """A bit that no byte has is set in the last character of the signature."""
    given = bound(w)
    last = given.dpop[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return replace(given, dpop=given.dpop[:-1] + alphabet[alphabet.index(last) | 1])


def zero_signature(w: World) -> Credentials:
    given = bound(w)
    return replace(given, dpop=given.dpop.rpartition(".")[0] + "." + "A" * 86)


def other_payload(w: World) -> Credentials:
    one, other = bound(w), bound(w, htm="POST")
    parts, others = one.dpop.split("."), other.dpop.split(".")
    return replace(one, dpop=".".join((parts[0], others[1], parts[2])))


def swapped(w: World) -> Credentials:
    """A proof made for one token, with another of the same key."""
    first, second = w.issued.token({"jkt": jkt()}), w.issued.token({"jkt": jkt()}, agent="admin-bot")
    return Credentials(authorization=f"DPoP {second}", dpop=proof(first))


def private_jwk() -> dict[str, object]:
    return dict(ec_key().as_dict(private=True))


def jwk(**more: object) -> dict[str, object]:
    return {"jwk": {**ec_key().as_dict(private=False), **more}}


SMALL = {"kty": "OKP", "crv": "Ed25519", "x": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}
DPOP: list[Attack] = [
    ("control: a proof", "proved", bound),
    ("control: by Ed25519", "proved", lambda w: bound(w, key=ed_key(), alg="Ed25519")),
    ("control: by Ed25519 under its older name", "proved", lambda w: bound(w, {"alg": "EdDSA"}, ed_key(), "Ed25519")),
    ("control: by RSA", "proved", lambda w: bound(w, key=rsa_key(), alg="PS256")),
    ("control: host in upper case, default port", "proved",
     lambda w: bound(w, htu="HTTPS://API.acme.example:443/v1/invoices/%34%32")),
    ("control: query and fragment do not count", "proved", lambda w: bound(w, htu=HTU + "?a=b#c")),
    ("control: a bearer token that is bound to nothing", "proved", lambda w: with_token(w, None, "Bearer", dpop=None)),
    ("control: a transaction token with a proof", "proved",
     lambda w: Credentials(txn_token=(t := w.issued.token({"jkt": jkt()})), dpop=proof(t))),
    ("no proof", "proof_missing", lambda w: with_token(w, {"jkt": jkt()}, dpop=None)),
    ("no proof of a transaction token", "proof_missing",
     lambda w: Credentials(txn_token=w.issued.token({"jkt": jkt()}))),
    ("a stolen token as bearer, no proof", "wrong_scheme",
     lambda w: with_token(w, {"jkt": jkt()}, "Bearer", dpop=None)),
    ("a bound token as bearer, with a proof", "wrong_scheme", lambda w: with_token(w, {"jkt": jkt()}, "Bearer")),
    ("a token bound to nothing, with a proof", "not_bound", lambda w: with_token(w, None)),
    ("a bearer token bound to nothing, with a proof", "not_bound", lambda w: with_token(w, None, "Bearer")),
    ("a token bound to a certificate, with a proof", "not_bound",
     lambda w: with_token(w, {"x5t#S256": x5t(workload())})),
    ("a proof and no token", "not_bound", lambda w: Credentials(dpop=proof(None), api_key=API_KEY)),
    ("a proof by another key", "bound_to_other",
     lambda w: replace(bound(w), dpop=bound(w, key=ec_key("thief")).dpop)),
    ("two proofs", "proof_twice", lambda w: replace(g := bound(w), dpop=f"{g.dpop}, {g.dpop}")),
    ("two proofs, by a space", "proof_twice", lambda w: replace(g := bound(w), dpop=f"{g.dpop} {g.dpop}")),
    ("for another method", "proof_method", lambda w: bound(w, htm="POST")),
    ("method in another case", "proof_method", lambda w: bound(w, htm="get")),
    ("no method", "proof_method", lambda w: bound(w, htm=None)),
    ("for another host", "proof_url", lambda w: bound(w, htu="https://api.evil.example/v1/invoices/42")),
    ("for another path", "proof_url", lambda w: bound(w, htu="https://api.acme.example/v1/invoices/43")),
    ("for another port", "proof_url", lambda w: bound(w, htu="https://api.acme.example:8443/v1/invoices/42")),
    ("for another scheme", "proof_url", lambda w: bound(w, htu=HTU.replace("https", "http"))),
    ("for a path that is longer", "proof_url", lambda w: bound(w, htu=HTU + "/")),
    ("the host is the user of another", "proof_url",
     lambda w: bound(w, htu="https://api.acme.example@evil.example/v1/invoices/42")),
    ("a path that leads there", "proof_url", lambda w: bound(w, htu="https://api.acme.example/v1/x/../invoices/42")),
    ("an escaped slash is none", "proof_url", lambda w: bound(w, htu="https://api.acme.example/v1/invoices%2F42")),
    ("a list of URLs", "proof_url", lambda w: bound(w, htu=[HTU])),
    ("no URL", "proof_url", lambda w: bound(w, htu=None)),
    ("for another token of the same key", "proof_token", swapped),
    ("no digest of the token", "proof_token", lambda w: bound(w, ath=None)),
    ("the digest in hexadecimal", "proof_token", lambda w: bound(w, ath=sha256(b"x").hexdigest())),
    ("old", "proof_time", lambda w: bound(w, iat=NOW - 61)),
    ("of the future", "proof_time", lambda w: bound(w, iat=NOW + 31)),
    ("no time", "proof_time", lambda w: bound(w, iat=None)),
    ("a time in words", "proof_time", lambda w: bound(w, iat=str(NOW))),
    ("a time that is a yes", "proof_time", lambda w: bound(w, iat=True)),
    ("ended by its own words", "proof_time", lambda w: bound(w, exp=NOW)),
    ("no id", "proof", lambda w: bound(w, jti=None)),
    ("an empty id", "proof", lambda w: bound(w, jti="")),
    ("an id that fills the memory", "proof", lambda w: bound(w, jti="x" * 257)),
    ("alg none", "proof", unsigned),
    ("alg HS256 by the public key", "proof", hmac_by_public_key),
    ("a token of another type", "proof", lambda w: bound(w, {"typ": "jwt"})),
    ("no type", "proof", lambda w: bound(w, {"typ": None})),
    ("a key id beside the key", "proof", lambda w: bound(w, {"kid": "../../dev/null"})),
    ("a URL of keys", "proof", lambda w: bound(w, {"jku": "https://evil.example/jwks"})),
    ("a chain of certificates", "proof", lambda w: bound(w, {"x5c": ["MII"]})),
    ("unknown crit", "proof", lambda w: bound(w, {"crit": ["x"]})),
    ("b64 false", "proof", lambda w: bound(w, {"b64": False})),
    ("a member twice", "proof", twice_in_claims),
    ("bits that mean nothing", "proof", malleable),
    ("a signature of zeros", "proof", zero_signature),
    ("another payload under the signature", "proof", other_payload),
    ("a token in place of the proof", "proof",
     lambda w: replace(g := bound(w), dpop=g.authorization.removeprefix("DPoP "))),
    ("no token at all in place of the proof", "proof", lambda w: replace(bound(w), dpop="proof")),
    ("too long", "proof", lambda w: bound(w, more="x" * 8_192)),
    ("nested too deep", "proof", lambda w: bound(w, more=json.loads("[" * 40 + "]" * 40))),
    ("the private key came along", "proof_key", lambda w: bound(w, {"jwk": private_jwk()})),
    ("no key", "proof_key", lambda w: bound(w, {"jwk": None})),
    ("a key as text", "proof_key", lambda w: bound(w, {"jwk": "key"})),
    ("a shared secret as key", "proof_key", lambda w: bound(w, {"jwk": {"kty": "oct", "k": "c2VjcmV0"}})),
    ("a key with a chain of certificates", "proof_key", lambda w: bound(w, jwk(x5c=["MII"]))),
    ("a key with a URL", "proof_key", lambda w: bound(w, jwk(x5u="https://evil.example"))),
    ("a key with a name", "proof_key", lambda w: bound(w, jwk(kid="acme-1"))),
    ("a key for encryption", "proof_key", lambda w: bound(w, jwk(use="enc"))),
    ("a key of another algorithm", "proof_key", lambda w: bound(w, jwk(alg="ES384"))),
    ("a point on no curve", "proof_key", lambda w: bound(w, jwk(y=ec_key("thief").as_dict(private=False)["y"]))),
    ("a curve that is too weak", "proof_key", lambda w: bound(w, jwk(crv="secp256k1"))),
    ("a weak RSA key", "proof_key", lambda w: bound(w, key=rsa_key(1_024), alg="RS256")),
    ("a key of small order", "proof_key", lambda w: bound(w, {"jwk": SMALL, "alg": "Ed25519"})),
    ("a key of one type, an algorithm of another", "proof_key", lambda w: bound(w, {"alg": "RS256"})),
    ("bound to a key that it brings", "bound_how", lambda w: with_token(w, {"jwk": ec_key().as_dict(private=False)})),
    ("bound to a name of a key", "bound_how", lambda w: with_token(w, {"kid": "acme-1"})),
    ("bound to something unknown beside", "bound_how", lambda w: with_token(w, {"jkt": jkt(), "osc": "x"})),
    ("bound to nothing", "bound_how", lambda w: with_token(w, {})),
    ("bound to a list", "bound_how", lambda w: with_token(w, [jkt()])),
    ("bound to null", "bound_how", lambda w: with_token(w, {"jkt": None})),
    ("bound to a shorter digest", "bound_how", lambda w: with_token(w, {"jkt": jkt()[:-1]})),
]  # fmt: skip


@named(DPOP)
def test_dpop_proof_attacks_are_rejected_with_their_own_codes(
    world: World, code: str, given: Callable[[World], Credentials]
) -> None:
    assert world.refusal(given(world)) == code


def test_a_dpop_proof_is_accepted_only_once(world: World) -> None:
    given = bound(world)
    assert [world.refusal(given) for _ in range(2)] == ["proved", "proof_replayed"]


def test_a_dpop_proof_stays_used_until_it_expires(world: World) -> None:
    given = bound(world, iat=NOW + 30)
    assert world.refusal(given) == "proved"
    world.now = NOW + 90
    assert world.refusal(given) == "proof_replayed"
    world.now = NOW + 91
    assert world.refusal(given) == "proof_time"


def test_proofs_with_the_same_jti_by_different_keys_are_both_accepted(world: World) -> None:
    assert [world.refusal(bound(world, key=key)) for key in (ec_key(), ec_key("other"))] == ["proved", "proved"]


def test_a_proof_is_rejected_if_the_gateway_sends_no_url(world: World) -> None:
    assert world.refusal(bound(world), url=None) == "proof_url"


# ── Nonces ────────────────────────────────────────────────────────────────────────────────────

OURS = DpopNonces(300, b"n" * 32)
NONCES: list[tuple[str, str, object]] = [
    ("control: one of ours", "proved", OURS.nonce(NOW)),
    ("control: one of ours that will end", "proved", OURS.nonce(NOW - 299)),
    ("none", "proof_nonce", None),
    ("control: of a server whose clock is behind", "proved", OURS.nonce(NOW - 329)),
    ("control: of a server whose clock is ahead", "proved", OURS.nonce(NOW + 30)),
    ("expired", "proof_nonce", OURS.nonce(NOW - 330)),
    ("of the future", "proof_nonce", OURS.nonce(NOW + 31)),
    ("of another server", "proof_nonce", DpopNonces(300, b"m" * 32).nonce(NOW)),
    ("another time in it", "proof_nonce", OURS.nonce(NOW)[:-22] + OURS.nonce(NOW - 9)[-22:]),
    ("not in base64", "proof_nonce", "~" * 32),
    ("a number", "proof_nonce", 7),
    ("empty", "proof_nonce", ""),
]


@pytest.mark.parametrize(("code", "nonce"), [one[1:] for one in NONCES], ids=[one[0] for one in NONCES])
def test_dpop_nonces_are_required_and_checked(bound_files: Path, code: str, nonce: object) -> None:
    world = World(bound_files, {"dpop": {"nonces": True}})
    assert world.refusal(bound(world, nonce=nonce)) == code


def test_dpop_nonces_without_a_shared_key_have_no_clock_leeway(bound_files: Path) -> None:
    nonces = create_proof_verifiers(
        parse_identity_config({"dpop": {"nonces": True}}, bound_files), (), MemoryMarks()
    ).nonces
    assert nonces is not None
    nonces.check(nonces.nonce(NOW - 299), NOW)
    for made in (NOW - 300, NOW + 1):
        with pytest.raises(CredentialError):
            nonces.check(nonces.nonce(made), NOW)
