"""Whether the keys of issuers are to be had, for whoever looks before something is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policyengine.identity.building import has_keys
from policyengine.identity.configuration import Configuration
from policyengine.identity.documents import DocumentError
from policyengine.identity.fetching import FetchError
from policyengine.identity.keysets import FileKeys
from policyengine.identity.providers import KeySources, RemoteKeys
from policyengine.semantics.kernel import Kernel


class Looked(NamedTuple):
    """`problem`: why its keys are not to be had."""

    issuer: str
    keys: int
    problem: str | None = None


def looked(configuration: Configuration, kernel: Kernel) -> Iterator[Looked]:
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
