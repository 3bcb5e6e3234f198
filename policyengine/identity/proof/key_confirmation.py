"""Verifies that a credential belongs to its presenter, and verifies credentials other than tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from policyengine.identity.authenticator import parse_authorization
from policyengine.identity.base64url import equal_in_constant_time
from policyengine.identity.config.model import IdentityConfig, to_seconds
from policyengine.identity.keys.agent_directories import open_agent_directories
from policyengine.identity.proof.certificates import ClientCertificate, check_validity, parse_client_certificate
from policyengine.identity.proof.dpop import DpopNonces, DpopVerifier
from policyengine.identity.proof.message_signatures import MessageSignatureVerifier
from policyengine.identity.proof.spiffe import TrustedDomain, key_thumbprint, load_trusted_domains, verify_svid
from policyengine.identity.quotas import MarkQuota
from policyengine.identity.shared_credentials import SharingDetector
from policyengine.identity.url_compare import ANY_HOST, OwnHosts, url_authority
from policyengine.identity.verified import ConfirmedKey, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.api_keys import ApiKeys
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.stores.credential_marks import LINGER_SECONDS, CredentialMarks

KEY_MEMBER, CERTIFICATE_MEMBER = "jkt", "x5t#S256"
MAX_UNKNOWN_KEY_PROOFS = 100_000  # maximum number of proofs remembered at a time
DIGEST = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class BindingVerifier:
    """The verifier of a token's binding: if the token names a key (`cnf`), the presenter must prove that key for this
    request. Without a token (for clients of the token endpoint), every proved key is returned."""

    proofs: DpopVerifier
    strangers: MarkQuota  # the quota for proofs without a token, which every client can make
    hosts: OwnHosts = ANY_HOST

    def __call__(
        self,
        credentials: Credentials,
        request: ProofContext,
        token: VerifiedToken | None,
        now: int,
        recognizes: Callable[[str], bool] | None = None,
    ) -> ConfirmedKey:
        if token is None:
            return self._any_key(credentials, request, now, recognizes)
        keys = confirmation_members(token)
        if KEY_MEMBER not in keys:
            if credentials.dpop is not None or presentation_scheme(credentials) == "dpop":
                raise CredentialError(RefusalCode.NOT_BOUND)
        elif presentation_scheme(credentials) == "bearer":
            raise CredentialError(RefusalCode.WRONG_SCHEME)
        x5t, until, key = self._certificate(credentials, keys, now)
        return ConfirmedKey(self._key(credentials, request, token, keys, now), x5t, until, key)

    def _any_key(
        self, credentials: Credentials, request: ProofContext, now: int, recognizes: Callable[[str], bool] | None
    ) -> ConfirmedKey:
        """Return the proved keys; only valid proofs of unknown keys count against the quota. Raises CredentialError."""

        def admit(jkt: str) -> None:
            if recognizes is None or not recognizes(jkt):
                self.strangers.take(now)

        jkt = None
        if credentials.dpop is not None:
            jkt = self.proofs.check(credentials.dpop, request, now, admit=admit)
        if credentials.client_certificate is None:
            return ConfirmedKey(jkt)
        return ConfirmedKey(jkt, *confirm_certificate(parse_client_certificate(credentials.client_certificate), now))

    def _key(
        self, credentials: Credentials, request: ProofContext, token: VerifiedToken, keys: Mapping[str, str], now: int
    ) -> str | None:
        if KEY_MEMBER not in keys:
            return None
        if credentials.dpop is None:
            raise CredentialError(RefusalCode.PROOF_MISSING)
        self.hosts.check(request.url)
        return self.proofs.check(credentials.dpop, request, now, jkt=keys[KEY_MEMBER], token=token.digest)

    def _certificate(
        self, credentials: Credentials, keys: Mapping[str, str], now: int
    ) -> tuple[str | None, int | None, str | None]:
        if CERTIFICATE_MEMBER not in keys:
            return None, None, None
        if credentials.client_certificate is None:
            raise CredentialError(
                RefusalCode.PROOF_MISSING, "the token is bound to a certificate, but the connection has none"
            )
        found = parse_client_certificate(credentials.client_certificate)
        if not equal_in_constant_time(found.x5t, keys[CERTIFICATE_MEMBER]):
            raise CredentialError(RefusalCode.BOUND_TO_OTHER)
        return confirm_certificate(found, now)


def confirm_certificate(connection: ClientCertificate, now: int) -> tuple[str, int | None, str | None]:
    """Return the digest of the certificate and, if the gateway passes the certificate, its end and the thumbprint of
    its key. Raises CredentialError."""
    if connection.certificate is None:
        return connection.x5t, None, None
    return connection.x5t, check_validity(connection.certificate, now), key_thumbprint(connection.certificate)


def confirmation_members(token: VerifiedToken) -> Mapping[str, str]:
    """Return the members of `cnf`, all of which must be proved. Raises CredentialError for unknown or
    malformed members.
    """
    if "cnf" not in token.claims:
        return {}
    found = token.claims["cnf"]
    if not isinstance(found, Mapping) or not found or found.keys() - {KEY_MEMBER, CERTIFICATE_MEMBER}:
        raise CredentialError(RefusalCode.BOUND_HOW)
    if not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in found.values()):
        raise CredentialError(RefusalCode.BOUND_HOW)
    return found


def presentation_scheme(credentials: Credentials) -> str | None:
    return None if credentials.authorization is None else parse_authorization(credentials.authorization)[0]


@dataclass(frozen=True, slots=True)
class TokenlessVerifier:
    """The verifier of credentials other than tokens. Credentials that the client sent take precedence over the
    certificate of its connection. If `api_keys` or `signatures` is None, API keys or message signatures are refused.
    """

    api_keys: ApiKeys | None
    signatures: MessageSignatureVerifier | None
    domains: Mapping[str, TrustedDomain]

    def __call__(
        self, credentials: Credentials, request: ProofContext, now: int
    ) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey] | None:
        signed = credentials.signature is not None or credentials.signature_input is not None
        if credentials.dpop is not None:
            raise CredentialError(
                RefusalCode.NOT_BOUND, "the request has a proof, but no token that is bound to its key"
            )
        if credentials.api_key is not None:
            if signed:
                raise CredentialError(RefusalCode.TWO_CREDENTIALS)
            if self.api_keys is None:
                raise CredentialError(RefusalCode.API_KEY)
            return self.api_keys.present(credentials.api_key, now)
        if signed:
            if self.signatures is None:
                raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "message signatures are not configured")
            return self.signatures.present(credentials, request, now)
        if credentials.client_certificate is not None:
            return verify_svid(parse_client_certificate(credentials.client_certificate), self.domains, now)
        return None


# ── Creation from the configuration ───────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ProofVerifiers:
    """The verifiers of proofs; `nonces` is None if proofs need no nonces."""

    binds: BindingVerifier
    presents: TokenlessVerifier
    sharing: SharingDetector
    nonces: DpopNonces | None


def create_proof_verifiers(
    configuration: IdentityConfig,
    issuers: Collection[Issuer],
    marks: CredentialMarks,
    nonce_key: bytes | None = None,
    before: ProofVerifiers | None = None,
) -> ProofVerifiers:
    """Create the verifiers for the `issuers` of the policy.

    `nonce_key` is the key of servers that accept each other's nonces; without it, nonces are valid only where they were
    issued. `before` are the verifiers that the same configuration created for the previous policies; their memory is
    kept. Raises IdentityConfigError.
    """
    leeway = to_seconds(configuration.identity.leeway)
    nonces = create_dpop_nonces(configuration, nonce_key) if before is None else before.nonces
    proofs = DpopVerifier(marks, to_seconds(configuration.dpop.window), leeway, nonces)
    signatures, hosts = None, own_hosts(configuration, issuers)
    if configuration.signatures is not None:
        made = before.presents.signatures if before is not None else None
        known = open_agent_directories(
            configuration.signatures.directories, configuration, issuers, None if made is None else made.directories
        )
        signatures = MessageSignatureVerifier(configuration.signatures, known, marks, leeway, hosts)
    urls = {one.url: one.name for one in issuers if one.url is not None}
    domains = load_trusted_domains(configuration.trust_domains, configuration.folder, urls)
    presents = TokenlessVerifier(open_api_keys(configuration, issuers), signatures, domains)
    sharing = create_sharing_detector(configuration) if before is None else before.sharing
    fresh = MarkQuota("proofs without a token", MAX_UNKNOWN_KEY_PROOFS, proofs.window + leeway + LINGER_SECONDS)
    binds = BindingVerifier(proofs, fresh if before is None else before.binds.strangers, hosts)
    return ProofVerifiers(binds, presents, sharing, nonces)


def own_hosts(configuration: IdentityConfig, issuers: Collection[Issuer]) -> OwnHosts:
    """Return the configured hosts and the hosts of this server's own URLs; any host if no hosts are configured."""
    named, signing = configuration.identity.hosts, configuration.signing
    if not named:
        return ANY_HOST
    us = None if signing is None else next((one.url for one in issuers if one.name == signing.issuer), None)
    places = (configuration.identity.url, us)
    return OwnHosts(frozenset({*named, *(found for url in places if url and (found := url_authority(url)))}))


def create_sharing_detector(configuration: IdentityConfig) -> SharingDetector:
    setting = configuration.sharing
    return SharingDetector(to_seconds(setting.window), setting.ipv4, setting.ipv6)


def create_dpop_nonces(configuration: IdentityConfig, key: bytes | None) -> DpopNonces | None:
    if not configuration.dpop.nonces:
        return None
    lifetime = to_seconds(configuration.dpop.nonce_lifetime)
    if key is None:
        return DpopNonces(lifetime)
    return DpopNonces(lifetime, key, leeway=to_seconds(configuration.identity.leeway))


def open_api_keys(configuration: IdentityConfig, issuers: Collection[Issuer]) -> ApiKeys | None:
    if configuration.api_keys is None:
        return None
    return ApiKeys(configuration.folder / configuration.api_keys.file, {one.name for one in issuers})
