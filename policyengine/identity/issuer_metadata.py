"""Loads the metadata of issuers (OpenID Connect Discovery 1.0, RFC 8414): their endpoints, and where their keys are."""

from __future__ import annotations

from collections.abc import Mapping

from policyengine.http.fetch import Fetcher, FetchError, parse_fetch_url, url_origin
from policyengine.identity.issuer_documents import DocumentError, parse_document

METADATA_CACHE_SECONDS = 3_600.0
DISCOVERY_PATHS = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"


def load_metadata(issuer: str, fetcher: Fetcher, until: float) -> dict[str, object]:
    """Return the members of the metadata of an issuer. `until` is the deadline. Raises FetchError, DocumentError."""
    members = parse_document(fetch_metadata(issuer, fetcher, until))
    if members.get("issuer") != issuer:
        raise DocumentError("the metadata belongs to another issuer: `issuer` must be exactly the issuer's URL")
    return members


def fetch_metadata(issuer: str, fetcher: Fetcher, until: float) -> bytes:
    """Return the document at the first of the two URLs or, if that is missing, at the second. Raises FetchError."""
    first, second = metadata_urls(issuer)
    try:
        return fetcher.get(first, until).body
    except FetchError as error:
        if error.status is None or not 400 <= error.status < 500:
            raise
    return fetcher.get(second, until).body


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Return the two metadata URLs: OpenID Connect Discovery appends to the path of the issuer, and RFC 8414 inserts
    before it."""
    base = issuer.removesuffix("/")
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    return base + DISCOVERY_PATHS[0], f"{scheme}://{host}{DISCOVERY_PATHS[1]}{slash}{path}"


def url_member(members: Mapping[str, object], name: str, issuer: str) -> str:
    """Return a URL in the metadata. Raises DocumentError, FetchError."""
    url = members.get(name)
    if not isinstance(url, str):
        raise DocumentError(f"the metadata has no `{name}`")
    parts = parse_fetch_url(url, plain_http=True)
    if parts.scheme != "https" and url_origin(parts) != url_origin(parse_fetch_url(issuer, plain_http=True)):
        raise DocumentError(f"`{name}` names another server, but does not use `https://`")
    return url
