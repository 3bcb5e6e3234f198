"""Clients of the token endpoint. The client that requests a token is its actor (`act`, RFC 8693). Each client
authenticates with a key that no other client has. The methods are `private_key_jwt` (RFC 7523), mTLS (RFC 8705), a DPoP
proof with a known key (RFC 9449), and the client's own bound token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import TypeAlias

from policyengine.identity.config.model import IdentityConfig, IdentityConfigError
from policyengine.identity.facts import revocable_key_names
from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.identity.keys.jwks import MAX_KEYS, PublicJwk, UnusableKeyError, parse_public_jwk
from policyengine.identity.secret_reader import ChangingFile
from policyengine.identity.verified import ConfirmedKey, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.jws import Jws, is_signed_by, read_jws
from policyengine.runtime.credential_errors import CredentialError
from policyengine.stores.credential_marks import CredentialMarks

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_LENGTH = 8_192  # characters
MAX_ASSERTION_SECONDS = 300
MAX_ASSERTION_ID_LENGTH = 512
ASSERTION_TYPES = (None, "jwt", "client-authentication+jwt")
JWKS_HINT = 'write a list of public keys, RSA of at least 2,048 bits, EC or Ed25519: `{"keys": […]}`'

PublicKeys: TypeAlias = tuple[PublicJwk, ...]


@dataclass(frozen=True, slots=True)
class TokenClient:
    """A configured client; `agent` and `issuer` identify its agent in the policy."""

    name: str
    agent: str
    issuer: str
    method: str
    keys: ChangingFile[PublicKeys] | None = field(default=None, repr=False)
    certificates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthenticatedClient:
    """A client that has authenticated. `binding` holds the keys that it proved; `token` is its actor token, if it sent
    one; `signer` is the thumbprint of the key that signed its assertion.
    """

    client: TokenClient
    binding: ConfirmedKey
    token: tuple[VerifiedToken, TokenPrincipal] | None = None
    signer: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names whose revocation revokes the client: its agent, and every key with which it authenticated."""
        return revocable_key_names(self.binding, self.signer) | {f"agent:{self.client.issuer}/{self.client.agent}"}


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The credentials that a client sent to authenticate itself."""

    id: str | None = None
    assertion: str | None = field(default=None, repr=False)
    authorization: bool = False


@dataclass(frozen=True)
class ClientRegistry:
    """The known clients. `audiences` are the accepted audiences of an assertion: the URLs of this server and its
    endpoints.
    """

    known: Mapping[str, TokenClient]
    audiences: frozenset[str]
    marks: CredentialMarks
    leeway: int = 30

    def actor(
        self, sent: ClientCredentials, own: tuple[VerifiedToken, TokenPrincipal] | None, binding: ConfirmedKey, now: int
    ) -> AuthenticatedClient:
        """Authenticate the client. `own` is its verified actor token, and `binding` holds the keys that it proved in
        this request. Raises TokenIssuanceError, StoreError."""
        if sent.authorization:
            raise TokenIssuanceError(
                IssuanceRefusal.CLIENT_METHOD, "a client secret in `Authorization` is not accepted"
            )
        if sent.assertion is not None:
            client, jkt = self._by_assertion(sent.assertion, now)
            if sent.id not in (None, client.name):
                raise TokenIssuanceError(
                    IssuanceRefusal.CLIENT_METHOD, "`client_id` and the assertion name different clients"
                )
            proved = binding if binding.jkt or binding.x5t else ConfirmedKey(jkt)
        elif sent.id is not None:
            client, jkt, proved = self._by_key(sent.id, binding), None, binding
        elif own is not None:
            client, jkt, proved = self._by_token(own), None, binding
        else:
            raise TokenIssuanceError(IssuanceRefusal.NO_CLIENT)
        if own is not None:
            self._check_own(client, own, binding, jkt)
        return AuthenticatedClient(client, proved, own, jkt)

    def recognizes(
        self, sent: ClientCredentials, own: tuple[VerifiedToken, TokenPrincipal] | None, jkt: str, now: int
    ) -> bool:
        """Return whether a key that came with the request belongs to a known client: a configured key, the key of its
        token, or a key that came with a signed, unused assertion. This method neither authenticates a client nor uses
        up anything. Raises StoreError.
        """
        if own is not None and token_binding(own[0]).jkt == jkt:
            return True
        try:
            if sent.assertion is not None:
                client, claims, _ = self._verify_assertion(sent.assertion)
                return not self.marks.marked(self._mark(client, claims, now)[0], now)
            return sent.id is not None and jkt in client_thumbprints(self._client(sent.id, "dpop"))
        except TokenIssuanceError:
            return False

    def _client(self, name: str, *methods: str) -> TokenClient:
        client = self.known.get(name)
        if client is None:
            raise TokenIssuanceError(IssuanceRefusal.UNKNOWN_CLIENT)
        if client.method not in methods:
            raise TokenIssuanceError(IssuanceRefusal.CLIENT_METHOD)
        return client

    def _by_key(self, name: str, binding: ConfirmedKey) -> TokenClient:
        client = self._client(name, "mtls", "dpop")
        if client.method == "mtls":
            known = binding.x5t is not None and binding.x5t in client.certificates
        else:
            known = binding.jkt is not None and binding.jkt in client_thumbprints(client)
        if not known:
            raise TokenIssuanceError(
                IssuanceRefusal.CLIENT_KEY if binding.jkt or binding.x5t else IssuanceRefusal.NO_CLIENT
            )
        return client

    def _by_token(self, own: tuple[VerifiedToken, TokenPrincipal]) -> TokenClient:
        """Return the agent whose own token is its only credential. The token must be bound to a key, because otherwise
        every holder could use the token. Raises TokenIssuanceError.
        """
        token, who = own
        found = {one.method: one for one in self.known.values() if (one.issuer, one.agent) == (token.issuer, who.agent)}
        if not found:
            raise TokenIssuanceError(IssuanceRefusal.UNKNOWN_CLIENT)
        if "token" not in found:
            raise TokenIssuanceError(IssuanceRefusal.CLIENT_METHOD)
        if token_binding(token) == ConfirmedKey():
            raise TokenIssuanceError(IssuanceRefusal.ACTOR_UNBOUND)
        return found["token"]

    def _check_own(
        self, client: TokenClient, own: tuple[VerifiedToken, TokenPrincipal], binding: ConfirmedKey, jkt: str | None
    ) -> None:
        token, who = own
        if (token.issuer, who.agent) != (client.issuer, client.agent) or who.hops:
            raise TokenIssuanceError(IssuanceRefusal.ACTOR_OTHER)
        bound = token_binding(token)
        if bound.jkt is not None and bound.jkt not in (binding.jkt, jkt):
            raise TokenIssuanceError(IssuanceRefusal.ACTOR_UNBOUND, "the actor token is bound to another key")
        if bound.x5t is not None and bound.x5t != binding.x5t:
            raise TokenIssuanceError(IssuanceRefusal.ACTOR_UNBOUND, "the actor token is bound to another certificate")

    # ── Assertions ────────────────────────────────────────────────────────────────────────────

    def _by_assertion(self, raw: str, now: int) -> tuple[TokenClient, str]:
        """Return the client and the thumbprint of the key that signed the assertion, which is then used up. Raises
        TokenIssuanceError, StoreError.
        """
        client, claims, jkt = self._verify_assertion(raw)
        if not self.marks.once(*self._mark(client, claims, now), now):
            raise TokenIssuanceError(IssuanceRefusal.ASSERTION_REPLAYED)
        return client, jkt

    def _verify_assertion(self, raw: str) -> tuple[TokenClient, Mapping[str, object], str]:
        """Return the client, the claims, and the thumbprint of the key that signed the assertion. Raises
        TokenIssuanceError.
        """
        jws = read_assertion(raw)
        name = jws.claims.get("sub")
        if not isinstance(name, str) or jws.claims.get("iss") != name:
            raise TokenIssuanceError(
                IssuanceRefusal.ASSERTION, "`iss` and `sub` of an assertion must both be the client ID"
            )
        client = self._client(name, "private_key_jwt")
        return client, jws.claims, signer_thumbprint(client, jws)

    def _mark(self, client: TokenClient, claims: Mapping[str, object], now: int) -> tuple[str, int]:
        """Check the audience and times of an assertion. Return its replay mark and the time until which to keep the
        mark, in seconds since 1970. Raises TokenIssuanceError.
        """
        audience, identifier = claims.get("aud"), claims.get("jti")
        if not isinstance(audience, str) or audience not in self.audiences:
            raise TokenIssuanceError(IssuanceRefusal.ASSERTION_AUDIENCE)
        ends, issued, begins = (time_claim(claims, name) for name in ("exp", "iat", "nbf"))
        if ends is None or ends <= now or ends > now + MAX_ASSERTION_SECONDS + self.leeway:
            raise TokenIssuanceError(IssuanceRefusal.ASSERTION_TIME)
        if any(one is not None and one > now + self.leeway for one in (issued, begins)):
            raise TokenIssuanceError(IssuanceRefusal.ASSERTION_TIME)
        if not isinstance(identifier, str) or not 0 < len(identifier) <= MAX_ASSERTION_ID_LENGTH:
            raise TokenIssuanceError(IssuanceRefusal.ASSERTION, "the assertion has no `jti`, or one that is too long")
        name = sha256(f"{client.name}\0{identifier}".encode()).hexdigest()
        return f"assertion:{name}", ends + 1


def time_claim(claims: Mapping[str, object], name: str) -> int | None:
    found = claims.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | Decimal) or not 0 <= found < 2**40:
        raise TokenIssuanceError(IssuanceRefusal.ASSERTION_TIME, f"`{name}` of the assertion is not a valid time")
    return int(found)


def read_assertion(raw: str) -> Jws:
    """Parse an assertion as strictly as a token, before it is verified. Raises TokenIssuanceError."""
    try:
        found = read_jws(raw)
    except CredentialError:
        raise TokenIssuanceError(IssuanceRefusal.ASSERTION) from None
    if len(raw) > MAX_ASSERTION_LENGTH or found.type not in ASSERTION_TYPES:
        raise TokenIssuanceError(IssuanceRefusal.ASSERTION)
    return found


def signer_thumbprint(client: TokenClient, jws: Jws) -> str:
    """Return the thumbprint of the client's key that signed the assertion. Raises TokenIssuanceError."""
    for key in client_keys(client):
        if jws.kid is not None and key.kid not in (None, jws.kid):
            continue
        if jws.alg in key.algorithms and is_signed_by(jws, key.key):
            return key.key.thumbprint()
    raise TokenIssuanceError(IssuanceRefusal.ASSERTION_KEY)


# ── Keys of clients ───────────────────────────────────────────────────────────────────────────


def client_keys(client: TokenClient) -> PublicKeys:
    if client.keys is None:
        return ()
    try:
        return client.keys.read()
    except IdentityConfigError:
        raise TokenIssuanceError(IssuanceRefusal.CLIENT_KEY, "the keys of the client cannot be read") from None


def client_thumbprints(client: TokenClient) -> frozenset[str]:
    return frozenset(one.key.thumbprint() for one in client_keys(client))


def token_binding(token: VerifiedToken) -> ConfirmedKey:
    """Return the keys to which the token's `cnf` binds it; an unbound token has none."""
    confirmation = token.claims.get("cnf")
    if not isinstance(confirmation, Mapping):
        return ConfirmedKey()
    jkt, x5t = confirmation.get("jkt"), confirmation.get("x5t#S256")
    return ConfirmedKey(jkt if isinstance(jkt, str) else None, x5t if isinstance(x5t, str) else None)


def parse_client_keys(content: bytes, name: str) -> PublicKeys:
    """Parse a client's JWKS, whose keys must be as strong as those of issuers. Unlike in an issuer's set, an unusable
    key is an error here, because the operator can correct it. Raises IdentityConfigError."""
    try:
        given = parse_document(content).get("keys")
    except DocumentError as error:
        raise IdentityConfigError(f"`{name}` is not a JWKS: {error}", JWKS_HINT) from None
    if not isinstance(given, list) or len(given) > MAX_KEYS:
        raise IdentityConfigError(f"`{name}` is not a JWKS with up to {MAX_KEYS} keys", JWKS_HINT)
    try:
        return tuple(map(parse_public_jwk, given))
    except UnusableKeyError as unusable:
        raise IdentityConfigError(f"`{name}` holds a key that cannot be used: {unusable.why}", JWKS_HINT) from None


def load_clients(configuration: IdentityConfig) -> dict[str, TokenClient]:
    """Return the configured clients by name. Raises IdentityConfigError."""
    found: dict[str, TokenClient] = {}
    homes: dict[str, str] = {}
    for name, given in configuration.clients.items():
        if homes.setdefault(given.agent, given.issuer) != given.issuer:
            raise IdentityConfigError(
                f"`clients.{name}`: two agents of different issuers are called `{given.agent}`",
                "rename one of them: issued tokens name agents without their issuer",
            )
        file = None if given.keys is None else configuration.folder / given.keys
        keys = None if file is None else ChangingFile(file, parse_client_keys, public=True)
        try:
            if keys is not None:
                keys.read()
        except IdentityConfigError as error:
            raise IdentityConfigError(f"`clients.{name}.keys`: {error.message}", error.hint) from None
        found[name] = TokenClient(name, given.agent, given.issuer, given.method, keys, given.certificates)
    return found
