"""Introspects opaque tokens at their issuers (RFC 7662), and caches the answers for a short time."""

from __future__ import annotations

import logging
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from threading import Lock
from time import monotonic
from typing import Literal, TypeAlias
from urllib.parse import quote_plus, urlencode

from cachetools import FIFOCache
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from policyengine.http.fetch import Fetcher, FetchError, UnreachableError
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError, IssuerSettings, to_seconds
from policyengine.identity.http_fetch import check_url, create_fetcher
from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.identity.keys.jwks import find_weakness
from policyengine.identity.single_flight import SingleFlight, SingleFlightError, SingleFlightTimeoutError
from policyengine.identity.verified import VerifiedToken
from policyengine.identity.verify.claims import time_claim
from policyengine.identity.verify.jws import MODELS, supports_algorithm
from policyengine.kernel import Issuer
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

MAX_TOKEN_LENGTH = 4_096  # characters
FORM = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750
MAX_REQUESTS_AT_ONCE = 8  # maximum number of concurrent requests to one issuer
NEGATIVE_CACHE_SECONDS = 5  # seconds that a token stays refused
RETRY_INTERVAL_SECONDS = 2  # seconds without a request after the issuer did not answer
ASSERTION_SECONDS = 60  # seconds that this server's assertions are valid
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_CACHED_RESULTS = 20_000
# Members in which servers state the kind of token, and the values for access tokens.
TOKEN_KIND_MEMBERS = ("token_type", "token_use", "typ")
ACCESS_TOKEN_KINDS = frozenset({"bearer", "dpop", "access_token", "access", "at+jwt"})
CURVE_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
ASSERTION_KEY_HINT = "use a signature key of type RSA, P-256, P-384, P-521 or Ed25519"
ClientAuthMethod: TypeAlias = Literal["client_secret_basic", "client_secret_post", "private_key_jwt"]
AssertionKey: TypeAlias = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class IntrospectionCredentials:
    """This server's client credentials at the issuer. `secret` returns the secret as text, or the private key as a JWK
    or PEM; it is called each time, so that the secret may change.
    """

    id: str
    method: ClientAuthMethod
    secret: Callable[[], str] = field(repr=False)

    def authenticated(self, form: Mapping[str, str], audience: str, now: int) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of a request. `audience` is the issuer (RFC 7523). Raises IdentityConfigError
        if the secret cannot be used.
        """
        match self.method:
            case "client_secret_basic":
                pair = f"{quote_plus(self.id)}:{quote_plus(self.secret())}"
                return encode_form(form), {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
            case "client_secret_post":
                return encode_form({**form, "client_id": self.id, "client_secret": self.secret()}), {}
            case "private_key_jwt":
                proof = {"client_assertion_type": ASSERTION, "client_assertion": self._assertion(audience, now)}
                return encode_form({**form, "client_id": self.id, **proof}), {}

    def _assertion(self, audience: str, now: int) -> str:
        key = parse_assertion_key(self.secret())
        header = {"alg": assertion_algorithm(key), **({"kid": key.kid} if key.kid else {})}
        times = {"iat": now, "exp": now + ASSERTION_SECONDS, "jti": secrets.token_urlsafe(16)}
        claims = {"iss": self.id, "sub": self.id, "aud": audience, **times}
        return jwt.encode(header, claims, key, algorithms=[header["alg"]])


def encode_form(form: Mapping[str, str]) -> bytes:
    return urlencode(form).encode("ascii")


@lru_cache(maxsize=8)  # the same key for each request, and parsing is slow
def parse_assertion_key(text: str) -> AssertionKey:
    """Parse a private key that can sign assertions, in PEM or as a JWK. Raises IdentityConfigError, whose message
    contains nothing from the key."""
    for kind in (ECKey, RSAKey, OKPKey):
        try:
            value = parse_document(text.encode()) if text.lstrip().startswith("{") else text.encode()
            key = kind.import_key(value)  # type: ignore[arg-type]
        except Exception:  # libraries raise many errors, which may quote the key
            continue
        if key.is_private and (not isinstance(value, dict) or value.get("kty") == kind.key_type):
            assertion_algorithm(key)
            check_assertion_key(key)
            return key
    raise IdentityConfigError("the key of a client is neither a private key in PEM nor a private JWK")


def check_assertion_key(key: AssertionKey) -> None:
    """Check the strength of the key. Raises IdentityConfigError."""
    why = find_weakness(key.public_key)
    if why is not None:
        raise IdentityConfigError(f"the key of a client cannot be used: {why}", ASSERTION_KEY_HINT)


def assertion_algorithm(key: AssertionKey) -> str:
    """Return the key's `alg`, or the algorithm of its type. Raises IdentityConfigError."""
    usual = "PS256" if isinstance(key, RSAKey) else CURVE_ALGORITHMS.get(key.curve_name, "")
    found = key.alg or usual
    if found not in MODELS or not supports_algorithm(key, found):
        raise IdentityConfigError("the key of a client cannot sign assertions", ASSERTION_KEY_HINT)
    return found


# ── One issuer ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class IntrospectionEndpoint:
    """An introspection endpoint. `issuer` is its name in the policy, `url` and `audience` come from the policy; its
    tokens begin with `prefix`; `cache`, `leeway` and `timeout` are in seconds.
    """

    issuer: str
    url: str | None
    audience: str | None
    endpoint: str
    client: IntrospectionCredentials
    fetcher: Fetcher
    prefix: str = ""
    cache: int = 60
    leeway: int = 30
    timeout: float = 2.0


@dataclass(frozen=True, slots=True)
class IntrospectionResult:
    """The issuer's statement about a token, valid until `until`."""

    said: VerifiedToken | RefusalCode
    until: int


class IssuerIntrospector:
    """The introspection at one issuer, with a cache and a bounded number of concurrent requests."""

    def __init__(self, endpoint: IntrospectionEndpoint, clock: Callable[[], float]) -> None:
        self.endpoint, self._clock = endpoint, clock
        self._flights: SingleFlight[IntrospectionResult] = SingleFlight(
            f"introspection by {endpoint.issuer}", MAX_REQUESTS_AT_ONCE, clock=clock
        )
        self._lock = Lock()
        self._kept: FIFOCache[bytes, IntrospectionResult] = FIFOCache(MAX_CACHED_RESULTS)
        self._failed: int | None = None
        self._telling = LogThrottle()

    def introspect(self, raw: str, now: int) -> VerifiedToken:
        """Introspect a token. Raises CredentialError."""
        digest = sha256(raw.encode()).digest()
        told = self._kept.get(digest)
        if told is None or not now < told.until:
            told = self._ask(raw, digest, now)
        if isinstance(told.said, RefusalCode):
            raise CredentialError(told.said)
        return told.said

    def _ask(self, raw: str, digest: bytes, now: int) -> IntrospectionResult:
        if self._failed is not None and 0 <= now - self._failed < RETRY_INTERVAL_SECONDS:
            raise CredentialError(RefusalCode.PROVIDER)
        try:
            flight = self._flights.start(digest, lambda: self._read(raw, digest, now))
            return self._flights.wait(flight, self._clock() + self.endpoint.timeout)
        except SingleFlightTimeoutError:
            self._failed = now
            raise CredentialError(RefusalCode.PROVIDER) from None
        except (FetchError, DocumentError, SingleFlightError, IdentityConfigError):
            raise CredentialError(RefusalCode.PROVIDER) from None

    def _read(self, raw: str, digest: bytes, now: int) -> IntrospectionResult:
        endpoint = self.endpoint
        try:
            form = {"token": raw, "token_type_hint": "access_token"}
            body, headers = endpoint.client.authenticated(form, endpoint.url or endpoint.endpoint, now)
            answer = endpoint.fetcher.post(endpoint.endpoint, body, headers, self._clock() + endpoint.timeout)
            told = parse_introspection(parse_document(answer.body), endpoint, digest, now)
        except (FetchError, DocumentError, IdentityConfigError) as error:
            if isinstance(error, UnreachableError):
                self._failed = now
            words = f"cannot introspect a token at `{endpoint.issuer}`: {error}"
            self._telling.tell(logging.WARNING, "introspection", words)
            raise
        self._keep(digest, told)
        return told

    def _keep(self, digest: bytes, told: IntrospectionResult) -> None:
        with self._lock:
            self._kept[digest] = told


# ── The answer ────────────────────────────────────────────────────────────────────────────────


def parse_introspection(
    said: Mapping[str, object], endpoint: IntrospectionEndpoint, digest: bytes, now: int
) -> IntrospectionResult:
    """Parse an answer. Raises DocumentError if it does not say whether the token is active."""
    active = said.get("active")
    if not isinstance(active, bool):
        raise DocumentError("the answer does not say whether the token is `active`")
    wrong = RefusalCode.INACTIVE if not active else find_refusal(said, endpoint, now)
    if wrong is not None:
        return IntrospectionResult(wrong, now + NEGATIVE_CACHE_SECONDS)
    until = now + endpoint.cache
    ends = time_claim(said, "exp")
    if ends is not None:
        until = min(until, int(ends) + endpoint.leeway)
    claims = {name: value for name, value in said.items() if name != "active"}
    return IntrospectionResult(VerifiedToken("opaque", endpoint.issuer, claims, {}, digest, until), until)


def find_refusal(said: Mapping[str, object], endpoint: IntrospectionEndpoint, now: int) -> RefusalCode | None:
    """Return the first reason to refuse an active token, or None."""
    if "iss" in said and said["iss"] != endpoint.url:
        return RefusalCode.ISSUER
    if not is_access_token(said):
        return RefusalCode.TOKEN_TYPE
    if str(said.get("token_type")).lower() == "dpop" and "cnf" not in said:
        return RefusalCode.BOUND_HOW  # bound to a key that the issuer does not report
    if "aud" in said and endpoint.audience is not None and not includes_audience(said["aud"], endpoint.audience):
        return RefusalCode.AUDIENCE
    try:
        ends, begins, issued = (time_claim(said, name) for name in ("exp", "nbf", "iat"))
    except CredentialError as refused:
        return refused.refusal
    if ends is not None and ends + endpoint.leeway <= now:
        return RefusalCode.EXPIRED
    if begins is not None and begins > now + endpoint.leeway:
        return RefusalCode.NOT_YET
    if issued is not None and issued > now + endpoint.leeway:
        return RefusalCode.ISSUED_LATER
    # Without `aud`, the token may be meant for another service of the same issuer.
    return RefusalCode.MISSING_CLAIM if endpoint.audience is not None and "aud" not in said else None


def is_access_token(said: Mapping[str, object]) -> bool:
    """Return whether the answer describes an access token, according to every member that states the kind. This matters
    because refresh tokens are also active.
    """
    given = [said[name] for name in TOKEN_KIND_MEMBERS if name in said]
    return all(isinstance(one, str) and one.lower() in ACCESS_TOKEN_KINDS for one in given)


def includes_audience(said: object, audience: str) -> bool:
    return audience in said if isinstance(said, list) else said == audience


# ── All issuers ───────────────────────────────────────────────────────────────────────────────


class IntrospectionRouter:
    """Sends each token to only one issuer, because tokens are secret from other issuers: the issuer with the longest
    matching `prefix`. Raises IdentityConfigError if two issuers have the same prefix.
    """

    def __init__(self, endpoints: Sequence[IntrospectionEndpoint], clock: Callable[[], float] = monotonic) -> None:
        by_prefix: dict[str, IssuerIntrospector] = {}
        for endpoint in endpoints:
            other = by_prefix.setdefault(endpoint.prefix, IssuerIntrospector(endpoint, clock)).endpoint
            if other is not endpoint:
                message = f"issuers `{other.issuer}` and `{endpoint.issuer}` both introspect the same opaque tokens"
                raise IdentityConfigError(message, "set `token_prefix` of each to the beginning of its tokens")
        self._asked = sorted(by_prefix.items(), key=lambda pair: -len(pair[0]))

    def introspect(self, raw: str, now: int) -> VerifiedToken:
        """Return a token of kind `opaque` that expires when it must be introspected again. `now` is in seconds since
        1970. May wait for the issuer for a bounded time. Raises CredentialError.
        """
        if len(raw) > MAX_TOKEN_LENGTH:
            raise CredentialError(RefusalCode.TOO_LARGE)
        if not FORM.fullmatch(raw):
            raise CredentialError(RefusalCode.NOT_A_TOKEN)
        for prefix, asked in self._asked:
            if raw.startswith(prefix):
                return asked.introspect(raw, now)
        raise CredentialError(RefusalCode.UNKNOWN_ISSUER)


def create_endpoints(
    configuration: IdentityConfig,
    issuers: Iterable[Issuer],
    secret_of: Callable[[str], Callable[[], str]],
    clock: Callable[[], float] = monotonic,
) -> list[IntrospectionEndpoint]:
    """Create the endpoints of issuers with `introspection` in the configuration; `secret_of` returns a reader of a
    reference. Raises IdentityConfigError."""
    found = ((one, configuration.issuers.get(one.name)) for one in issuers)
    return [
        create_endpoint(one, settings, configuration, secret_of, clock)
        for one, settings in found
        if settings is not None and settings.introspection is not None
    ]


def create_endpoint(
    issuer: Issuer,
    settings: IssuerSettings,
    configuration: IdentityConfig,
    secret_of: Callable[[str], Callable[[], str]],
    clock: Callable[[], float],
) -> IntrospectionEndpoint:
    place, general = f"issuers.{issuer.name}", configuration.identity
    url = str(settings.introspection)
    check_url(url, f"{place}.introspection", settings.plain_http)
    name = "client_key" if settings.client_auth == "private_key_jwt" else "client_secret"
    reference = settings.client_key if name == "client_key" else settings.client_secret
    if settings.client_id is None or reference is None:
        missing = "client_id" if settings.client_id is None else name
        raise IdentityConfigError(f"`{place}.{missing}` is missing", "introspection requires client credentials")
    try:
        secret = secret_of(reference)
        if settings.client_auth == "private_key_jwt":
            parse_assertion_key(secret())
    except IdentityConfigError as error:
        raise IdentityConfigError(f"`{place}.{name}`: {error.message}", error.hint) from None
    return IntrospectionEndpoint(
        issuer.name,
        issuer.url,
        issuer.audience,
        url,
        IntrospectionCredentials(settings.client_id, settings.client_auth, secret),
        create_fetcher(settings.ca, settings.plain_http, configuration, clock),
        settings.token_prefix,
        to_seconds(settings.introspection_cache),
        to_seconds(general.leeway),
        general.timeout.total_seconds(),
    )
