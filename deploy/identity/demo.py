"""Agent X on behalf of user Y, read-only: a real OpenID provider, a policy, and attacks with a stolen token.

    python deploy/identity/demo.py FOLDER [PORT]   # FOLDER contains node_modules/oidc-provider: `make demo-identity`

The provider listens on PORT, by default 18241. Everything runs on this machine and stops with this script.
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
    """An agent with its own private key. `provider` is the URL of the OpenID provider."""

    provider: str
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", private=True))

    def proof(self, method: str, url: str, token: str | None = None) -> str:
        """Return a proof of possession of the key, for one request (RFC 9449)."""
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.as_dict(private=False)}
        claims: dict[str, Any] = {"jti": str(uuid.uuid4()), "htm": method, "htu": url, "iat": int(time.time())}
        if token is not None:
            claims["ath"] = base64url(hashlib.sha256(token.encode()).digest())
        return jwt.encode(header, claims, self.key, algorithms=["ES256"])

    def token(self, person: str) -> str:
        """Return the access token that the provider issues after login and consent of the user (RFC 6749, 7636)."""
        verifier = secrets.token_urlsafe(32)
        with httpx.Client(trust_env=False) as http:
            code = self.authorization_code(http, person, base64url(hashlib.sha256(verifier.encode()).digest()))
            form = {
                "grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "client_id": "assistant",
                "code_verifier": verifier, "resource": "urn:calendar",
            }  # fmt: skip
            answer = http.post(
                f"{self.provider}/token", data=form, headers={"DPoP": self.proof("POST", f"{self.provider}/token")}
            )
        return str(answer.raise_for_status().json()["access_token"])

    def authorization_code(self, http: httpx.Client, person: str, challenge: str) -> str:
        """Log in and consent on the provider's pages as the user does, and return the authorization code. Raises
        SystemExit if a page is unexpected.
        """
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
                page = http.post(
                    urljoin(str(page.url), attribute("action", page.text)), data=form_fields(page.text, person)
                )
        raise SystemExit(f"the provider shows more than {MOST_PAGES} pages")


def attribute(name: str, html: str) -> str:
    found = re.search(rf'{name}="([^"]+)"', html)
    if found is None:
        raise SystemExit(f"the provider shows a page without a `{name}` attribute")
    return found[1]


def form_fields(html: str, person: str) -> dict[str, str]:
    found = re.search(r'name="prompt" value="(\w+)"', html)
    prompt = found[1] if found else ""
    return {"prompt": prompt, **({"login": person, "password": "any"} if prompt == "login" else {})}


@contextmanager
def running(*command: str | Path) -> Iterator[str]:
    """Run a server inside the block, and yield its first line of output, which is its address. Raises SystemExit if it
    exits early.
    """
    with subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        if not first:
            raise SystemExit(f"`{command[0]}` exited before it was ready; if its port is in use, choose another port")
        try:
            yield first.strip()
        finally:
            server.terminate()


@dataclass(frozen=True)
class Gateway:
    """A gateway in front of the calendar, which forwards the credentials of its client to the decision API."""

    pdp: str

    def decide(self, method: str, path: str, **credentials: str) -> dict[str, Any]:
        question = {
            "request": {"method": method, "path": path, "host": "calendar.acme.example"},
            "credentials": {**credentials, "method": method, "url": API + path},
        }
        answer = httpx.post(f"{self.pdp}/decide", json=question, trust_env=False)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


def show_decision(attempt: str, answer: dict[str, Any]) -> None:
    reason = f": {answer['reasons'][0]['message']}" if answer["reasons"] else ""
    print(f"{attempt:<44} {answer['outcome']}{reason}", flush=True)


@contextmanager
def example(port: int) -> Iterator[Path]:
    """Yield a folder with the policies, their issuer at the given port."""
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

        show_decision("The assistant reads Yara's calendar", gateway.decide("GET", EVENTS, **proved("GET")))
        show_decision("It writes to it, as Yara could", gateway.decide("POST", EVENTS, **proved("POST")))
        other = "/calendars/globex/events"
        show_decision("It reads another tenant's", gateway.decide("GET", other, **proved("GET", other)))
        show_decision(
            "A thief has the token, but not the key", gateway.decide("GET", EVENTS, authorization=f"Bearer {token}")
        )
        foreign = Assistant(provider).proof("GET", API + EVENTS, token)
        show_decision("A thief signs a proof with another key", gateway.decide("GET", EVENTS, **mine, dpop=foreign))
        seen = proved("GET")
        gateway.decide("GET", EVENTS, **seen)
        show_decision("A thief replays a proof", gateway.decide("GET", EVENTS, **seen))
        forged = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
        show_decision(
            "A thief changes the token",
            gateway.decide("GET", EVENTS, authorization=f"DPoP {forged}", dpop=seen["dpop"]),
        )
        show_decision("A client without credentials reads it", gateway.decide("GET", EVENTS))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not all(one.isdigit() for one in sys.argv[2:]):
        raise SystemExit(__doc__)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else PORT)
