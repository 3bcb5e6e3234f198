"""The keys of issuers that are asked over HTTP: found by discovery, kept, renewed before they end, rotated at once.

Whoever asks for a key that is kept waits for nobody. Else one asks the issuer and few wait, until a deadline; while the
issuer cannot be asked, what was known stays for a while, and what was not is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Protocol

from policyengine.http.fetch import Fetcher, FetchError, parse_fetch_url, url_origin
from policyengine.identity.config.model import IdentityConfig, IdentityError, IssuerSettings, to_seconds
from policyengine.identity.http_fetch import check_url, create_fetcher
from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.identity.keys.jwks import SIGNATURE_USES, JwkSet, JwksFile, KeySource, VerifyingKey, parse_jwks
from policyengine.identity.single_flight import Flight, SingleFlight, SingleFlightError, SingleFlightTimeoutError
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

CACHE_RANGE_SECONDS = range(60, 3_601)  # seconds: what `Cache-Control` may say
REFRESH_FRACTION = 0.8  # of the time that keys are kept: from then on they are renewed, and nobody waits
UNKNOWN_KEY_INTERVAL_SECONDS = 10  # seconds between two requests because of key ids that are not known
RETRY_INTERVAL_SECONDS = 5  # seconds after one that failed
BACKWARDS = 60  # seconds by which a clock may go back, and what is kept counts all the same
DISCOVERY_CACHE_SECONDS = 3_600.0
DISCOVERY_PATHS = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
TRUST_DOMAIN = "spiffe://"
WORKLOAD_KEY_USES = frozenset({"sig", "jwt-svid"})  # `use` in the bundle of a trust domain
_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class JwksCacheEntry:
    """Keys that were read at `since`, fresh until `fresh`."""

    keys: JwkSet
    since: int
    fresh: int

    @property
    def renew(self) -> int:
        return self.since + int((self.fresh - self.since) * REFRESH_FRACTION)


class JwksLoader(Protocol):
    def __call__(self, until: float) -> tuple[JwkSet, int | None]:
        """The keys as they are now, and for how many seconds they may be kept, if the issuer says. Raises FetchError,
        DocumentError."""
        ...


class RemoteKeySource:
    """A KeySource. `cache` and `stale` in seconds: how long keys are kept where the issuer does not say, and how much
    longer while it cannot be asked. `timeout`: for all that it takes to read them, and to wait for that."""

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
        """What the issuer says now. Raises FetchError, DocumentError."""
        return self._load(self._clock() + self.timeout)[0]

    @property
    def busy(self) -> bool:
        """Whether the issuer is being asked."""
        return self._flights.busy

    def _kept(self, now: int) -> JwksCacheEntry:
        """Keys that count now: what is kept, or what the issuer says."""
        held = self._held
        if held is not None and held.since - BACKWARDS <= now < held.fresh:
            if now >= held.renew and not self._failing(now):
                self._start(now)
            return held
        try:
            if self._failing(now):
                raise CredentialError(RefusalCode.PROVIDER)
            return self._renewed(now)
        except CredentialError:
            if held is None or not held.since - BACKWARDS <= now < held.fresh + self._stale:
                raise
            return held

    def _for_unknown(self, held: JwksCacheEntry, now: int) -> JwksCacheEntry:
        """Keys that came since, or that the issuer is asked for once in a while; whoever comes while that is under way
        waits for it, too. Raises CredentialError."""
        with self._lock:
            lately = self._unknown is not None and 0 <= now - self._unknown < UNKNOWN_KEY_INTERVAL_SECONDS
            if lately and not self._flights.busy:
                return self._held or held
            if self._failing(now):
                raise CredentialError(RefusalCode.PROVIDER)
            self._unknown = self._unknown if lately else now
        return self._renewed(now)

    def _failing(self, now: int) -> bool:
        return self._failed is not None and 0 <= now - self._failed < RETRY_INTERVAL_SECONDS

    # ── Asking ────────────────────────────────────────────────────────────────────────────────

    def _renewed(self, now: int) -> JwksCacheEntry:
        """Raises CredentialError."""
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
            _LOG.warning("`%s` has no key that could be used", self._name)
        kept = self._cache if fresh is None else min(max(fresh, CACHE_RANGE_SECONDS[0]), CACHE_RANGE_SECONDS[-1])
        self._held, self._failed = JwksCacheEntry(keys, now, now + kept), None
        return self._held


# ── Where they are ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class UrlJwksLoader:
    """A JWKS by its URL. Loads keys."""

    name: str
    url: str
    fetcher: Fetcher
    uses: Collection[str] = SIGNATURE_USES

    def __call__(self, until: float) -> tuple[JwkSet, int | None]:
        answer = self.fetcher.get(self.url, until)
        return parse_jwks(answer.body, self.name, self.uses), answer.fresh


@dataclass(slots=True)
class DiscoveryJwksLoader:
    """A JWKS that the metadata of the issuer names (OpenID Connect Discovery 1.0, RFC 8414). Loads keys; one thread at
    a time."""

    name: str
    url: str
    fetcher: Fetcher
    _found: str | None = None
    _until: float = 0.0

    def __call__(self, until: float) -> tuple[JwkSet, int | None]:
        if self._found is None or self.fetcher.clock() >= self._until:
            self._found = jwks_uri(self._metadata(until), self.url)
            self._until = self.fetcher.clock() + DISCOVERY_CACHE_SECONDS
        try:
            return UrlJwksLoader(self.name, self._found, self.fetcher)(until)
        except (FetchError, DocumentError):
            self._found = None  # it may have moved
            raise

    def _metadata(self, until: float) -> bytes:
        first, second = metadata_urls(self.url)
        try:
            return self.fetcher.get(first, until).body
        except FetchError as error:
            if error.status is None or not 400 <= error.status < 500:
                raise
        return self.fetcher.get(second, until).body


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Where OpenID Connect Discovery puts it, behind the path, and where RFC 8414 does, in front of it."""
    base = issuer.removesuffix("/")
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    return base + DISCOVERY_PATHS[0], f"{scheme}://{host}{DISCOVERY_PATHS[1]}{slash}{path}"


def jwks_uri(metadata: bytes, issuer: str) -> str:
    """Of the metadata. Raises DocumentError, FetchError."""
    said = parse_document(metadata)
    if said.get("issuer") != issuer:
        raise DocumentError("its metadata is that of another issuer: `issuer` has to be its URL, letter by letter")
    found = said.get("jwks_uri")
    if not isinstance(found, str):
        raise DocumentError("its metadata has no `jwks_uri`")
    parts = parse_fetch_url(found, plain_http=True)
    if parts.scheme != "https" and url_origin(parts) != url_origin(parse_fetch_url(issuer, plain_http=True)):
        raise DocumentError("its `jwks_uri` leads to another server, and not over `https://`")
    return found


# ── By the configuration ──────────────────────────────────────────────────────────────────────


class KeySources:
    """The keys of issuers, as the configuration says where they are. Nothing is asked before somebody needs a key. For
    other policies the same one goes on: what is known of an issuer that is the same stays."""

    def __init__(self, configuration: IdentityConfig, clock: Callable[[], float] = monotonic) -> None:
        self._configuration, self._clock = configuration, clock
        self._made: dict[tuple[str, str | None, str | None], KeySource] = {}

    def of(self, issuer: Issuer) -> KeySource:
        """Raises IdentityError."""
        known = issuer.name, issuer.url, issuer.keys
        if known not in self._made:
            settings = self._configuration.issuers.get(issuer.name, IssuerSettings())
            self._made[known] = create_key_source(issuer, settings, self._configuration, self._clock)
        return self._made[known]


def create_key_source(
    issuer: Issuer, settings: IssuerSettings, configuration: IdentityConfig, clock: Callable[[], float] = monotonic
) -> KeySource:
    """By `keys` of the settings, by `keys` of the policy, or by discovery. Raises IdentityError."""
    keys, stale = settings.keys or issuer.keys, to_seconds(settings.stale)
    workloads = (issuer.url or "").startswith(TRUST_DOMAIN)
    uses = WORKLOAD_KEY_USES if workloads else SIGNATURE_USES
    if keys is not None and not keys.lower().startswith(("https:", "http:")):
        return open_jwks_file(configuration.folder / keys.removeprefix("file:"), issuer.name, stale, uses)
    if keys is None and (issuer.url is None or workloads):
        raise IdentityError(f"issuer `{issuer.name}` has no `keys`, and none can be discovered", "say where they are")
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
    """What is no JWKS at the start is a mistake; later it may be somebody who writes it anew. Raises IdentityError."""
    found = JwksFile(path, name, stale, uses)
    try:
        found.look()
    except (OSError, DocumentError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else error
        raise IdentityError(f"the keys of `{name}` in `{path}` cannot be read: {why}") from None
    return found
