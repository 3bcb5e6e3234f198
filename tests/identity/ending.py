"""Server processes with one store that issue and revoke tokens, and a client that tests them over HTTP."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from cryptography import x509

from policyengine.identity.issue.clients import ASSERTION_TYPE
from policyengine.identity.issue.request import ACCESS_TOKEN, TOKEN_EXCHANGE_GRANT
from policyengine.identity.keys.signing_keys import new_ring, read_ring, rotate_ring, write_ring
from policyengine.identity.proof.spiffe import key_thumbprint
from policyengine.identity.verify.api_keys import hash_api_key
from policyengine.stores.transition import digest_parts
from tests.identity.bound_world import field_of, workload, x5t
from tests.identity.issuing import GONE, b64, changed, ec, signed
from tests.identity.providing import Faulty, Handling
from tests.server.processes import started
from tests.server.test_log import SERVE

OPERATOR = {"Authorization": "Bearer a-token-of-the-operator"}
ACME, FAR, OPAQUE = "https://login.acme.example", "https://login.far.example", "https://login.opaque.example"
DESK, LAB = "https://agents.acme.example", "https://attest.acme.example"
AUDIENCE, ARCHIVE = "payments-api", "archive-api"
API, READ = "https://api.acme.example/v1/invoices", "read:invoices"
STATIC = "a-static-key-of-the-old-bot-that-is-long"
OURS = "acme, far, opaque, desk"
POLICY = f"""
language 1
package acme.ending
issuer acme   {{ url "{ACME}"   audience "{AUDIENCE}"  records chains }}
issuer far    {{ url "{FAR}"    audience "{AUDIENCE}"  records chains }}
issuer opaque {{ url "{OPAQUE}" audience "{AUDIENCE}"  records chains }}
issuer desk   {{ url "{DESK}"   audience "{AUDIENCE}"  records chains }}
issuer keys   {{ scopes none }}
attester lab  {{ url "{LAB}" }}
scope invoices.read as "{READ}" {{ GET /v1/invoices }}
user where true {{ may invoices.read }}
agent "planner" {{
  issued by {OURS}  acts for any user  may invoices.read
  may delegate invoices.read to agent "summarizer"
  may delegate invoices.read to agent "clerk"
}}
agent "summarizer" {{
  issued by {OURS}  acts for any user  may invoices.read  may delegate invoices.read to agent "clerk"
}}
agent "clerk"      {{ issued by {OURS}  acts for any user  may invoices.read }}
agent "asker"      {{ issued by opaque  acts for any user  may invoices.read }}
agent "old-bot"    {{ issued by keys  acts alone  may invoices.read }}
"""
CLIENTS = {"planner": "acme", "summarizer": "acme", "clerk": "acme", "asker": "opaque"}  # and their issuers


def identity_toml(far: Faulty, certificate: x509.Certificate) -> str:
    clients = "".join(
        f'[clients.{name}]\nagent = "{name}"\nissuer = "{issuer}"\nmethod = "private_key_jwt"\nkeys = "{name}.json"\n'
        for name, issuer in CLIENTS.items()
    )
    return f"""
[identity]
url = "{DESK}"
[issuers.acme]
keys = "acme.json"
types = ["at+jwt", "jwt", "oauth-id-jag+jwt"]
people = ["portal"]
[issuers.far]
keys = "{far.url}/jwks"
[issuers.opaque]
introspection = "{far.url}/introspect"
introspection_cache = "1s"
client_id = "we"
client_secret = "file:secret"
[attesters.lab]
keys = "acme.json"
types = ["eat+jwt"]
unbound = true
[api_keys]
file = "api-keys"
[signing]
keys = "file:signing.json"
issuer = "desk"
audiences = ["{ARCHIVE}"]
{clients}
[clients.by-certificate]
agent = "clerk"
issuer = "acme"
method = "mtls"
certificates = ["{x5t(certificate)}"]
"""


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def error(self) -> str | None:
        found = self.body.get("error")
        return None if found is None else str(found)


@dataclass(frozen=True)
class Held:
    """A token, and how it is presented: with a proof by a key, with a certificate that a gateway states, or alone."""

    raw: str = field(repr=False)
    key: Any = None
    certificate: str | None = None
    header: str = "authorization"

    def credentials(self, method: str = "GET", url: str = API) -> dict[str, str]:
        if self.header != "authorization":
            return {self.header: self.raw}
        given = {"authorization": f"{'Bearer' if self.key is None else 'DPoP'} {self.raw}", "url": url}
        if self.key is not None:
            given["dpop"] = proof(self.key, method, url, self.raw)
        return given if self.certificate is None else {**given, "client_certificate": self.certificate}


@dataclass
class World:
    """The shared part of all servers; `now` is the real clock, which they use, too."""

    folder: Path
    far: Faulty
    active: set[str] = field(default_factory=set)  # opaque tokens, as their issuer sees them
    others: list[Server] = field(default_factory=list)
    rotated: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def __post_init__(self) -> None:
        now = self.now
        self.certificate = workload(begins=now - 60, ends=now + 3_600)
        self.cert_key = str(key_thumbprint(self.certificate))
        write_ring(self.folder / "signing.json", new_ring("ES256", now - 10), new=True)
        for name in CLIENTS:
            self.write(f"{name}.json", key_of(name))
        self.restore()
        self.publish(ec("P-256", "far-1"))
        self.far.pages["/introspect"] = self.says
        for name, text in {
            "desk.policy": POLICY, "identity.toml": identity_toml(self.far, self.certificate), "secret": "a-secret",
            "policyengine.toml": '[gateway]\nclient_certificate = "client-cert"\n',
            "tokens": "ops: a-token-of-the-operator\n", "api-keys": f"keys/old-bot: {hash_api_key(STATIC)}\n",
        }.items():  # fmt: skip
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600)

    @property
    def now(self) -> int:
        return int(time())

    @property
    def marks(self) -> int:
        """Return how many names are revoked."""
        with closing(sqlite3.connect(self.folder / "store.db", isolation_level=None)) as store:
            return int(store.execute("SELECT count(*) FROM revoked").fetchone()[0])

    def forget(self, names: list[str]) -> None:
        """Remove the revocations of these names."""
        with closing(sqlite3.connect(self.folder / "store.db", isolation_level=None)) as store:
            store.executemany("DELETE FROM revoked WHERE name = ?", [(digest_parts(name),) for name in names])

    @contextmanager
    def serving(self, *options: str) -> Iterator[Server]:
        files = {"identity": "identity.toml", "token-file": "tokens", "log": f"log-{next(self.numbers)}.jsonl"}
        arguments = [part for name, file in files.items() for part in (f"--{name}", str(self.folder / file))]
        store = ("--store", f"sqlite:///{self.folder / 'store.db'}?timeout=10s")
        where = ("serve", str(self.folder / "desk.policy"), "--port", "0", "--format", "json")
        with started(SERVE, *where, *arguments, *store, *options) as (line, _):
            yield Server(self, int(json.loads(line)["listening"].rpartition(":")[2]), self.folder / files["log"])

    # ── Issuers ───────────────────────────────────────────────────────────────────────────────

    def write(self, name: str, *keys: Any) -> None:
        jwks = {"keys": [{**key.as_dict(private=False), "alg": "ES256"} for key in keys]}
        beside = self.folder / f".{name}"
        beside.write_text(json.dumps(jwks))
        beside.rename(self.folder / name)

    def restore(self) -> None:
        """Restore the first keys of the issuer `acme`, for later tests."""
        if not (self.folder / "acme.json").exists() or self.rotated:
            self.write("acme.json", ec("P-256", "acme-1"))
        self.rotated = False

    def rotate(self) -> None:
        """Give the issuer `acme` other keys from now on."""
        self.write("acme.json", ec("P-256", "acme-2"))
        self.rotated = True

    def publish(self, *keys: Any) -> None:
        """Set the keys that the issuer `far` publishes."""
        self.far.pages["/jwks"] = {"keys": [{**key.as_dict(private=False), "alg": "ES256"} for key in keys]}

    def says(self, request: Handling) -> None:
        """Set what the issuer `opaque` answers about a token."""
        (raw,) = parse_qs(request.form)["token"]
        said = {"active": False} if raw not in self.active else {
            "active": True, "sub": "alice", "client_id": raw.partition("-")[0], "aud": AUDIENCE, "scope": READ,
            "exp": self.now + 600,
        }  # fmt: skip
        request.answer(json.dumps(said).encode())

    def fresh(self) -> str:
        return f"n-{next(self.numbers)}"

    def subject(self, _key: str = "acme-1", _typ: str = "at+jwt", **claims: Any) -> str:
        """Return a token by which `planner` acts for alice, with the given changes."""
        given = {
            "iss": FAR if _key.startswith("far") else ACME, "sub": "alice", "client_id": "planner", "aud": AUDIENCE,
            "iat": self.now - 60, "exp": self.now + 600, "jti": self.fresh(), "scope": READ,
        }  # fmt: skip
        return signed({"alg": "ES256", "typ": _typ, "kid": _key}, changed(given, claims), ec("P-256", _key))

    def transaction(self, **claims: Any) -> Held:
        more = {"txn": self.fresh(), "req_wl": "planner", "client_id": GONE, "jti": GONE, **claims}
        return Held(self.subject(_typ="txntoken+jwt", **more), header="txn_token")

    def id_jag(self, **claims: Any) -> str:
        return self.subject(_typ="oauth-id-jag+jwt", **{"aud": DESK, **claims})

    def opaque(self, agent: str = "planner") -> str:
        self.active.add(raw := f"{agent}-{self.fresh()}")
        return raw

    def rotate_ours(self) -> None:
        """Let other keys sign, and remove the previous ones."""
        path = self.folder / "signing.json"
        rotate_ring(path, None, self.now, 0, 900)
        ring = read_ring(path)
        *older, newest = ring.keys
        write_ring(path, replace(ring, keys=(*(replace(one, gone_from=self.now) for one in older), newest)))

    def assertion(self, name: str, _key: Any = None, **claims: Any) -> dict[str, str]:
        now = self.now
        given = {"iss": name, "sub": name, "aud": DESK, "iat": now, "exp": now + 60, "jti": self.fresh(), **claims}
        header = {"alg": "ES256", "kid": f"client-{name}"}
        return {
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": signed(header, given, _key or key_of(name)),
        }


@dataclass(frozen=True)
class Server:
    world: World
    port: int
    log: Path

    def post(self, path: str, body: str, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        found = Answer(answer.status, json.loads(answer.read()), {k.lower(): v for k, v in answer.getheaders()})
        connection.close()  # so that another worker may answer the next one
        return found

    def form(self, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.post(path, urlencode(form), {**kind, **(headers or {})})

    def asked(self, subject: str, by: str = "summarizer", key: Any = None, **changes: Any) -> Answer:
        """Request a token with the assertion of a client and, with `key`, a proof by that key."""
        form = {
            "grant_type": TOKEN_EXCHANGE_GRANT, "subject_token": subject, "subject_token_type": ACCESS_TOKEN,
            **self.world.assertion(by), **changes,
        }  # fmt: skip
        headers = {} if key is None else {"DPoP": proof(key, "POST", f"{DESK}/token")}
        return self.form("/token", form, headers)

    def exchanged(self, subject: str, by: str = "summarizer", key: Any = None, **changes: Any) -> Held:
        answer = self.asked(subject, by, key, **changes)
        assert answer.status == 200, answer.body
        return Held(answer.body["access_token"], key or key_of(by))

    def by_certificate(self, subject: str) -> Answer:
        form = {
            "grant_type": TOKEN_EXCHANGE_GRANT, "subject_token": subject, "subject_token_type": ACCESS_TOKEN,
            "client_id": "by-certificate",
        }  # fmt: skip
        return self.form("/token", form, {**OPERATOR, "Client-Cert": field_of(self.world.certificate)})

    def code(self, held: Held | str, more: Mapping[str, str] | None = None) -> str:
        """Return `allow`, or the reason."""
        held = Held(held) if isinstance(held, str) else held
        credentials = {**held.credentials(), **(more or {})}
        question = {"request": {"method": "GET", "path": "/v1/invoices"}, "credentials": credentials}
        answer = self.post("/decide", json.dumps(question), {**OPERATOR, "Content-Type": "application/json"}).body
        return "allow" if answer["outcome"] == "allow" else str(answer["reasons"][0].get("code", answer["gate"]))

    def revoke(self, by: str | None = None, **form: str) -> Answer:
        """Revoke as a client, or as an operator."""
        if by is None:
            return self.form("/revoke", form, OPERATOR)
        return self.form("/revoke", {**form, **self.world.assertion(by)})

    def active(self, raw: str) -> bool:
        return bool(self.form("/introspect", {"token": raw}, OPERATOR).body["active"])

    def complete(self, task: str, held: Held | None = None) -> Answer:
        path = f"/tasks/{quote(task, safe='')}/complete"
        if held is None:
            return self.form(path, {}, OPERATOR)
        found = held.credentials("POST", DESK + path)
        return self.form(path, {}, {"Authorization": found["authorization"], "DPoP": found["dpop"]})

    def nonce(self) -> str:
        return str(self.post("/attestation/nonce", "", {}).body["nonce"])

    @property
    def ended(self) -> list[dict[str, Any]]:
        """Return the recorded revocations and completions in the log."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines())
        return [line["ended"] for line in lines if "ended" in line]


def key_of(name: str) -> Any:
    return ec("P-256", f"client-{name}")


def proof(key: Any, method: str, url: str, token: str | None = None) -> str:
    jwk = {name: key.as_dict(private=False)[name] for name in ("kty", "crv", "x", "y")}
    ath = {} if token is None else {"ath": b64(sha256(token.encode()).digest())}
    now = int(time())
    claims = {"htm": method, "htu": url, "iat": now, "jti": b64(sha256(f"{time()}{next(_NUMBERS)}".encode()).digest())}
    return signed({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}, {**claims, **ath}, key)


_NUMBERS = iter(range(1_000_000_000))
