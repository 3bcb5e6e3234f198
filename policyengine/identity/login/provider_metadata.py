"""The metadata of an OpenID provider: the endpoints for people who sign in, found by discovery and cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from policyengine.http.fetch import Fetcher, FetchError
from policyengine.identity.issuer_documents import DocumentError
from policyengine.identity.issuer_metadata import METADATA_CACHE_SECONDS, load_metadata, url_member

RETRY_INTERVAL_SECONDS = 5.0  # seconds without a request after a failed one


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """The endpoints of a provider. `names_itself` says that its answers name it in `iss` (RFC 9207)."""

    authorization_endpoint: str
    token_endpoint: str
    names_itself: bool = False

    @property
    def origin(self) -> str:
        parts = urlsplit(self.authorization_endpoint)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(slots=True)
class MetadataCache:
    """Loads the metadata of one provider, once an hour. Threads may share it, and may load it at the same time."""

    issuer: str
    fetcher: Fetcher
    _found: ProviderMetadata | None = None
    _until: float = 0.0
    _failed: tuple[float, FetchError | DocumentError] | None = None

    def read(self, until: float) -> ProviderMetadata:
        """Return the metadata. `until` is the deadline. Raises FetchError, DocumentError."""
        now = self.fetcher.clock()
        if self._found is None or now >= self._until:
            if self._failed is not None and now - self._failed[0] < RETRY_INTERVAL_SECONDS:
                raise self._failed[1]
            try:
                self._found = provider_metadata(load_metadata(self.issuer, self.fetcher, until), self.issuer)
            except (FetchError, DocumentError) as error:
                self._failed = now, error
                raise
            self._until = now + METADATA_CACHE_SECONDS
        return self._found


def provider_metadata(members: Mapping[str, object], issuer: str) -> ProviderMetadata:
    """Return the endpoints that the metadata of this issuer names. Raises DocumentError, FetchError."""
    names_itself = members.get("authorization_response_iss_parameter_supported") is True
    authorization = url_member(members, "authorization_endpoint", issuer)
    return ProviderMetadata(authorization, url_member(members, "token_endpoint", issuer), names_itself)
