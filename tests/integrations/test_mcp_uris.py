"""URIs of MCP resources: what a policy compares is what templates of real servers read, or the URI is refused."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import pytest
from fastmcp import Client, FastMCP
from fastmcp.resources.template import match_uri_template
from mcp.client.client import Client as SdkClient
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate

from policyengine.engine import Engine
from policyengine.http.resource_uris import TOO_LONG, canonical_template, canonical_uri, template_glob
from policyengine.integrations.mcp import fastmcp, sdk
from policyengine.runtime.globs import Glob
from policyengine.runtime.paths import MalformedPath
from tests import forking

POLICY = """
language 1
package notes
entity mcp_resource {}
facts on ACTION read mcp_resource { context.server: string }
issuer local { scopes none }
agent "reader" { issued by local   acts alone   may ACTION read mcp_resource }
guard "secret" on ACTION read mcp_resource { deny when resource.id like "notes://secret/*" }
"""
READER = {"agent": {"id": "reader", "issuer": "local"}}
SECRETS = [
    "notes://secret/x", "NOTES://secret/x", "notes://%73ecret/x", "notes://sec%72%65t/x", "notes://@secret/x",
    "notes://secret%2Fx/y", "notes://a/../secret/x", "notes://a/%2e%2e/secret/x", "notes:///secret/x/..", "notes://secret//x",
    " notes://secret/x", "notes://secret/x#y", "notes://secret\t/x", "notes://secret/%00", "notes://\uff53ecret/x",
]  # fmt: skip
OPEN = {"notes://open/x": "open x", "notes://open/a%20b": "open a b", "notes://open/a%40b": "open a@b"}
TEMPLATE = "notes://{box}/{name}"
SERVER = f'''
from fastmcp import FastMCP
server = FastMCP("notes")

@server.resource("{TEMPLATE}")
def note(box: str, name: str) -> str:
    return f"{{box}} {{name}}"

server.run(show_banner=False)
'''


def note(box: str, name: str) -> str:
    return f"{box} {name}"


# ── Through real servers ──────────────────────────────────────────────────────────────────────


def by_fastmcp(folder: Path) -> Client[Any]:
    policy = fastmcp.PolicyMiddleware(Engine.from_text(POLICY), server="notes", identify=fastmcp.always(READER))
    server = FastMCP("notes", middleware=[policy])
    server.resource(TEMPLATE)(note)
    return Client(server)


def by_sdk(folder: Path) -> SdkClient:
    policy = sdk.PolicyMiddleware(Engine.from_text(POLICY), server="notes", identify=sdk.always(READER))
    server = MCPServer("notes", middleware=[policy])
    server.resource(TEMPLATE)(note)
    return SdkClient(server)


def by_gateway(folder: Path) -> SdkClient:
    (folder / "notes.policy").write_text(POLICY)
    (folder / "server.py").write_text(SERVER)
    program, *words = [
        *forking.command(), "mcp-gateway", str(folder / "notes.policy"),
        "--server", "notes", "--as", "agent=reader", "--as", "issuer=local",
        "--upstream", shlex.join(forking.script(folder / "server.py")),
    ]  # fmt: skip
    return SdkClient(stdio_client(StdioServerParameters(command=program, args=words)))


@pytest.mark.parametrize("client", [by_fastmcp, by_sdk, by_gateway])
def test_no_spelling_of_a_uri_bypasses_a_guard(client: Callable[[Path], Any], tmp_path: Path) -> None:
    async def run() -> None:
        async with client(tmp_path) as asking:
            for uri in SECRETS:
                assert "secret" not in await text_of(asking.read_resource(uri)), uri
            for uri, text in OPEN.items():
                assert await text_of(asking.read_resource(uri)) == text

    asyncio.run(run())


async def text_of(reading: Awaitable[Any]) -> str:
    try:
        result = await reading
    except (MCPError, ValueError):
        return ""
    return str(getattr(result, "contents", result)[0].text)


# ── One spelling ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("uri", "spelling"),
    [
        ("notes://box/x", "notes://box/x"), ("NOTES://box/x", "notes://box/x"), ("notes://Box/X", "notes://Box/X"),
        ("notes://box/a%20b", "notes://box/a b"), ("notes://box/a b", "notes://box/a b"),
        ("notes://caf%c3%a9/x", "notes://café/x"), ("notes://café/x", "notes://café/x"),
        ("notes://box/a%3Ab%40c", "notes://box/a:b@c"), ("notes://box", "notes://box"), ("notes://box/", "notes://box/"),
        ("urn:isbn:123", "urn:isbn:123"), ("file:///etc/motd", "file:///etc/motd"), ("notes:///x", "notes:///x"),
        ("HTTPS://API.Example:8443/A", "https://api.example:8443/A"), ("https://[2001:DB8::1]/x", "https://[2001:db8::1]/x"),
        ("notes://a/b?q=a%26b%3d", "notes://a/b?q=a%26b%3D"), ("notes://a/b?q=a%2Fb", "notes://a/b?q=a/b"),
        ("notes://a/b?q=a=b", "notes://a/b?q=a%3Db"), ("notes://a/b?q=100%25", "notes://a/b?q=100%25"),
        ("n:a?", "n:a?"),
    ],
)  # fmt: skip
def test_a_uri_has_one_canonical_spelling(uri: str, spelling: str) -> None:
    assert canonical_uri(uri) == spelling


@pytest.mark.parametrize(
    "uri",
    [
        "", "x", "//box/x", "/x", "notes", "1a://x", "notes://box/%zz", "notes://box/%", "notes://box/%ff", "notes://box/x%2e",
        "notes://box/%61", "notes://b%2Dx/a", "notes://box/a%2Fb", "notes://box/a%5Cb", "notes://box/a\\b", "notes://box/a;b",
        "notes://box/.", "notes://box/..", "notes://box/x.", "notes://box/../x", "notes://box//x", "notes://box/x//",
        "notes://user@box/x", "notes://u:p@box/x", "notes://u%40box/x", "notes://box/x#", "notes://box/x ", "notes://box/%0A",
        "notes://box/x%20", "notes://box/%2525", "notes://box/a%3Fb", "notes://box/a%23b", "notes://box/\u200bx",
        "notes://box/e\u0301", "https:box/x", "https:///x", "https://a@b/x", "https://b:443/x", "http://b:80/x", "https://b./x",
        "https://b:/x", "https://b%2Ex/x", "file://host/etc", "file:etc", "notes://a/b?q=a+b", "notes://a/b?q=1;r=2",
        "notes://a/b?q=%61", "notes://a/b?q=%00", "notes://a/b?q=%ff", "notes://a/b?q=e%CC%81",
        "n:" + "a/" * 200, "n:" + "a" * 9_000,
    ],
)  # fmt: skip
def test_an_ambiguous_uri_is_malformed(uri: str) -> None:
    assert isinstance(canonical_uri(uri), MalformedPath)


def test_canonicalizing_a_uri_twice_changes_nothing() -> None:
    for uri in (*OPEN, "notes://a/b?q=a%26b%3D&r=%25", "https://api.example/x"):
        once = canonical_uri(uri)
        assert isinstance(once, str)
        assert canonical_uri(once) == once


@pytest.mark.parametrize(
    ("template", "spelling"),
    [
        ("notes://{box}/{name}", "notes://{box}/{name}"), ("notes://a%20b/{name*}{?q}", "notes://a b/{name*}"),
        ("notes://%73ecret/{name}", None), ("notes://%zz/{name}", None), ("notes://box/x", "notes://box/x"),
        ("notes://box/../x", None), ("notes://%ff/{x}", None),
        ("notes://open/../shut/{x}", None), ("notes://open/%2e%2e/{x}", None), ("notes://a//{x}", None),
        ("notes://{x}/#y", None), ("notes://a{;x}", None), ("notes://a{#x}", None),
        ("notes://a{/x*}{.y}", "notes://a{/x*}{.y}"),
        ("NOTES://B:c/{x}", "notes://B:c/{x}"), ("notes://x{?q}", "notes://x"),
        ("http://{host}:{port}/{x}", "http://{host}:{port}/{x}"), ("{scheme}://a/{x}", "{scheme}://a/{x}"),
        ("{+uri}", "{+uri}"),
    ],
)  # fmt: skip
def test_a_canonical_uri_template_keeps_its_expressions(template: str, spelling: str | None) -> None:
    found = canonical_template(template)
    assert isinstance(found, MalformedPath) if spelling is None else found == spelling


VALUES = {"x": "7", "y": "a b", "path": "p/q", "list": ["r", "s"], "host": "h", "port": "8443", "empty": ""}


@pytest.mark.parametrize(
    ("template", "glob"),
    [
        ("notes://{x}/{y}", "notes://*/*"), ("NOTES://a%20b/{list}{?x}", "notes://a b/**"),
        ("https://{host}.Example.com:{port}/{x}", "https://*.example.com:*/*"), ("notes://a{/list*}{.x}", "notes://a**"),
        ("notes://a/{x}{#y}", "notes://a/*"), ("notes://a/{x}{;y}", "notes://a/*"), ("{+path}", "*"),
        ("notes://a?b=1{&x}", "notes://a?b=1*"), ("notes://10000/1{x}0", "notes://10000/1*0"),
        ("notes://200/2{/x}0{list}/{y}", "notes://200/2*0*/*"), ("notes://a/b", "notes://a/b"),
        ("notes://a*/{x}", "notes://a*/*"), ("notes://%73ecret/{x}", None), ("notes://open/../shut/{x}", None),
        ("notes://%ff/{x}", None), ("open/{x}", None),
    ],
)  # fmt: skip
def test_the_glob_of_a_template_matches_each_of_its_uris(template: str, glob: str | None) -> None:
    found = template_glob(template)
    if glob is None:
        return assert_malformed(found)
    assert found == glob
    for left_out in (*VALUES, None):
        uri = canonical_uri(UriTemplate.parse(template).expand({k: v for k, v in VALUES.items() if k != left_out}))
        assert isinstance(uri, MalformedPath) or Glob(glob).matches(uri)


def assert_malformed(found: object) -> None:
    assert isinstance(found, MalformedPath)


# ── As templates read them ────────────────────────────────────────────────────────────────────

PIECES = [
    "secret", "s", "ecret", "%73", "%53", "S", "x", "/", "/", "%2F", "%2f", ".", "..", "%2e", "%252e", "%25", "@", ":",
    "%40", "%3A", "?q=", "&", "=", "%26", "%3D", "+", "%2B", ",", "%2C", ";", "#", " ", "%20", "é", "%C3%A9",
    "%c3%a9", "\\", "%5C",
    "{", "}", "%00", "\t", "\uff53", "~", "%7E", "'", "%27", "|", "%7C", "\u200b", "%E2%80%8B", "%ff", "%",
    "*", "[", "%5B",
    "\u017f",
]  # fmt: skip


def check_paths_read(seed: int, number: int) -> int:
    """Of generated URIs templates read no path as something else than is compared; how many they read."""
    random, read = Random(seed), 0
    for _ in range(number):
        uri = "notes://" + "".join(random.choices(PIECES, k=random.randint(1, 7)))
        spelling = canonical_uri(uri)
        if isinstance(spelling, MalformedPath) or "?" in uri:
            continue
        for template in (TEMPLATE, "notes://{box}"):
            for captured in readings(uri, template):
                assert template.format(**captured) == spelling, uri
                assert Glob(glob_of(template)).matches(spelling), uri
                read += 1
    return read


def check_queries_read(seed: int, number: int) -> int:
    """The same of a parameter in the query."""
    random, read = Random(seed), 0
    for _ in range(number):
        uri = "notes://box?q=" + "".join(random.choices(PIECES, k=random.randint(1, 6)))
        spelling = canonical_uri(uri)
        if isinstance(spelling, MalformedPath):
            continue
        for captured in readings(uri, "notes://box{?q}"):
            assert unquote(spelling.partition("?q=")[2].partition("&")[0]) == captured["q"], uri
            read += 1
    return read


def glob_of(template: str) -> str:
    glob = template_glob(template)
    assert isinstance(glob, str), template
    return glob


def readings(uri: str, template: str) -> list[dict[str, str]]:
    """By both libraries, where they read it at all."""
    found = [match_uri_template(uri, template), UriTemplate.parse(template).match(uri)]
    return [one for one in found if one is not None]


def test_attack_template_with_so_many_expressions_that_nobody_else_is_served() -> None:
    """A template that fits costs little; a longer one is refused before anything else."""
    assert canonical_template("docs://x/{" + "a," * 4_000 + "}") != MalformedPath(TOO_LONG)
    assert canonical_template("docs://x/{" + "a," * 4_100 + "}") == MalformedPath(TOO_LONG)


def test_uri_templates_match_the_canonical_uri() -> None:
    assert check_paths_read(7, 8_000) > 500
    assert check_queries_read(7, 2_000) > 500


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(20))
def test_uri_templates_match_the_canonical_uri_of_very_many_uris(seed: int) -> None:
    assert check_paths_read(seed, 200_000) > 5_000
    assert check_queries_read(seed, 100_000) > 5_000
