"""The metadata of an OpenID provider: the endpoints for people who sign in, found by discovery and cached."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from policyengine.http.fetch import Fetcher, FetchError, parse_fetch_url, url_origin
from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.identity.keys.issuer_keys import metadata_urls

METADATA_CACHE_SECONDS = 3_600.0
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
                self._found = parse_metadata(self._fetch(until), self.issuer)
            except (FetchError, DocumentError) as error:
                self._failed = now, error
                raise
            self._until = now + METADATA_CACHE_SECONDS
        return self._found

    def _fetch(self, until: float) -> bytes:
        first, second = metadata_urls(self.issuer)
        try:
            return self.fetcher.get(first, until).body
        except FetchError as error:
            if error.status is None or not 400 <= error.status < 500:
                raise
        return self.fetcher.get(second, until).body


def parse_metadata(metadata: bytes, issuer: str) -> ProviderMetadata:
    """Parse the metadata of this issuer. Raises DocumentError, FetchError."""
    members = parse_document(metadata)
    if members.get("issuer") != issuer:
        raise DocumentError("the metadata belongs to another issuer: `issuer` must be exactly the issuer's URL")
    names_itself = members.get("authorization_response_iss_parameter_supported") is True
    authorization = endpoint_url(members, "authorization_endpoint", issuer)
    return ProviderMetadata(authorization, endpoint_url(members, "token_endpoint", issuer), names_itself)


def endpoint_url(members: dict[str, object], name: str, issuer: str) -> str:
    """Return an endpoint of the metadata. Raises DocumentError, FetchError."""
    url = members.get(name)
    if not isinstance(url, str):
        raise DocumentError(f"the metadata has no `{name}`")
    parts = parse_fetch_url(url, plain_http=True)
    if parts.scheme != "https" and url_origin(parts) != url_origin(parse_fetch_url(issuer, plain_http=True)):
        raise DocumentError(f"`{name}` names another server, but does not use `https://`")
    return url
