"""Issuers, clients and policies for tests of issuing: an agent delegates work, and another requests a token for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey

from policyengine import Engine
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import IssuerSettings, parse_identity_config
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.issue.clients import ASSERTION_TYPE, ClientRegistry, load_clients, token_binding
from policyengine.identity.issue.delegation_check import DelegationCheck
from policyengine.identity.issue.issuer import IssuedToken, TokenIssuer
from policyengine.identity.issue.request import ACCESS_TOKEN, TOKEN_EXCHANGE_GRANT, parse_token_exchange
from policyengine.identity.keys.jwks import VerifyingKey, parse_jwks
from policyengine.identity.keys.signing_keys import KeyRingFile, new_ring, write_ring
from policyengine.identity.verified import ConfirmedKey, ProofContext, VerifiedToken
from policyengine.identity.verify.delegation_chain import ChainReader
from policyengine.identity.verify.tokens import TokenVerifier, TrustedIssuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.runtime.decision import Decision
from policyengine.stores.credential_marks import CredentialMarks, MemoryMarks
from tests.identity.issuing import GONE, Known, changed, ec, nobody, public, signed

NOW = 1_800_000_000
ACME, OTHER, DESK = "https://login.acme.example", "https://login.other.example", "https://agents.acme.example"
AUDIENCE, ARCHIVE = "payments-api", "archive-api"
TOKEN_URL = f"{DESK}/token"
X5T = "x5t-1".ljust(43, "-")

POLICY = f"""
language 1
package acme.desk
entity user {{ tenant: string? }}
issuer acme  {{ url "{ACME}"  audience "{AUDIENCE}"  records chains  claims {{ org -> user.tenant }} }}
issuer other {{ url "{OTHER}" audience "{AUDIENCE}"  records chains }}
issuer desk  {{ url "{DESK}"  audience "{AUDIENCE}"  records chains  claims {{ tenant -> user.tenant }} }}
scope invoices.read  as "read:invoices"  {{ GET /v1/invoices  GET /v1/invoices/{{id}} }}
scope invoices.write as "write:invoices" {{ include invoices.read  POST /v1/invoices }}
scope reports.read   as "read:reports"   {{ GET /v1/reports/** }}
scope mail.send      as "send:mail"      {{ TOOL mail/send }}
user where true {{ may invoices.write, reports.read }}
agent "planner" {{
  issued by acme, desk  acts for any user
  may invoices.write, reports.read, mail.send
  may delegate invoices.read, mail.send to agent "summarizer" for 30m
  may delegate invoices.write to agent "clerk" when user.tenant == "acme"
  may delegate reports.read to agent "summarizer" for 5m when time within mon..sun 00:00..24:00 "UTC"
}}
agent "planner" {{ issued by acme  acts alone  may invoices.read  may delegate invoices.read to agent "loner" }}
agent "summarizer" {{
  issued by acme, desk  acts for any user
  credential {{ kind in [jwt]  lifetime <= 20m  bound }}
  may invoices.read, reports.read, mail.send
  may delegate invoices.read to agent "reader"
}}
agent "clerk"  {{ issued by desk  acts for any user  may invoices.write }}
agent "loner"  {{ issued by desk  acts alone  may invoices.read }}
agent "reader" {{
  issued by desk  acts for any user  may invoices.read
  may delegate invoices.read to agent "deep"
}}
agent "deep" {{ issued by desk  acts for any user  may invoices.read  may delegate invoices.read to agent "planner" }}
agent "stranger" {{ issued by desk  acts for any user  may invoices.write }}
delegation {{ depth <= 2  lifetime <= 1h  no cycles }}
"""

CLIENTS = ("planner", "summarizer", "clerk", "loner", "reader", "deep", "stranger")


@cache
def key_of(name: str) -> ECKey:
    return ec("P-256", f"client-{name}")


@cache
def policy() -> Engine:
    return Engine.from_text(POLICY)


def binds(
    credentials: Credentials, request: ProofContext, token: VerifiedToken | None, now: int, recognizes: object = None
) -> ConfirmedKey:
    """Treat a key or certificate as proved by its name; other tests cover the proofs."""
    if credentials.dpop == "broken":
        raise CredentialError(RefusalCode.PROOF)
    if credentials.dpop == "without nonce":
        raise CredentialError(RefusalCode.PROOF_NONCE)
    found = ConfirmedKey(credentials.dpop, credentials.client_certificate)
    asked = ConfirmedKey() if token is None else token_binding(token)
    if asked.jkt not in (None, found.jkt) or asked.x5t not in (None, found.x5t):
        raise CredentialError(RefusalCode.BOUND_TO_OTHER)
    return found


@dataclass
class Desk:
    """A token endpoint, and the engine that decides with the tokens that it issues."""

    folder: Path
    engine_of: Engine | None = None
    lifetime: int = 900
    now: int = NOW
    lines: list[Any] = field(default_factory=list)
    store: CredentialMarks | None = None

    def __post_init__(self) -> None:
        write_ring(self.folder / "signing.json", new_ring("ES256", self.now - 100), new=True)
        self.keys = KeyRingFile.of(self.folder / "signing.json")
        self.marks: Any = MemoryMarks() if self.store is None else self.store
        kernel = (self.engine_of or policy()).kernel
        settings = IssuerSettings(types=("at+jwt", "jwt"))
        issuers = {
            ACME: TrustedIssuer("acme", AUDIENCE, None, settings, Known({"ec": public(ec())})),
            OTHER: TrustedIssuer("other", AUDIENCE, None, settings, Known({"ec": public(ec("P-256", "ec-other"))})),
            DESK: TrustedIssuer("desk", AUDIENCE, None, settings, self),
        }
        tokens = TokenVerifier(issuers)
        reads = ChainReader({url: one.name for url, one in issuers.items()}, {})
        mapped = {name: frozenset(claim for claim, _ in one.claims) for name, one in kernel.issuers.items()}
        self.identity = CredentialAuthenticator(CredentialChecks(tokens, reads, binds, nobody), self.marks, mapped)
        self.engine = Engine(kernel, clock=lambda: datetime.fromtimestamp(self.now, UTC), identity=self.identity)
        handing = DelegationCheck(kernel, self.engine.directory)
        self.issuing = TokenIssuer(
            self.identity, lambda: handing, self.keys, self.clients(), "desk", (AUDIENCE, ARCHIVE), self.lifetime
        )

        self.first = self.issuing

    def fresh(self) -> Desk:
        """Reset the state: creating another instance takes longer than most tests."""
        self.marks.__init__()  # type: ignore[misc]
        for kept in (self.identity.counts, self.identity._kept, self.identity._tokens, self.lines):
            kept.clear()
        self.issuing, self.now, self.identity.nonces, self.identity._version = self.first, NOW, None, 0
        return self

    def find(self, kid: str | None, alg: str, now: int) -> tuple[VerifyingKey, ...]:
        published = json.dumps({"keys": self.keys.published(now)}).encode()
        return parse_jwks(published, "desk").find(kid, alg)

    def clients(self) -> ClientRegistry:
        given: dict[str, Any] = {}
        for name in CLIENTS:
            jwks = {"keys": [key_of(name).as_dict(private=False)]}
            (self.folder / f"{name}.json").write_text(json.dumps(jwks))
            given[name] = {"agent": name, "issuer": "acme", "method": "private_key_jwt", "keys": f"{name}.json"}
        given["by-certificate"] = {"agent": "summarizer", "issuer": "acme", "method": "mtls", "certificates": [X5T]}
        given["by-proof"] = {"agent": "summarizer", "issuer": "acme", "method": "dpop", "keys": "summarizer.json"}
        given["by-token"] = {"agent": "tokened", "issuer": "acme", "method": "token"}
        return ClientRegistry(
            load_clients(parse_identity_config({"clients": given}, self.folder)),
            frozenset({DESK, TOKEN_URL}),
            self.marks,
        )

    def exchange(self, *, by: str | None = "summarizer", _dpop: str | None = "jkt-1", _mtls: str | None = None,
                 **changes: Any) -> IssuedToken:  # fmt: skip
        """Exchange as `by`, with changed parameters, or without those that are `GONE`. Raises TokenIssuanceError."""
        form: dict[str, Any] = {
            "grant_type": TOKEN_EXCHANGE_GRANT,
            "subject_token": subject(),
            "subject_token_type": ACCESS_TOKEN,
            **changes,
        }
        if by is not None and "client_assertion" not in changes:
            form |= {"client_assertion": assertion(by, self.now)}
        if "client_assertion" in form:
            form = {"client_assertion_type": ASSERTION_TYPE, **form}
        listed = {n: v if isinstance(v, list) else [v] for n, v in form.items() if v is not GONE}
        credentials = Credentials(dpop=_dpop, client_certificate=_mtls)
        return self.issuing.exchange(
            parse_token_exchange(listed), credentials, ProofContext("POST", TOKEN_URL), self.now
        )

    def decide(
        self, issued: IssuedToken | str, path: str = "/v1/invoices", method: str = "GET", dpop: str = "jkt-1"
    ) -> Decision:
        raw = issued if isinstance(issued, str) else issued.token
        asked = {"authorization": f"DPoP {raw}" if dpop else f"Bearer {raw}", **({"dpop": dpop} if dpop else {})}
        return self.engine.decide({"request": {"method": method, "path": path}, "credentials": asked})


def assertion(
    name: str, now: int = NOW, _key: Any = None, _header: Mapping[str, Any] | None = None, **claims: Any
) -> str:
    given = {"iss": name, "sub": name, "aud": DESK, "iat": now, "exp": now + 60, "jti": fresh(), **claims}
    header = changed({"alg": "ES256", "kid": f"client-{name}"}, _header or {})
    return signed(header, changed(given, {}), _key or key_of(name))


_COUNT = [0]


def fresh() -> str:
    _COUNT[0] += 1
    return f"j-{_COUNT[0]}"


def subject(_key: Any = None, **claims: Any) -> str:
    """Return a token by which `planner` acts for alice, with the given changes."""
    given = {
        "iss": ACME, "sub": "alice", "client_id": "planner", "aud": AUDIENCE, "iat": NOW - 60, "exp": NOW + 3_000,
        "jti": fresh(), "scope": "read:invoices write:invoices read:reports send:mail",
    }  # fmt: skip
    return signed({"alg": "ES256", "typ": "at+jwt", "kid": "ec"}, changed(given, claims), _key)


IDENTITY = f"""
[identity]
url = "{DESK}"
[issuers.acme]
keys = "acme.json"
[issuers.other]
keys = "acme.json"
[signing]
keys = "file:signing.json"
issuer = "desk"
[clients.summarizer]
agent = "summarizer"
issuer = "acme"
method = "private_key_jwt"
keys = "summarizer.json"
"""


def write_desk(folder: Path, now: int) -> None:
    """Write everything that a server needs: `desk.policy`, `identity.toml`, and the key files that it names."""
    write_ring(folder / "signing.json", new_ring("ES256", now - 10), new=True)
    for name, key in (("acme", {**ec().as_dict(private=False), "alg": "ES256"}),
                      ("summarizer", key_of("summarizer").as_dict(private=False))):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps({"keys": [key]}))
    (folder / "identity.toml").write_text(IDENTITY)
    (folder / "desk.policy").write_text(POLICY)
