"""Posts single messages to the URL of a webhook: signed, without redirects, and only to admitted addresses."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from time import time

from policyengine.http.address_guard import AddressGuard
from policyengine.http.fetch import FetchError, parse_fetch_url
from policyengine.http.poster import HttpPoster, PostResponse
from policyengine.http.webhook_signature import signature_headers
from policyengine.webhooks.target import WebhookTarget

CONTENT_HEADERS = {"Content-Type": "application/json", "Accept": "application/json, */*;q=0.1"}


class WebhookClient:
    """A client of one webhook; not thread-safe. URL and secrets are read again for each message. `now` is seconds since
    1970."""

    def __init__(self, target: WebhookTarget, now: Callable[[], float] = time) -> None:
        self._target, self._now = target, now
        self._url, self._poster = "", None

    _poster: HttpPoster | None

    def post(self, id: str, content: bytes) -> PostResponse:
        """Post a message. Raises FetchError, CertificatesError and SecretValueError."""
        headers = signature_headers(self._target.read_keys(), id, int(self._now()), content)
        return self._connect().post(content, {**CONTENT_HEADERS, **headers})

    def _connect(self) -> HttpPoster:
        url = self._target.read_url()
        if self._poster is None or url != self._url:
            self.close()
            self._url, self._poster = url, create_poster(self._target, url)
        return self._poster

    def close(self) -> None:
        """Close the connection; the next message opens a new connection."""
        poster, self._poster = self._poster, None
        if poster is not None:
            poster.close()


def create_poster(target: WebhookTarget, url: str) -> HttpPoster:
    """Return the client for a URL. Raises FetchError if the URL is not admitted, and CertificatesError."""
    check_webhook_url(url, private=target.allow_private)
    guard = AddressGuard(target.allow_private)
    return HttpPoster(url, ca=target.ca, timeout=target.timeout, guard=guard)


def check_webhook_url(url: str, *, private: bool) -> None:
    """Check a URL without resolving its host name. Raises FetchError."""
    parts = parse_fetch_url(url)
    if parts.scheme == "http" and not private:
        raise FetchError("the URL must begin with `https://`")
    host = parts.hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return
    if not AddressGuard(private).admits(host):
        raise FetchError("the URL names an address that may not be used")
