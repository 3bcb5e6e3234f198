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

from policyengine.identity.config.model import Configuration, IdentityError, IssuerSettings, in_seconds
from policyengine.identity.http_fetch import Fetcher, FetchError, Unreachable, check_url, fetcher_of
from policyengine.identity.issuer_documents import DocumentError, json_object
from policyengine.identity.keys.jwks import weakness
from policyengine.identity.log_throttle import Telling
from policyengine.identity.single_flight import Flights, Late, Unanswered
from policyengine.identity.verified import Token
from policyengine.identity.verify.claims import moment
from policyengine.identity.verify.jws import MODELS, fits
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import Refusal, Refused

LONGEST_TOKEN = 4_096  # characters
FORM = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750
AT_ONCE = 8  # requests to one issuer
NEGATIVE = 5  # seconds for which a token stays refused
RETRY_EVERY = 2  # seconds after the issuer did not answer
ASSERTED = 60  # seconds for which an assertion of ours is valid
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MOST_KEPT = 20_000
# Where servers say what kind of token it is, and what an access token is called there.
KINDS = ("token_type", "token_use", "typ")
ACCESS = frozenset({"bearer", "dpop", "access_token", "access", "at+jwt"})
USUAL = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
SIGNING = "make it one of RSA, P-256, P-384, P-521 or Ed25519, for signatures"
Method: TypeAlias = Literal["client_secret_basic", "client_secret_post", "private_key_jwt"]
SigningKey: TypeAlias = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class Client:
    """Who we are to the issuer. `secret` gives the secret as text, or the private key as a JWK or PEM, each time anew,
    so that it may change."""

    id: str
    method: Method
    secret: Callable[[], str] = field(repr=False)

    def authenticated(self, form: Mapping[str, str], audience: str, now: int) -> tuple[bytes, dict[str, str]]:
        """The body of a request and its headers. `audience`: the issuer (RFC 7523)."""
        match self.method:
            case "client_secret_basic":
                pair = f"{quote_plus(self.id)}:{quote_plus(self.secret())}"
                return encoded(form), {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
            case "client_secret_post":
                return encoded({**form, "client_id": self.id, "client_secret": self.secret()}), {}
            case "private_key_jwt":
                proof = {"client_assertion_type": ASSERTION, "client_assertion": self._assertion(audience, now)}
                return encoded({**form, "client_id": self.id, **proof}), {}

    def _assertion(self, audience: str, now: int) -> str:
        key = signing_key(self.secret())
        header = {"alg": algorithm_of(key), **({"kid": key.kid} if key.kid else {})}
        times = {"iat": now, "exp": now + ASSERTED, "jti": secrets.token_urlsafe(16)}
        claims = {"iss": self.id, "sub": self.id, "aud": audience, **times}
        return jwt.encode(header, claims, key, algorithms=[header["alg"]])


def encoded(form: Mapping[str, str]) -> bytes:
    return urlencode(form).encode("ascii")


@lru_cache(maxsize=8)  # as it is for each request, and reading one takes its time
def signing_key(text: str) -> SigningKey:
    """A private key in PEM or as a JWK, by which assertions can be signed. Raises IdentityError, which shows nothing of
    it."""
    for kind in (ECKey, RSAKey, OKPKey):
        try:
            value = json_object(text.encode()) if text.lstrip().startswith("{") else text.encode()
            key = kind.import_key(value)  # type: ignore[arg-type]
        except Exception:  # whatever libraries say of a key: parts of it could be in that
            continue
        if key.is_private and (not isinstance(value, dict) or value.get("kty") == kind.key_type):
            algorithm_of(key)
            check_own(key)
            return key
    raise IdentityError("the key of a client is no private key in PEM, nor a JWK")


def check_own(key: SigningKey) -> None:
    """Raises IdentityError."""
    why = weakness(key.public_key)
    if why is not None:
        raise IdentityError(f"the key of a client cannot be used: {why}", SIGNING)


def algorithm_of(key: SigningKey) -> str:
    """Its own, or the one of its type. Raises IdentityError."""
    usual = "PS256" if isinstance(key, RSAKey) else USUAL.get(key.curve_name, "")
    found = key.alg or usual
    if found not in MODELS or not fits(key, found):
        raise IdentityError("the key of a client is of a kind that signs no assertions", SIGNING)
    return found


# ── One issuer ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom an issuer is asked. `issuer` is its name in the policy, `url` and `audience` what the policy
    says of it; `prefix` what its tokens begin with; `cache`, `leeway` and `timeout` in seconds."""

    issuer: str
    url: str | None
    audience: str | None
    endpoint: str
    client: Client
    fetcher: Fetcher
    prefix: str = ""
    cache: int = 60
    leeway: int = 30
    timeout: float = 2.0


@dataclass(frozen=True, slots=True)
class Told:
    """What the issuer said of a token: it counts until then."""

    said: Token | Refusal
    until: int


class Asked:
    """One issuer: what it said lately, and few requests at once."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float]) -> None:
        self.endpoint, self._clock = endpoint, clock
        self._flights: Flights[Told] = Flights(f"introspection by {endpoint.issuer}", AT_ONCE, clock=clock)
        self._lock = Lock()
        self._kept: OrderedDict[bytes, Told] = OrderedDict()
        self._failed: int | None = None
        self._telling = Telling()

    def introspect(self, raw: str, now: int) -> Token:
        """Raises Refused."""
        digest = sha256(raw.encode()).digest()
        told = self._kept.get(digest)
        if told is None or not now < told.until:
            told = self._ask(raw, digest, now)
        if isinstance(told.said, Refusal):
            raise Refused(told.said)
        return told.said

    def _ask(self, raw: str, digest: bytes, now: int) -> Told:
        if self._failed is not None and 0 <= now - self._failed < RETRY_EVERY:
            raise Refused(Refusal.PROVIDER)
        try:
            flight = self._flights.start(digest, lambda: self._read(raw, digest, now))
            return self._flights.wait(flight, self._clock() + self.endpoint.timeout)
        except Late:
            self._failed = now
            raise Refused(Refusal.PROVIDER) from None
        except (FetchError, DocumentError, Unanswered, IdentityError):
            raise Refused(Refusal.PROVIDER) from None

    def _read(self, raw: str, digest: bytes, now: int) -> Told:
        endpoint = self.endpoint
        try:
            form = {"token": raw, "token_type_hint": "access_token"}
            body, headers = endpoint.client.authenticated(form, endpoint.url or endpoint.endpoint, now)
            answer = endpoint.fetcher.post(endpoint.endpoint, body, headers, self._clock() + endpoint.timeout)
            told = told_of(json_object(answer.body), endpoint, digest, now)
        except (FetchError, DocumentError, IdentityError) as error:
            if isinstance(error, Unreachable):
                self._failed = now
            words = f"`{endpoint.issuer}` does not say what a token is: {error}"
            self._telling.tell(logging.WARNING, "introspection", words)
            raise
        self._keep(digest, told)
        return told

    def _keep(self, digest: bytes, told: Told) -> None:
        with self._lock:
            self._kept[digest] = told
            self._kept.move_to_end(digest)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)


# ── What it says ──────────────────────────────────────────────────────────────────────────────


def told_of(said: Mapping[str, object], endpoint: Endpoint, digest: bytes, now: int) -> Told:
    """Raises DocumentError for an answer that does not say whether the token is active."""
    active = said.get("active")
    if not isinstance(active, bool):
        raise DocumentError("its answer does not say whether the token is `active`")
    wrong = Refusal.INACTIVE if not active else wrong_in(said, endpoint, now)
    if wrong is not None:
        return Told(wrong, now + NEGATIVE)
    until = now + endpoint.cache
    ends = moment(said, "exp")
    if ends is not None:
        until = min(until, int(ends) + endpoint.leeway)
    claims = {name: value for name, value in said.items() if name != "active"}
    return Told(Token("opaque", endpoint.issuer, claims, {}, digest, until), until)


def wrong_in(said: Mapping[str, object], endpoint: Endpoint, now: int) -> Refusal | None:
    """Of what the issuer says of an active token, whatever speaks against it."""
    if "iss" in said and said["iss"] != endpoint.url:
        return Refusal.ISSUER
    if not is_access_token(said):
        return Refusal.TOKEN_TYPE
    if str(said.get("token_type")).lower() == "dpop" and "cnf" not in said:
        return Refusal.BOUND_HOW  # to a key that the issuer does not name
    if "aud" in said and endpoint.audience is not None and not meant(said["aud"], endpoint.audience):
        return Refusal.AUDIENCE
    try:
        ends, begins, issued = (moment(said, name) for name in ("exp", "nbf", "iat"))
    except Refused as refused:
        return refused.refusal
    if ends is not None and ends + endpoint.leeway <= now:
        return Refusal.EXPIRED
    if begins is not None and begins > now + endpoint.leeway:
        return Refusal.NOT_YET
    if issued is not None and issued > now + endpoint.leeway:
        return Refusal.ISSUED_LATER
    # Whom a token is for that does not say it, nobody knows: it may be for anything else that asks the same issuer.
    return Refusal.MISSING_CLAIM if endpoint.audience is not None and "aud" not in said else None


def is_access_token(said: Mapping[str, object]) -> bool:
    """Refresh tokens are active, too, and some issuers are asked about them: what the answer says of its kind, by
    whichever name, has to be an access token's."""
    given = [said[name] for name in KINDS if name in said]
    return all(isinstance(one, str) and one.lower() in ACCESS for one in given)


def meant(said: object, audience: str) -> bool:
    return audience in said if isinstance(said, list) else said == audience


# ── All of them ───────────────────────────────────────────────────────────────────────────────


class Introspection:
    """Of all issuers that are asked. A token goes to one of them only, as it is a secret to the others: to the one by
    whose `prefix` it begins, the longest of them. Raises IdentityError where two have the same."""

    def __init__(self, endpoints: Sequence[Endpoint], clock: Callable[[], float] = monotonic) -> None:
        by_prefix: dict[str, Asked] = {}
        for one in endpoints:
            other = by_prefix.setdefault(one.prefix, Asked(one, clock)).endpoint
            if other is not one:
                message = f"issuers `{other.issuer}` and `{one.issuer}` are both asked about the same opaque tokens"
                raise IdentityError(message, "say what the tokens of each begin with: `token_prefix`")
        self._asked = sorted(by_prefix.items(), key=lambda pair: -len(pair[0]))

    def introspect(self, raw: str, now: int) -> Token:
        """A token of kind `opaque`, which ends when it is to be asked for again. `now` in seconds since 1970. It may
        wait for the issuer, for a bounded time. Raises Refused."""
        if len(raw) > LONGEST_TOKEN:
            raise Refused(Refusal.TOO_LARGE)
        if not FORM.fullmatch(raw):
            raise Refused(Refusal.NOT_A_TOKEN)
        for prefix, asked in self._asked:
            if raw.startswith(prefix):
                return asked.introspect(raw, now)
        raise Refused(Refusal.UNKNOWN_ISSUER)


def endpoints_of(
    configuration: Configuration,
    issuers: Iterable[Issuer],
    secret_of: Callable[[str], Callable[[], str]],
    clock: Callable[[], float] = monotonic,
) -> list[Endpoint]:
    """Of those issuers of a policy that the configuration wants to be asked; `secret_of` makes of a reference what
    reads it. Raises IdentityError."""
    found = ((one, configuration.issuers.get(one.name)) for one in issuers)
    return [
        endpoint_of(one, settings, configuration, secret_of, clock)
        for one, settings in found
        if settings is not None and settings.introspection is not None
    ]


def endpoint_of(
    issuer: Issuer,
    settings: IssuerSettings,
    configuration: Configuration,
    secret_of: Callable[[str], Callable[[], str]],
    clock: Callable[[], float],
) -> Endpoint:
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
            signing_key(secret())
    except IdentityError as error:
        raise IdentityError(f"`{place}.{name}`: {error.message}", error.hint) from None
    return Endpoint(
        issuer.name,
        issuer.url,
        issuer.audience,
        url,
        Client(settings.client_id, settings.client_auth, secret),
        fetcher_of(settings.ca, settings.plain_http, configuration, clock),
        settings.token_prefix,
        in_seconds(settings.introspection_cache),
        in_seconds(general.leeway),
        general.timeout.total_seconds(),
    )
