"""The gateway as a resource server of OAuth: metadata, 401 before all else, 403 for a missing scope, and attacks."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from policyengine import Engine
from policyengine.approvals.settings import ApprovalSettings
from policyengine.identity.verified import VerifiedCredential
from policyengine.integrations.mcp.clients.listening_stream import is_revoked, run_while_valid
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.http_exchange import EXCHANGE, TokenChallenge
from policyengine.integrations.mcp.methods import DENIED
from policyengine.integrations.mcp.protected_resource import WELL_KNOWN, ProtectedResource, read_resource_access
from policyengine.integrations.mcp.resource_server import ResourceServer
from policyengine.log_throttle import MAX_LINES
from policyengine.reload import ReloadableEngine, ReloadSource
from policyengine.reload.integration_engine import LiveEngine
from tests.identity import bound_world, issuing
from tests.integrations.resource_world import (
    ACME,
    IDENTITY,
    METADATA,
    POLICY,
    PUBLIC,
    RESOURCE,
    RawClient,
    SettableClock,
    bearer,
    dpop,
    load,
    message_of,
    running_gateway,
    token,
)

BARE = f'Bearer realm="agents", scope="read:notes write:notes", resource_metadata="{METADATA}"'


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def engine(tmp_path: Path, clock: SettableClock) -> Engine:
    return load(tmp_path, clock=clock)


class Inner:
    """An application that counts the requests that reach it."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.app = Starlette(routes=[Route("/mcp", self.answer, methods=["GET", "POST", "DELETE"])])

    async def answer(self, request: Request) -> Response:
        self.reached.append(request.method)
        return PlainTextResponse("reached")


def door(
    engine: Any, public_url: str | None = PUBLIC, base_url: str = PUBLIC, **options: Any
) -> tuple[TestClient, Inner]:
    """Return a client of a resource server, and the application behind it."""
    inner = Inner()
    app = ResourceServer(inner.app, engine, server="notes", public_url=public_url, **options)
    return TestClient(app, base_url=base_url, follow_redirects=False), inner


def challenge(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.headers.get("www-authenticate", "")


# ── Metadata ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [WELL_KNOWN, f"{WELL_KNOWN}/mcp"])
def test_the_metadata_names_the_issuers_and_scopes_of_the_policies(engine: Engine, path: str) -> None:
    client, inner = door(engine)
    answer = client.get(path)
    found = answer.json()
    assert len(found.pop("dpop_signing_alg_values_supported")) > 5
    assert (answer.status_code, answer.headers["content-type"], found) == (
        200, "application/json",
        {
            "resource": RESOURCE, "authorization_servers": [ACME], "scopes_supported": ["read:notes", "write:notes"],
            "bearer_methods_supported": ["header"], "resource_name": "notes",
        },
    )  # fmt: skip
    assert inner.reached == []


def test_the_metadata_is_cached_for_a_short_time(engine: Engine) -> None:
    client, _ = door(engine)
    first = client.get(WELL_KNOWN)
    assert first.headers["cache-control"] == "public, max-age=60"
    again = client.get(WELL_KNOWN, headers={"if-none-match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(WELL_KNOWN, headers={"if-none-match": '"other"'}).status_code == 200


def test_the_metadata_answers_head_and_options_and_nothing_else(engine: Engine) -> None:
    client, _ = door(engine)
    head = client.head(WELL_KNOWN)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", client.get(WELL_KNOWN).headers["etag"])
    for method, status in (("OPTIONS", 204), ("POST", 405), ("DELETE", 405)):
        answer = client.request(method, WELL_KNOWN)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (status, "GET, HEAD, OPTIONS", b"")


def test_the_metadata_changes_with_a_reload(engine: Engine, tmp_path: Path) -> None:
    held = ReloadableEngine(engine, ReloadSource((tmp_path / "notes.policy",), None, None))
    client, _ = door(LiveEngine(held))
    before = client.get(WELL_KNOWN)
    assert before.json()["scopes_supported"] == ["read:notes", "write:notes"]
    (tmp_path / "notes.policy").write_text(POLICY.replace('"read:notes"', '"notes:r"'))
    held.reload()
    after = client.get(WELL_KNOWN, headers={"if-none-match": before.headers["etag"]})
    assert (after.status_code, after.json()["scopes_supported"]) == (200, ["notes:r", "write:notes"])
    assert 'scope="notes:r write:notes"' in client.post("/mcp").headers["www-authenticate"]


def test_the_metadata_says_whether_tokens_must_be_bound(tmp_path: Path) -> None:
    bound = POLICY.replace("acts for any user   may notes", "acts for any user   credential { bound }   may notes")
    client, _ = door(load(tmp_path, bound))
    assert client.get(WELL_KNOWN).json()["dpop_bound_access_tokens_required"] is True
    status, header = challenge(client.post("/mcp"))
    assert (status, header.startswith('DPoP realm="agents", scope="'), 'algs="ES256' in header) == (401, True, True)
    assert header.endswith(f'resource_metadata="{METADATA}"')


def test_a_path_of_the_public_url_follows_the_well_known_path(engine: Engine) -> None:
    client, _ = door(engine, f"{PUBLIC}/files")
    where = f"{PUBLIC}{WELL_KNOWN}/files/mcp"
    assert f'resource_metadata="{where}"' in client.post("/mcp").headers["www-authenticate"]
    for url in (where, WELL_KNOWN, f"{WELL_KNOWN}/mcp"):
        assert client.get(url).json()["resource"] == f"{PUBLIC}/files/mcp"
    assert ProtectedResource("https://a.example", "a").metadata_url == f"https://a.example{WELL_KNOWN}"


def test_issuers_without_scopes_need_none(tmp_path: Path) -> None:
    kernel = load(
        tmp_path, POLICY.replace(f'audience "{RESOURCE}" }}', f'audience "{RESOURCE}"   scopes none }}')
    ).kernel
    assert read_resource_access(kernel, "notes").scopes == ()


def test_people_who_use_clients_themselves_request_the_scopes_of_their_blocks(tmp_path: Path) -> None:
    text = re.sub(r'\nagent "assistant".*', "\nuser any { may notes.read }", POLICY).replace("users unrestricted", "")
    access = read_resource_access(load(tmp_path, text).kernel, "notes")
    assert (access.issuers, access.scopes) == ((ACME, "https://login.partner.example"), ("read:notes", "write:notes"))


def test_clients_request_no_scopes_of_blocks_that_have_expired(tmp_path: Path) -> None:
    """`init` writes expired blocks with every scope, whose names the provider does not know."""
    example = 'agent "example" { issued by partner   acts alone   may tools.erase   valid until 2001-01-01 }'
    text = f"{POLICY}scope tools.erase {{ TOOL notes/erase }}\n{example}\n"
    kernel = load(tmp_path, text).kernel
    access = read_resource_access(kernel, "notes")
    assert (access.issuers, access.scopes) == ((ACME,), ("read:notes", "write:notes"))
    before = read_resource_access(kernel, "notes", clock=lambda: datetime(2000, 6, 1, tzinfo=UTC))
    assert before.issuers == (ACME, "https://login.partner.example")
    assert "tools.erase" in before.scopes


def test_an_issuer_of_certificates_is_not_one_of_tokens(tmp_path: Path) -> None:
    mesh = 'issuer mesh { url "spiffe://acme.example"   scopes none }\nscope notes.read'
    text = POLICY.replace("scope notes.read", mesh, 1).replace("issued by acme ", "issued by acme, mesh ")
    assert read_resource_access(load(tmp_path, text).kernel, "notes").issuers == (ACME,)


def test_an_issuer_that_this_process_acts_as_comes_last(tmp_path: Path) -> None:
    kernel = load(tmp_path, POLICY.replace("issued by acme ", "issued by acme, partner ")).kernel
    assert read_resource_access(kernel, "notes", "acme").issuers == ("https://login.partner.example", ACME)


# ── 401 ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_request_without_a_token_gets_a_challenge_without_an_error(engine: Engine, method: str) -> None:
    client, inner = door(engine)
    answer = client.request(method, "/mcp")
    assert challenge(answer) == (401, BARE)
    assert (answer.headers["cache-control"], answer.json()["error"]["code"]) == ("no-store", DENIED)
    assert inner.reached == []


def test_the_challenge_names_the_initial_scopes(engine: Engine) -> None:
    client, _ = door(engine, initial_scopes=["read:notes"])
    assert 'scope="read:notes"' in client.post("/mcp").headers["www-authenticate"]


def test_too_many_scopes_for_a_header_are_only_in_the_metadata(tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(300)]
    scopes = "\n".join(f'scope x.{name} as "scope:{name}" {{ TOOL notes/{name} }}' for name in names)
    may = ", ".join(f"x.{name}" for name in names)
    text = POLICY.replace("users unrestricted", f"{scopes}\nusers unrestricted").replace("notes.write, web", may)
    client, _ = door(load(tmp_path, text))
    assert "scope=" not in client.post("/mcp").headers["www-authenticate"]
    assert len(client.get(WELL_KNOWN).json()["scopes_supported"]) == 300


def test_a_valid_token_reaches_the_endpoint(engine: Engine) -> None:
    client, inner = door(engine)
    for method in ("POST", "GET", "DELETE"):
        assert client.request(method, "/mcp", headers=bearer()).text == "reached"
    assert inner.reached == ["POST", "GET", "DELETE"]


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "https://other.example.com/mcp"}, "the token is for another audience"),
        ({"aud": PUBLIC}, "the token is for another audience"),
        ({"aud": f"{RESOURCE}/"}, "the token is for another audience"),
        ({"exp": 1_600_000_300, "iat": 1_600_000_000}, "the credential has expired"),
        ({"iss": "https://evil.example"}, "no policy trusts the issuer of the credential"),
        ({"iss": "https://login.partner.example"}, "the issuer of the token does not respond"),
        ({"client_id": issuing.GONE}, "a required claim is missing"),
        ({"_key": issuing.ec("P-256", "other")}, "the signature of the token is not valid"),
    ],
)
def test_a_token_that_proves_nothing_is_refused(engine: Engine, claims: dict[str, Any], why: str) -> None:
    client, inner = door(engine)
    headers = bearer(**claims)
    answer = client.post("/mcp", headers=headers)
    if "respond" in why:  # another token would not help
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    else:
        said = f'Bearer realm="agents", error="invalid_token", error_description="{why}", {BARE.partition(", ")[2]}'
        assert challenge(answer) == (401, said)
    assert answer.json()["error"]["message"] == why
    secret = headers["authorization"].partition(" ")[2]
    assert not any(part in f"{answer.headers}{answer.text}" for part in (*secret.split("."), issuing.USER, "assistant"))
    assert inner.reached == []


def test_a_dpop_nonce_is_sent_with_the_challenge(tmp_path: Path) -> None:
    client, inner = door(load(tmp_path, identity=IDENTITY + "[dpop]\nnonces = true\n"))
    first = client.post("/mcp", headers=dpop())
    status, header = challenge(first)
    assert (status, header.startswith('DPoP realm="agents", error="use_dpop_nonce"')) == (401, True)
    assert f'resource_metadata="{METADATA}"' in header
    assert client.post("/mcp", headers=dpop(nonce=first.headers["dpop-nonce"])).text == "reached"
    assert inner.reached == ["POST"]


def test_the_proof_of_a_request_is_verified_once(engine: Engine) -> None:
    with running_gateway(engine) as (url, behind):
        client = RawClient(url)
        client.begin(dpop())
        assert message_of(client.call(dpop(), "read", path="a"))["result"]["content"][0]["text"] == "content of a"
        assert behind.calls == ["read"]


def test_an_error_of_the_verification_is_a_refusal_and_logged_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine.identity is not None
    engine.identity.marks = object()  # type: ignore[assignment]  # a store that is broken in an unknown way
    client, inner = door(engine)
    for _ in range(3):
        answer = client.post("/mcp", headers=bearer())
        assert (answer.status_code, "www-authenticate" in answer.headers) == (503, False)
    assert [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR] == [
        "a credential could not be verified, and was refused"
    ]
    assert inner.reached == []


def test_a_large_message_without_a_token_is_answered(shared: tuple[str, Any]) -> None:
    assert RawClient(shared[0]).call({}, "write", path="x" * 3_000_000).status_code == 401


def test_a_resource_server_needs_an_engine_of_this_process_that_verifies_credentials() -> None:
    with pytest.raises(TypeError, match="an engine of this process"):
        ResourceServer(Starlette(), object(), server="notes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="verifies no credentials"):
        ResourceServer(Starlette(), Engine.from_text(POLICY), server="notes")
    with pytest.raises(ValueError, match="the host of each request would choose"):
        ResourceServer(Starlette(), Engine.from_text(POLICY), server="notes", verifies_tokens=False)


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"authorization": "Basic YTpi"}, 401, "invalid_request"),
        ({"authorization": "Bearer"}, 401, "invalid_request"),
        ({"authorization": "Bearer made-up", "x-api-key": "k"}, 400, "invalid_request"),
        ({"authorization": f"Bearer {'e' * 70_000}"}, 400, "invalid_request"),
        ({"dpop": "made-up"}, 401, "invalid_token"),
    ],
)
def test_a_malformed_credential_is_refused(engine: Engine, headers: dict[str, str], status: int, error: str) -> None:
    client, inner = door(engine)
    answer = client.post("/mcp", headers=headers)
    assert (answer.status_code, f'error="{error}"' in answer.headers["www-authenticate"]) == (status, True)
    assert inner.reached == []


# ── Grants of anyone ──────────────────────────────────────────────────────────────────────────

OPEN = POLICY + "anyone { may TOOL notes/write }\n"


def test_without_a_token_clients_may_use_what_anyone_may_use(tmp_path: Path) -> None:
    with running_gateway(load(tmp_path, OPEN)) as (url, behind):
        client = RawClient(url)
        assert client.begin({}).status_code == 200
        assert message_of(client.call({}, "write", path="a"))["result"]["content"][0]["text"] == "wrote a"
        refused = client.call({}, "read", path="a")
        assert challenge(refused) == (401, BARE)
        assert (refused.json()["id"], refused.json()["error"]["data"]["outcome"]) == (7, "deny")
        assert client.call(bearer(exp=1_600_000_300, iat=1_600_000_000), "write", path="a").status_code == 401
        assert behind.calls == ["write"]


def test_a_session_without_a_token_passes_to_the_first_proven_caller(tmp_path: Path) -> None:
    with running_gateway(load(tmp_path, OPEN)) as (url, _):
        client = RawClient(url)
        client.begin({})
        assert client.call(bearer(), "read", path="a").status_code == 200
        assert client.call({}, "write", path="a").status_code == 404
        assert client.call(bearer(sub="mallory"), "write", path="a").status_code == 404


# ── 403 ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    with running_gateway(load(tmp_path_factory.mktemp("shared"))) as found:
        yield found


@pytest.fixture
def client(shared: tuple[str, Any]) -> RawClient:
    shared[1].calls.clear()
    shared[1].headers.clear()
    found = RawClient(shared[0])
    found.begin(bearer())
    return found


def needs(scopes: str) -> str:
    return (
        'Bearer realm="agents", error="insufficient_scope", error_description="the request needs a scope that the '
        f'token does not have", scope="{scopes}", resource_metadata="{METADATA}"'
    )


def test_a_call_that_a_scope_would_allow_gets_403_with_all_scopes_to_request(client: RawClient, shared: Any) -> None:
    answer = client.call(bearer(), "write", path="a")
    assert challenge(answer) == (403, needs("read:notes write:notes"))
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("application/json", "no-store")
    assert answer.headers["mcp-session-id"] == client.session
    error = answer.json()["error"]
    assert (answer.json()["id"], error["code"]) == (7, DENIED)
    assert error["data"]["remedies"] == [{"kind": "scope", "scopes": ["write:notes"]}]
    assert shared[1].calls == []
    assert client.call(bearer("read:notes write:notes"), "write", path="a").status_code == 200


def test_of_several_scopes_that_would_help_the_narrowest_is_requested(client: RawClient) -> None:
    assert challenge(client.call(bearer("web"), "read", path="a")) == (403, needs("read:notes"))


def test_a_scope_with_which_a_guard_still_denies_is_not_requested(tmp_path: Path) -> None:
    guard = 'guard "wide" on TOOL notes/read { deny unless credential.scopes has "write:notes" message "too narrow" }'
    with running_gateway(load(tmp_path, f"{POLICY}{guard}\n")) as (url, _):
        client = RawClient(url)
        client.begin(bearer("web"))
        status, header = challenge(client.call(bearer("web"), "read", path="a"))
    assert (status, 'scope="write:notes"' in header) == (403, True)


def test_scopes_that_the_policies_do_not_name_are_not_repeated(client: RawClient) -> None:
    held = "read:notes openid offline_access admin"
    assert challenge(client.call(bearer(held), "write", path="a")) == (403, needs("read:notes write:notes"))


def test_a_client_that_sends_proofs_is_challenged_in_its_own_scheme(client: RawClient) -> None:
    raw = token("read:notes", cnf={"jkt": bound_world.jkt()})
    answer = client.call(dpop(raw), "write", path="a")
    status, header = challenge(answer)
    assert (status, header.startswith('DPoP realm="agents", error="insufficient_scope"')) == (403, True)
    expired = token(cnf={"jkt": bound_world.jkt()}, exp=1_600_000_300, iat=1_600_000_000)
    status, header = challenge(client.call(dpop(expired), "read", path="a"))
    assert (status, header.startswith('DPoP realm="agents", error="invalid_token"')) == (401, True)


def test_a_denial_that_no_scope_lifts_is_an_ordinary_error(client: RawClient) -> None:
    for headers, name, path in (
        (bearer(), "read", "secret"), (bearer("web"), "read", "secret"), (bearer(), "erase", "a"),
    ):  # fmt: skip
        answer = client.call(headers, name, path=path)
        assert (answer.status_code, message_of(answer)["error"]["code"]) == (200, DENIED)


def test_resources_and_prompts_are_stepped_up_like_tools(client: RawClient) -> None:
    read = client.post(bearer("web"), "resources/read", uri="notes://open/a")
    assert challenge(read) == (403, needs("read:notes"))
    prompt = client.post(bearer(), "prompts/get", name="greet")
    assert challenge(prompt) == (403, needs("read:notes write:notes"))


def test_a_list_shows_what_the_token_allows_and_is_never_refused(client: RawClient) -> None:
    answer = client.post(bearer(), "tools/list")
    assert answer.status_code == 200
    assert [one["name"] for one in message_of(answer)["result"]["tools"]] == ["read"]
    assert client.post(bearer("web"), "tools/list").status_code == 200


def test_a_denial_after_the_answer_has_begun_stays_in_the_stream(engine: Engine) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b": progress\n\n", "more_body": True})
        scope[EXCHANGE].challenge = TokenChallenge(403, ("x",), 1, {})
        await send({"type": "http.response.body", "body": b"data: denied\n\n"})

    server = ResourceServer(app, engine, server="notes", public_url=PUBLIC)
    answer = TestClient(server, base_url=PUBLIC).post("/mcp", headers=bearer())
    assert (answer.status_code, answer.text) == (200, ": progress\n\ndata: denied\n\n")


def test_a_denial_before_the_first_bytes_replaces_the_whole_answer(engine: Engine) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        scope[EXCHANGE].challenge = TokenChallenge(403, ("x",), 1, {"code": DENIED})
        for part in (b"data: denied\n\n", b": ping\n\n"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/mcp", "query_string": b"", "server": None,
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", bearer()["authorization"].encode())],
    }  # fmt: skip
    asyncio.run(ResourceServer(app, engine, server="notes", public_url=PUBLIC)(scope, None, send))  # type: ignore[arg-type]
    assert [(one["type"], one.get("status")) for one in sent] == [
        ("http.response.start", 403), ("http.response.body", None),
    ]  # fmt: skip
    assert json.loads(sent[1]["body"]) == {"jsonrpc": "2.0", "id": 1, "error": {"code": DENIED}}


def test_an_empty_answer_passes(engine: Engine) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = ResourceServer(app, engine, server="notes", public_url=PUBLIC)
    assert TestClient(server, base_url=PUBLIC).post("/mcp", headers=bearer()).status_code == 202


# ── Sessions ──────────────────────────────────────────────────────────────────────────────────


def test_no_session_begins_without_a_token(engine: Engine) -> None:
    with running_gateway(engine) as (url, behind):
        for headers in ({}, bearer(aud="https://other.example.com/mcp")):
            answer = RawClient(url).begin(headers)
            assert (answer.status_code, "mcp-session-id" in answer.headers) == (401, False)
        assert behind.headers == []  # no upstream session either


def test_each_request_of_a_session_needs_a_token(client: RawClient) -> None:
    assert challenge(client.call({}, "read", path="a")) == (401, BARE)
    assert client.post({}, "notifications/initialized").status_code == 401
    assert client.http.get(client.url, headers={"mcp-session-id": str(client.session)}).status_code == 401
    assert client.http.delete(client.url, headers={"mcp-session-id": str(client.session)}).status_code == 401
    assert client.call(bearer(), "read", path="a").status_code == 200


def test_a_token_that_expires_within_a_session_is_refused(engine: Engine, clock: SettableClock) -> None:
    with running_gateway(engine) as (url, _):
        client, headers = RawClient(url), bearer()
        client.begin(headers)
        assert client.call(headers, "read", path="a").status_code == 200
        clock.now += 700
        answer = client.call(headers, "read", path="a")
        assert (answer.status_code, 'error="invalid_token"' in answer.headers["www-authenticate"]) == (401, True)
        clock.now -= 700
        assert client.call(bearer(), "read", path="a").status_code == 200  # a new token continues the session


async def listening(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await anyio.sleep_forever()


def messages_of_a_stream(credential: VerifiedCredential, is_revoked: Any) -> list[tuple[str, object]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    stream = run_while_valid(listening, {}, None, send, credential, is_revoked, 0.001)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(stream, 60))
    return [(one["type"], one.get("more_body")) for one in sent]


ENDED = [("http.response.start", None), ("http.response.body", False)]


def test_a_stream_of_messages_ends_when_the_token_expires() -> None:
    async def never() -> bool:
        return False

    ends = datetime.now(UTC) + timedelta(seconds=0.2)
    credential = VerifiedCredential({"credential": {"expires_at": ends}}, 0, frozenset(), "")
    assert messages_of_a_stream(credential, never) == ENDED
    assert datetime.now(UTC) >= ends


def test_a_stream_of_messages_ends_when_the_token_is_revoked(engine: Engine) -> None:
    assert engine.identity is not None
    marks, now = engine.identity.marks, int(time.time())
    proved = engine.prove({"credentials": bearer()})["credentials"]
    assert isinstance(proved, VerifiedCredential)
    asked = 0

    async def revoked_later() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            marks.revoke(["user:acme/alice"], now + 600, now)
        return await is_revoked(engine, proved)

    assert messages_of_a_stream(proved, revoked_later) == ENDED
    assert asked == 3


ASKING = POLICY.replace("TOOL notes/read {", "TOOL notes/read, TOOL notes/write {").replace(
    "users unrestricted",
    'users unrestricted\nguard "ask" on TOOL notes/write { confirm by user within 5m message "write {args.path}" }',
)


def test_a_user_whom_a_token_names_approves_in_the_client(tmp_path: Path) -> None:
    asked: list[str] = []

    async def approve(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message.splitlines()[2].strip())
        return ElicitResult(action="accept", content={"approve": True})

    async def run(url: str) -> str:
        async with (
            httpx2.AsyncClient(headers=bearer("write:notes"), trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http), elicitation_callback=approve) as client,
        ):
            return str((await client.call_tool("write", {"path": "a"})).content[0].text)

    engine = load(tmp_path, ASKING, approvals=ApprovalSettings(issuers=("acme",)))
    with running_gateway(engine, elicit=ElicitMode.FORM) as (url, _):
        assert asyncio.run(run(url)) == "wrote a"
    assert asked == ['write "a"']


# ── Attacks ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("headers", [{}, {"good": "yes"}])
@pytest.mark.parametrize("query", ["access_token={}", "x=1&Access_Token={}", "%61ccess_token={}", "access_token="])
def test_attack_token_in_the_query(engine: Engine, headers: dict[str, str], query: str) -> None:
    client, inner = door(engine)
    answer = client.post(f"/mcp?{query.format(token())}", headers=bearer() if headers else {})
    status, header = challenge(answer)
    assert (status, 'error="invalid_request"' in header, inner.reached) == (400, True, [])


def test_attack_two_authorization_headers(engine: Engine) -> None:
    client, inner = door(engine)
    good, bad = bearer()["authorization"], bearer(sub="mallory")["authorization"]
    answer = client.post("/mcp", headers=[("authorization", good), ("authorization", bad)])
    status, header = challenge(answer)
    assert (status, 'error="invalid_request"' in header, inner.reached) == (400, True, [])


def test_attack_token_for_another_resource_on_an_open_session(client: RawClient) -> None:
    answer = client.call(bearer(aud=["https://other.example.com/mcp"]), "read", path="a")
    assert (answer.status_code, "another audience" in answer.headers["www-authenticate"]) == (401, True)


def test_attack_token_of_another_user_or_agent_on_an_open_session(client: RawClient, shared: Any) -> None:
    for claims in ({"sub": "mallory"}, {"client_id": "robot"}):
        stolen = client.call(bearer(**claims), "read", path="a")
        unknown = RawClient(client.url, "0" * 32).call(bearer(), "read", path="a")
        assert (stolen.status_code, stolen.text) == (unknown.status_code, unknown.text)
        assert stolen.status_code == 404
    listening = {**bearer(sub="mallory"), "mcp-session-id": str(client.session), "accept": "text/event-stream"}
    assert client.http.get(client.url, headers=listening).status_code == 404
    assert client.http.delete(client.url, headers=listening).status_code == 404
    assert client.call(bearer(), "read", path="a").status_code == 200
    assert shared[1].calls == ["read"]


def test_attack_token_passed_through_to_the_upstream(client: RawClient, shared: Any) -> None:
    headers = bearer()
    assert client.call({**headers, "x-mine": "1"}, "read", path="a").status_code == 200
    secret = headers["authorization"].partition(" ")[2]
    assert shared[1].headers
    assert not any("authorization" in one or "x-mine" in one or secret in str(one) for one in shared[1].headers)


def test_attack_upstream_forges_a_scope_challenge(engine: Engine) -> None:
    """A scope that the upstream names must not become a scope that a user is asked to consent to."""

    async def forging(scope: Any, receive: Any, send: Any) -> None:
        data = {"remedies": [{"kind": "scope", "scopes": ["admin"]}]}
        error = {"code": DENIED, "message": "x", "data": data}
        forged = json.dumps({"jsonrpc": "2.0", "id": 7, "error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(forged)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": forged})

    server = ResourceServer(forging, engine, server="notes", public_url=PUBLIC)
    answer = TestClient(server, base_url=PUBLIC).post("/mcp", headers=bearer())
    assert challenge(answer) == (200, "")


INJECTED = ('a",error="x', "a\\\\b", "ä")


def with_scope_name(name: str) -> str:
    return POLICY.replace('"write:notes"', '"{}"'.format(name.replace('"', '\\"')))


@pytest.mark.parametrize("name", INJECTED)
def test_attack_header_injection_through_a_scope(tmp_path: Path, name: str) -> None:
    client, _ = door(load(tmp_path, with_scope_name(name)))
    assert challenge(client.post("/mcp")) == (401, BARE.replace(" write:notes", ""))
    assert client.get(WELL_KNOWN).json()["scopes_supported"] == ["read:notes"]


def test_attack_header_injection_through_the_scope_that_a_call_needs(tmp_path: Path) -> None:
    with running_gateway(load(tmp_path, with_scope_name(INJECTED[0]))) as (url, _):
        client = RawClient(url)
        client.begin(bearer())
        answer = client.call(bearer(), "write", path="a")
        assert (answer.status_code, message_of(answer)["error"]["code"]) == (200, DENIED)  # nobody can request it


@pytest.mark.parametrize("host", ['evil.example", scope="x', "evil.example", "localhost@evil.example", "", "a b"])
@pytest.mark.parametrize("public_url", [PUBLIC, None])
def test_attack_metadata_for_a_foreign_host(engine: Engine, host: str, public_url: str | None) -> None:
    client, inner = door(engine, public_url, "http://127.0.0.1")
    for path in (WELL_KNOWN, f"{WELL_KNOWN}/mcp", "/mcp", "/mcp/"):
        answer = client.get(path, headers={"host": host})
        assert (answer.status_code, answer.headers["cache-control"]) == (403, "no-store")
        assert "www-authenticate" not in answer.headers
    assert inner.reached == []


@pytest.mark.parametrize("public_url", [PUBLIC, None])
def test_attack_metadata_of_another_host_by_forwarded_headers(engine: Engine, public_url: str | None) -> None:
    client, _ = door(engine, public_url, "http://127.0.0.1:8081")
    forged = {
        "x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "x-forwarded-port": "444",
        "forwarded": "host=evil.example", "x-original-url": "/evil", "x-forwarded-prefix": "/evil",
    }  # fmt: skip
    at = "http://127.0.0.1:8081" if public_url is None else PUBLIC
    assert client.get(WELL_KNOWN, headers=forged).json()["resource"] == f"{at}/mcp"
    header = client.post("/mcp", headers=forged).headers["www-authenticate"]
    assert header.endswith(f'resource_metadata="{at}{WELL_KNOWN}/mcp"')


def test_attack_any_host_does_not_allow_a_malformed_one(engine: Engine) -> None:
    client, _ = door(engine, None, "http://127.0.0.1", allowed_hosts=["*"])
    assert client.get(WELL_KNOWN, headers={"host": 'a", scope="x'}).status_code == 403
    assert client.get(WELL_KNOWN, headers={"host": "a.example"}).json()["resource"] == "http://a.example/mcp"


def test_attack_page_of_another_site_reads_the_metadata(engine: Engine) -> None:
    client, _ = door(engine)
    assert client.get(WELL_KNOWN, headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get(WELL_KNOWN, headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_attack_downgrade_from_a_bound_token_to_a_bearer_token(engine: Engine) -> None:
    client, inner = door(engine)
    raw = token(cnf={"jkt": bound_world.jkt()})
    for headers in (
        {"authorization": f"Bearer {raw}"},
        {"authorization": f"DPoP {raw}"},
        {"authorization": f"Bearer {raw}", "dpop": dpop(raw)["dpop"]},
        dpop(raw, url=f"{PUBLIC}/other"),
        dpop(raw, method="GET"),
    ):
        status, header = challenge(client.post("/mcp", headers=headers))
        assert (status, header.startswith('DPoP realm="agents", error="invalid_dpop_proof"')) == (401, True)
    assert inner.reached == []


def test_attack_unbound_token_where_every_grant_requires_a_bound_one(tmp_path: Path) -> None:
    bound = POLICY.replace("acts for any user   may notes", "acts for any user   credential { bound }   may notes")
    client, inner = door(load(tmp_path, bound))
    status, header = challenge(client.post("/mcp", headers=bearer()))
    assert (status, header.startswith('DPoP realm="agents", error="invalid_token"')) == (401, True)
    assert client.post("/mcp", headers=dpop()).text == "reached"
    assert inner.reached == ["POST"]


def test_attack_replayed_proof(engine: Engine) -> None:
    client, inner = door(engine)
    headers = dpop()
    assert client.post("/mcp", headers=headers).status_code == 200
    assert "the proof was used before" in client.post("/mcp", headers=headers).headers["www-authenticate"]
    assert inner.reached == ["POST"]


@pytest.mark.parametrize("path", ["/%6dcp", "/mcp/", "/%6Dc%70/", "/mcp//", "/mcp?x=1", "/mcp#x"])
def test_attack_other_spellings_of_the_path_need_a_token_too(engine: Engine, path: str) -> None:
    client, inner = door(engine)
    assert client.post(path).status_code == 401
    assert inner.reached == []


def test_attack_open_redirect(engine: Engine) -> None:
    client, _ = door(engine)
    for path in ("/mcp/", "//evil.example/mcp", "//evil.example/%2e%2e", f"{WELL_KNOWN}/", f"{WELL_KNOWN}/mcp/"):
        for headers in ({}, bearer()):
            answer = client.get(path, headers=headers)
            assert answer.headers.get("location", f"{PUBLIC}/mcp") == f"{PUBLIC}/mcp"


def test_attack_flood_of_refused_tokens_is_bounded_in_the_log(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    client, _ = door(engine)
    with caplog.at_level(logging.INFO, logger="policyengine"):
        for _ in range(3 * MAX_LINES):
            assert client.post("/mcp", headers={"authorization": "Bearer made-up"}).status_code == 401
            assert client.post("/mcp").status_code == 401
            assert client.post("/mcp", headers={"host": "evil.example"}).status_code == 403
    events = [getattr(one, "event", None) for one in caplog.records]
    refusals = [event for event in events if str(event).endswith("refused")]  # others are of threads of other tests
    assert (refusals.count("credential_refused"), refusals.count("foreign_refused")) == (MAX_LINES, 1)
    assert len(refusals) == MAX_LINES + 1
    assert "made-up" not in caplog.text
