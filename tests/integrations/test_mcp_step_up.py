"""A client of the official SDK finds its own way in: from 401 to an answer, and on to a wider scope, with a real OpenID
provider whose pages the test answers as a person does.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from fastmcp import FastMCP
from mcp.client.auth import OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.exceptions import MCPError
from pydantic import AnyUrl

from policyengine import Engine
from policyengine.integrations.mcp import fastmcp as for_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.integrations.mcp.resource_server import ResourceServer
from tests import forking
from tests.identity.providing import OpenIdProvider, openid_provider
from tests.integrations.resource_world import NotesServer
from tests.integrations.serving import serving
from tests.ports import free_port

BACK = "http://127.0.0.1/back"
MOST_PAGES = 8
MODES = ("legacy", "auto", "2026-07-28")
CLOSE = {"connection": "close"}
KNOWN_CLIENT = {
    "client_id": "assistant", "token_endpoint_auth_method": "none", "redirect_uris": [BACK], "response_types": ["code"],
    "application_type": "native", "grant_types": ["authorization_code"],
}  # fmt: skip
POLICY = """
language 1
package notes
issuer login {{ url "{issuer}"   audience "{resource}" }}
scope notes.read as "read:notes" {{ TOOL notes/read }}
scope notes.write as "write:notes" {{ TOOL notes/write }}
users unrestricted
agent "{agent}" {{ issued by login   acts for any user   may notes.read, notes.write }}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    with openid_provider(
        [KNOWN_CLIENT], people=True, registration=True, scopes=("read:notes", "write:notes")
    ) as provider:
        yield provider


@dataclass
class Wallet:
    """The tokens and the registration of a client."""

    client: OAuthClientInformationFull | None = None
    tokens: list[OAuthToken] = field(default_factory=list)

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens[-1] if self.tokens else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens.append(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info

    @property
    def scopes(self) -> list[set[str]]:
        return [set((one.scope or "").split()) for one in self.tokens]


@dataclass
class Person:
    """A person with a browser, who signs in as alice and consents. `asked` are the scopes of each authorization."""

    asked: list[set[str]] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    came_back: dict[str, list[str]] = field(default_factory=dict)
    browser: httpx2.Client = field(default_factory=lambda: httpx2.Client(trust_env=False, headers=CLOSE))

    async def go(self, url: str) -> None:
        query = parse_qs(urlsplit(url).query)
        self.asked.append(set(query["scope"][0].split()))
        self.resources += query["resource"]
        await asyncio.to_thread(self._browse, url)

    def _browse(self, url: str) -> None:
        page = self.browser.get(url)
        for _ in range(2 * MOST_PAGES):
            if page.has_redirect_location:
                place = urljoin(str(page.url), page.headers["location"])
                if place.startswith(BACK):
                    self.came_back = parse_qs(urlsplit(place).query)
                    return
                page = self.browser.get(place)
            else:
                page = self.browser.post(urljoin(str(page.url), self._action(page.text)), data=self._form(page.text))
        raise AssertionError("the provider shows too many pages")

    @staticmethod
    def _action(html: str) -> str:
        found = re.search(r'action="([^"]+)"', html)
        assert found is not None, html
        return unescape(found[1])

    @staticmethod
    def _form(html: str) -> dict[str, str]:
        prompt = re.search(r'name="prompt" value="(\w+)"', html)
        assert prompt is not None, html
        return {"prompt": prompt[1], **({"login": "alice", "password": "any"} if prompt[1] == "login" else {})}

    async def result(self) -> AuthorizationCodeResult:
        found = {name: values[0] for name, values in self.came_back.items()}
        assert "code" in found, found
        return AuthorizationCodeResult(code=found["code"], state=found.get("state"), iss=found.get("iss"))


def registered() -> Wallet:
    """A client that its operator registered at the provider."""
    return Wallet(OAuthClientInformationFull.model_validate(KNOWN_CLIENT))


def use(url: str, wallet: Wallet, person: Person, *names: str, mode: Any = "auto") -> list[str]:
    """Call these tools in one session, and return their answers."""
    metadata = OAuthClientMetadata(
        redirect_uris=[AnyUrl(BACK)], token_endpoint_auth_method="none", grant_types=["authorization_code"],
        client_name="a test",
    )  # fmt: skip
    auth = OAuthClientProvider(url, metadata, wallet, person.go, person.result)

    async def run() -> list[str]:
        async with (
            httpx2.AsyncClient(auth=auth, trust_env=False, timeout=20) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            return [await called(client, name) for name in names]

    return asyncio.run(asyncio.wait_for(run(), 60))


async def called(client: Client, name: str) -> str:
    try:
        return str((await client.call_tool(name, {"path": "a"})).content[0].text)
    except MCPError as error:
        return str(error)


def write_policy(folder: Path, provider: OpenIdProvider, resource: str, agent: str) -> None:
    (folder / "identity.toml").write_text("")
    text = POLICY.format(issuer=provider.url, resource=resource, agent=agent)
    (folder / "notes.policy").write_text(text)


@contextmanager
def gateway(folder: Path, provider: OpenIdProvider, agent: str, *more: str) -> Iterator[tuple[str, NotesServer]]:
    """`mcp-gateway` as a process, before a server that verifies nothing."""
    behind, port = NotesServer(), free_port()
    url = f"http://127.0.0.1:{port}"
    write_policy(folder, provider, f"{url}/mcp", agent)
    with serving(behind) as upstream:
        options = ("--server", "notes", "--port", str(port), "--identity", str(folder / "identity.toml"))
        command = [
            *forking.command(), "mcp-gateway", str(folder / "notes.policy"), "--upstream", f"{upstream}/mcp", *options,
            "--public-url", url, *more,
        ]  # fmt: skip
        with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().split()[-1] == f"{url}/mcp"
                yield f"{url}/mcp", behind
            finally:
                process.kill()


@pytest.mark.parametrize("mode", MODES)
def test_a_client_of_the_sdk_goes_from_401_to_an_answer_and_on_to_a_wider_scope(
    provider: OpenIdProvider, tmp_path: Path, mode: Any
) -> None:
    person, purse = Person(), registered()
    with gateway(tmp_path, provider, "assistant", "--initial-scope", "read:notes") as (url, behind):
        assert use(url, purse, person, "read", "write", "read", mode=mode) == [
            "content of a",
            "wrote a",
            "content of a",
        ]
    assert person.asked == [{"read:notes"}, {"read:notes", "write:notes"}]
    assert purse.scopes == person.asked
    assert set(person.resources) == {url}
    assert behind.calls == ["read", "write", "read"]
    assert not any("authorization" in one for one in behind.headers)


def test_a_client_that_nobody_registered_registers_itself_and_requests_all_scopes_by_default(
    provider: OpenIdProvider, tmp_path: Path
) -> None:
    person, purse = Person(), Wallet()
    with gateway(tmp_path, provider, "*") as (url, _):
        assert use(url, purse, person, "write", "read") == ["wrote a", "content of a"]
    assert person.asked == [{"read:notes", "write:notes"}]
    assert purse.client is not None
    assert purse.client.client_id != "assistant"


def test_a_token_that_the_client_kept_is_widened_in_a_later_session(provider: OpenIdProvider, tmp_path: Path) -> None:
    person, purse = Person(), registered()
    with gateway(tmp_path, provider, "assistant", "--initial-scope", "read:notes") as (url, _):
        assert use(url, purse, person, "read") == ["content of a"]
        assert use(url, purse, person, "write") == ["wrote a"]
    assert person.asked == [{"read:notes"}, {"read:notes", "write:notes"}]


# ── Inside a server ───────────────────────────────────────────────────────────────────────────


def add_tools(server: Any) -> None:
    def read(path: str) -> str:
        return f"content of {path}"

    def write(path: str) -> str:
        return f"wrote {path}"

    for tool in (read, write):
        server.tool(tool) if isinstance(server, FastMCP) else server.tool()(tool)


def sdk_app(engine: Engine, url: str, provider: OpenIdProvider) -> Any:
    policy = sdk.PolicyMiddleware(engine, server="notes", identify=sdk.by_credentials(url))
    server = MCPServer("notes", middleware=[policy])
    add_tools(server)
    return ResourceServer(
        server.streamable_http_app(), engine, server="notes", public_url=url, initial_scopes=["read:notes"]
    )


def fastmcp_app(engine: Engine, url: str, provider: OpenIdProvider) -> Any:
    policy = for_fastmcp.PolicyMiddleware(engine, server="notes", identify=for_fastmcp.by_credentials(url))
    server = FastMCP("notes", middleware=[policy])
    add_tools(server)
    return ResourceServer(server.http_app(), engine, server="notes", public_url=url, initial_scopes=["read:notes"])


@dataclass
class EngineVerifier(TokenVerifier):
    """A verifier of the SDK's own kind, as a server has it that used the SDK's authorization before."""

    engine: Engine

    async def verify_token(self, token: str) -> AccessToken | None:
        proved = await self.engine.prove_async({"credentials": {"authorization": f"Bearer {token}"}})
        facts = getattr(proved["credentials"], "facts", None)
        if facts is None:
            return None
        issuer = self.engine.kernel.issuers[facts["credential"]["issuer"]]
        return AccessToken(
            token=token, client_id=facts["agent"]["id"], scopes=facts["credential"]["scopes"],
            subject=facts["user"]["id"], resource=issuer.audience, claims={"iss": issuer.url},
        )  # fmt: skip


def authorized_sdk_app(engine: Engine, url: str, provider: OpenIdProvider) -> Any:
    """A server whose SDK verifies tokens and serves the metadata (`AuthSettings`)."""
    settings = AuthSettings.model_validate(
        {
            "issuer_url": provider.url, "resource_server_url": f"{url}/mcp", "required_scopes": ["read:notes"],
            "validate_token_resource": True,
        }
    )  # fmt: skip
    policy = sdk.PolicyMiddleware(engine, server="notes")
    server = MCPServer("notes", middleware=[policy], token_verifier=EngineVerifier(engine), auth=settings)
    add_tools(server)
    return ResourceServer(server.streamable_http_app(), engine, server="notes", public_url=url, verifies_tokens=False)


@pytest.mark.parametrize("app", [sdk_app, fastmcp_app, authorized_sdk_app])
def test_a_server_with_the_middleware_steps_up_too(
    provider: OpenIdProvider, tmp_path: Path, app: Callable[[Engine, str, OpenIdProvider], Any]
) -> None:
    person, purse, port = Person(), registered(), free_port()
    url = f"http://127.0.0.1:{port}"
    write_policy(tmp_path, provider, f"{url}/mcp", "assistant")
    engine = Engine.load(tmp_path / "notes.policy", identity=tmp_path / "identity.toml")
    with serving(app(engine, url, provider), port):
        assert use(f"{url}/mcp", purse, person, "read", "write") == ["content of a", "wrote a"]
    assert person.asked == [{"read:notes"}, {"read:notes", "write:notes"}]
