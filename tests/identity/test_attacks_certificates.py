"""Attacks on certificates, of tokens and alone: each is refused by the front, with its own code, and counted.

The rows that are `proved` are the controls: the same credential, unattacked.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from policyengine.runtime.credentials import Credentials
from tests.identity.attacks import Attack, alone, mtls, named
from tests.identity.bound_world import (
    NOW,
    SVID,
    Authority,
    World,
    authority,
    der,
    envoy,
    field_of,
    jkt,
    pem,
    proof,
    workload,
    workload_key,
    x5t,
)

# ── Certificates of tokens ────────────────────────────────────────────────────────────────────


def both(w: World, **given: Any) -> Credentials:
    token = w.issued.token({"x5t#S256": x5t(workload()), "jkt": jkt()})
    known: dict[str, Any] = {"dpop": proof(token), "client_certificate": field_of(workload())}
    return Credentials(authorization=f"DPoP {token}", **{**known, **given})


def respelled(w: World) -> Credentials:
    """The same certificate in other bytes: nobody signed how many bits of its signature count."""
    others = (workload(begins=NOW - number) for number in range(1_000))
    even = next(one for one in (workload(), *others) if one.signature[-1] % 2 == 0)
    raw = bytearray(even.public_bytes(Encoding.DER))
    raw[-len(even.signature) - 1] = 1
    return mtls(w, sent=f":{b64encode(raw).decode()}:")


THIEF = workload(("spiffe://acme.example/thief",))


def of_no_year() -> Any:
    """That begins in the year 0, which no calendar here has."""
    raw = der(workload(begins=2_556_144_000, ends=2_587_680_000))
    return load_der_x509_certificate(raw.replace(b"20510101", b"00000101"))


OLD, FUTURE = workload(ends=NOW - 1, begins=NOW - 9), workload(begins=NOW + 1)
MTLS: list[Attack] = [
    ("control: Client-Cert", "proved", mtls),
    ("control: PEM", "proved", lambda w: mtls(w, sent=pem(workload()))),
    ("control: PEM, escaped as nginx does", "proved", lambda w: mtls(w, sent=quote(pem(workload()), safe=""))),
    ("control: Envoy", "proved", lambda w: mtls(w, sent=envoy(workload()))),
    ("control: Envoy tells no more than the hash", "proved",
     lambda w: mtls(w, sent=f"By=x;Hash={sha256(workload_der()).hexdigest()};URI={SVID}")),
    ("control: both a key and a certificate", "proved", both),
    ("no certificate", "proof_missing",
     lambda w: replace(mtls(w), client_certificate=None)),
    ("the certificate of somebody else", "bound_to_other", lambda w: mtls(w, sent=field_of(THIEF))),
    ("the hash of somebody else, from Envoy", "bound_to_other", lambda w: mtls(w, sent=f"Hash={'0' * 64}")),
    ("both bound, no proof", "proof_missing", lambda w: both(w, dpop=None)),
    ("both bound, no certificate", "proof_missing", lambda w: both(w, client_certificate=None)),
    ("both bound, another certificate", "bound_to_other", lambda w: both(w, client_certificate=field_of(THIEF))),
    ("an expired certificate", "certificate_time", lambda w: mtls(w, OLD)),
    ("a certificate of the future", "certificate_time", lambda w: mtls(w, FUTURE)),
    ("a certificate of no year", "certificate_time", lambda w: mtls(w, of_no_year())),
    ("no certificate in the header", "certificate", lambda w: mtls(w, sent=":bm90IG9uZQ==:")),
    ("no base64", "certificate", lambda w: mtls(w, sent=":*:")),
    ("two in Client-Cert", "certificate", lambda w: mtls(w, sent=f"{field_of(THIEF)}, {field_of(workload())}")),
    ("bytes behind the certificate", "certificate",
     lambda w: mtls(w, sent=f":{b64encode(workload_der() + b'x').decode()}:")),
    ("bits of the signature left out", "certificate", respelled),
    ("PEM without its end", "certificate", lambda w: mtls(w, sent=pem(workload())[:-30])),
    ("more certificates than a chain has", "certificate", lambda w: mtls(w, sent=pem(*[workload()] * 9))),
    ("Envoy: forged before, ours last", "untrusted_proxy",
     lambda w: mtls(w, sent=f"{envoy(THIEF)},{envoy(workload())}")),
    ("Envoy: a name in the certificate that goes on with the hash of somebody else", "untrusted_proxy",
     lambda w: mtls(w, sent=envoy(THIEF, uri=f"{SVID},By=x;Hash={sha256(workload_der()).hexdigest()}"))),
    ("Envoy: a name in the certificate that goes on with another certificate", "untrusted_proxy",
     lambda w: mtls(w, sent=envoy(THIEF, DNS=f'a.example,Cert="{quote(pem(workload()), safe="")}"'))),
    ("Envoy: a name in the certificate that says another hash", "untrusted_proxy",
     lambda w: mtls(w, sent=envoy(THIEF, uri=f"{SVID};Hash={sha256(workload_der()).hexdigest()}"))),
    ("Envoy: an open quote in front", "untrusted_proxy",
     lambda w: mtls(w, THIEF, sent=f'Hash=x;Subject=",{envoy(workload())}')),
    ("Envoy: an escaped quote in front", "untrusted_proxy",
     lambda w: mtls(w, THIEF, sent=f'Subject="\\",{envoy(workload())}')),
    ("Envoy: a comma in a quoted subject makes no element", "bound_to_other",
     lambda w: mtls(w, sent=envoy(THIEF, Subject=f'"CN=a,Hash={sha256(workload_der()).hexdigest()}"'))),
    ("Envoy: the certificate twice", "untrusted_proxy",
     lambda w: mtls(w, sent=f"{envoy(THIEF)};Cert={quote(pem(workload()), safe='')}")),
    ("Envoy: the hash twice", "untrusted_proxy", lambda w: mtls(w, sent=f"{envoy(workload())};Hash={'0' * 64}")),
    ("Envoy: the hash of one, the certificate of another", "untrusted_proxy",
     lambda w: mtls(w, sent=envoy(workload(), Hash=sha256(b"other").hexdigest()))),
    ("Envoy: a hash that is none", "certificate", lambda w: mtls(w, sent="Hash=0123")),
    ("Envoy: neither certificate nor hash", "certificate", lambda w: mtls(w, sent=f"By=x;URI={SVID}")),
    ("Envoy: a comma at the end", "untrusted_proxy", lambda w: mtls(w, sent=f"{envoy(workload())},")),
    ("Envoy: a pair that is empty", "untrusted_proxy", lambda w: mtls(w, sent=f"{envoy(workload())};")),
    ("Envoy: no pairs", "untrusted_proxy", lambda w: mtls(w, sent="certificate")),
]  # fmt: skip


def workload_der() -> bytes:
    return der(workload())


@named(MTLS)
def test_attacks_on_certificate_bound_tokens_are_rejected_with_their_own_codes(
    world: World, code: str, given: Callable[[World], Credentials]
) -> None:
    assert world.refusal(given(world)) == code


# ── X.509-SVIDs ───────────────────────────────────────────────────────────────────────────────


LONG = "spiffe://acme.example/" + "a" * 2_048
CHAINED = workload(by="acme/lower")
SVIDS: list[Attack] = [
    ("control: by the authority", "proved", alone(workload())),
    ("control: by one that the authority trusts", "proved", lambda w: chained()),
    ("control: from Envoy, with what leads to it", "proved",
     lambda w: Credentials(client_certificate=envoy(*chain()))),
    ("expired", "certificate_time", alone(OLD)),
    ("not yet valid", "certificate_time", alone(FUTURE)),
    ("of no year", "certificate_time", alone(of_no_year())),
    ("of another trust domain", "trust_domain", alone(workload(("spiffe://evil.example/bot",)))),
    ("of a trust domain that looks alike", "trust_domain", alone(workload(("spiffe://acme.example.evil/bot",)))),
    ("an authority's own", "certificate", alone(workload(ca=True))),
    ("a key that does not sign", "certificate", alone(workload(signs=False))),
    ("a server's", "certificate", alone(workload(purpose=ExtendedKeyUsageOID.SERVER_AUTH))),
    ("two names", "spiffe_id", alone(workload((SVID, "spiffe://acme.example/admin")))),
    ("no name", "spiffe_id", alone(workload(()))),
    ("a name that is no SPIFFE id", "spiffe_id", alone(workload(("https://acme.example/bot",)))),
    ("the trust domain itself", "spiffe_id", alone(workload(("spiffe://acme.example",)))),
    ("a path that leads elsewhere", "spiffe_id", alone(workload(("spiffe://acme.example/a/../admin",)))),
    ("an empty segment", "spiffe_id", alone(workload(("spiffe://acme.example//bot",)))),
    ("a slash at the end", "spiffe_id", alone(workload((SVID + "/",)))),
    ("a query", "spiffe_id", alone(workload((SVID + "?admin",)))),
    ("a port", "spiffe_id", alone(workload(("spiffe://acme.example:443/bot",)))),
    ("a domain in upper case", "spiffe_id", alone(workload(("spiffe://Acme.example/bot",)))),
    ("an escape", "spiffe_id", alone(workload(("spiffe://acme.example/%61dmin",)))),
    ("too long", "spiffe_id", alone(workload((LONG,)))),
    ("signed by itself", "certificate_chain", alone(workload(by=None))),
    ("by an authority that nobody trusts", "certificate_chain", alone(workload(by="evil"))),
    ("by one of the same name", "certificate_chain", lambda w: same_name()),
    ("what leads to it is missing", "certificate_chain", alone(CHAINED)),
    ("by a workload that is no authority", "certificate_chain", lambda w: by_a_workload()),
    ("no more than its hash", "certificate", lambda w: Credentials(client_certificate=f"Hash={'0' * 64};URI={SVID}")),
    ("what Envoy says its URI is does not count", "trust_domain",
     lambda w: Credentials(client_certificate=envoy(workload(("spiffe://evil.example/bot",)), uri=SVID))),
]  # fmt: skip


def chain() -> list[Any]:
    return [CHAINED, authority("lower", "acme").certificate]


def chained() -> Credentials:
    return Credentials(client_certificate=pem(*chain()))


def same_name() -> Credentials:
    other = authority("acme", None)
    assert other.certificate.subject == authority("acme").certificate.subject
    return Credentials(client_certificate=pem(workload(signer=other), other.certificate))


def by_a_workload() -> Credentials:
    first = workload()
    other = workload(("spiffe://acme.example/admin",), signer=Authority(first, workload_key()))
    return Credentials(client_certificate=pem(other, first))


@named(SVIDS)
def test_attacks_on_workload_certificates_are_rejected_with_their_own_codes(
    world: World, code: str, given: Callable[[World], Credentials]
) -> None:
    assert world.refusal(given(world)) == code


def test_a_certificate_of_an_unconfigured_trust_domain_is_rejected(bound_files: Path) -> None:
    world = World(bound_files, {"trust_domains": {}})
    assert world.refusal(Credentials(client_certificate=pem(workload()))) == "trust_domain"


def test_a_gateway_that_verifies_replaces_only_the_check_of_the_certificate_chain(bound_files: Path) -> None:
    world = World(bound_files, {"trust_domains": {"acme.example": {"verified_by_gateway": True}}})
    given = {"by itself": workload(by=None), "expired": OLD, "authority": workload(ca=True)}
    found = {name: world.refusal(Credentials(client_certificate=pem(one))) for name, one in given.items()}
    assert found == {"by itself": "proved", "expired": "certificate_time", "authority": "certificate"}


# ── Headers of the client itself ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["client-cert", "x-forwarded-client-cert", "x-client-cert", "ssl-client-cert"])
def test_a_certificate_in_a_request_header_is_ignored(world: World, name: str) -> None:
    given = replace(mtls(world), client_certificate=None)
    assert world.refusal(given, headers={name: field_of(workload())}) == "proof_missing"
