"""Agent X on behalf of user Y, read-only: a real OpenID provider, a policy, and what becomes of a stolen token.

    python deploy/identity/demo.py FOLDER [PORT]   # FOLDER with node_modules/oidc-provider in it: `make demo-identity`

The provider listens at PORT, 18241 unless another is named. Everything runs on this machine and ends with this script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

HERE = Path(__file__).parent
EXAMPLE = HERE.parent.parent / "policies" / "examples" / "federated"
PORT = 18241  # of the issuer in the policy
BACK = "http://127.0.0.1/back"
API = "https://calendar.acme.example"
EVENTS = "/calendars/acme/events"
MOST_PAGES = 10


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Assistant:
    """An agent with a key of its own, which never leaves it. `provider`: its URL."""

    provider: str
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", private=True))

    def proof(self, method: str, url: str, token: str | None = None) -> str:
        """That it has the key, for one request (RFC 9449)."""
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.as_dict(private=False)}
        claims: dict[str, Any] = {"jti": str(uuid.uuid4()), "htm": method, "htu": url, "iat": int(time.time())}
        if token is not None:
            claims["ath"] = base64url(hashlib.sha256(token.encode()).digest())
        return jwt.encode(header, claims, self.key, algorithms=["ES256"])

    def token(self, person: str) -> str:
        """What the provider gives it once the person has logged in there and agreed (RFC 6749, 7636)."""
        verifier = secrets.token_urlsafe(32)
        with httpx.Client(trust_env=False) as http:
            code = self.agreed(http, person, base64url(hashlib.sha256(verifier.encode()).digest()))
            form = {
                "grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "client_id": "assistant",
                "code_verifier": verifier, "resource": "urn:calendar",
            }  # fmt: skip
            answer = http.post(
                f"{self.provider}/token", data=form, headers={"DPoP": self.proof("POST", f"{self.provider}/token")}
            )
        return str(answer.raise_for_status().json()["access_token"])

    def agreed(self, http: httpx.Client, person: str, challenge: str) -> str:
        """The person's part: the pages of the provider, filled in."""
        asked = {
            "client_id": "assistant", "response_type": "code", "redirect_uri": BACK, "resource": "urn:calendar",
            "scope": "openid calendar:read calendar:write", "code_challenge": challenge,
            "code_challenge_method": "S256",
        }  # fmt: skip
        page = http.get(f"{self.provider}/auth", params=asked)
        for _ in range(MOST_PAGES):
            if page.is_redirect:
                place = urljoin(str(page.url), page.headers["location"])
                if place.startswith(BACK):
                    return parse_qs(urlsplit(place).query)["code"][0]
                page = http.get(place)
            else:
                page = http.post(urljoin(str(page.url), attribute("action", page.text)), data=filled(page.text, person))
        raise SystemExit("the provider shows one page after another")


def attribute(name: str, html: str) -> str:
    found = re.search(rf'{name}="([^"]+)"', html)
    if found is None:
        raise SystemExit("the provider shows a page that this script does not know")
    return found[1]


def filled(html: str, person: str) -> dict[str, str]:
    found = re.search(r'name="prompt" value="(\w+)"', html)
    prompt = found[1] if found else ""
    return {"prompt": prompt, **({"login": person, "password": "any"} if prompt == "login" else {})}


@contextmanager
def running(*command: str | Path) -> Iterator[str]:
    """A server, until the end; its first line, which says where it listens."""
    with subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        if not first:
            raise SystemExit(f"`{command[0]}` ended before it answered; where its port is taken, name another one")
        try:
            yield first.strip()
        finally:
            server.terminate()


@dataclass(frozen=True)
class Gateway:
    """What stands before the calendar: it hands on what its client sent, and asks."""

    pdp: str

    def asks(self, method: str, path: str, **credentials: str) -> dict[str, Any]:
        question = {
            "request": {"method": method, "path": path, "host": "calendar.acme.example"},
            "credentials": {**credentials, "method": method, "url": API + path},
        }
        answer = httpx.post(f"{self.pdp}/decide", json=question, trust_env=False)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


def told(what: str, answer: dict[str, Any]) -> None:
    why = f": {answer['reasons'][0]['message']}" if answer["reasons"] else ""
    print(f"{what:<44} {answer['outcome']}{why}", flush=True)


@contextmanager
def example(port: int) -> Iterator[Path]:
    """The policies, whose issuer is at that port."""
    with TemporaryDirectory() as folder:
        for file in EXAMPLE.iterdir():
            text = file.read_text(encoding="utf-8").replace(str(PORT), str(port))
            Path(folder, file.name).write_text(text, encoding="utf-8")
        yield Path(folder)


def main(folder: str, port: int) -> None:
    with ExitStack() as stack:
        provider = stack.enter_context(running("node", HERE / "provider.mjs", Path(folder).resolve(), str(port)))
        policies = stack.enter_context(example(port))
        options = ("--identity", policies / "identity.toml", "--port", "0", "--format", "json")
        policyengine = Path(sys.executable).with_name("policyengine")
        served = stack.enter_context(running(policyengine, "serve", policies, *options))
        gateway, assistant = Gateway(json.loads(served)["listening"]), Assistant(provider)
        token = assistant.token("yara")
        mine = {"authorization": f"DPoP {token}"}

        def proved(method: str, path: str = EVENTS) -> dict[str, str]:
            return {**mine, "dpop": assistant.proof(method, API + path, token)}

        told("The assistant reads Yara's calendar", gateway.asks("GET", EVENTS, **proved("GET")))
        told("It writes to it, as Yara could", gateway.asks("POST", EVENTS, **proved("POST")))
        other = "/calendars/globex/events"
        told("It reads another tenant's", gateway.asks("GET", other, **proved("GET", other)))
        told("A thief has the token, and not the key", gateway.asks("GET", EVENTS, authorization=f"Bearer {token}"))
        foreign = Assistant(provider).proof("GET", API + EVENTS, token)
        told("A thief makes a proof by a key of its own", gateway.asks("GET", EVENTS, **mine, dpop=foreign))
        seen = proved("GET")
        gateway.asks("GET", EVENTS, **seen)
        told("A thief sends a proof again that it has seen", gateway.asks("GET", EVENTS, **seen))
        forged = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
        told(
            "A thief changes the token", gateway.asks("GET", EVENTS, authorization=f"DPoP {forged}", dpop=seen["dpop"])
        )
        told("Nobody reads it", gateway.asks("GET", EVENTS))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not all(one.isdigit() for one in sys.argv[2:]):
        raise SystemExit(__doc__)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else PORT)
