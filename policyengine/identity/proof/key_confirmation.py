"""What of a request proves that its credential is the presenter's own; and credentials that are no tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from policyengine.identity.authenticator import scheme_and_token
from policyengine.identity.base64url import same
from policyengine.identity.config.model import Configuration, in_seconds
from policyengine.identity.keys.agent_directories import directories
from policyengine.identity.proof.certificates import Connection, check_times, connection_of
from policyengine.identity.proof.dpop import Nonces, Proofs
from policyengine.identity.proof.message_signatures import Signatures
from policyengine.identity.proof.spiffe import Trusted, key_thumbprint, svid, trusted_domains
from policyengine.identity.quotas import Quota
from policyengine.identity.shared_credentials import Sharing
from policyengine.identity.url_compare import ANY_HOST, OwnHosts, authority_of
from policyengine.identity.verified import Binding, Request, Token, Who
from policyengine.identity.verify.api_keys import ApiKeys
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.credentials import Credentials
from policyengine.stores.credential_marks import LINGERS, Marks

KEY, CERTIFICATE = "jkt", "x5t#S256"
MOST_STRANGERS = 100_000  # proofs within the time that one is remembered
DIGEST = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Bound:
    """Binds: a token that names a key (`cnf`) is the presenter's who proves to have it for this request. Without a
    token, as clients ask for one, whatever key is proved."""

    proofs: Proofs
    strangers: Quota  # of proofs that come without a token: anybody can make one
    hosts: OwnHosts = ANY_HOST

    def __call__(
        self,
        credentials: Credentials,
        request: Request,
        token: Token | None,
        now: int,
        recognizes: Callable[[str], bool] | None = None,
    ) -> Binding:
        if token is None:
            return self._any_key(credentials, request, now, recognizes)
        keys = keys_of(token)
        if KEY not in keys:
            if credentials.dpop is not None or presented_as(credentials) == "dpop":
                raise Refused(Refusal.NOT_BOUND)
        elif presented_as(credentials) == "bearer":
            raise Refused(Refusal.WRONG_SCHEME)
        x5t, until, key = self._certificate(credentials, keys, now)
        return Binding(self._key(credentials, request, token, keys, now), x5t, until, key)

    def _any_key(
        self, credentials: Credentials, request: Request, now: int, recognizes: Callable[[str], bool] | None
    ) -> Binding:
        """Only proofs that hold count as those of strangers."""

        def admit(jkt: str) -> None:
            if recognizes is None or not recognizes(jkt):
                self.strangers.take(now)

        jkt = None
        if credentials.dpop is not None:
            jkt = self.proofs.check(credentials.dpop, request, now, admit=admit)
        if credentials.client_certificate is None:
            return Binding(jkt)
        return Binding(jkt, *proved_by(connection_of(credentials.client_certificate), now))

    def _key(
        self, credentials: Credentials, request: Request, token: Token, keys: Mapping[str, str], now: int
    ) -> str | None:
        if KEY not in keys:
            return None
        if credentials.dpop is None:
            raise Refused(Refusal.PROOF_MISSING)
        self.hosts.check(request.url)
        return self.proofs.check(credentials.dpop, request, now, jkt=keys[KEY], token=token.digest)

    def _certificate(
        self, credentials: Credentials, keys: Mapping[str, str], now: int
    ) -> tuple[str | None, int | None, str | None]:
        if CERTIFICATE not in keys:
            return None, None, None
        if credentials.client_certificate is None:
            raise Refused(Refusal.PROOF_MISSING, "it is bound to a certificate, and the connection has none")
        found = connection_of(credentials.client_certificate)
        if not same(found.x5t, keys[CERTIFICATE]):
            raise Refused(Refusal.BOUND_TO_OTHER)
        return proved_by(found, now)


def proved_by(connection: Connection, now: int) -> tuple[str, int | None, str | None]:
    """The digest of the certificate and, as far as the gateway lets us see, when it ends and which key it has. Raises
    Refused."""
    if connection.certificate is None:
        return connection.x5t, None, None
    return connection.x5t, check_times(connection.certificate, now), key_thumbprint(connection.certificate)


def keys_of(token: Token) -> Mapping[str, str]:
    """What `cnf` binds it to, all of which has to hold. Raises Refused for what is not understood."""
    if "cnf" not in token.claims:
        return {}
    found = token.claims["cnf"]
    if not isinstance(found, Mapping) or not found or found.keys() - {KEY, CERTIFICATE}:
        raise Refused(Refusal.BOUND_HOW)
    if not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in found.values()):
        raise Refused(Refusal.BOUND_HOW)
    return found


def presented_as(credentials: Credentials) -> str | None:
    return None if credentials.authorization is None else scheme_and_token(credentials.authorization)[0]


@dataclass(frozen=True, slots=True)
class Presented:
    """Presents. What the client itself sent goes before the certificate that its connection has anyway. `api_keys`
    None: there are none; `signatures` None: nobody verifies those of messages here."""

    api_keys: ApiKeys | None
    signatures: Signatures | None
    domains: Mapping[str, Trusted]

    def __call__(self, credentials: Credentials, request: Request, now: int) -> tuple[Token, Who, Binding] | None:
        signed = credentials.signature is not None or credentials.signature_input is not None
        if credentials.dpop is not None:
            raise Refused(Refusal.NOT_BOUND, "a proof came, and no token that is bound to its key")
        if credentials.api_key is not None:
            if signed:
                raise Refused(Refusal.TWO_CREDENTIALS)
            if self.api_keys is None:
                raise Refused(Refusal.API_KEY)
            return self.api_keys.present(credentials.api_key, now)
        if signed:
            if self.signatures is None:
                raise Refused(Refusal.MESSAGE_SIGNATURE, "signatures of messages are not verified here")
            return self.signatures.present(credentials, request, now)
        if credentials.client_certificate is not None:
            return svid(connection_of(credentials.client_certificate), self.domains, now)
        return None


# ── By the configuration ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class BoundParts:
    """`nonces` None: proofs need none."""

    binds: Bound
    presents: Presented
    sharing: Sharing
    nonces: Nonces | None


def bound_parts(
    configuration: Configuration,
    issuers: Collection[Issuer],
    marks: Marks,
    nonce_key: bytes | None = None,
    before: BoundParts | None = None,
) -> BoundParts:
    """`issuers`: those of the policy. `nonce_key`: what servers share that take each other's nonces; else they are good
    where they were made. `before`: of other policies, by the same configuration: what was seen then is not forgotten.
    Raises IdentityError."""
    leeway = in_seconds(configuration.identity.leeway)
    nonces = nonces_of(configuration, nonce_key) if before is None else before.nonces
    proofs = Proofs(marks, in_seconds(configuration.dpop.window), leeway, nonces)
    signatures, hosts = None, hosts_of(configuration, issuers)
    if configuration.signatures is not None:
        made = before.presents.signatures if before is not None else None
        known = directories(
            configuration.signatures.directories, configuration, issuers, None if made is None else made.directories
        )
        signatures = Signatures(configuration.signatures, known, marks, leeway, hosts)
    urls = {one.url: one.name for one in issuers if one.url is not None}
    domains = trusted_domains(configuration.trust_domains, configuration.folder, urls)
    presents = Presented(api_keys_of(configuration, issuers), signatures, domains)
    sharing = sharing_of(configuration) if before is None else before.sharing
    fresh = Quota("proofs came without a token", MOST_STRANGERS, proofs.window + leeway + LINGERS)
    binds = Bound(proofs, fresh if before is None else before.binds.strangers, hosts)
    return BoundParts(binds, presents, sharing, nonces)


def hosts_of(configuration: Configuration, issuers: Collection[Issuer]) -> OwnHosts:
    """Those that are named, and where this server itself is found."""
    named, signing = configuration.identity.hosts, configuration.signing
    if not named:
        return ANY_HOST
    us = None if signing is None else next((one.url for one in issuers if one.name == signing.issuer), None)
    places = (configuration.identity.url, us)
    return OwnHosts(frozenset({*named, *(found for url in places if url and (found := authority_of(url)))}))


def sharing_of(configuration: Configuration) -> Sharing:
    setting = configuration.sharing
    return Sharing(in_seconds(setting.window), setting.ipv4, setting.ipv6)


def nonces_of(configuration: Configuration, key: bytes | None) -> Nonces | None:
    if not configuration.dpop.nonces:
        return None
    lifetime = in_seconds(configuration.dpop.nonce_lifetime)
    if key is None:
        return Nonces(lifetime)
    return Nonces(lifetime, key, leeway=in_seconds(configuration.identity.leeway))


def api_keys_of(configuration: Configuration, issuers: Collection[Issuer]) -> ApiKeys | None:
    if configuration.api_keys is None:
        return None
    return ApiKeys(configuration.folder / configuration.api_keys.file, {one.name for one in issuers})
