"""Everything that a server needs to verify credentials, in a folder, and what clients send to it: real tokens, proofs
and certificates, for every kind of grant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.stores.url import open_store
from tests.identity import bound_world, issuing
from tests.identity.issuing import ACME, AUDIENCE, BOT, USER, WORKLOAD

HOST = "api.acme.example"
SVID = bound_world.SVID
POLICY = f"""
language 1
package acme.doors
entity user {{ plan: string? }}
entity invoice {{ owner: user? }}
issuer acme {{ url "{ACME}"   audience "{AUDIENCE}" }}
issuer crawler {{ url "https://crawler.example"   scopes none }}
issuer mesh {{ url "spiffe://acme.example"   scopes none }}
scope invoices.read as "read:invoices" {{
  GET /v1/invoices/**   TOOL billing/list   TOOL billing/show   ACTION view invoice
}}
scope invoices.write as "write:invoices" {{ include invoices.read   POST /v1/invoices/** }}
anyone {{ may GET /health }}
users unrestricted
agent "{BOT}" {{ issued by acme   acts for any user   credential {{ kind in [jwt] }}   may invoices.write }}
agent "{SVID}" {{ issued by mesh   acts alone   credential {{ kind in [mtls]   bound }}   may GET /v1/invoices/** }}
agent "crawler.example" {{ issued by crawler   acts alone   may POST /v1/invoices/** }}
guard "bound where it matters" on POST /v1/invoices/** {{ require credential.bound }}
"""
IDENTITY = """
[identity]
hosts = {hosts}
only_proved = {only_proved}
[issuers.acme]
keys = "jwks.json"
[dpop]
nonces = {nonces}
[signatures.directories]
crawler = "directory.json"
[trust_domains."acme.example"]
{domain}
"""
_numbers = count()


def written(
    folder: Path,
    *,
    only_proved: bool = False,
    nonces: bool = False,
    domain: str = 'bundle = "acme.pem"',
    hosts: Sequence[str] = (),
) -> Path:
    """Write the policy `doors.policy` and keys, and return the `identity.toml`."""
    keys = [issuing.ec().as_dict(private=False), issuing.ed().as_dict(private=False)]
    (folder / "jwks.json").write_text(json.dumps({"keys": keys}))
    (folder / "acme.pem").write_text(bound_world.pem(bound_world.authority("acme").certificate))
    (folder / "policyengine.toml").write_text('[gateway]\nclient_certificate = "x-forwarded-client-cert"\n')
    (folder / "directory.json").write_text(bound_world.directory_of(bound_world.ed_key()))
    (folder / "doors.policy").write_text(POLICY)
    said = IDENTITY.format(
        only_proved=str(only_proved).lower(), nonces=str(nonces).lower(), domain=domain, hosts=json.dumps([*hosts])
    )
    (folder / "identity.toml").write_text(said)
    return folder / "identity.toml"


@dataclass
class Doors:
    """An engine that verifies credentials, with its own clock; `secrets` is everything that clients sent to it."""

    folder: Path
    only_proved: bool = False
    nonces: bool = False
    store: str = "memory:"
    log: bool = False
    now: float = issuing.NOW
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = written(self.folder, only_proved=self.only_proved, nonces=self.nonces)
        log = DecisionLog(self.folder / "decisions.jsonl") if self.log else None
        self.engine = Engine.from_text(POLICY, clock=self.clock, log=log, store=open_store(self.store))  # compiled once
        self.engine.verify_credentials(path)
        self.apps: dict[str, Any] = {}  # servers of this engine, by their options

    def clock(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    # ── What clients bring ────────────────────────────────────────────────────────────────────

    def token(self, **claims: Any) -> str:
        return self.kept(token(self.now, **claims))

    def bearer(self, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(**claims)}"}

    def dpop(self, method: str, url: str, raw: str | None = None, **claims: Any) -> dict[str, str]:
        """Return a token that is bound to a key, and a proof for this request."""
        raw = raw or self.token(cnf={"jkt": bound_world.jkt()})
        made = proof(self.now, raw, method, url, **claims)
        return {"authorization": f"DPoP {raw}", "dpop": self.kept(made)}

    def kept(self, secret: str) -> str:
        self.secrets.append(secret)
        return secret


def token(now: float, **claims: Any) -> str:
    """Return a new access token."""
    given = {"iat": int(now) - 10, "exp": int(now) + 600, "jti": f"j-{next(_numbers)}", **claims}
    return issuing.token(**given)


def proof(now: float, raw: str, method: str, url: str, **claims: Any) -> str:
    given = {"jti": f"p-{next(_numbers)}", "htm": method, "htu": url, "iat": int(now), **claims}
    return bound_world.proof(raw, **given)


def asking(credentials: dict[str, Any] | None, method: str = "GET", path: str = "/v1/invoices/7") -> dict[str, Any]:
    question: dict[str, Any] = {"request": {"method": method, "path": path, "host": HOST, "ip": "10.1.2.3"}}
    return question if credentials is None else {**question, "credentials": credentials}


def url(path: str = "/v1/invoices/7") -> str:
    return f"https://{HOST}{path}"


__all__ = [
    "BOT", "HOST", "SVID", "USER", "WORKLOAD", "Doors", "asking", "proof", "token", "url", "written",
]  # fmt: skip
