"""The OpenID Connect client: it starts sign-ins, redeems codes, and verifies ID tokens with the verifier of all
tokens."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from time import time
from urllib.parse import urlencode

from policyengine.http.fetch import CertificatesError, Fetcher, FetchError
from policyengine.identity.config.model import (
    IdentityConfig,
    IdentityConfigError,
    IssuerSettings,
    to_seconds,
)
from policyengine.identity.http_fetch import check_url, create_fetcher
from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.identity.keys.issuer_keys import create_key_source
from policyengine.identity.login.errors import LoginError, LoginRefusal
from policyengine.identity.login.provider_metadata import MetadataCache, ProviderMetadata
from policyengine.identity.verified import VerifiedToken
from policyengine.identity.verify.claims import text_claim, text_or_list_claim, time_claim
from policyengine.identity.verify.introspection import ClientAuthMethod, IntrospectionCredentials, encode_form
from policyengine.identity.verify.tokens import ID_TOKEN, TokenVerifier, TrustedIssuer
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError

RANDOM_BYTES = 32
MAX_CODE_LENGTH = 2_048
MAX_TOKEN_AGE_SECONDS = 600  # an ID token that was issued earlier belongs to an earlier sign-in


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """One sign-in: the values that bind the answer of the provider to the browser that started it."""

    state: str
    nonce: str
    verifier: str = field(repr=False)

    @classmethod
    def begin(cls) -> LoginAttempt:
        return cls(*(secrets.token_urlsafe(RANDOM_BYTES) for _ in range(3)))

    @property
    def challenge(self) -> str:
        """The PKCE challenge of the method S256 (RFC 7636)."""
        return urlsafe_b64encode(sha256(self.verifier.encode("ascii")).digest()).decode("ascii").rstrip("=")


@dataclass(frozen=True, slots=True)
class Person:
    """A person who proved their name. `issuer` is its name in the policy; None for a person with a link from the
    terminal. `claims` are those of the ID token.
    """

    user: str
    issuer: str | None = None
    claims: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other name of the user, `sub`, if the settings name users by another claim."""
        subject = self.claims.get("sub")
        return (subject,) if isinstance(subject, str) and subject not in ("", self.user) else ()


@dataclass(frozen=True, slots=True)
class LoginClient:
    """The registration of this server at the provider. A client without `secret` is public."""

    id: str
    redirect_uri: str
    secret: Callable[[], str] | None = field(default=None, repr=False)
    method: ClientAuthMethod = "client_secret_basic"
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenIdClient:
    """A client of one issuer of the policy. Its methods may wait for the issuer, for a bounded time."""

    issuer: Issuer
    client: LoginClient
    settings: IssuerSettings
    fetcher: Fetcher
    metadata: MetadataCache
    tokens: TokenVerifier
    timeout: float

    @classmethod
    def of(cls, issuer: Issuer, client: LoginClient, configuration: IdentityConfig) -> OpenIdClient:
        """Create the client. Raises IdentityConfigError."""
        settings = configuration.issuers.get(issuer.name, IssuerSettings())
        if issuer.url is None:
            hint = f'add `url "https://…"` to `issuer {issuer.name}` in the policy'
            raise IdentityConfigError(f"issuer `{issuer.name}` has no `url` at which people could sign in", hint)
        check_url(issuer.url, f"issuer {issuer.name}: url", settings.plain_http)
        fetcher = create_fetcher(settings.ca, settings.plain_http, configuration)
        keys = create_key_source(issuer, settings, configuration)
        accepting = settings.model_copy(update={"types": ("jwt", ID_TOKEN)})
        trusted = {issuer.url: TrustedIssuer(issuer.name, client.id, None, accepting, keys)}
        tokens = TokenVerifier(trusted, leeway=to_seconds(configuration.identity.leeway))
        timeout = configuration.identity.timeout.total_seconds()
        return cls(issuer, client, settings, fetcher, MetadataCache(issuer.url, fetcher), tokens, timeout)

    def authorization_url(self, attempt: LoginAttempt) -> str:
        """Return the URL at which the person signs in. Raises LoginError."""
        endpoint = self._provider().authorization_endpoint
        asked = {
            "response_type": "code",
            "client_id": self.client.id,
            "redirect_uri": self.client.redirect_uri,
            "scope": " ".join(dict.fromkeys(("openid", *self.client.scopes))),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    def sign_in(self, attempt: LoginAttempt, code: str, named: str | None, now: int | None = None) -> Person:
        """Redeem the code of the answer, and return the person whom the ID token names. `named` is `iss` of the answer
        (RFC 9207). Raises LoginError.
        """
        provider, moment = self._provider(), int(time()) if now is None else now
        if named != self.issuer.url and (named is not None or provider.names_itself):
            raise LoginError(LoginRefusal.ISSUER)
        raw = self._redeem(provider, attempt, code, moment)
        try:
            token = self.tokens.verify(raw, moment)
            check_id_token(token, self.client.id, attempt.nonce, moment)
            user = text_claim(token.claims, self.settings.user)
        except CredentialError as error:
            raise LoginError(LoginRefusal.TOKEN, str(error)) from None
        if not user:
            raise LoginError(LoginRefusal.USER, f"the claim `{self.settings.user}` is missing")
        return Person(user, self.issuer.name, dict(token.claims))

    def _provider(self) -> ProviderMetadata:
        try:
            return self.metadata.read(self.fetcher.clock() + self.timeout)
        except (FetchError, DocumentError, CertificatesError) as error:
            raise LoginError(LoginRefusal.PROVIDER, str(error)) from None

    def _redeem(self, provider: ProviderMetadata, attempt: LoginAttempt, code: str, now: int) -> str:
        """Exchange the code for an ID token. Raises LoginError."""
        if not 0 < len(code) <= MAX_CODE_LENGTH or not code.isascii():
            raise LoginError(LoginRefusal.CODE, "the code is too long, or not ASCII")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.client.redirect_uri,
            "code_verifier": attempt.verifier,
        }
        try:
            body, headers = self._authenticate(form, now)
            answer = self.fetcher.post(provider.token_endpoint, body, headers, self.fetcher.clock() + self.timeout)
            raw = parse_document(answer.body).get("id_token")
        except FetchError as error:
            refused = error.status is not None and 400 <= error.status < 500
            raise LoginError(LoginRefusal.CODE if refused else LoginRefusal.PROVIDER, error.why) from None
        except (DocumentError, CertificatesError, IdentityConfigError) as error:
            raise LoginError(LoginRefusal.PROVIDER, str(error)) from None
        if not isinstance(raw, str) or not raw.startswith("e"):
            raise LoginError(LoginRefusal.TOKEN, "the answer has no ID token")
        return raw

    def _authenticate(self, form: Mapping[str, str], now: int) -> tuple[bytes, dict[str, str]]:
        client = self.client
        if client.secret is None:
            return encode_form({**form, "client_id": client.id}), {}
        known = IntrospectionCredentials(client.id, client.method, client.secret)
        return known.authenticated(form, str(self.issuer.url), now)


def check_id_token(token: VerifiedToken, client: str, nonce: str, now: int) -> None:
    """Check the claims that only ID tokens have (OpenID Connect Core 3.1.3.7); the verifier has checked signature,
    issuer, audience and expiry. Raises LoginError, CredentialError.
    """
    claims = token.claims
    audiences, azp = text_or_list_claim(claims, "aud") or (), text_claim(claims, "azp")
    if azp not in (None, client) or (len(audiences) > 1 and azp is None):
        raise LoginError(LoginRefusal.CLIENT)
    given = text_claim(claims, "nonce")
    if given is None or not compare_digest(given.encode(), nonce.encode()):
        raise LoginError(LoginRefusal.NONCE)
    if not text_claim(claims, "sub"):
        raise LoginError(LoginRefusal.TOKEN, "the claim `sub` is missing")
    issued = time_claim(claims, "iat")
    if issued is None or issued < now - MAX_TOKEN_AGE_SECONDS:
        raise LoginError(LoginRefusal.TOKEN, "the claim `iat` is missing or too old")
