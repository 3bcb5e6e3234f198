"""What was good once and is not any more: keys that an issuer took back, tokens and keys that were revoked, authorities
that are gone."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey

from policyengine import Engine
from policyengine.identity.audit_events import Operator
from policyengine.identity.authenticator import RECHECK_SECONDS
from policyengine.identity.config.issuer_factory import OwnKeySource
from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.keys.signing_keys import KeyRingFile, new_ring, rotate_ring, write_ring
from policyengine.identity.proof.spiffe import STALE_SECONDS
from policyengine.identity.revocation import RevocationResult, TokenRevoker
from policyengine.identity.shared_credentials import SharingDetector
from policyengine.identity.verified import ProofContext, VerifiedToken
from policyengine.identity.verify.api_keys import hash_api_key
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credentials import Credentials
from policyengine.runtime.decision import Decision, Outcome
from policyengine.stores.base import StoreError
from tests.identity.attacks import alone
from tests.identity.bound_world import API_KEY, Message, World, der, ed_key, workload, write_files, x5t
from tests.identity.issuing import BOT, NOW, USER, Door, Known, b64, ec, known, signed, token
from tests.identity.minting import AUDIENCE, DESK, fresh
from tests.identity.minting import POLICY as DESKS

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
URL = "https://api.acme.example/v1/invoices"


def test_a_token_with_a_withdrawn_key_is_rejected_at_the_next_recheck() -> None:
    """However long it is valid: what was verified before stands for `RECHECK_SECONDS`, and not until it ends."""
    keys = dict(known().keys)
    door, raw = Door(keys=Known(keys)), token(exp=NOW + 86_400)
    assert door.bearer(raw).outcome is Outcome.ALLOW
    del keys["ec"]
    door.now = NOW + RECHECK_SECONDS - 1
    assert door.bearer(raw).outcome is Outcome.ALLOW
    door.now = NOW + RECHECK_SECONDS
    assert door.bearer(raw).reasons[0].code == "unknown_key"


CERTIFICATE = "Hash=" + "ab" * 32


@pytest.mark.parametrize("by", ["proof", "certificate"])
def test_tokens_signed_by_our_withdrawn_key_are_rejected_immediately(tmp_path: Path, by: str):
    """Also in tokens that were verified before: a thief has used it already."""
    now, path = int(time()), tmp_path / "signing.json"
    write_ring(path, new_ring("ES256", now - 10), new=True)
    raw = {"issuers": {}, "signing": {"keys": "file:signing.json", "issuer": "desk"}}
    moments = [datetime.fromtimestamp(now + more, UTC) for more in (2, 1, 0)]
    engine = Engine.from_text(DESKS, clock=lambda: moments[-1]).verify_credentials(parse_identity_config(raw, tmp_path))
    cnf = {"proof": {"jkt": ec().thumbprint()}, "certificate": {"x5t#S256": b64(bytes.fromhex("ab" * 32))}}
    claims = {"iss": DESK, "sub": "alice", "client_id": "summarizer", "aud": AUDIENCE, "iat": now, "exp": now + 600,
              "jti": "j", "scope": "read:invoices", "cnf": cnf[by]}  # fmt: skip
    token = KeyRingFile.of(path).sign({"typ": "at+jwt"}, claims, now)

    def asked() -> Decision:
        credentials = {"authorization": f"Bearer {token}"}
        if by == "certificate":
            credentials["client_certificate"] = CERTIFICATE
        elif by == "proof":
            credentials = {"authorization": f"DPoP {token}", "url": URL, "dpop": proof_of(token, now)}
        decision = engine.decide({"request": {"method": "GET", "path": "/v1/invoices"}, "credentials": credentials})
        assert engine.identity is not None
        is_cached = engine.identity.known(credentials, engine.decider.seconds()) is not None
        assert is_cached == (by != "proof" and decision.allowed)
        return decision

    assert asked().allowed
    assert asked().allowed, "and is known from then on"
    rotate_ring(path, None, now, 0, 900)
    moments.pop()
    assert asked().allowed, "its key stays published until the last of its tokens has ended"
    rotate_ring(path, None, now, 0, 0)
    moments.pop()
    assert asked().reasons[0].code == "unknown_key"


@dataclass
class Elsewhere:
    """Keys that somebody else has, who is asked again at `due`."""

    keys: list[dict[str, object]]
    due: int = 0
    asked: int = 0

    def published(self, now: int) -> list[dict[str, object]]:
        self.asked, self.due = self.asked + 1, now + 60
        return self.keys

    def at_hand(self, now: int) -> list[dict[str, object]] | None:
        return self.keys if now < self.due else None

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object], now: int) -> str:
        raise AssertionError("nobody signs here")


def test_checking_whether_our_key_is_still_published_triggers_no_fetch() -> None:
    elsewhere = Elsewhere([{**ec().as_dict(private=False), "kid": "k1", "alg": "ES256"}])
    own = OwnKeySource(elsewhere, "desk")
    assert not own.has("k1", NOW), "nobody knows yet, and whoever verifies the token will ask"
    assert own.find("k1", "ES256", NOW)
    assert (own.has("k1", NOW), own.has("k1", NOW + 59), own.has("k2", NOW + 59)) == (True, True, False)
    assert not own.has("k1", NOW + 60), "it is to be asked for again"
    assert elsewhere.asked == 1
    elsewhere.keys = []
    with pytest.raises(CredentialError):
        own.find("k1", "ES256", NOW + 60)
    assert not own.has("k1", NOW + 60)


def proof_of(token: str, now: int) -> str:
    jwk = {name: ec().as_dict(private=False)[name] for name in ("kty", "crv", "x", "y")}
    ath = b64(sha256(token.encode()).digest())
    claims = {"htm": "GET", "htu": URL, "iat": now, "jti": fresh(), "ath": ath}
    return signed({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}, claims)


@pytest.mark.parametrize("name", ["authorization", "client_certificate"])
def test_a_malformed_credential_is_not_treated_as_absent(name: str) -> None:
    """By what was proved of the other: the question is malformed."""
    door = Door()
    raw = f"Bearer {token()}"
    assert door.ask({"authorization": raw}).outcome is Outcome.ALLOW
    assert door.ask({"authorization": raw, "client_certificate": None}).outcome is Outcome.ALLOW
    assert door.identity.known({"authorization": raw, "client_certificate": ":AA==:", name: 1}, NOW) is None
    assert door.identity.known({name: "Bearer \ud800"}, NOW) is None, "half a character, as JSON can spell one"


class Opaque:
    """Asked every minute, and good for an hour, or for as long as nobody says otherwise."""

    def __init__(self, **claims: object) -> None:
        self.claims = {"sub": USER, "client_id": BOT, "scope": "write:invoices", **claims}

    def introspect(self, raw: str, now: int) -> VerifiedToken:
        return VerifiedToken("opaque", "acme", self.claims, {}, b"1" * 32, now + 60)


@pytest.mark.parametrize(("claims", "later"), [({"exp": NOW + 3_600}, 3_599), ({}, 86_400)], ids=["an hour", "no end"])
def test_a_revoked_opaque_token_stays_revoked_until_it_expires(claims: dict[str, object], later: int) -> None:
    """And not until it is asked for again."""
    door = Door(introspection=Opaque(**claims))
    assert door.bearer("opaque").outcome is Outcome.ALLOW
    assert TokenRevoker(door.identity).token("opaque", Operator(), NOW) == RevocationResult()
    for door.now in (NOW, NOW + 599, NOW + later):
        assert door.bearer("opaque").reasons[0].code == "revoked"


def test_a_message_signed_by_a_revoked_key_is_rejected_even_if_it_is_not_bound(bound_files: Path) -> None:
    world = World(bound_files, {"signatures": {"nonce": False, "directories": {"crawler": "directory.json"}}})
    signed = Message(nonce=None).credentials()
    assert world.prove(signed).facts["credential"]["bound"] is False
    world.marks.revoke((f"key:{ed_key().thumbprint()}",), NOW + 600, NOW)
    assert world.refusal(signed) == "revoked"


def respelled(certificate: x509.Certificate) -> x509.Certificate:
    """By the other signature that holds, as with (r, s) also (r, n - s) does: anybody can make it."""
    r, s = decode_dss_signature(certificate.signature)
    value = b"\0" + encode_dss_signature(r, ORDER - s)
    head, _, _ = der(certificate)[4:].rpartition(bytes((3, len(certificate.signature) + 1, 0)))
    whole = head + bytes((3, len(value))) + value
    return x509.load_der_x509_certificate(b"\x30\x82" + len(whole).to_bytes(2, "big") + whole)


def test_revoking_the_key_of_a_certificate_rejects_every_encoding_of_it(world: World) -> None:
    given, again = workload(), respelled(workload())
    assert [world.refusal(alone(one)(world)) for one in (given, again)] == ["proved", "proved"]
    assert x5t(given) != x5t(again)
    key = f"key:{ECKey.import_key(pem_of_key(given)).thumbprint()}"
    assert [world.prove(alone(one)(world)).watched for one in (given, again)] == [(key,)] * 2
    world.marks.revoke((key,), NOW + 600, NOW)
    assert [world.refusal(alone(one)(world)) for one in (given, again)] == ["revoked", "revoked"]


def pem_of_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_api_keys_follow_the_current_content_of_their_file(tmp_path: Path) -> None:
    world, given = World(write_files(tmp_path)), Credentials(api_key=API_KEY)
    another = "another-key-that-is-long-enough-too"
    assert world.refusal(given) == "proved"
    (tmp_path / "api-keys").write_text(f"keys/new-bot: {hash_api_key(another)}\n")
    assert (world.refusal(given), world.refusal(Credentials(api_key=another))) == ("api_key", "proved")
    (tmp_path / "api-keys").write_text(f"keys/new-bot: {another}\n")
    assert world.refusal(Credentials(api_key=another)) == "provider", "nobody knows whose keys these are"
    (tmp_path / "api-keys").unlink()
    assert world.refusal(given) == "provider"
    write_files(tmp_path)
    assert world.refusal(given) == "proved"


def test_an_unreadable_trust_bundle_stays_trusted_for_an_hour(tmp_path: Path) -> None:
    world = World(write_files(tmp_path))
    certificate = workload(ends=NOW + 9_999)
    assert world.refusal(alone(certificate)(world)) == "proved"
    (tmp_path / "acme.pem").unlink()
    for world.now, answer in ((NOW + RECHECK_SECONDS, "proved"), (NOW + RECHECK_SECONDS + STALE_SECONDS, "provider")):
        assert world.refusal(alone(certificate)(world)) == answer
    write_files(tmp_path)
    world.now += 1
    assert world.refusal(alone(certificate)(world)) == "proved"


def test_proved_facts_are_rejected_while_revocations_cannot_be_read() -> None:
    door = Door()
    engine = door.engine
    facts = engine.prove({"request": {}, "credentials": {"authorization": f"Bearer {token()}"}} | {
        "request": {"method": "POST", "path": "/v1/invoices"}
    })  # fmt: skip
    assert engine.decide(dict(facts)).outcome is Outcome.ALLOW

    def gone(*_: object) -> None:
        raise StoreError("it is down")

    door.marks.revoked = gone  # type: ignore[method-assign, assignment]
    assert engine.decide(dict(facts)).reasons[0].code == "store"
    assert door.identity.counts["store"] == 1


def test_sharing_is_detected_for_an_equivalent_ecdsa_signature() -> None:
    """ECDSA: with (r, s) also (r, n - s) holds, and the token has another digest then."""
    door, raw = Door(), token()
    door.identity.sharing = SharingDetector()
    text, _, signature = raw.rpartition(".")
    data = urlsafe_b64decode(signature + "==")
    again = data[:32] + (ORDER - int.from_bytes(data[32:])).to_bytes(32)
    spelled = f"{text}.{b64(again)}"
    assert door.bearer(spelled).outcome is Outcome.ALLOW
    shared = []
    for ip, one in (("10.1.2.3", raw), ("192.0.2.1", spelled)):
        found = door.identity.prove(Credentials(authorization=f"Bearer {one}"), ProofContext("POST", None, ip=ip), NOW)
        shared.append(found.facts["credential"]["shared"])
    assert shared == [False, True]


def test_sharing_is_detected_for_a_message_key_that_is_not_bound(bound_files: Path) -> None:
    world = World(bound_files, {"signatures": {"nonce": False, "directories": {"crawler": "directory.json"}}})
    found = [
        world.prove(Message(nonce=None, created=NOW - number).credentials(), ip=ip).facts["credential"]["shared"]
        for number, ip in ((1, "10.1.2.3"), (2, "192.0.2.1"))
    ]
    assert found == [False, True]


def test_an_api_key_can_be_revoked_by_its_hash(world: World) -> None:
    """Whoever finds it in a leak has no need of it, nor has to take the others of its agent away."""
    given = Credentials(api_key=API_KEY)
    assert world.refusal(given) == "proved"
    world.marks.revoke((f"key:{hash_api_key(API_KEY)}",), NOW + 600, NOW)
    assert world.refusal(given) == "revoked"


def test_an_unexpected_error_during_authentication_denies_and_is_counted() -> None:
    door = Door()

    def broken(*_: object) -> None:
        raise RuntimeError("hunter2")

    door.marks.revoked = broken  # type: ignore[method-assign, assignment]
    decision = door.bearer(token())
    assert (decision.outcome, decision.reasons[0].code) == (Outcome.DENY, "failure")
    assert "hunter2" not in decision.to_json().decode()
    assert door.identity.counts["failure"] == 1
