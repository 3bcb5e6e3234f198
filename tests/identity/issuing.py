"""An issuer for tests: keys that are made once, tokens of every shape, and the engine that verifies them."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from policyengine import Engine
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import IssuerSettings
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.keys.jwks import VerifyingKey
from policyengine.identity.verified import UNBOUND, ConfirmedKey, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.delegation_chain import ChainReader
from policyengine.identity.verify.tokens import TokenVerifier, TrustedIssuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.runtime.decision import Decision
from policyengine.stores.credential_marks import MemoryMarks

NOW = 1_800_000_000
TIME = [NOW]
ACME, OTHER, MESH = "https://login.acme.example", "https://login.other.example", "spiffe://mesh.example"
US, AUDIENCE = "https://agents.acme.example", "payments-api"
BOT, USER = "invoice-bot", "alice"
WORKLOAD = f"{MESH}/ns/pay/sa/bot"

POLICY = f"""
language 1
package acme.identity
enum plan = free < team
entity user {{ plan: plan? }}
issuer acme  {{ url "{ACME}"  audience "{AUDIENCE}"  records chains }}
issuer other {{ url "{OTHER}" audience "{AUDIENCE}" }}
issuer mesh  {{ url "{MESH}"  audience "{AUDIENCE}"  scopes none }}
scope invoices.read  as "read:invoices"  {{ GET /v1/invoices }}
scope invoices.write as "write:invoices" {{ include invoices.read  POST /v1/invoices }}
users unrestricted
agent "invoice-bot" {{ issued by acme, other  acts for any user  may invoices.write }}
agent "invoice-bot" {{ issued by acme  acts alone  may invoices.read }}
agent "planner" {{
  issued by acme  acts for any user  may invoices.write
  may delegate invoices.write to agent "invoice-bot"
  may delegate invoices.write to agent "router"
}}
agent "planner" {{
  issued by acme  acts alone  may invoices.write
  may delegate invoices.write to agent "invoice-bot"
}}
agent "router" {{
  issued by acme  acts for any user  may invoices.write
  may delegate invoices.write to agent "invoice-bot"
}}
agent "spiffe://mesh.example/*" {{ issued by mesh  acts alone  may GET /v1/invoices }}
user where true {{ may GET /v1/invoices }}
"""


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────


@cache
def ec(curve: str = "P-256", name: str = "ec") -> ECKey:
    return ECKey.generate_key(curve, {"kid": name})


@cache
def ed(name: str = "ed") -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": name})


@cache
def rsa(name: str = "rsa") -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name})


@dataclass(frozen=True)
class Known:
    """The keys of an issuer, as published."""

    keys: Mapping[str, VerifyingKey]

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        if kid is None:
            return list(self.keys.values())
        if kid not in self.keys:
            raise CredentialError(RefusalCode.UNKNOWN_KEY)
        return [self.keys[kid]]


def public(key: ECKey | OKPKey | RSAKey) -> VerifyingKey:
    return type(key).import_key(key.as_dict(private=False))


@cache
def known() -> Known:
    """Return the keys that acme publishes: its own, one of another curve, and one for encryption."""
    curve = public(ec("P-384", "ec384"))
    encrypting = ECKey.import_key({**ec("P-256", "enc").as_dict(private=False), "use": "enc"})
    return Known({"ec": public(ec()), "ed": public(ed()), "rsa": public(rsa()), "ec384": curve, "enc": encrypting})


# ── Tokens ────────────────────────────────────────────────────────────────────────────────────

CLAIMS: dict[str, Any] = {
    "iss": ACME,
    "sub": USER,
    "client_id": BOT,
    "aud": AUDIENCE,
    "iat": NOW - 10,
    "exp": NOW + 300,
    "jti": "j-1",
    "scope": "write:invoices",
}
HEADER: dict[str, Any] = {"alg": "ES256", "typ": "at+jwt", "kid": "ec"}
GONE = object()


def changed(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**given, **changes}.items() if value is not GONE}


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def as_json(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def signed(header: object, claims: object, key: Any = None, alg: str | None = None) -> str:
    """Return a signed token whose parts may be any bytes."""
    if alg is None:
        alg = str(header["alg"]) if isinstance(header, dict) and "alg" in header else "ES256"
    text = f"{b64(as_json(header))}.{b64(as_json(claims))}"
    if isinstance(key, bytes):  # a secret, as an attacker takes one
        return f"{text}.{b64(hmac.digest(key, text.encode(), f'sha{alg[2:]}'))}"
    model = JWSRegistry.algorithms["Ed25519" if alg == "EdDSA" else alg]
    return f"{text}.{b64(model.sign(text.encode(), ec() if key is None else key))}"


def token(_header: Mapping[str, Any] | None = None, _key: Any = None, _alg: str | None = None, **claims: Any) -> str:
    """Return an access token of acme with the given changes; `GONE` omits a member."""
    return signed(changed(HEADER, _header or {}), changed(CLAIMS, claims), _key, _alg)


# ── Who asks ──────────────────────────────────────────────────────────────────────────────────


def unbound(credentials: Credentials, request: ProofContext, token: VerifiedToken | None, now: int) -> ConfirmedKey:
    return UNBOUND


def nobody(
    credentials: Credentials, request: ProofContext, now: int
) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey] | None:
    return None


@dataclass
class Door:
    """An unused engine with its own counts."""

    settings: IssuerSettings = field(default_factory=IssuerSettings)
    keys: Any = None
    introspection: Any = None
    now: int = NOW

    def __post_init__(self) -> None:
        keys, marks = self.keys or known(), MemoryMarks()
        issuers = {
            ACME: TrustedIssuer("acme", AUDIENCE, US, self.settings, keys),
            OTHER: TrustedIssuer(
                "other", AUDIENCE, US, IssuerSettings(), Known({"ec": public(ec("P-256", "ec-other"))})
            ),
            MESH: TrustedIssuer("mesh", AUDIENCE, US, IssuerSettings(), keys, domain="mesh.example"),
        }
        names = {url: one.name for url, one in issuers.items()}
        self.tokens = TokenVerifier(issuers, self.introspection)
        self.reads = ChainReader(names, {"acme": self.settings})
        self.marks = marks
        self.identity = CredentialAuthenticator(CredentialChecks(self.tokens, self.reads, unbound, nobody), marks)

    @property
    def engine(self) -> Engine:
        """Return the shared engine with the authenticator of this door; nothing is spent, so no state remains in it."""
        TIME[0] = self.now
        policy().use_identity(self.identity)
        return policy()

    def ask(self, credentials: Mapping[str, str], method: str = "POST") -> Decision:
        return self.engine.decide({"request": {"method": method, "path": "/v1/invoices"}, "credentials": credentials})

    def bearer(self, raw: str, method: str = "POST") -> Decision:
        return self.ask({"authorization": f"Bearer {raw}"}, method)

    def who(self, raw: str) -> TokenPrincipal:
        return self.reads(self.tokens.verify(raw, self.now))


@cache
def policy() -> Engine:
    return Engine.from_text(POLICY, clock=lambda: datetime.fromtimestamp(TIME[0], UTC))
