"""Creates HTTP clients for issuers from the settings of `identity.toml`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic

from policyengine.http.fetch import CertificatesError, Fetcher, FetchError, parse_fetch_url
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError


def create_fetcher(
    ca: Path | None, plain_http: bool, configuration: IdentityConfig, clock: Callable[[], float] = monotonic
) -> Fetcher:
    """Create a client; `ca` is relative to the folder of the configuration. Raises IdentityConfigError if the
    certificates cannot be used."""
    proxy = configuration.identity.proxy
    if proxy is not None:
        check_url(proxy, "identity.proxy", plain_http=True)
        if not proxy.startswith("http://"):
            raise IdentityConfigError(
                "`identity.proxy`: write an `http://` URL; connections to issuers through it still use `https://`"
            )
    fetcher = Fetcher(None if ca is None else configuration.folder / ca, plain_http, proxy, clock=clock)
    if ca is not None:
        check_certificates(lambda: fetcher.trusted)
    return fetcher


def check_certificates(load: Callable[[], object]) -> None:
    """Load the certificates now, so that later callers do not wait for them. Raises IdentityConfigError."""
    try:
        load()
    except CertificatesError as error:
        raise IdentityConfigError(str(error)) from None


def check_url(url: str, place: str, plain_http: bool) -> None:
    """Check the URL of the setting `place`. Raises IdentityConfigError."""
    try:
        parse_fetch_url(url, plain_http)
    except FetchError as error:
        hint = "`plain_http = true` allows `http://`" if url.startswith("http:") else None
        raise IdentityConfigError(f"`{place}`: {error.why}", hint) from None
