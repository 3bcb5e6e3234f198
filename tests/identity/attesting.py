"""An attester for tests: its policy, its keys, its attestations, and the authenticator that verifies them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from typing import Any

from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from policyengine.engine import Engine
from policyengine.identity.attestation import create_attestation_verifier
from policyengine.identity.attestation_nonces import AttestationNonces
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.keys.jwks import VerifyingKey
from policyengine.identity.verified import ConfirmedKey, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.kernel import Attester, Kernel
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.stores.credential_marks import CredentialMarks, MemoryMarks

NOW = 1_800_000_000
END = NOW + 3_600
URL, US = "https://attest.acme.example", "https://agents.acme.example"
MODEL, DIGEST = "summarizer-7b", sha256(b"weights").hexdigest()
POLICY = f"""
language 1
package acme.attested
issuer acme {{ url "https://login.acme.example"   scopes none }}
attester lab {{ url "{URL}"  age <= 1h
  model "{MODEL}" sha256:{DIGEST}   model "router-1b"   environment in ["sev-snp", "tdx"] }}
attester any {{ url "https://any.acme.example" }}
attester old {{ age <= 1h }}
agent "bot" {{ issued by acme  acts alone  attested by lab  may GET /a }}
"""


@cache
def kernel() -> Kernel:
    return Engine.from_text(POLICY).kernel


@cache
def key(name: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": name})


MINE = ConfirmedKey(jkt=key("mine").thumbprint(), x5t="certificate-of-mine")


@dataclass(frozen=True)
class Keys:
    """The keys as an attester publishes them, without a network."""

    keys: Sequence[VerifyingKey]
    down: bool = False

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        if self.down:
            raise CredentialError(RefusalCode.PROVIDER)
        found = [one for one in self.keys if kid is None or one.get("kid") == kid]
        if not found:
            raise CredentialError(RefusalCode.UNKNOWN_KEY)
        return found


@dataclass
class Lab:
    """`binding` is what the presenter proves. `claims` are those of a valid attestation for it."""

    settings: Mapping[str, object] = field(default_factory=dict)
    attester: Attester | None = None
    binding: ConfirmedKey = MINE
    down: bool = False
    marks: CredentialMarks = field(default_factory=MemoryMarks)

    def __post_init__(self) -> None:
        given = {"identity": {"url": US}, "attesters": {"lab": dict(self.settings)}}
        attesters = dict(kernel().attesters)
        if self.attester is not None:
            attesters["lab"] = replace(self.attester, name="lab", url=URL)
        keys = {"lab": Keys([key("lab")], self.down), "any": Keys([key("any")]), "old": Keys([key("old")])}
        self.nonces = AttestationNonces(self.marks)
        self.attests = create_attestation_verifier(attesters, parse_identity_config(given), keys, self.nonces)
        self.identity = CredentialAuthenticator(
            CredentialChecks(self, self.reads, self.binds, self.presents, self.attests), self.marks
        )
        self.nonce, _ = self.nonces.issue(NOW)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return the claims; one that is changed to None is omitted."""
        given = {
            "iss": URL, "iat": NOW - 60, "exp": END, "eat_nonce": self.nonce, "cnf": {"jkt": MINE.jkt},
            "ueid": "AQIDBAUGBwgJCgsMDQ4PEA", "ai_model_id": MODEL, "ai_model_hash": {"alg": "sha-256", "hash": DIGEST},
            "environment": "sev-snp", **changed,
        }  # fmt: skip
        return {name: value for name, value in given.items() if value is not None}

    def signed(self, **changed: Any) -> str:
        return token(self.claims(**changed))

    # ── The front ─────────────────────────────────────────────────────────────────────────────

    def verify(self, raw: str, now: int) -> VerifiedToken:
        return VerifiedToken("jwt", "acme", {"sub": "bot", "iat": NOW - 10}, {}, sha256(raw.encode()).digest(), END)

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        raise CredentialError(RefusalCode.NOT_A_TOKEN)

    def reads(self, token: VerifiedToken) -> TokenPrincipal:
        return TokenPrincipal("bot", None)

    def binds(
        self, credentials: Credentials, request: ProofContext, token: VerifiedToken | None, now: int
    ) -> ConfirmedKey:
        return self.binding

    def presents(self, credentials: Credentials, request: ProofContext, now: int) -> None:
        return None

    def facts(self, raw: str, now: int = NOW) -> Mapping[str, object]:
        """Raises CredentialError."""
        credentials = Credentials(authorization="Bearer token", attestation=raw)
        return self.identity.prove(credentials, ProofContext("GET", f"{US}/a"), now).facts["attestation"]

    def says(self, raw: str, now: int = NOW) -> str:
        """Return `accepted`, or the code of the refusal."""
        try:
            self.facts(raw, now)
        except CredentialError as refused:
            return refused.refusal.value
        return "accepted"


# ── Tokens ────────────────────────────────────────────────────────────────────────────────────


def part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(claims: Mapping[str, Any] | bytes, signer: str = "lab", alg: str = "ES256", **header: Any) -> str:
    """Return a token signed by the key, regardless of its header; a member that is None is omitted."""
    named = {"alg": alg, "typ": "eat+jwt", "kid": signer, **header}
    told = {name: value for name, value in named.items() if value is not None}
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signing = f"{part(json.dumps(told).encode())}.{part(payload)}"
    signature = JWSRegistry.algorithms["ES256"].sign(signing.encode(), key(signer))
    return f"{signing}.{part(signature)}"
