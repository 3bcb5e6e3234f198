"""Loads the keys of issuers over HTTP: found by discovery, cached, refreshed early, and reloaded after a rotation.

A cached key is returned without waiting. Otherwise one thread asks the issuer, and a few others wait for it until a
deadline. While the issuer does not answer, cached keys remain valid for a while and unknown keys are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Protocol

from policyengine.http.fetch import Fetcher, FetchError
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError, IssuerSettings, to_seconds
from policyengine.identity.http_fetch import check_url, create_fetcher
from policyengine.identity.issuer_documents import DocumentError
from policyengine.identity.issuer_metadata import METADATA_CACHE_SECONDS, load_metadata, url_member
from policyengine.identity.keys.jwks import SIGNATURE_USES, JwkSet, JwksFile, KeySource, VerifyingKey, parse_jwks
from policyengine.identity.single_flight import Flight, SingleFlight, SingleFlightError, SingleFlightTimeoutError
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

CACHE_RANGE_SECONDS = range(60, 3_601)  # seconds: the accepted range of `Cache-Control`
REFRESH_FRACTION = 0.8  # fraction of the cache lifetime after which keys are refreshed in the background
UNKNOWN_KEY_INTERVAL_SECONDS = 10  # seconds between requests caused by unknown key ids
RETRY_INTERVAL_SECONDS = 5  # seconds without a request after a failed one
BACKWARDS = 60  # seconds that the clock may go back without emptying the cache
TRUST_DOMAIN = "spiffe://"
WORKLOAD_KEY_USES = frozenset({"sig", "jwt-svid"})  # `use` in the bundle of a SPIFFE trust domain
_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class JwksCacheEntry:
    """Keys that were loaded at `since` and are fresh until `fresh`, in seconds since 1970."""

    keys: JwkSet
    since: int
    fresh: int

    @property
    def renew(self) -> int:
        return self.since + int((self.fresh - self.since) * REFRESH_FRACTION)


class JwksLoader(Protocol):
    def __call__(self, until: float) -> tuple[JwkSet, int | None]:
        """Return the current keys, and the number of seconds for which they may be cached, if the issuer specifies it.
        Raises FetchError, DocumentError.
        """
        ...


class RemoteKeySource:
    """A KeySource that loads keys over HTTP. `cache` is the number of seconds to keep keys if the issuer does not
    specify it, `stale` the additional seconds while the issuer does not answer, and `timeout` the maximum seconds for
    loading, and for waiting for it.
    """

    def __init__(
        self,
        name: str,
        load: JwksLoader,
        cache: int = 300,
        stale: int = 3_600,
        timeout: float = 2.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name, self._load, self._cache, self._stale = name, load, cache, stale
        self.timeout, self._clock = timeout, clock
        self._flights: SingleFlight[JwksCacheEntry] = SingleFlight(f"keys of {name}", clock=clock)
        self._lock = Lock()
        self._held: JwksCacheEntry | None = None
        self._failed: int | None = None
        self._unknown: int | None = None

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        before = self._held
        held = self._kept(now)
        if held is before and not held.keys.knows(kid, now):
            held = self._for_unknown(held, now)
        return held.keys.find(kid, alg, now)

    def look(self) -> JwkSet:
        """Return the issuer's current keys, without the cache. Raises FetchError, DocumentError."""
        return self._load(self._clock() + self.timeout)[0]

    @property
    def busy(self) -> bool:
        """Whether a request to the issuer is in progress."""
        return self._flights.busy

    def _kept(self, now: int) -> JwksCacheEntry:
        """Return the currently valid keys from the cache or the issuer. Raises CredentialError."""
        held = self._held
        if held is not None and held.since - BACKWARDS <= now < held.fresh:
            if now >= held.renew and not self._failing(now):
                self._start(now)
            return held
        try:
            if self._failing(now):
                raise CredentialError(RefusalCode.PROVIDER)
            return self._renew(now)
        except CredentialError:
            if held is None or not held.since - BACKWARDS <= now < held.fresh + self._stale:
                raise
            return held

    def _for_unknown(self, held: JwksCacheEntry, now: int) -> JwksCacheEntry:
        """Return newer keys, because a key id is unknown: keys that have been loaded in the meantime, or keys from a
        new request. Requests for unknown key ids are made at intervals, and concurrent callers wait for the same
        request. Raises CredentialError.
        """
        with self._lock:
            lately = self._unknown is not None and 0 <= now - self._unknown < UNKNOWN_KEY_INTERVAL_SECONDS
            if lately and not self._flights.busy:
                return self._held or held
            if self._failing(now):
                raise CredentialError(RefusalCode.PROVIDER)
            self._unknown = self._unknown if lately else now
        return self._renew(now)

    def _failing(self, now: int) -> bool:
        return self._failed is not None and 0 <= now - self._failed < RETRY_INTERVAL_SECONDS

    # ── Requests to the issuer ────────────────────────────────────────────────────────────────

    def _renew(self, now: int) -> JwksCacheEntry:
        """Load the keys, or wait for a load in progress. Raises CredentialError."""
        flight = self._start(now)
        try:
            if flight is None:
                raise CredentialError(RefusalCode.PROVIDER)
            return self._flights.wait(flight, self._clock() + self.timeout)
        except SingleFlightTimeoutError:
            self._failed = now
            raise CredentialError(RefusalCode.PROVIDER) from None
        except (FetchError, DocumentError, SingleFlightError):
            raise CredentialError(RefusalCode.PROVIDER) from None

    def _start(self, now: int) -> Flight[JwksCacheEntry] | None:
        try:
            return self._flights.start(self._name, lambda: self._read(now))
        except SingleFlightError:
            return None

    def _read(self, now: int) -> JwksCacheEntry:
        try:
            keys, fresh = self._load(self._clock() + self.timeout)
        except (FetchError, DocumentError) as error:
            self._failed = now
            _LOG.warning("the keys of `%s` cannot be read: %s", self._name, error)
            raise
        if not keys.usable:
            _LOG.warning("`%s` has no usable key", self._name)
        kept = self._cache if fresh is None else min(max(fresh, CACHE_RANGE_SECONDS[0]), CACHE_RANGE_SECONDS[-1])
        self._held, self._failed = JwksCacheEntry(keys, now, now + kept), None
        return self._held


# ── Locations of keys ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class UrlJwksLoader:
    """Loads a JWKS from its URL."""

    name: str
    url: str
    fetcher: Fetcher
    uses: Collection[str] = SIGNATURE_USES

    def __call__(self, until: float) -> tuple[JwkSet, int | None]:
        answer = self.fetcher.get(self.url, until)
        return parse_jwks(answer.body, self.name, self.uses), answer.fresh


@dataclass(slots=True)
class DiscoveryJwksLoader:
    """Loads the JWKS that the issuer's metadata names (OpenID Connect Discovery 1.0, RFC 8414); one thread at a time
    may use it.
    """

    name: str
    url: str
    fetcher: Fetcher
    _found: str | None = None
    _until: float = 0.0

    def __call__(self, until: float) -> tuple[JwkSet, int | None]:
        if self._found is None or self.fetcher.clock() >= self._until:
            self._found = url_member(load_metadata(self.url, self.fetcher, until), "jwks_uri", self.url)
            self._until = self.fetcher.clock() + METADATA_CACHE_SECONDS
        try:
            return UrlJwksLoader(self.name, self._found, self.fetcher)(until)
        except (FetchError, DocumentError):
            self._found = None  # the JWKS may have moved
            raise


# ── Creation from the configuration ───────────────────────────────────────────────────────────


class KeySources:
    """The key sources of issuers, as the configuration specifies. Keys at a URL are loaded when they are first needed.
    The same object serves new policies, so that keys of unchanged issuers are kept.
    """

    def __init__(self, configuration: IdentityConfig, clock: Callable[[], float] = monotonic) -> None:
        self._configuration, self._clock = configuration, clock
        self._made: dict[tuple[str, str | None, str | None], KeySource] = {}

    def of(self, issuer: Issuer) -> KeySource:
        """Return the key source of an issuer. Raises IdentityConfigError."""
        known = issuer.name, issuer.url, issuer.keys
        if known not in self._made:
            settings = self._configuration.issuers.get(issuer.name, IssuerSettings())
            self._made[known] = create_key_source(issuer, settings, self._configuration, self._clock)
        return self._made[known]


def create_key_source(
    issuer: Issuer, settings: IssuerSettings, configuration: IdentityConfig, clock: Callable[[], float] = monotonic
) -> KeySource:
    """Create the key source from `keys` of the settings, `keys` of the policy, or discovery. Raises
    IdentityConfigError."""
    keys, stale = settings.keys or issuer.keys, to_seconds(settings.stale)
    workloads = (issuer.url or "").startswith(TRUST_DOMAIN)
    uses = WORKLOAD_KEY_USES if workloads else SIGNATURE_USES
    if keys is not None and not keys.lower().startswith(("https:", "http:")):
        return open_jwks_file(configuration.folder / keys.removeprefix("file:"), issuer.name, stale, uses)
    if keys is None and (issuer.url is None or workloads):
        raise IdentityConfigError(f"issuer `{issuer.name}` has no `keys`, and none can be discovered", "set `keys`")
    fetcher = create_fetcher(settings.ca, settings.plain_http, configuration, clock)
    load: JwksLoader
    if keys is not None:
        check_url(keys, f"issuers.{issuer.name}.keys", settings.plain_http)
        load = UrlJwksLoader(issuer.name, keys, fetcher, uses)
    else:
        check_url(str(issuer.url), f"issuer {issuer.name}: url", settings.plain_http)
        load = DiscoveryJwksLoader(issuer.name, str(issuer.url), fetcher)
    timeout = configuration.identity.timeout.total_seconds()
    return RemoteKeySource(issuer.name, load, to_seconds(settings.cache), stale, timeout, clock)


def open_jwks_file(path: Path, name: str, stale: int, uses: Collection[str]) -> JwksFile:
    """Open a JWKS file. A malformed file is an error only at startup; later, it may be in the middle of an update.
    Raises IdentityConfigError.
    """
    found = JwksFile(path, name, stale, uses)
    try:
        found.look()
    except (OSError, DocumentError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else error
        raise IdentityConfigError(f"the keys of `{name}` in `{path}` cannot be read: {why}") from None
    return found
