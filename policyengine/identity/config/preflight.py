"""Checks before serving: whether the keys of issuers can be read, and whether clients name agents of the policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policyengine import kernel as k
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.http.fetch import FetchError
from policyengine.identity.config.authenticator_factory import attester_key_source, has_keys
from policyengine.identity.config.model import IdentityConfig
from policyengine.identity.issuer_documents import DocumentError
from policyengine.identity.keys.issuer_keys import KeySources, RemoteKeySource
from policyengine.identity.keys.jwks import JwksFile, KeySource
from policyengine.runtime.globs import Glob


class KeyCheckResult(NamedTuple):
    """The number of keys of an issuer or attester (`kind`). If they cannot be read, `problem` says why."""

    kind: str
    name: str
    keys: int
    problem: str | None = None


class UnknownAgentClient(NamedTuple):
    """A client whose agent matches no block of the policy, so that the client gets no token. `meant` is the nearest
    agent name.
    """

    client: str
    agent: str
    meant: str | None


def find_unknown_agents(configuration: IdentityConfig, kernel: k.Kernel) -> Iterator[UnknownAgentClient]:
    """Yield clients whose agent the policy does not name. This is a warning, not an error: a policy may have dropped
    the agent on purpose."""
    blocks = [block.who for block in kernel.agents]
    if any(isinstance(who, k.InGroup | k.PrincipalCondition) for who in blocks):
        return  # only a token states the groups of an agent
    called = [who.name for who in blocks if isinstance(who, k.ExactName)]
    globs = [who.glob for who in blocks if isinstance(who, k.NamePattern)]
    for name, client in configuration.clients.items():
        if client.agent not in called and not any(Glob(glob).matches(client.agent) for glob in globs):
            yield UnknownAgentClient(name, client.agent, did_you_mean(client.agent, called))


def check_key_sources(configuration: IdentityConfig, kernel: k.Kernel) -> Iterator[KeyCheckResult]:
    """Load the keys of each issuer that has keys, and of each attester, within a bounded time. Raises
    IdentityConfigError.
    """
    sources = KeySources(configuration)
    ours = None if configuration.signing is None else configuration.signing.issuer
    for issuer in kernel.issuers.values():
        if has_keys(issuer, configuration) and issuer.name != ours:
            yield check_key_source("issuer", issuer.name, sources.of(issuer))
    for attester in kernel.attesters.values():
        if attester.url is not None:
            yield check_key_source("attester", attester.name, attester_key_source(attester, configuration))


def check_key_source(kind: str, name: str, source: KeySource) -> KeyCheckResult:
    assert isinstance(source, JwksFile | RemoteKeySource)
    try:
        return KeyCheckResult(kind, name, len(source.look().usable))
    except (OSError, FetchError, DocumentError) as error:
        return KeyCheckResult(kind, name, 0, str(error))
