"""All parts of identity put together, by an `identity.toml`, for the issuers and attesters of one policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import time

from policyengine.entities.store import EntityStore
from policyengine.identity.attestation import create_attestation_verifier
from policyengine.identity.attestation_nonces import AttestationNonces
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.issuer_factory import OwnKeySource, open_secrets, open_signing_keys, open_token_issuer
from policyengine.identity.config.model import (
    AttesterSettings,
    IdentityConfig,
    IdentityError,
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
from policyengine.runtime.structure_checks import did_you_mean
from policyengine.stores.credential_marks import CredentialMarks

SPIFFE_SCHEME = "spiffe://"


@dataclass
class AuthenticatorBuilder:
    """What stays while policies change: keys that are known, nonces that were given, what was seen of credentials."""

    configuration: IdentityConfig
    marks: CredentialMarks
    keys: KeySources
    secrets: SecretReader = field(default_factory=SecretReader)
    signing: TokenSigner | None = None  # where tokens of our own are issued
    attesters: dict[tuple[str, str | None], KeySource] = field(default_factory=dict)
    bound: ProofVerifiers | None = None
    clock: Callable[[], float] = time
    attestation_nonces: AttestationNonces = field(init=False)

    def __post_init__(self) -> None:
        """Raises IdentityError."""
        key, leeway = self._nonce_key(), to_seconds(self.configuration.identity.leeway)
        made = AttestationNonces(self.marks, leeway=leeway)
        self.attestation_nonces = made if key is None else replace(made, key=key)

    def identity(self, kernel: Kernel, before: CredentialAuthenticator | None = None) -> CredentialAuthenticator:
        """For other policies what was counted `before` goes on. Raises IdentityError."""
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
        """Read at the start, so that what is not there is told then, and each time anew. Raises IdentityError."""

        def read() -> str:
            return self.secrets.read(reference, int(self.clock())).reveal()

        read()
        return read

    def _nonce_key(self) -> bytes | None:
        """Raises IdentityError."""
        reference = self.configuration.dpop.nonce_key
        if reference is None:
            return None
        key = self.secrets.read(reference, int(self.clock())).reveal()
        if len(key) < MIN_KEY_LENGTH:
            raise IdentityError(
                "`dpop.nonce_key` is too short", f"it has at least {MIN_KEY_LENGTH} characters, made by chance"
            )
        return key.encode()

    def _keys_of(self, attester: Attester) -> KeySource:
        known = attester.name, attester.url
        if known not in self.attesters:
            self.attesters[known] = attester_key_source(attester, self.configuration)
        return self.attesters[known]


def attester_key_source(attester: Attester, configuration: IdentityConfig) -> KeySource:
    """As those of an issuer. Raises IdentityError."""
    given = configuration.attesters.get(attester.name, AttesterSettings())
    settings = IssuerSettings(keys=given.keys, algorithms=given.algorithms, ca=given.ca)
    like = Issuer(attester.name, attester.url, None, None, False, False, (), span=attester.span)
    return create_key_source(like, settings, configuration)


def build_authenticator(
    configuration: IdentityConfig, kernel: Kernel, marks: CredentialMarks, clock: Callable[[], float] = time
) -> CredentialAuthenticator:
    """Raises IdentityError."""
    secrets, keys = open_secrets(configuration), KeySources(configuration)
    signing = open_signing_keys(configuration, secrets, int(clock()))
    return AuthenticatorBuilder(configuration, marks, keys, secrets, signing, clock=clock).identity(kernel)


def has_keys(issuer: Issuer, configuration: IdentityConfig) -> bool:
    """Whether tokens of it can be told by a signature. One without a URL signs none, and a trust domain may have
    certificates alone."""
    settings = configuration.issuers.get(issuer.name)
    if issuer.url is None:
        return False
    named = issuer.keys is not None or (settings is not None and settings.keys is not None)
    return named or not issuer.url.startswith(SPIFFE_SCHEME)


def principal_entity_types(kernel: Kernel) -> frozenset[str]:
    """Of agents, of users, and of all that these can be in."""
    found: set[str] = set()
    waiting = ["agent", "user"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += kernel.entities[name].parents if name in kernel.entities else ()
    return frozenset(found)


def check_keys_count(configuration: IdentityConfig, issuer: Issuer) -> None:
    """Raises IdentityError."""
    place = f"`issuers.{issuer.name}.keys`"
    if issuer.url is None:
        message = f"{place}: the policy gives `{issuer.name}` no `url`, so no token can say that it is of it"
        raise IdentityError(message, f'write it: `issuer {issuer.name} {{ url "https://…" }}`, as `iss` of its tokens')
    if configuration.signing is not None and configuration.signing.issuer == issuer.name:
        message = f"{place}: by `signing.issuer` we are `{issuer.name}`, and sign by the keys of `[signing]`"
        raise IdentityError(message, "leave them out here, or name there the issuer that we are")


def check_names(configuration: IdentityConfig, kernel: Kernel) -> None:
    """Raises IdentityError for settings that nobody would hear: of an issuer that no policy names, keys of one without
    URL or of us, clients where no tokens are issued; for two issuers by one URL."""
    for name, given in configuration.issuers.items():
        if name not in kernel.issuers:
            hint = did_you_mean(name, tuple(kernel.issuers)) or 'declare it: `issuer NAME { url "https://…" }`'
            raise IdentityError(f"`issuers.{name}`: no policy names this issuer", hint)
        if given.keys is not None:
            check_keys_count(configuration, kernel.issuers[name])
    if configuration.clients and configuration.signing is None:
        raise IdentityError("`clients`: no tokens are issued that they could ask for", "add `[signing]`")
    by_url: dict[str, str] = {}
    for declared_issuer in sorted(kernel.issuers.values(), key=lambda issuer: issuer.name):
        if (
            declared_issuer.url is not None
            and (other := by_url.setdefault(declared_issuer.url, declared_issuer.name)) != declared_issuer.name
        ):
            hint = "a token names its issuer by that, so keep one of them"
            raise IdentityError(f"the issuers `{other}` and `{declared_issuer.name}` have the same URL", hint)
