"""Attacks by way of keys, of where they come from and of what is said of opaque tokens: each has its own refusal.

Each row changes one thing of a world in which the same token is accepted.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from policyengine.http.fetch import Fetcher
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.keys.issuer_keys import DiscoveryJwksLoader, RemoteKeySource
from policyengine.identity.keys.jwks import MAX_CANDIDATE_KEYS, MAX_KEYS, SMALL_ORDER_POINTS, KeySource
from policyengine.identity.verified import UNBOUND, ConfirmedKey, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.introspection import (
    IntrospectionCredentials,
    IntrospectionEndpoint,
    IntrospectionRouter,
)
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.stores.credential_marks import MemoryMarks
from tests.identity import providing
from tests.identity.keys import jwks, public, signed
from tests.identity.providing import Faulty, Page, answers, redirects_to

NOW = 1_800_000_000
ALL = ("RS256", "PS256", "ES256", "ES384", "ES256K", "Ed25519", "HS256")


@dataclass
class Verifying:
    """JWSs by the keys that their issuer has, everything else by introspection: no more of a token is looked at."""

    keys: KeySource
    introspection: IntrospectionRouter

    def verify(self, raw: str, now: int) -> VerifiedToken:
        if raw.count(".") != 2:
            return self.introspection.introspect(raw, now)
        header = jws.extract_compact(raw.encode()).headers()
        if not any(holds(raw, key) for key in self.keys.find(header.get("kid"), header["alg"], now)):
            raise CredentialError(RefusalCode.SIGNATURE)
        return VerifiedToken("jwt", "acme", {}, header, sha256(raw.encode()).digest(), now + 60)

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        raise CredentialError(RefusalCode.NOT_A_TOKEN)


def holds(raw: str, key: Any) -> bool:
    try:
        jws.deserialize_compact(raw, key, algorithms=list(ALL))
    except JoseError:
        return False
    return True


def reads(token: VerifiedToken) -> TokenPrincipal:
    return TokenPrincipal("bot", None)


def binds(credentials: Credentials, request: ProofContext, token: VerifiedToken | None, now: int) -> ConfirmedKey:
    return UNBOUND


def presents(credentials: Credentials, request: ProofContext, now: int) -> None:
    return None


def front(server: Faulty, timeout: float) -> CredentialAuthenticator:
    keys = RemoteKeySource("acme", DiscoveryJwksLoader("acme", server.url, Fetcher()), timeout=timeout)
    client = IntrospectionCredentials("we", "client_secret_basic", lambda: "secret")
    endpoint = IntrospectionEndpoint(
        "acme", server.url, "api", f"{server.url}/introspect", client, Fetcher(), timeout=timeout
    )
    tokens = Verifying(keys, IntrospectionRouter([endpoint]))
    return CredentialAuthenticator(CredentialChecks(tokens, reads, binds, presents), MemoryMarks())


def good() -> dict[str, Any]:
    return jwks(public("ES256"), public("RS256"), public("EdDSA"))


def good_text() -> bytes:
    return json.dumps(good()).encode()


def world(server: Faulty) -> None:
    """In which tokens are accepted."""
    server.metadata()
    server.pages["/jwks"] = good()
    server.pages["/introspect"] = {"active": True, "iss": server.url, "aud": "api", "exp": NOW + 60}
    server.pages["/elsewhere"] = jwks(public("ES256", 2, kid="es256-1"))


def prove(identity: CredentialAuthenticator, raw: str) -> None:
    identity.prove(Credentials(authorization=f"Bearer {raw}"), ProofContext("GET", None), NOW)


# ── The table ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Attack:
    """`token`, in a world of other `keys`, `pages` or `metadata`; `@` in these is the issuer. `told`: in the log."""

    refusal: RefusalCode
    token: str = field(default_factory=lambda: signed("ES256"))
    keys: tuple[Mapping[str, Any], ...] | None = None
    pages: Mapping[str, Page] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""
    timeout: float = 20.0


def with_key(refusal: RefusalCode, jwk: dict[str, Any], token: str | None = None, *more: dict[str, Any]) -> Attack:
    """The key that the token names is another one."""
    return Attack(refusal, token or signed("ES256"), (jwk, *more))


def opaque(refusal: RefusalCode, answer: Page, told: str = "") -> Attack:
    return Attack(refusal, "opaque", pages={"/introspect": answer}, told=told)


def metadata(told: str, **changed: Any) -> Attack:
    return Attack(RefusalCode.PROVIDER, metadata=changed, told=told)


def pages(told: str, changed: Mapping[str, Page]) -> Attack:
    return Attack(RefusalCode.PROVIDER, pages=changed, told=told)


def keys_page(told: str, page: Page) -> Attack:
    return pages(told, {"/jwks": page})


def slow(page: Page) -> Attack:
    return Attack(RefusalCode.PROVIDER, pages={"/jwks": page}, timeout=0.1)


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8))


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def even(jwk: dict[str, Any]) -> dict[str, Any]:
    return {**jwk, "n": jwk["n"][:-1] + "A"}


def forged_by_small_order() -> str:
    """A signature that holds by the key of order one, whatever is signed: nobody has a key for it."""
    header = encoded(json.dumps({"alg": "Ed25519", "kid": "k"}).encode())
    return f"{header}.{encoded(b'anything')}.{encoded(bytes([1]) + bytes(63))}"


def rsa() -> str:
    return signed("RS256")


SMALLEST = {"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encoded(bytes([1]) + bytes(31))}
WEAK, USE, UNKNOWN, DOWN = (
    RefusalCode.WEAK_KEY,
    RefusalCode.WRONG_KEY_USE,
    RefusalCode.UNKNOWN_KEY,
    RefusalCode.PROVIDER,
)
OTHER = "belongs to another issuer"
OPENID, OAUTH = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"

ATTACKS: dict[str, Callable[[], Attack]] = {
    # ── Weak keys
    "an RSA key of 1,024 bits": lambda: with_key(WEAK, public("weak"), signed("weak", alg="RS256")),
    "an RSA key of 16,384 bits": lambda: with_key(WEAK, public("RS256", n=encoded(b"\xff" * 2_048)), rsa()),
    "an RSA key of one bit": lambda: with_key(WEAK, public("RS256", n="AQ"), rsa()),
    "an RSA key with the exponent one": lambda: with_key(WEAK, public("RS256", e="AQ"), rsa()),
    "an RSA key with the exponent three": lambda: with_key(WEAK, public("RS256", e="Aw"), rsa()),
    "an RSA key with an even exponent": lambda: with_key(WEAK, public("RS256", e=number(65_538)), rsa()),
    "an RSA key with an endless exponent": lambda: with_key(WEAK, public("RS256", e=number(2**300 + 1)), rsa()),
    "an RSA key with an even modulus": lambda: with_key(WEAK, even(public("RS256")), rsa()),
    "an RSA key that is only a certificate": lambda: with_key(WEAK, public("RS256", n=None, x5c=["MIIB"]), rsa()),
    "a point that is not on its curve": lambda: with_key(WEAK, public("ES256", y=public("ES256", 2)["y"])),
    "a point at nothing": lambda: with_key(WEAK, public("ES256", x="AA", y="AA")),
    "a point of another curve": lambda: with_key(WEAK, public("ES256", crv="P-384"), signed("ES256")),
    "a point of small order, by which everything holds": lambda: with_key(WEAK, SMALLEST, forged_by_small_order()),
    "a point that is too short": lambda: with_key(WEAK, public("EdDSA", x="AAAA"), signed("EdDSA", alg="Ed25519")),
    # ── Keys for something else
    "a shared secret among public keys": lambda: with_key(USE, public("HS256"), signed("HS256")),
    "a public key as a shared secret": lambda: Attack(USE, signed("HS256", kid="rs256-1")),
    "a key for encryption": lambda: with_key(USE, public("ES256", use="enc")),
    "a key for many uses": lambda: with_key(USE, public("ES256", use=["sig"])),
    "a key that wraps others": lambda: with_key(USE, public("ES256", key_ops=["wrapKey"])),
    "a key whose operations are no list": lambda: with_key(USE, public("ES256", key_ops="verify")),
    "a key for another algorithm": lambda: with_key(USE, public("RS256", alg="PS256"), rsa()),
    "a key for an algorithm of encryption": lambda: with_key(USE, public("RS256", alg="RSA-OAEP"), rsa()),
    "an algorithm for another type of key": lambda: Attack(USE, signed("ES384", kid="es256-1")),
    "a curve that is used for coins": lambda: with_key(USE, public("ES256K"), signed("ES256K")),
    "a curve for agreement": lambda: with_key(USE, public("X25519", kid="eddsa-1"), signed("EdDSA", alg="Ed25519")),
    "a curve that nobody knows": lambda: with_key(USE, public("ES256", crv="P-224")),
    "a type that nobody knows": lambda: with_key(USE, public("ES256", kty="AKP")),
    # ── Key ids
    "a key id that is a path": lambda: Attack(UNKNOWN, signed("ES256", kid="../../../dev/null")),
    "a key id that is SQL": lambda: Attack(UNKNOWN, signed("ES256", kid="x' UNION SELECT 'secret' --")),
    "a key id that is a URL": lambda: Attack(UNKNOWN, signed("ES256", kid="https://elsewhere.example/jwks")),
    "a key id with a NUL": lambda: Attack(UNKNOWN, signed("ES256", kid="es256-1\0")),
    "a key id in other letters": lambda: Attack(UNKNOWN, signed("ES256", kid="ES256-1")),
    "a key id that is no text in the set": lambda: with_key(UNKNOWN, public("ES256", kid=1)),
    "a key that was taken back": lambda: with_key(UNKNOWN, public("RS256")),
    "many keys of one id": lambda: with_key(
        RefusalCode.KEY_ID, *[public("ES256")], None, *[public("ES256")] * MAX_CANDIDATE_KEYS
    ),
    "no key id, and many keys": lambda: Attack(
        RefusalCode.KEY_ID,
        signed("ES256", kid=None),
        tuple(public("ES256", kid=str(i)) for i in range(MAX_CANDIDATE_KEYS + 1)),
    ),
    # ── Somebody else's keys
    "somebody else's key by the id of a known one": lambda: Attack(
        RefusalCode.SIGNATURE, signed("ES256", 2, kid="es256-1")
    ),
    "metadata of another issuer": lambda: metadata(OTHER, issuer="https://elsewhere.example"),
    "metadata of a look-alike": lambda: metadata(OTHER, issuer="@/"),
    "metadata of nobody": lambda: metadata(OTHER, issuer=None),
    "metadata of many": lambda: metadata(OTHER, issuer=["@"]),
    "metadata of OAuth of another issuer": lambda: pages(
        OTHER, {OPENID: answers(404), OAUTH: {"issuer": "@/other", "jwks_uri": "@/jwks"}}
    ),
    "metadata that redirect": lambda: pages("the server answers 302", {OPENID: redirects_to("/elsewhere")}),
    "keys on another server, in the clear": lambda: metadata("another server", jwks_uri="http://127.0.0.2:9/jwks"),
    "keys on another port, in the clear": lambda: metadata("another server", jwks_uri="http://127.0.0.1:9/jwks"),
    "keys in a file of this machine": lambda: metadata("must have a host", jwks_uri="file:///etc/passwd"),
    "keys over another protocol": lambda: metadata("must begin with", jwks_uri="ftp://127.0.0.1/jwks"),
    "keys behind a user": lambda: metadata("neither a user", jwks_uri="https://user:secret@127.0.0.1/jwks"),
    "keys at no URL": lambda: metadata("no `jwks_uri`", jwks_uri={"url": "@/jwks"}),
    "keys that are elsewhere now": lambda: keys_page("the server answers 302", redirects_to("/elsewhere")),
    "keys in an error": lambda: keys_page("the server answers 404", answers(404, good_text())),
    # ── Answers that hurt
    "keys that are too large": lambda: keys_page("longer than 262,144 bytes", providing.oversized),
    "keys that never end": lambda: keys_page("longer than 262,144 bytes", providing.endless),
    "keys that drip": lambda: slow(providing.drips_body),
    "headers that drip": lambda: slow(providing.drips_headers),
    "keys in a bomb": lambda: keys_page("compressed", providing.compressed),
    "keys that are nested": lambda: keys_page("too deep", b'{"keys":' + b"[" * 100_000),
    "keys that are too many": lambda: keys_page("more than 100 keys", jwks(*[public("ES256")] * (MAX_KEYS + 1))),
    "keys that are there twice": lambda: keys_page("duplicate", good_text().replace(b"{", b'{"keys":[],', 1)),
    "a key with a member twice": lambda: keys_page("duplicate", good_text().replace(b'"kid"', b'"kid":"x","kid"', 1)),
    # ── Opaque tokens
    "an opaque token that is not active": lambda: opaque(RefusalCode.INACTIVE, {"active": False}),
    "one that is active in words": lambda: opaque(DOWN, {"active": "true"}, "whether the token is `active`"),
    "one that is active twice": lambda: opaque(DOWN, b'{"active": false, "active": true}', "duplicate"),
    "one of another issuer": lambda: opaque(RefusalCode.ISSUER, {"active": True, "iss": "https://elsewhere.example"}),
    "one for somebody else": lambda: opaque(RefusalCode.AUDIENCE, {"active": True, "aud": ["another api"]}),
    "one that has expired": lambda: opaque(RefusalCode.EXPIRED, {"active": True, "exp": NOW - 60}),
    "one that never expires": lambda: opaque(DOWN, b'{"active": true, "exp": 1e999999999}', "too long"),
    "one that expires in words": lambda: opaque(RefusalCode.CLAIM_TYPE, {"active": True, "exp": "never"}),
    "one with parameters of its own": lambda: Attack(RefusalCode.NOT_A_TOKEN, "opaque&active=true"),
    "one that is endless": lambda: Attack(RefusalCode.TOO_LARGE, "o" * 5_000),
}


def at(issuer: str, tree: Any) -> Any:
    match tree:
        case str():
            return tree.replace("@", issuer) if tree.startswith("@") else tree
        case dict():
            return {name: at(issuer, value) for name, value in tree.items()}
        case list():
            return [at(issuer, one) for one in tree]
        case _:
            return tree


@pytest.mark.parametrize("made", ATTACKS.values(), ids=ATTACKS)
def test_each_attack_is_rejected_with_its_own_code_and_counted(
    made: Callable[[], Attack], server: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    attack = made()
    world(server)
    server.metadata(**at(server.url, dict(attack.metadata)))
    if attack.keys is not None:
        server.pages["/jwks"] = jwks(*map(dict, attack.keys))
    server.pages.update({path: at(server.url, page) for path, page in attack.pages.items()})
    identity = front(server, attack.timeout)
    with pytest.raises(CredentialError) as caught:
        prove(identity, attack.token)
    assert caught.value.refusal is attack.refusal
    assert identity.counts == {attack.refusal.value: 1}
    assert attack.told in caplog.text
    assert attack.told or attack.timeout < 1 or attack.refusal is not DOWN, (
        "of whoever cannot be asked the log says why"
    )
    assert "/elsewhere" not in server.asked


ACCEPTED: dict[str, Callable[[], str]] = {
    "EC": lambda: signed("ES256"),
    "RSA": rsa,
    "Ed25519": lambda: signed("EdDSA", alg="Ed25519"),
    "without a key id": lambda: signed("ES256", kid=None),
    "opaque": lambda: "opaque",
}


@pytest.mark.parametrize("made", ACCEPTED.values(), ids=ACCEPTED)
def test_each_control_token_is_accepted(made: Callable[[], str], server: Faulty) -> None:
    raw = made()
    world(server)
    identity = front(server, 20.0)
    prove(identity, raw)
    assert identity.counts == {"proved": 1}


def test_the_table_has_at_least_sixty_attacks() -> None:
    assert len(ATTACKS) >= 60


@pytest.mark.parametrize("known", [{**SMALLEST, "x": encoded(one)} for one in sorted(SMALL_ORDER_POINTS)][:3])
def test_the_library_accepts_a_forged_signature_by_the_key_of_order_one(known: dict[str, str]) -> None:
    """Why such keys are refused before a library sees them: at least by the one of order one, everything holds."""
    taken = holds(forged_by_small_order(), OKPKey.import_key(known))  # type: ignore[arg-type]
    assert taken is (known["x"] == SMALLEST["x"])
