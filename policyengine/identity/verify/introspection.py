"""Opaque tokens: their issuer is asked what they are (RFC 7662), and what it says is kept for a short while."""

from __future__ import annotations

import logging
import re
import secrets
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from threading import Lock
from time import monotonic
from typing import Literal, TypeAlias
from urllib.parse import quote_plus, urlencode

from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from policyengine.http.fetch import Fetcher, FetchError, UnreachableError
from policyengine.identity.config.model import IdentityConfig, IdentityError, IssuerSettings, to_seconds
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
MAX_REQUESTS_AT_ONCE = 8  # requests to one issuer
NEGATIVE_CACHE_SECONDS = 5  # seconds for which a token stays refused
RETRY_INTERVAL_SECONDS = 2  # seconds after the issuer did not answer
ASSERTION_SECONDS = 60  # seconds for which an assertion of ours is valid
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_CACHED_RESULTS = 20_000
# Where servers say what kind of token it is, and what an access token is called there.
TOKEN_KIND_MEMBERS = ("token_type", "token_use", "typ")
ACCESS_TOKEN_KINDS = frozenset({"bearer", "dpop", "access_token", "access", "at+jwt"})
CURVE_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
ASSERTION_KEY_HINT = "make it one of RSA, P-256, P-384, P-521 or Ed25519, for signatures"
ClientAuthMethod: TypeAlias = Literal["client_secret_basic", "client_secret_post", "private_key_jwt"]
AssertionKey: TypeAlias = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class IntrospectionCredentials:
    """Who we are to the issuer. `secret` gives the secret as text, or the private key as a JWK or PEM, each time anew,
    so that it may change."""

    id: str
    method: ClientAuthMethod
    secret: Callable[[], str] = field(repr=False)

    def authenticated(self, form: Mapping[str, str], audience: str, now: int) -> tuple[bytes, dict[str, str]]:
        """The body of a request and its headers. `audience`: the issuer (RFC 7523)."""
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


@lru_cache(maxsize=8)  # as it is for each request, and reading one takes its time
def parse_assertion_key(text: str) -> AssertionKey:
    """A private key in PEM or as a JWK, by which assertions can be signed. Raises IdentityError, which shows nothing of
    it."""
    for kind in (ECKey, RSAKey, OKPKey):
        try:
            value = parse_document(text.encode()) if text.lstrip().startswith("{") else text.encode()
            key = kind.import_key(value)  # type: ignore[arg-type]
        except Exception:  # whatever libraries say of a key: parts of it could be in that
            continue
        if key.is_private and (not isinstance(value, dict) or value.get("kty") == kind.key_type):
            assertion_algorithm(key)
            check_assertion_key(key)
            return key
    raise IdentityError("the key of a client is no private key in PEM, nor a JWK")


def check_assertion_key(key: AssertionKey) -> None:
    """Raises IdentityError."""
    why = find_weakness(key.public_key)
    if why is not None:
        raise IdentityError(f"the key of a client cannot be used: {why}", ASSERTION_KEY_HINT)


def assertion_algorithm(key: AssertionKey) -> str:
    """Its own, or the one of its type. Raises IdentityError."""
    usual = "PS256" if isinstance(key, RSAKey) else CURVE_ALGORITHMS.get(key.curve_name, "")
    found = key.alg or usual
    if found not in MODELS or not supports_algorithm(key, found):
        raise IdentityError("the key of a client is of a kind that signs no assertions", ASSERTION_KEY_HINT)
    return found


# ── One issuer ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class IntrospectionEndpoint:
    """Where and as whom an issuer is asked. `issuer` is its name in the policy, `url` and `audience` what the policy
    says of it; `prefix` what its tokens begin with; `cache`, `leeway` and `timeout` in seconds."""

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
    """What the issuer said of a token: it counts until then."""

    said: VerifiedToken | RefusalCode
    until: int


class IssuerIntrospector:
    """One issuer: what it said lately, and few requests at once."""

    def __init__(self, endpoint: IntrospectionEndpoint, clock: Callable[[], float]) -> None:
        self.endpoint, self._clock = endpoint, clock
        self._flights: SingleFlight[IntrospectionResult] = SingleFlight(
            f"introspection by {endpoint.issuer}", MAX_REQUESTS_AT_ONCE, clock=clock
        )
        self._lock = Lock()
        self._kept: OrderedDict[bytes, IntrospectionResult] = OrderedDict()
        self._failed: int | None = None
        self._telling = LogThrottle()

    def introspect(self, raw: str, now: int) -> VerifiedToken:
        """Raises CredentialError."""
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
        except (FetchError, DocumentError, SingleFlightError, IdentityError):
            raise CredentialError(RefusalCode.PROVIDER) from None

    def _read(self, raw: str, digest: bytes, now: int) -> IntrospectionResult:
        endpoint = self.endpoint
        try:
            form = {"token": raw, "token_type_hint": "access_token"}
            body, headers = endpoint.client.authenticated(form, endpoint.url or endpoint.endpoint, now)
            answer = endpoint.fetcher.post(endpoint.endpoint, body, headers, self._clock() + endpoint.timeout)
            told = parse_introspection(parse_document(answer.body), endpoint, digest, now)
        except (FetchError, DocumentError, IdentityError) as error:
            if isinstance(error, UnreachableError):
                self._failed = now
            words = f"`{endpoint.issuer}` does not say what a token is: {error}"
            self._telling.tell(logging.WARNING, "introspection", words)
            raise
        self._keep(digest, told)
        return told

    def _keep(self, digest: bytes, told: IntrospectionResult) -> None:
        with self._lock:
            self._kept[digest] = told
            self._kept.move_to_end(digest)
            while len(self._kept) > MAX_CACHED_RESULTS:
                self._kept.popitem(last=False)


# ── What it says ──────────────────────────────────────────────────────────────────────────────


def parse_introspection(
    said: Mapping[str, object], endpoint: IntrospectionEndpoint, digest: bytes, now: int
) -> IntrospectionResult:
    """Raises DocumentError for an answer that does not say whether the token is active."""
    active = said.get("active")
    if not isinstance(active, bool):
        raise DocumentError("its answer does not say whether the token is `active`")
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
    """Of what the issuer says of an active token, whatever speaks against it."""
    if "iss" in said and said["iss"] != endpoint.url:
        return RefusalCode.ISSUER
    if not is_access_token(said):
        return RefusalCode.TOKEN_TYPE
    if str(said.get("token_type")).lower() == "dpop" and "cnf" not in said:
        return RefusalCode.BOUND_HOW  # to a key that the issuer does not name
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
    # Whom a token is for that does not say it, nobody knows: it may be for anything else that asks the same issuer.
    return RefusalCode.MISSING_CLAIM if endpoint.audience is not None and "aud" not in said else None


def is_access_token(said: Mapping[str, object]) -> bool:
    """Refresh tokens are active, too, and some issuers are asked about them: what the answer says of its kind, by
    whichever name, has to be an access token's."""
    given = [said[name] for name in TOKEN_KIND_MEMBERS if name in said]
    return all(isinstance(one, str) and one.lower() in ACCESS_TOKEN_KINDS for one in given)


def includes_audience(said: object, audience: str) -> bool:
    return audience in said if isinstance(said, list) else said == audience


# ── All of them ───────────────────────────────────────────────────────────────────────────────


class IntrospectionRouter:
    """Of all issuers that are asked. A token goes to one of them only, as it is a secret to the others: to the one by
    whose `prefix` it begins, the longest of them. Raises IdentityError where two have the same."""

    def __init__(self, endpoints: Sequence[IntrospectionEndpoint], clock: Callable[[], float] = monotonic) -> None:
        by_prefix: dict[str, IssuerIntrospector] = {}
        for endpoint in endpoints:
            other = by_prefix.setdefault(endpoint.prefix, IssuerIntrospector(endpoint, clock)).endpoint
            if other is not endpoint:
                message = (
                    f"issuers `{other.issuer}` and `{endpoint.issuer}` are both asked about the same opaque tokens"
                )
                raise IdentityError(message, "say what the tokens of each begin with: `token_prefix`")
        self._asked = sorted(by_prefix.items(), key=lambda pair: -len(pair[0]))

    def introspect(self, raw: str, now: int) -> VerifiedToken:
        """A token of kind `opaque`, which ends when it is to be asked for again. `now` in seconds since 1970. It may
        wait for the issuer, for a bounded time. Raises CredentialError."""
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
    """Of those issuers of a policy that the configuration wants to be asked; `secret_of` makes of a reference what
    reads it. Raises IdentityError."""
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
        raise IdentityError(f"`{place}.{missing}` is missing", "who asks what a token is says who it is")
    try:
        secret = secret_of(reference)
        if settings.client_auth == "private_key_jwt":
            parse_assertion_key(secret())
    except IdentityError as error:
        raise IdentityError(f"`{place}.{name}`: {error.message}", error.hint) from None
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
