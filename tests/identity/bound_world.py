"""The surroundings of bound credentials in tests: an issuer, keys, authorities, an authenticator with the real parts,
and clients that sign correctly. Every key is made once."""

from __future__ import annotations

import json
import warnings
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import http_sf
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.proof.key_confirmation import ProofVerifiers, create_proof_verifiers
from policyengine.identity.verified import ProofContext, TokenPrincipal, VerifiedCredential, VerifiedToken
from policyengine.identity.verify.api_keys import hash_api_key
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials, body_digests, read_digests
from policyengine.source import Source, Span
from policyengine.stores.credential_marks import MemoryMarks

NOW = 1_800_000_000
URL = "https://api.acme.example/v1/invoices/42?full=yes"
HTU = "https://api.acme.example/v1/invoices/42"
ORIGIN = "https://crawler.example"
SVID = "spiffe://acme.example/ns/pay/sa/bot"
API_KEY = "k-6f1d0c5c2a7e4b8f9d3e1a2b3c4d5e6f"

JsonKey = ECKey | OKPKey | RSAKey


# ── Keys and tokens ───────────────────────────────────────────────────────────────────────────


@cache
def ec_key(name: str = "client", curve: Any = "P-256") -> ECKey:
    return ECKey.generate_key(curve)


@cache
def ed_key(name: str = "agent") -> OKPKey:
    return OKPKey.generate_key("Ed25519")


@cache
def rsa_key(bits: int = 2_048) -> RSAKey:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library says what these tests are about
        return RSAKey.generate_key(bits)


def b64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def digest(text: str) -> str:
    return b64url(sha256(text.encode()).digest())


@dataclass
class Issued:
    """Tokens of an issuer with one key, verified by the library: the part of a `TokenCheck` that these tests need."""

    key: ECKey = field(default_factory=lambda: ec_key("issuer"))

    def token(self, cnf: object = None, agent: str = "invoice-bot", **more: object) -> str:
        claims = {"sub": "alice", "client_id": agent, "iat": NOW - 10, "exp": NOW + 600, **more}
        if cnf is not None:
            claims["cnf"] = cnf
        return jws.serialize_compact({"alg": "ES256"}, json.dumps(claims), self.key, algorithms=["ES256"])

    def verify(self, raw: str, now: int) -> VerifiedToken:
        try:
            claims = json.loads(jws.deserialize_compact(raw, self.key, algorithms=["ES256"]).payload)
        except Exception:
            raise CredentialError(RefusalCode.SIGNATURE) from None
        return VerifiedToken("jwt", "acme", claims, {}, sha256(raw.encode()).digest(), claims["exp"])

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        return replace(self.verify(raw, now), kind="txn_token")


def reads(token: VerifiedToken) -> TokenPrincipal:
    instance = token.claims.get("instance")
    return TokenPrincipal(str(token.claims["client_id"]), "alice", instance=None if instance is None else str(instance))


# ── Certificates ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@cache
def authority(name: str, above: str | None = None) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    upper = None if above is None else authority(above)
    signer, issuer = (key, named(name)) if upper is None else (upper.key, upper.certificate.subject)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = (
        x509.CertificateBuilder(issuer, named(name), key.public_key(), x509.random_serial_number())
        .not_valid_before(at(1_500_000_000))
        .not_valid_after(at(4_000_000_000))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return Authority(builder.sign(signer, hashes.SHA256()), key)


@cache
def workload_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def workload(
    uris: tuple[str, ...] = (SVID,),
    by: str | None = "acme",
    begins: int = NOW - 60,
    ends: int = NOW + 3_600,
    ca: bool = False,
    signs: bool = True,
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    signer: Authority | None = None,
) -> x509.Certificate:
    """Issue a workload certificate. `by` None: self-signed; `acme/lower`: by an authority that `acme` trusts."""
    key = workload_key()
    if signer is None and by is not None:
        signer = authority(*reversed(by.split("/")))
    signing = key if signer is None else signer.key
    issuer = named("bot") if signer is None else signer.certificate.subject
    builder = (
        x509.CertificateBuilder(issuer, named("bot"), key.public_key(), x509.random_serial_number())
        .not_valid_before(at(begins))
        .not_valid_after(at(ends))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.KeyUsage(signs, False, False, False, not signs, ca, ca, False, False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if uris:
        names = [x509.UniformResourceIdentifier(one) for one in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(signing, hashes.SHA256())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def field_of(certificate: x509.Certificate) -> str:
    """Return the certificate as in `Client-Cert`."""
    return f":{b64encode(der(certificate)).decode()}:"


def x5t(certificate: x509.Certificate) -> str:
    return b64url(sha256(der(certificate)).digest())


def envoy(certificate: x509.Certificate, *chain: x509.Certificate, uri: str = SVID, **other: str) -> str:
    """Return the certificate as Envoy writes it."""
    said = {
        "By": "spiffe://acme.example/gateway",
        "Hash": sha256(der(certificate)).hexdigest(),
        "Cert": f'"{quote(pem(certificate), safe="")}"',
        "Chain": f'"{quote(pem(certificate, *chain), safe="")}"',
        "Subject": '"CN=bot"',
        "URI": uri,
        **other,
    }
    return ";".join(f"{name}={value}" for name, value in said.items() if value)


# ── Proofs ────────────────────────────────────────────────────────────────────────────────────


def proof(
    token: str | None,
    key: JsonKey | None = None,
    header: Mapping[str, object] | None = None,
    alg: str = "ES256",
    **claims: object,
) -> str:
    """Return a valid proof for a GET of URL at NOW, with the given changes; a claim that is None is omitted."""
    key = key or ec_key()
    said: dict[str, object] = {"jti": "p-1", "htm": "GET", "htu": HTU, "iat": NOW}
    if token is not None:
        said["ath"] = digest(token)
    payload = {name: value for name, value in {**said, **claims}.items() if value is not None}
    head = {"typ": "dpop+jwt", "alg": alg, "jwk": key.as_dict(private=False), **(header or {})}
    return signed({name: value for name, value in head.items() if value is not None}, json.dumps(payload), key, alg)


def signed(header: Mapping[str, object], payload: str, key: JsonKey, alg: str) -> str:
    """Sign by the algorithm, regardless of the header."""
    head = b64url(json.dumps(dict(header)).encode())
    body = f"{head}.{b64url(payload.encode())}"
    model = jws.JWSRegistry.algorithms[alg]
    return f"{body}.{b64url(model.sign(body.encode(), key))}"


def jkt(key: JsonKey | None = None) -> str:
    return (key or ec_key()).thumbprint()


# ── Signed messages ───────────────────────────────────────────────────────────────────────────

COMPONENTS = '"@method" "@authority" "@target-uri" "signature-agent"'


@dataclass(frozen=True)
class Message:
    """A request to sign: `components` and `parameters` as they are in `Signature-Input`."""

    method: str = "GET"
    url: str = URL
    content: bytes | None = None
    agent: str | None = f'"{ORIGIN}"'
    components: str = COMPONENTS
    created: object = NOW - 5
    expires: object = NOW + 60
    nonce: str | None = "n-1"
    tag: str = "web-bot-auth"
    keyid: str | None = None
    alg: str | None = None
    label: str = "sig1"
    digest: str | None = None

    def credentials(self, key: Any = None, **sent: Any) -> Credentials:
        """Return the credentials; `sent` is what arrives instead of what was signed."""
        key = key or ed_key()
        parameters = {
            "created": self.created,
            "expires": self.expires,
            "keyid": f'"{self.keyid or key.thumbprint()}"',
            "alg": self.alg and f'"{self.alg}"',
            "nonce": self.nonce and f'"{self.nonce}"',
            "tag": f'"{self.tag}"',
        }
        told = "".join(f";{name}={value}" for name, value in parameters.items() if value is not None)
        described = f"({self.components}){told}"
        lines = [f"{one}: {self.value(one)}" for one in self.components.split(" ") if one]
        base = "\n".join([*lines, f'"@signature-params": {described}'])
        given: dict[str, Any] = {
            "signature_input": f"{self.label}={described}",
            "signature": f"{self.label}=:{b64encode(sign(key, base.encode())).decode()}:",
            "signature_agent": self.agent,
            "content_digest": self.digest_sent,
            "digests": digests(self.content),
            "method": self.method,
            "url": self.url,
        }
        return Credentials(**{**given, **sent})

    @property
    def digest_sent(self) -> str | None:
        if self.digest is not None:
            return self.digest
        return None if self.content is None else content_digest(self.content)

    def value(self, component: str) -> str:
        name, _, key = component.partition(";key=")
        rest = self.url.partition("://")[2]
        host, _, path = rest.partition("/")
        values = {
            '"@method"': self.method,
            '"@authority"': host,
            '"@target-uri"': self.url,
            '"@path"': "/" + path.partition("?")[0],
            '"@query"': "?" + path.partition("?")[2],
            '"signature-agent"': self.agent or "",
            '"content-digest"': self.digest_sent or "",
        }
        if not key:
            return values[name]
        member: Any = http_sf.parse(values[name].encode(), tltype="dictionary")
        return str(http_sf.ser(member[key.strip('"')]))


def digests(content: bytes | None) -> dict[str, bytes]:
    """Return the digests of a party that received the whole body."""
    return {} if content is None else read_digests(body_digests(content))


def content_digest(content: bytes) -> str:
    return f"sha-256=:{b64encode(sha256(content).digest()).decode()}:"


def sign(key: Any, base: bytes) -> bytes:
    """Sign as RFC 9421 requires for such a key."""
    alg = {"OKP": "Ed25519", "RSA": "PS512"}.get(key.key_type) or {"P-256": "ES256", "P-384": "ES384"}[key.curve_name]
    found: bytes = jws.JWSRegistry.algorithms[alg].sign(base, key)
    return found


# ── The front ─────────────────────────────────────────────────────────────────────────────────


def issuer(name: str, url: str | None) -> Issuer:
    return Issuer(name, url, None, None, False, True, (), span=Span(Source("test.policy", ""), 0, 0))


@dataclass
class World:
    """An authenticator with the real parts, on files in `folder`."""

    folder: Path
    more: Mapping[str, object] = field(default_factory=dict)
    issued: Issued = field(default_factory=Issued)
    marks: MemoryMarks = field(default_factory=MemoryMarks)
    now: int = NOW
    issuers: tuple[Issuer, ...] | None = None

    def __post_init__(self) -> None:
        self.front = CredentialAuthenticator(
            CredentialChecks(self.issued, reads, self.parts.binds, self.parts.presents),
            self.marks,
            sharing=self.parts.sharing,
        )

    @property
    def parts(self) -> ProofVerifiers:
        if not hasattr(self, "_parts"):
            raw: dict[str, object] = {
                "signatures": {"directories": {"crawler": "directory.json"}},
                "trust_domains": {"acme.example": {"bundle": "acme.pem"}},
                "api_keys": {"file": "api-keys"},
            }
            raw = {**(raw if self.issuers is None else {}), **self.more}
            self._parts = create_proof_verifiers(
                parse_identity_config(raw, self.folder), self.issuers or ISSUERS, self.marks, nonce_key=b"n" * 32
            )
        return self._parts

    def prove(self, given: Credentials, url: str | None = URL, **request: Any) -> VerifiedCredential:
        method, asked = given.method or "GET", given.url or url
        return self.front.prove(given, ProofContext(method, asked, digests=given.digests, **request), self.now)

    def refusal(self, given: Credentials, url: str | None = URL, **request: Any) -> str:
        """Return the code of the refusal, which is counted."""
        before = dict(self.front.counts)
        try:
            self.prove(given, url, **request)
        except CredentialError as refused:
            code = refused.refusal.value
            assert self.front.counts[code] == before.get(code, 0) + 1
            assert self.front.counts.total() == sum(before.values()) + 1
            return code
        return "proved"


ISSUERS = (
    issuer("acme", "https://idp.acme.example"),
    issuer("crawler", ORIGIN),
    issuer("mesh", "spiffe://acme.example"),
    issuer("keys", None),
)


def directory_of(*keys: JsonKey, **more: object) -> str:
    return json.dumps({"keys": [{**one.as_dict(private=False), "kid": one.thumbprint(), **more} for one in keys]})


def write_files(folder: Path) -> Path:
    signers = directory_of(ed_key(), ec_key("signer"), ec_key("signer384", "P-384"), rsa_key())
    (folder / "directory.json").write_text(signers)
    (folder / "acme.pem").write_text(pem(authority("acme").certificate))
    (folder / "api-keys").write_text(f"keys/legacy-bot: {hash_api_key(API_KEY)}\n")
    return folder
