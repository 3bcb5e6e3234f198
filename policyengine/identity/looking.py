"""Whether the keys of issuers are to be had, and whom settings name in vain, for whoever looks before something is
served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policyengine.identity.building import has_keys
from policyengine.identity.configuration import Configuration
from policyengine.identity.documents import DocumentError
from policyengine.identity.fetching import FetchError
from policyengine.identity.keysets import FileKeys
from policyengine.identity.providers import KeySources, RemoteKeys
from policyengine.runtime.patterns import Glob
from policyengine.runtime.shape import did_you_mean
from policyengine.semantics import kernel as k


class Looked(NamedTuple):
    """`problem`: why its keys are not to be had."""

    issuer: str
    keys: int
    problem: str | None = None


class Stranger(NamedTuple):
    """A client that is an agent whom no block of the policy calls so: it gets no token. `meant`: who may have been."""

    client: str
    agent: str
    meant: str | None


def strangers(configuration: Configuration, kernel: k.Kernel) -> Iterator[Stranger]:
    """Agents go, and policies without them are right to be loaded: so it is no mistake, and looks like one."""
    blocks = [block.who for block in kernel.agents]
    if any(isinstance(who, k.InGroup | k.Where) for who in blocks):
        return  # who is in it is known of a token only
    called = [who.name for who in blocks if isinstance(who, k.Called)]
    globs = [who.glob for who in blocks if isinstance(who, k.CalledLike)]
    for name, client in configuration.clients.items():
        if client.agent not in called and not any(Glob(glob).matches(client.agent) for glob in globs):
            yield Stranger(name, client.agent, did_you_mean(client.agent, called))


def looked(configuration: Configuration, kernel: k.Kernel) -> Iterator[Looked]:
    """Asks each issuer whose tokens are verified by keys of its own, for a bounded time. Raises IdentityError."""
    sources = KeySources(configuration)
    ours = None if configuration.signing is None else configuration.signing.issuer
    for issuer in kernel.issuers.values():
        if not has_keys(issuer, configuration) or issuer.name == ours:
            continue
        source = sources.of(issuer)
        assert isinstance(source, FileKeys | RemoteKeys)
        try:
            yield Looked(issuer.name, len(source.look().usable))
        except (OSError, FetchError, DocumentError) as error:
            yield Looked(issuer.name, 0, str(error))
