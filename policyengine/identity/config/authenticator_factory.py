"""Builds the authenticator from `identity.toml`, for the issuers and attesters of one policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import time

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.entities.store import EntityStore
from policyengine.identity.attestation import create_attestation_verifier
from policyengine.identity.attestation_nonces import AttestationNonces
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.issuer_factory import OwnKeySource, open_secrets, open_signing_keys, open_token_issuer
from policyengine.identity.config.model import (
    AttesterSettings,
    IdentityConfig,
    IdentityConfigError,
    IssuerSettings,
    to_seconds,
)
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.keys.issuer_keys import KeySources, create_key_source
from policyengine.identity.keys.jwks import KeySource
from policyengine.identity.keys.signing_keys import TokenSigner
from policyengine.identity.proof.key_confirmation import ProofVerifiers, create_proof_verifiers
from policyengine.identity.secret_reader import SecretReader
from policyengine.identity.verify.api_keys import MIN_KEY_LENGTH
from policyengine.identity.verify.delegation_chain import create_chain_reader
from policyengine.identity.verify.introspection import IntrospectionRouter, create_endpoints
from policyengine.identity.verify.tokens import TokenVerifier, trusted_issuers
from policyengine.kernel import Attester, Issuer, Kernel
from policyengine.stores.credential_marks import CredentialMarks

SPIFFE_SCHEME = "spiffe://"


@dataclass
class AuthenticatorBuilder:
    """Builds the authenticator of each version of the policies, and keeps what outlives a reload: loaded keys, nonces,
    and marks of used and revoked credentials.
    """

    configuration: IdentityConfig
    marks: CredentialMarks
    keys: KeySources
    secrets: SecretReader = field(default_factory=SecretReader)
    signing: TokenSigner | None = None  # set if this server issues tokens
    attesters: dict[tuple[str, str | None], KeySource] = field(default_factory=dict)
    bound: ProofVerifiers | None = None
    clock: Callable[[], float] = time
    attestation_nonces: AttestationNonces = field(init=False)

    def __post_init__(self) -> None:
        """Create the nonces. Raises IdentityConfigError if the nonce key cannot be read."""
        key, leeway = self._nonce_key(), to_seconds(self.configuration.identity.leeway)
        made = AttestationNonces(self.marks, leeway=leeway)
        self.attestation_nonces = made if key is None else replace(made, key=key)

    def identity(self, kernel: Kernel, before: CredentialAuthenticator | None = None) -> CredentialAuthenticator:
        """Build the authenticator for these policies, which continues the counters of `before`. Raises
        IdentityConfigError."""
        configuration, issuers = self.configuration, kernel.issuers
        check_names(configuration, kernel)
        keyed = {one.name: self.keys.of(one) for one in issuers.values() if has_keys(one, configuration)}
        own = None
        if self.signing is not None and configuration.signing is not None:
            own = OwnKeySource(self.signing, configuration.signing.issuer)
            keyed[own.issuer] = own
        asked = create_endpoints(configuration, issuers.values(), self._secret_of)
        introspection = IntrospectionRouter(asked) if asked else None
        leeway = to_seconds(configuration.identity.leeway)
        tokens = TokenVerifier(trusted_issuers(issuers, configuration, keyed), introspection, leeway)
        self.bound = create_proof_verifiers(
            configuration, tuple(issuers.values()), self.marks, self._nonce_key(), self.bound
        )
        attested = {one.name: self._keys_of(one) for one in kernel.attesters.values() if one.url is not None}
        attests = create_attestation_verifier(kernel.attesters, configuration, attested, self.attestation_nonces)
        parts = CredentialChecks(
            tokens, create_chain_reader(issuers, configuration), self.bound.binds, self.bound.presents, attests
        )
        nonces = self.bound.nonces
        found = CredentialAuthenticator(
            parts,
            self.marks,
            mapped={one.name: frozenset(claim for claim, _ in one.claims) for one in issuers.values()},
            only_proved=configuration.identity.only_proved,
            of_who=principal_entity_types(kernel),
            people={name: one.people for name, one in configuration.issuers.items()},
            nonces=None if nonces is None else lambda: nonces.nonce(int(self.clock())),
            attestation_nonces=self.attestation_nonces.issue,
            again=self.identity,
            sharing=self.bound.sharing,
            own=own,
        )
        if self.signing is not None:
            nobody = EntityStore(loaded=False)
            found.issuing = open_token_issuer(configuration, found, self.signing, lambda: (kernel, nobody), self.clock)
        if before is not None:
            found.counts, found.telling, found.endings = before.counts, before.telling, before.endings
        return found

    def _secret_of(self, reference: str) -> Callable[[], str]:
        """Return a function that reads the secret on each call. The secret is also read now, so that a missing secret
        is reported at startup. Raises IdentityConfigError."""

        def read() -> str:
            return self.secrets.read(reference, int(self.clock())).reveal()

        read()
        return read

    def _nonce_key(self) -> bytes | None:
        """Return the configured nonce key; None if no key is configured. Raises IdentityConfigError."""
        reference = self.configuration.dpop.nonce_key
        if reference is None:
            return None
        key = self.secrets.read(reference, int(self.clock())).reveal()
        if len(key) < MIN_KEY_LENGTH:
            raise IdentityConfigError(
                "`dpop.nonce_key` is too short", f"generate at least {MIN_KEY_LENGTH} random characters"
            )
        return key.encode()

    def _keys_of(self, attester: Attester) -> KeySource:
        known = attester.name, attester.url
        if known not in self.attesters:
            self.attesters[known] = attester_key_source(attester, self.configuration)
        return self.attesters[known]


def attester_key_source(attester: Attester, configuration: IdentityConfig) -> KeySource:
    """Return the key source of an attester, loaded like that of an issuer. Raises IdentityConfigError."""
    given = configuration.attesters.get(attester.name, AttesterSettings())
    settings = IssuerSettings(keys=given.keys, algorithms=given.algorithms, ca=given.ca)
    like = Issuer(attester.name, attester.url, None, None, False, False, (), span=attester.span)
    return create_key_source(like, settings, configuration)


def build_authenticator(
    configuration: IdentityConfig, kernel: Kernel, marks: CredentialMarks, clock: Callable[[], float] = time
) -> CredentialAuthenticator:
    """Build the authenticator of one policy from the configuration. Raises IdentityConfigError."""
    secrets, keys = open_secrets(configuration), KeySources(configuration)
    signing = open_signing_keys(configuration, secrets, int(clock()))
    return AuthenticatorBuilder(configuration, marks, keys, secrets, signing, clock=clock).identity(kernel)


def has_keys(issuer: Issuer, configuration: IdentityConfig) -> bool:
    """Return whether the issuer's tokens can be verified by signature. An issuer without a URL signs no tokens, and a
    SPIFFE trust domain may have only certificates.
    """
    settings = configuration.issuers.get(issuer.name)
    if issuer.url is None:
        return False
    named = issuer.keys is not None or (settings is not None and settings.keys is not None)
    return named or not issuer.url.startswith(SPIFFE_SCHEME)


def principal_entity_types(kernel: Kernel) -> frozenset[str]:
    """Return the entity types of agents, users and everything that contains them."""
    found: set[str] = set()
    waiting = ["agent", "user"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += kernel.entities[name].parents if name in kernel.entities else ()
    return frozenset(found)


def check_keys_count(configuration: IdentityConfig, issuer: Issuer) -> None:
    """Check that `keys` of an issuer has an effect. Raises IdentityConfigError."""
    place = f"`issuers.{issuer.name}.keys`"
    if issuer.url is None:
        message = f"{place}: the policy gives `{issuer.name}` no `url`, so no token can name it as issuer"
        raise IdentityConfigError(
            message, f'write the `iss` of its tokens: `issuer {issuer.name} {{ url "https://…" }}`'
        )
    if configuration.signing is not None and configuration.signing.issuer == issuer.name:
        message = f"{place}: this server is `{issuer.name}` (`signing.issuer`) and signs with the keys of `[signing]`"
        raise IdentityConfigError(
            message, "remove the keys, or set `signing.issuer` to the issuer that this server acts as"
        )


def check_names(configuration: IdentityConfig, kernel: Kernel) -> None:
    """Check that every setting has an effect. Raises IdentityConfigError for settings of an issuer that the policy does
    not declare, for keys of an issuer without a URL or of this server itself, for clients while no tokens are issued,
    and for two issuers with one URL."""
    for name, given in configuration.issuers.items():
        if name not in kernel.issuers:
            hint = did_you_mean(name, tuple(kernel.issuers)) or 'declare it: `issuer NAME { url "https://…" }`'
            raise IdentityConfigError(f"`issuers.{name}`: no policy names this issuer", hint)
        if given.keys is not None:
            check_keys_count(configuration, kernel.issuers[name])
    if configuration.clients and configuration.signing is None:
        raise IdentityConfigError("`clients`: this server issues no tokens to clients", "add `[signing]`")
    by_url: dict[str, str] = {}
    for declared_issuer in sorted(kernel.issuers.values(), key=lambda issuer: issuer.name):
        if (
            declared_issuer.url is not None
            and (other := by_url.setdefault(declared_issuer.url, declared_issuer.name)) != declared_issuer.name
        ):
            hint = "a token identifies its issuer by URL, so keep one of them"
            raise IdentityConfigError(f"the issuers `{other}` and `{declared_issuer.name}` have the same URL", hint)
