"""A console that listens on this machine, its engine, a client that keeps cookies, and a provider whose answers tests
choose."""

from __future__ import annotations

import json
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

from policyengine.audit import DecisionLog, SystemRecord, read_log
from policyengine.audit.seal.options import SealOptions
from policyengine.engine import Engine
from policyengine.identity.config.model import IdentityConfig
from policyengine.identity.login.open_id_client import Person
from policyengine.reload import ReloadableEngine
from policyengine.server.console.links import OneTimeLink
from policyengine.server.console.options import ConsoleOptions, LoginSettings
from policyengine.server.console.server import ConsoleServer, serve_console
from policyengine.server.listeners import bind_listener
from policyengine.server.telemetry.shared_counters import ServerCounters
from tests.identity.providing import Faulty, Handling

POLICY = """language 1
package shop
issuer acme {{ url "{url}"  scopes none }}
entity user {{ roles: set<string> }}
facts on POST /refunds {{ body.amount: number  body.note: string ? }}
agent "bot" {{ issued by acme  acts for any user  may GET /invoices/{{id}}, POST /refunds }}
users unrestricted
guard "large refunds" on POST /refunds {{
  confirm by role finance within 15m when body.amount > 100 message "refund of {{body.amount}}"
}}
guard "closed" on GET /invoices/{{id}} {{ deny when params.id == "66" message "invoice 66 is closed" }}
"""
ENTITIES = [
    {"type": "user", "id": "alice", "attributes": {"roles": ["ops"]}},
    {"type": "user", "id": "bob", "attributes": {"roles": ["sales"]}},
    {"type": "user", "id": "fay", "attributes": {"roles": ["finance"]}},
]
CLIENT, SECRET = "console", "secret of the console"


@dataclass
class Page:
    """The answer to one request."""

    status: int
    headers: HTTPMessage
    text: str

    @property
    def location(self) -> str:
        return str(self.headers["Location"])

    @property
    def cookies(self) -> list[str]:
        return self.headers.get_all("Set-Cookie") or []

    def field(self, name: str) -> str:
        """Return the value of a hidden field of a form."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found is not None, self.text
        return found[1]


@dataclass
class Visitor:
    """A browser without scripts: it keeps cookies, and follows no redirect."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Page:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, form: Mapping[str, str], **headers: str) -> Page:
        return self.send("POST", path, urlencode(form), headers)

    def send(
        self, method: str, path: str, body: str | bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Page:
        sent = {} if body is None else {"Content-Type": "application/x-www-form-urlencoded"}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            page = Page(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()
        for cookie in page.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            if value.strip('"'):
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        return page

    def sign_in_with(self, link: str) -> Page:
        """Sign in with a link from the terminal."""
        parts = urlsplit(link)
        page = self.get(f"{parts.path}?{parts.query}")
        return self.post("/sign-in/link", {"csrf": page.field("csrf"), "secret": page.field("secret")})

    @property
    def session(self) -> str | None:
        return next((value for name, value in self.cookies.items() if "session" in name), None)


@dataclass
class World:
    """A console, with everything around it. `links` are those that it printed."""

    url: str
    server: ConsoleServer
    engine: Engine
    log: Path
    links: list[str]
    tally: ServerCounters
    closed: bool = False

    def close_log(self) -> None:
        """Close the log, which seals all of its lines."""
        assert self.engine.log is not None
        self.engine.log.finish()
        self.engine.log.close()
        self.closed = True

    def visitor(self) -> Visitor:
        return Visitor(self.url)

    def operator(self) -> Visitor:
        """Return a visitor who is signed in with a link."""
        visitor = self.visitor()
        page = visitor.sign_in_with(self.new_link())
        assert page.status == 303, page.text
        return visitor

    def new_link(self) -> str:
        console = self.server.console
        console.link = OneTimeLink()  # as if the previous link was printed long ago
        secret = console.link.renew()
        return f"{self.url}/sign-in/link?secret={secret}"

    def person(self, user: str, issuer: str = "acme") -> Visitor:
        """Return a visitor who is signed in as a user of an issuer."""
        name, _ = self.server.console.sessions.open(Person(user, issuer))
        return Visitor(self.url, {self.server.console.cookies.name("session"): name})

    def records(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the records about people."""
        found = [one for one in read_log(self.log) if isinstance(one, SystemRecord)]
        return [
            (one.event, {name: value for name, value in one.details.items() if name != "revision"})
            for one in found
            if one.event.startswith("console")
        ]

    def decide(self, **changed: Any) -> Any:
        question: dict[str, Any] = {
            "request": {"method": "POST", "path": "/refunds"},
            "agent": {"id": "bot", "issuer": "acme"},
            "user": {"id": "alice"},
            "body": {"amount": 900},
        }
        decision = self.engine.decide({**question, **changed})
        self.tally.apart("decide")(decision.answer, 0)
        return decision


@contextmanager
def console(
    folder: Path,
    issuer: str = "https://issuer.example",
    login: LoginSettings | None = None,
    log: bool = True,
    seal: bool = True,
    policy: str = POLICY,
    engine_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[World]:
    path = folder / "decisions.jsonl"
    entities = folder / "entities.json"
    entities.write_text(json.dumps({"entities": options.pop("entities", ENTITIES)}))
    file = folder / "shop.policy"
    file.write_text(policy.format(url=issuer))
    engine = Engine.load(
        file, log=DecisionLog(path, seal=SealOptions() if seal else None) if log else None, entities=[str(entities)],
        **(engine_options or {}),
    )  # fmt: skip
    listener = options.pop("listener", None) or bind_listener(("127.0.0.1", 0), "127.0.0.1")
    links: list[str] = []

    def announce(url: str, link: str | None) -> None:
        if link is not None:
            links.append(link)

    with listener:
        given = ConsoleOptions(listener.getsockname()[1], login=login, announce=announce, **options)
        given.check(engine)
        tally = ServerCounters()
        with serve_console(given, ReloadableEngine(engine), tally, listener) as server:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            world = World(url, server, engine, path, links, tally)
            yield world
    if engine.log is not None and not world.closed:
        engine.log.close()


# ── A provider ────────────────────────────────────────────────────────────────────────────────


def login_of(configuration: IdentityConfig | None = None, **changed: Any) -> LoginSettings:
    given: dict[str, Any] = {"issuer": "acme", "client_id": CLIENT, "secret": lambda: SECRET}
    return LoginSettings(**{**given, **changed}, identity=configuration or IdentityConfig())


class Provider:
    """A provider that answers as a test says. `forms` are the requests for tokens; `claims` and `header` change the ID
    token of the next sign-in."""

    def __init__(self, server: Faulty) -> None:
        self.server, self.url = server, server.url
        self.key = ECKey.generate_key("P-256", {"kid": "k1", "alg": "ES256", "use": "sig"})
        self.forms: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.nonces: dict[str, str] = {}
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.status = 200
        self.metadata()
        server.pages["/jwks"] = {"keys": [self.key.as_dict(private=False)]}
        server.pages["/token"] = self._token

    def metadata(self, **changed: Any) -> None:
        endpoints = {"authorization_endpoint": f"{self.url}/auth", "token_endpoint": f"{self.url}/token"}
        self.server.metadata(**{**endpoints, **changed})

    def code(self, nonce: str) -> str:
        """Return a code of a person who signs in with this nonce."""
        code = f"code-{len(self.nonces)}"
        self.nonces[code] = nonce
        return code

    def _token(self, http: Handling) -> None:
        form = {name: values[0] for name, values in parse_qs(http.form).items()}
        self.forms.append(form)
        self.headers.append(dict(http.headers.items()))
        nonce = self.nonces.pop(form.get("code", ""), None)
        if nonce is None or self.status != 200:
            http.answer(b'{"error":"invalid_grant"}', 400 if self.status == 200 else self.status)
            return
        http.answer(json.dumps({"token_type": "Bearer", "access_token": "a", "id_token": self.token(nonce)}).encode())

    def token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "sub": "alice", "nonce": nonce, "iat": now, "exp": now + 300}
        claims = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        return jwt.encode({"alg": "ES256", "kid": "k1", **self.header}, claims, self.key)

    def unsigned(self, nonce: str) -> str:
        parts = ({"alg": "none"}, {"iss": self.url, "aud": CLIENT, "sub": "alice", "nonce": nonce})
        return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


@dataclass
class StartedLogin:
    """A sign-in that a visitor started: what was sent to the provider."""

    visitor: Visitor
    url: str
    asked: dict[str, str]

    @classmethod
    def of(cls, visitor: Visitor, path: str = "/") -> StartedLogin:
        page = visitor.get(f"/sign-in/start?{urlencode({'next': path})}")
        assert page.status == 303, page.text
        asked = {name: values[0] for name, values in parse_qs(urlsplit(page.location).query).items()}
        return cls(visitor, page.location, asked)

    def answer(self, **changed: str | None) -> Page:
        """Return the page to which the provider sends the visitor."""
        sent = {"state": self.asked["state"], **changed}
        return self.visitor.get(
            f"/sign-in/callback?{urlencode({name: value for name, value in sent.items() if value is not None})}"
        )
