"""A server whose requests wait for people, and tokens of these people from real issuers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from policyengine import ApprovalSettings
from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.server import create_app
from policyengine.typesystem import EntityRef
from tests.server.conftest import TOKEN, client_for

NOW = 1_800_000_000
ACME, PARTNER, AUDIENCE = "https://login.acme.example", "https://login.partner.example", "payments-api"
POLICY = f"""
language 1
package shop
entity user {{ roles: set<string> }}
facts on POST /refund {{ body.amount: number }}
issuer acme {{ url "{ACME}"  audience "{AUDIENCE}"  scopes none  records chains }}
issuer partner {{ url "{PARTNER}"  audience "{AUDIENCE}"  scopes none   users like "*@partner.example" }}
users unrestricted
agent "bot" {{ issued by acme   acts for any user   may POST /refund, GET /export, TOOL desk/wipe }}
guard "large" on POST /refund {{
  confirm by role finance within 15m when body.amount > 500
    message "refund of {{body.amount}}"
}}
guard "export" on GET /export {{ confirm by role finance within 15m bound to (request.query) }}
guard "wipe" on TOOL desk/* {{ confirm by user within 15m }}
"""
IDENTITY = """
[issuers.acme]
keys = "acme.json"
types = ["at+jwt"]
people = ["portal"]
[issuers.partner]
keys = "partner.json"
types = ["at+jwt"]
people = ["portal"]
"""
ROLES = {"carol": ["finance"], "alice": ["finance"], "bot": ["finance"], "bob": [], "eve@partner.example": ["finance"]}
BOT = {"agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}, "credential": {"kind": "jwt"}}
REFUND = {
    "request": {"method": "POST", "path": "/refund"}, **BOT, "body": {"amount": 900},
    "options": {"request_approval": True},
}  # fmt: skip


@cache
def key(issuer: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": issuer})


def token(user: str = "carol", issuer: str = "acme", *, signer: str | None = None, **claims: Any) -> str:
    """Return a token of a person; a claim that is None is left out."""
    url = {"acme": ACME, "partner": PARTNER}[issuer]
    who = {"iss": url, "sub": user, "aud": AUDIENCE, "client_id": "portal", "jti": "t-1"}
    said = {**who, "iat": NOW - 10, "exp": NOW + 600, **claims}
    told = {name: value for name, value in said.items() if value is not None}
    header = {"alg": "ES256", "kid": issuer, "typ": "at+jwt"}
    return jwt.encode(header, told, key(signer or issuer), algorithms=["ES256"])


def bearer(raw: str) -> dict[str, str]:
    return {"authorization": f"Bearer {raw}"}


@dataclass
class Desk:
    """A server, its engine, and its clock."""

    folder: Path
    tokens: bool = False
    now: float = NOW
    settings: dict[str, Any] = field(default_factory=dict)
    identified: bool = True

    def __post_init__(self) -> None:
        for issuer in ("acme", "partner"):
            keys = {"keys": [{**key(issuer).as_dict(private=False), "use": "sig"}]}
            (self.folder / f"{issuer}.json").write_text(json.dumps(keys))
        (self.folder / "identity.toml").write_text(IDENTITY)
        rows = [EntityData(EntityRef("user", name), {"roles": roles}) for name, roles in ROLES.items()]
        self.log = DecisionLog(self.folder / "log.jsonl", seal=None)
        self.engine = Engine.from_text(
            POLICY, clock=lambda: datetime.fromtimestamp(self.now, UTC), directory=EntityStore(rows), log=self.log,
            approvals=ApprovalSettings(**self.settings),
        )  # fmt: skip
        if self.identified:
            self.engine.verify_credentials(self.folder / "identity.toml")
        self.app: Any = None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """The server is made once; each exchange has a loop of its own."""
        if self.app is None:
            self.app = create_app(self.engine, token=TOKEN if self.tokens else None)
        async with client_for(self.app) as client:
            yield client

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            async with self.client() as client:
                return await work(client)

        return asyncio.run(asyncio.wait_for(connected(), 60))

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        found: httpx.Response = self.run(lambda client: client.request(method, path, **more))
        return found

    def ask(self, question: dict[str, Any] = REFUND) -> dict[str, Any]:
        headers = bearer(TOKEN) if self.tokens else {}
        found: dict[str, Any] = self.call("POST", "/decide", json=question, headers=headers).json()
        return found

    def opened(self, question: dict[str, Any] = REFUND) -> str:
        [remedy] = self.ask(question)["remedies"]
        id: str = remedy["approval"]["id"]
        return id
