"""Verifies X.509-SVIDs: certificates that identify a workload (SPIFFE)."""

from __future__ import annotations

import binascii
import json
import logging
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Lock

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store
from joserfc.jwk import ECKey, OKPKey, RSAKey

from policyengine.identity.config.model import IdentityConfigError, TrustDomainSettings
from policyengine.identity.keys.jwks import jwks_file_stamp
from policyengine.identity.proof.certificates import ClientCertificate, check_validity
from policyengine.identity.verified import ConfirmedKey, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.claims import parse_trust_domain
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.trusted_files import read_trusted

MAX_BUNDLE_BYTES = 1_048_576
MAX_AUTHORITIES = 100
STALE_SECONDS = 3_600  # seconds that authorities remain valid after their file became unreadable
RECHECK_SECONDS = 300  # seconds after which a certificate is verified again, because bundles change
MAX_CHAIN_DEPTH = 4  # maximum number of certificates between those of the workload and the bundle
AUTHORITY_EXTENSIONS = ExtensionPolicy.webpki_defaults_ca()
KEY_TYPES = ((EllipticCurvePublicKey, ECKey), (RSAPublicKey, RSAKey), (Ed25519PublicKey, OKPKey))
SPKI = PublicFormat.SubjectPublicKeyInfo
WORKLOAD_EXTENSIONS = ExtensionPolicy.permit_all()  # `check_leaf` restricts their use
_LOG = logging.getLogger("policyengine")


# ── Trust domains ─────────────────────────────────────────────────────────────────────────────


class TrustBundle:
    """The authorities of a trust domain from a PEM file or SPIFFE bundle, read again when it changes. If that fails,
    the failure is logged and the previous authorities remain valid for an hour; after that, no authority is trusted.
    Threads may share an instance.
    """

    def __init__(self, path: Path) -> None:
        """Read the bundle. Raises IdentityConfigError."""
        self._path, self._lock = path, Lock()
        self._seen = jwks_file_stamp(path)
        self._store = read_bundle(path)
        self._wrong_since: int | None = None

    def store(self, now: int) -> Store:
        """Return the current authorities. Raises CredentialError."""
        with self._lock:
            seen = jwks_file_stamp(self._path)
            if seen != self._seen:
                self._seen = seen
                self._read_again(now)
            if self._wrong_since is not None and now >= self._wrong_since + STALE_SECONDS:
                raise CredentialError(RefusalCode.PROVIDER, "cannot read the authorities of its trust domain")
            return self._store

    def _read_again(self, now: int) -> None:
        try:
            self._store, self._wrong_since = read_bundle(self._path), None
        except IdentityConfigError as error:
            _LOG.warning("using the previous authorities of a trust domain for up to an hour: %s", error)
            self._wrong_since = now if self._wrong_since is None else self._wrong_since


def read_bundle(path: Path) -> Store:
    """Read a bundle file. Raises IdentityConfigError."""
    try:
        data = read_trusted(path, MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise IdentityConfigError(
            f"cannot read the bundle `{path}`: {(error.strerror or str(error)).lower()}"
        ) from None
    if len(data) > MAX_BUNDLE_BYTES:
        raise IdentityConfigError(f"the bundle `{path}` is larger than {MAX_BUNDLE_BYTES:,} bytes")
    return Store(parse_authorities(data, path))


def parse_authorities(data: bytes, path: Path) -> list[x509.Certificate]:
    """Parse PEM certificates or a SPIFFE bundle. Raises IdentityConfigError."""
    try:
        found = parse_json_bundle(data) if data.lstrip().startswith(b"{") else x509.load_pem_x509_certificates(data)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise IdentityConfigError(f"the bundle `{path}` is neither certificates in PEM nor a SPIFFE bundle") from None
    if not 0 < len(found) <= MAX_AUTHORITIES:
        raise IdentityConfigError(
            f"the bundle `{path}` has {len(found):,} authorities",
            f"a bundle must contain 1 to {MAX_AUTHORITIES} authorities",
        )
    return found


def parse_json_bundle(data: bytes) -> list[x509.Certificate]:
    keys = [one for one in json.loads(data)["keys"] if one.get("use") == "x509-svid"]
    if any(len(one["x5c"]) != 1 for one in keys):
        raise ValueError
    return [x509.load_der_x509_certificate(b64decode(one["x5c"][0], validate=True)) for one in keys]


@dataclass(frozen=True, slots=True)
class TrustedDomain:
    """A trust domain whose workloads are agents of an issuer of the policy. `bundle` is None if the gateway verifies
    the certificates according to its own configuration."""

    issuer: str
    bundle: TrustBundle | None


def load_trusted_domains(
    settings: Mapping[str, TrustDomainSettings], folder: Path, issuers: Mapping[str, str]
) -> dict[str, TrustedDomain]:
    """Load the trust domains. `issuers` are the names of the issuers by URL. Raises IdentityConfigError."""
    found = {}
    for domain, setting in settings.items():
        name = issuers.get(f"spiffe://{domain}")
        if name is None:
            hint = f'write `issuer … {{ url "spiffe://{domain}" }}` in a policy'
            raise IdentityConfigError(f"no issuer of the policy has the trust domain `{domain}`", hint)
        found[domain] = TrustedDomain(name, None if setting.bundle is None else TrustBundle(folder / setting.bundle))
    return found


# ── Certificates ──────────────────────────────────────────────────────────────────────────────


def verify_svid(
    connection: ClientCertificate, domains: Mapping[str, TrustedDomain], now: int
) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey]:
    """Verify an X.509-SVID; the agent's name is the whole SPIFFE id. Raises CredentialError."""
    leaf = connection.certificate
    if leaf is None:
        raise CredentialError(RefusalCode.CERTIFICATE, "the gateway passed only the hash of the certificate")
    identifier = spiffe_uri(leaf)
    trusted = domains.get(parse_trust_domain(identifier))
    if trusted is None:
        raise CredentialError(RefusalCode.TRUST_DOMAIN)
    check_leaf(leaf)
    ends = check_validity(leaf, now)
    if trusted.bundle is not None:
        check_chain(connection, leaf, trusted.bundle.store(now), now)
    claims = {"sub": identifier, "iat": int(leaf.not_valid_before_utc.timestamp()), "exp": ends}
    digest = sha256(leaf.public_bytes(Encoding.DER)).digest()
    until, key = min(ends, now + RECHECK_SECONDS), key_thumbprint(leaf)
    return (
        VerifiedToken("mtls", trusted.issuer, claims, {}, digest, until, key=key),
        TokenPrincipal(identifier, None),
        ConfirmedKey(x5t=connection.x5t, until=ends, key=key),
    )


def key_thumbprint(leaf: x509.Certificate) -> str | None:
    """Return the thumbprint of the key (RFC 7638), which does not depend on the spelling of the certificate's
    signature; None for other kinds of keys.
    """
    try:
        key = leaf.public_key()
        kind = next(kind for of, kind in KEY_TYPES if isinstance(key, of))
        return kind.import_key(key.public_bytes(Encoding.PEM, SPKI)).thumbprint()
    except Exception:  # another kind of key, or a malformed one
        return None


def spiffe_uri(leaf: x509.Certificate) -> str:
    """Return the only URI of the certificate. Raises CredentialError."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # missing or malformed
        raise CredentialError(RefusalCode.SPIFFE_ID) from None
    found = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(found) != 1:
        raise CredentialError(RefusalCode.SPIFFE_ID)
    return found[0]


def check_leaf(leaf: x509.Certificate) -> None:
    """Check that the certificate belongs to a client, not to an authority. Raises CredentialError."""
    try:
        known = {one.oid: one.value for one in leaf.extensions}
    except Exception:
        raise CredentialError(RefusalCode.CERTIFICATE) from None
    basic = known.get(x509.BasicConstraints.oid)
    if isinstance(basic, x509.BasicConstraints) and basic.ca:
        raise CredentialError(RefusalCode.CERTIFICATE, "the client certificate is a certificate of an authority")
    usage = known.get(x509.KeyUsage.oid)
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise CredentialError(
            RefusalCode.CERTIFICATE, "the key usage of the client certificate is not limited to digital signatures"
        )
    purposes = known.get(x509.ExtendedKeyUsage.oid)
    if isinstance(purposes, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise CredentialError(RefusalCode.CERTIFICATE, "the client certificate is not for client authentication")


def check_chain(connection: ClientCertificate, leaf: x509.Certificate, store: Store, now: int) -> None:
    """Verify the chain up to the bundle. Raises CredentialError."""
    builder = PolicyBuilder().store(store).time(datetime.fromtimestamp(now, UTC)).max_chain_depth(MAX_CHAIN_DEPTH)
    verifier = builder.extension_policies(
        ca_policy=AUTHORITY_EXTENSIONS, ee_policy=WORKLOAD_EXTENSIONS
    ).build_client_verifier()
    try:
        verifier.verify(leaf, list(connection.chain))
    except Exception:  # VerificationError, or an unknown kind of key
        raise CredentialError(RefusalCode.CERTIFICATE_CHAIN) from None
