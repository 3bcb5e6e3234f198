"""Lookups of keys, with and without success, and how long a test waits for one."""

from __future__ import annotations

import pytest

from policyengine.http.fetch import Fetcher
from policyengine.identity.keys.issuer_keys import RemoteKeySource, UrlJwksLoader
from policyengine.identity.keys.jwks import KeySource
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from tests.identity.providing import Faulty

SHORT = 0.1  # seconds, where there will be no answer
LONG = 30.0  # where there will


def at_url(server: Faulty, timeout: float = LONG, path: str = "/jwks", **times: int) -> RemoteKeySource:
    return RemoteKeySource("acme", UrlJwksLoader("acme", server.url + path, Fetcher()), timeout=timeout, **times)


def refusal(source: KeySource, kid: str | None = "es256-1", now: int = 0) -> RefusalCode:
    with pytest.raises(CredentialError) as caught:
        source.find(kid, "ES256", now)
    return caught.value.refusal
