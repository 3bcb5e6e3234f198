"""Clients of the token endpoint, who are the actors: each proves who it is by a key that it alone has.

`private_key_jwt` (RFC 7523), mTLS (RFC 8705), a DPoP proof by a known key (RFC 9449), or its own bound token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import TypeAlias

from policyengine.identity.config.model import Configuration, IdentityError
from policyengine.identity.facts import key_names
from policyengine.identity.issue.errors import NotIssued, Unissued
from policyengine.identity.issuer_documents import DocumentError, json_object
from policyengine.identity.keys.jwks import MOST_KEYS, Unusable, Usable, usable_of
from policyengine.identity.secrets import ChangingFile
from policyengine.identity.verified import Binding, Token, Who
from policyengine.identity.verify.jws import Jws, holds, read_jws
from policyengine.runtime.credential_errors import Refused
from policyengine.stores.credential_marks import Marks

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_ASSERTION = 8_192  # characters
LONGEST_LIFE = 300  # seconds
LONGEST_ID = 512
TYPES = (None, "jwt", "client-authentication+jwt")
JWKS = 'it has public keys of RSA from 2,048 bits on, of EC or of Ed25519 in a list: `{"keys": […]}`'

PublicKeys: TypeAlias = tuple[Usable, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """`agent` and `issuer`: who it is in the policy."""

    name: str
    agent: str
    issuer: str
    method: str
    keys: ChangingFile[PublicKeys] | None = field(default=None, repr=False)
    certificates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Actor:
    """A client that proved who it is. `binding`: the key that it proved to have; `token`: its own, if it sent one;
    `signer`: thumbprint of the key that signed its assertion."""

    client: Client
    binding: Binding
    token: tuple[Token, Who] | None = None
    signer: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """What can be revoked so that it is: itself, and every key that it proved who it is by."""
        return key_names(self.binding, self.signer) | {f"agent:{self.client.issuer}/{self.client.agent}"}


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client sent to prove who it is."""

    id: str | None = None
    assertion: str | None = field(default=None, repr=False)
    authorization: bool = False


@dataclass(frozen=True)
class Clients:
    """`audiences`: what an assertion may be for: this server, by its URL or that of its token endpoint."""

    known: Mapping[str, Client]
    audiences: frozenset[str]
    marks: Marks
    leeway: int = 30

    def actor(self, sent: Sent, own: tuple[Token, Who] | None, binding: Binding, now: int) -> Actor:
        """`own`: its actor token, verified; `binding`: what keys it proved in this request. Raises NotIssued,
        StoreError."""
        if sent.authorization:
            raise NotIssued(Unissued.CLIENT_METHOD, "secrets in `Authorization` are not taken")
        if sent.assertion is not None:
            client, jkt = self._by_assertion(sent.assertion, now)
            if sent.id not in (None, client.name):
                raise NotIssued(Unissued.CLIENT_METHOD, "`client_id` names another client")
            proved = binding if binding.jkt or binding.x5t else Binding(jkt)
        elif sent.id is not None:
            client, jkt, proved = self._by_key(sent.id, binding), None, binding
        elif own is not None:
            client, jkt, proved = self._by_token(own), None, binding
        else:
            raise NotIssued(Unissued.NO_CLIENT)
        if own is not None:
            self._check_own(client, own, binding, jkt)
        return Actor(client, proved, own, jkt)

    def recognizes(self, sent: Sent, own: tuple[Token, Who] | None, jkt: str, now: int) -> bool:
        """Whether a key that came along with this is a known client's: its own, that of its token, or any beside an
        assertion that it signed and nobody used. Decides nothing, and uses nothing up. Raises StoreError."""
        if own is not None and confirmed(own[0]).jkt == jkt:
            return True
        try:
            if sent.assertion is not None:
                client, claims, _ = self._signed(sent.assertion)
                return not self.marks.marked(self._mark(client, claims, now)[0], now)
            return sent.id is not None and jkt in thumbprints_of(self._client(sent.id, "dpop"))
        except NotIssued:
            return False

    def _client(self, name: str, *methods: str) -> Client:
        client = self.known.get(name)
        if client is None:
            raise NotIssued(Unissued.UNKNOWN_CLIENT)
        if client.method not in methods:
            raise NotIssued(Unissued.CLIENT_METHOD)
        return client

    def _by_key(self, name: str, binding: Binding) -> Client:
        client = self._client(name, "mtls", "dpop")
        if client.method == "mtls":
            known = binding.x5t is not None and binding.x5t in client.certificates
        else:
            known = binding.jkt is not None and binding.jkt in thumbprints_of(client)
        if not known:
            raise NotIssued(Unissued.CLIENT_KEY if binding.jkt or binding.x5t else Unissued.NO_CLIENT)
        return client

    def _by_token(self, own: tuple[Token, Who]) -> Client:
        """An agent that shows its own token, and nothing else: the token is bound, or whoever has seen it is it."""
        token, who = own
        found = {one.method: one for one in self.known.values() if (one.issuer, one.agent) == (token.issuer, who.agent)}
        if not found:
            raise NotIssued(Unissued.UNKNOWN_CLIENT)
        if "token" not in found:
            raise NotIssued(Unissued.CLIENT_METHOD)
        if confirmed(token) == Binding():
            raise NotIssued(Unissued.ACTOR_UNBOUND)
        return found["token"]

    def _check_own(self, client: Client, own: tuple[Token, Who], binding: Binding, jkt: str | None) -> None:
        token, who = own
        if (token.issuer, who.agent) != (client.issuer, client.agent) or who.hops:
            raise NotIssued(Unissued.ACTOR_OTHER)
        bound = confirmed(token)
        if bound.jkt is not None and bound.jkt not in (binding.jkt, jkt):
            raise NotIssued(Unissued.ACTOR_UNBOUND, "the actor token is bound to another key")
        if bound.x5t is not None and bound.x5t != binding.x5t:
            raise NotIssued(Unissued.ACTOR_UNBOUND, "the actor token is bound to another certificate")

    # ── An assertion ──────────────────────────────────────────────────────────────────────────

    def _by_assertion(self, raw: str, now: int) -> tuple[Client, str]:
        """The client, and the thumbprint of the key that signed."""
        client, claims, jkt = self._signed(raw)
        if not self.marks.once(*self._mark(client, claims, now), now):
            raise NotIssued(Unissued.ASSERTION_REPLAYED)
        return client, jkt

    def _signed(self, raw: str) -> tuple[Client, Mapping[str, object], str]:
        """Whose assertion it is, what it says, and the thumbprint of the key that signed it."""
        jws = read_assertion(raw)
        name = jws.claims.get("sub")
        if not isinstance(name, str) or jws.claims.get("iss") != name:
            raise NotIssued(Unissued.ASSERTION, "`iss` and `sub` of an assertion are both the client")
        client = self._client(name, "private_key_jwt")
        return client, jws.claims, signer(client, jws)

    def _mark(self, client: Client, claims: Mapping[str, object], now: int) -> tuple[str, int]:
        """Of an assertion that is for us and holds now: by which name it counts once, and until when."""
        audience, identifier = claims.get("aud"), claims.get("jti")
        if not isinstance(audience, str) or audience not in self.audiences:
            raise NotIssued(Unissued.ASSERTION_AUDIENCE)
        ends, issued, begins = (time_of(claims, name) for name in ("exp", "iat", "nbf"))
        if ends is None or ends <= now or ends > now + LONGEST_LIFE + self.leeway:
            raise NotIssued(Unissued.ASSERTION_TIME)
        if any(one is not None and one > now + self.leeway for one in (issued, begins)):
            raise NotIssued(Unissued.ASSERTION_TIME)
        if not isinstance(identifier, str) or not 0 < len(identifier) <= LONGEST_ID:
            raise NotIssued(Unissued.ASSERTION, "its `jti` is missing")
        name = sha256(f"{client.name}\0{identifier}".encode()).hexdigest()
        return f"assertion:{name}", ends + 1


def time_of(claims: Mapping[str, object], name: str) -> int | None:
    found = claims.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | Decimal) or not 0 <= found < 2**40:
        raise NotIssued(Unissued.ASSERTION_TIME, f"its `{name}` is no time")
    return int(found)


def read_assertion(raw: str) -> Jws:
    """Read as strictly as any token, before anybody verifies it."""
    try:
        found = read_jws(raw)
    except Refused:
        raise NotIssued(Unissued.ASSERTION) from None
    if len(raw) > LONGEST_ASSERTION or found.type not in TYPES:
        raise NotIssued(Unissued.ASSERTION)
    return found


def signer(client: Client, jws: Jws) -> str:
    """The thumbprint of the key that signed."""
    for one in keys_of(client):
        if jws.kid is not None and one.kid not in (None, jws.kid):
            continue
        if jws.alg in one.algorithms and holds(jws, one.key):
            return one.key.thumbprint()
    raise NotIssued(Unissued.ASSERTION_KEY)


# ── Their keys ────────────────────────────────────────────────────────────────────────────────


def keys_of(client: Client) -> PublicKeys:
    if client.keys is None:
        return ()
    try:
        return client.keys.read()
    except IdentityError:
        raise NotIssued(Unissued.CLIENT_KEY, "the keys of the client cannot be read") from None


def thumbprints_of(client: Client) -> frozenset[str]:
    return frozenset(one.key.thumbprint() for one in keys_of(client))


def confirmed(token: Token) -> Binding:
    """The key that a token says it is bound to."""
    confirmation = token.claims.get("cnf")
    if not isinstance(confirmation, Mapping):
        return Binding()
    jkt, x5t = confirmation.get("jkt"), confirmation.get("x5t#S256")
    return Binding(jkt if isinstance(jkt, str) else None, x5t if isinstance(x5t, str) else None)


def public_keys(content: bytes, name: str) -> PublicKeys:
    """Of a JWKS, as strong as keys of issuers have to be: one that cannot be used is a mistake here, as it is told to
    whoever wrote it. Raises IdentityError."""
    try:
        given = json_object(content).get("keys")
    except DocumentError as error:
        raise IdentityError(f"`{name}` is no JWKS: {error}", JWKS) from None
    if not isinstance(given, list) or len(given) > MOST_KEYS:
        raise IdentityError(f"`{name}` is no JWKS with up to {MOST_KEYS} keys", JWKS)
    try:
        return tuple(map(usable_of, given))
    except Unusable as unusable:
        raise IdentityError(f"`{name}` holds a key that cannot be used: {unusable.why}", JWKS) from None


def clients_of(configuration: Configuration) -> dict[str, Client]:
    """Raises IdentityError."""
    found: dict[str, Client] = {}
    homes: dict[str, str] = {}
    for name, given in configuration.clients.items():
        if homes.setdefault(given.agent, given.issuer) != given.issuer:
            raise IdentityError(
                f"`clients.{name}`: two agents of different issuers are called `{given.agent}`",
                "tokens of our own could not tell them apart",
            )
        file = None if given.keys is None else configuration.folder / given.keys
        keys = None if file is None else ChangingFile(file, public_keys, public=True)
        try:
            if keys is not None:
                keys.read()
        except IdentityError as error:
            raise IdentityError(f"`clients.{name}.keys`: {error.message}", error.hint) from None
        found[name] = Client(name, given.agent, given.issuer, given.method, keys, given.certificates)
    return found
