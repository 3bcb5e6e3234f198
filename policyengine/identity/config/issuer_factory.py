"""Creates the secret reader and the token issuer from the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.entities.store import EntityStore
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import MAX_TOKEN_LIFETIME, IdentityConfig, IdentityConfigError, to_seconds
from policyengine.identity.config.secret_references import TransitKeyReference, parse_signing_keys_reference
from policyengine.identity.issue.clients import ClientRegistry, load_clients
from policyengine.identity.issue.delegation_check import DelegationCheck
from policyengine.identity.issue.issuer import TokenIssuer
from policyengine.identity.keys.jwks import JwkSet, VerifyingKey, parse_jwks
from policyengine.identity.keys.openbao_signer import OpenBaoSigner
from policyengine.identity.keys.signing_keys import KeyRingFile, TokenSigner
from policyengine.identity.openbao import OpenBaoClient
from policyengine.identity.secret_reader import SecretReader
from policyengine.kernel import Kernel
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

PolicySource = Callable[[], tuple[Kernel, EntityStore]]


def open_secrets(configuration: IdentityConfig) -> SecretReader:
    """Return the reader of secrets. Raises IdentityConfigError."""
    found = SecretReader(configuration.folder)
    if configuration.bao is not None:
        found.bao = OpenBaoClient.of(configuration.bao, found)
    return found


def open_signing_keys(configuration: IdentityConfig, secrets: SecretReader, now: int) -> TokenSigner | None:
    """Return the signing keys, or None if this server issues no tokens. Raises IdentityConfigError if they cannot be
    used at startup."""
    given = configuration.signing
    if given is None:
        return None
    place = parse_signing_keys_reference(given.keys, configuration.folder)
    if not isinstance(place, TransitKeyReference):
        return open_key_file(place.path)
    if not isinstance(secrets.bao, OpenBaoClient):
        raise IdentityConfigError(f"`{given.keys}`: OpenBao is not configured", "add `[bao]` with its `address`")
    if configuration.bao is None or configuration.bao.refresh >= given.ahead:
        raise IdentityConfigError(
            "`bao.refresh` is not shorter than `signing.ahead`: a new key version could sign before servers see it"
        )
    keys = OpenBaoSigner(secrets.bao, place, to_seconds(given.ahead), to_seconds(MAX_TOKEN_LIFETIME))
    keys.versions(now)
    return keys


def open_key_file(path: Path) -> KeyRingFile:
    """Open the key file of `signing.keys`. Raises IdentityConfigError."""
    try:
        return KeyRingFile.of(path)
    except IdentityConfigError as error:
        hint = error.hint if path.exists() else f"run `policyengine keys new {path}`"
        raise IdentityConfigError(f"`signing.keys`: {error.message}", hint) from None


def open_token_issuer(
    configuration: IdentityConfig,
    identity: CredentialAuthenticator,
    keys: TokenSigner,
    policies: PolicySource,
    clock: Callable[[], float],
) -> TokenIssuer:
    """Create the token issuer. `policies` returns the current policies and entity store. Raises IdentityConfigError."""
    given, (kernel, _) = configuration.signing, policies()
    assert given is not None
    us = kernel.issuers.get(given.issuer)
    if us is None or us.url is None:
        having = [one.name for one in kernel.issuers.values() if one.url is not None]
        message = f"`signing.issuer`: the policy has no issuer `{given.issuer}` with a `url`"
        raise IdentityConfigError(message, did_you_mean(given.issuer, having))
    if not us.records_chains:
        raise IdentityConfigError(
            f"`signing.issuer`: the issuer `{us.name}` lacks `records chains`, but its tokens record chains",
            "add `records chains` to this issuer in the policy",
        )
    audiences = tuple(dict.fromkeys((*([us.audience] if us.audience else []), *given.audiences)))
    if not audiences:
        raise IdentityConfigError(
            f"`signing.issuer`: tokens of `{us.name}` have no audience", "add `audience` to this issuer in the policy"
        )
    url = us.url.rstrip("/")
    ours = frozenset({us.url, f"{url}/token", f"{url}/revoke", f"{url}/introspect"})
    leeway = to_seconds(configuration.identity.leeway)
    clients = ClientRegistry(load_clients(configuration), ours, identity.marks, leeway)
    for name, client in clients.known.items():
        if client.issuer not in kernel.issuers:
            message = f"`clients.{name}.issuer`: the policy has no issuer `{client.issuer}`"
            raise IdentityConfigError(message, did_you_mean(client.issuer, tuple(kernel.issuers)))
    handing = PolicyMemo(policies)
    return TokenIssuer(identity, handing, keys, clients, us.name, audiences, to_seconds(given.lifetime), clock)


@dataclass
class OwnKeySource:
    """The keys of this server's own issuer, read locally instead of over the network. `issuer` is the issuer's name."""

    signing: TokenSigner
    issuer: str
    _read: tuple[bytes, JwkSet] | None = field(default=None, repr=False)
    _kids: tuple[int, frozenset[object]] | None = None

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        """Return the verification keys, as in KeySource. Raises CredentialError."""
        try:
            keys = self.signing.published(now)
        except IdentityConfigError:
            raise CredentialError(RefusalCode.PROVIDER) from None
        self._kids, published = (now, key_ids(keys)), json.dumps({"keys": keys}).encode()
        read = self._read
        if read is None or read[0] != published:
            self._read = read = published, parse_jwks(published, "this server")
        return read[1].find(kid, alg, now)

    def has(self, kid: object, now: int) -> bool:
        """Return whether the key is still valid; the key ids are read at most once a second. Return False if the keys
        are not cached: the caller then verifies the token again, which reads them.
        """
        known = self._kids
        if known is None or known[0] != now:
            try:
                known = now, key_ids(self.signing.at_hand(now) or ())
            except IdentityConfigError:
                known = now, frozenset()
            self._kids = known
        return kid in known[1]


def key_ids(keys: Iterable[Mapping[str, object]]) -> frozenset[object]:
    return frozenset(one["kid"] for one in keys)


class PolicyMemo:
    """The DelegationCheck for the current policies, rebuilt when the policies change."""

    def __init__(self, policies: PolicySource) -> None:
        self._policies = policies
        self._handing = DelegationCheck(*policies())

    def __call__(self) -> DelegationCheck:
        found, (kernel, directory) = self._handing, self._policies()
        if found.kernel is not kernel or found.directory is not directory:
            self._handing = found = DelegationCheck(kernel, directory)
        return found
