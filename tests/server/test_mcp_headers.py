"""MCP servers behind gateways: which request is which call, by its headers alone or with its body, and which is
refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.engine import Engine
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.gateway_questions import RequestTarget
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.gateways import GatewayAdapters
from policyengine.server.mcp.header_values import decode_name
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.mcp.servers import McpServer, McpServerTable, find_shared_path

POLICY = """
language 1
package notes
entity user { roles: set<string> }
entity mcp_server {}
entity mcp_resource {}
entity mcp_prompt {}
facts on TOOL notes/write { args.path: string }
facts on ACTION read mcp_resource { context.server: string }
facts on ACTION get mcp_prompt { args.topic: string? }
anyone {
  may POST /mcp
  may POST /other/**
  may GET /mcp
  may TOOL notes/read, TOOL notes/write, TOOL notes/ask, TOOL notes/a*
  may ACTION connect mcp_server when resource.id == "notes"
  may ACTION list mcp_server
  may ACTION read mcp_resource when context.server == "notes" and resource.id like "notes://open/*"
  may ACTION get mcp_prompt when resource.id == "greet" and args.topic != "secret"
}
guard "drafts only" on TOOL notes/write { require args.path like "drafts/*" }
guard "ask" on TOOL notes/ask { confirm by role finance within 15m }
"""
ENGINE = Engine.from_text(POLICY)
CALLS = frozenset({"tools/call", "resources/read", "prompts/get"})
NOTES = McpServer("notes", ("/mcp",), validates_headers=True, url="http://127.0.0.1:9/mcp")
NAIVE = McpServer("naive", ("/other/mcp",))
VERSION = "2026-07-28"
WHOLE = [("x-envoy-auth-partial-body", "false"), ("content-type", "application/json")]
ALL_NGINX = ("mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id")
Pairs = Sequence[tuple[str, str]]


def adapters(
    *,
    proved: frozenset[str] = CALLS,
    names: GatewayHeaders | None = None,
    servers: tuple[McpServer, ...] = (NOTES, NAIVE),
) -> GatewayAdapters:
    mcp = McpQuestions(McpServerTable(servers), lambda name: proved if name == "notes" else frozenset())
    return GatewayAdapters.of(names or GatewayHeaders(hands_on_nginx=ALL_NGINX), 10, own=True, mcp=mcp)


def forwarded(*headers: tuple[str, str], method: str = "POST", uri: str = "/mcp") -> list[tuple[bytes, bytes]]:
    pairs = [("x-forwarded-method", method), ("x-forwarded-uri", uri), ("x-agent-id", "bot"), *headers]
    return [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in pairs]


def call(method: str, name: str | None = None, version: str = VERSION) -> Pairs:
    named = [] if name is None else [("mcp-name", name)]
    return [("mcp-protocol-version", version), ("mcp-method", method), *named]


def asked(*headers: tuple[str, str], uri: str = "/mcp", method: str = "POST", **options: Any) -> Mapping[str, object]:
    return adapters(**options).forward_auth.question(forwarded(*headers, method=method, uri=uri), verifies=False)


def decided(*headers: tuple[str, str], **options: Any) -> Decision:
    return ENGINE.decide(dict(asked(*headers, **options)))


def message(method: str, name: str | None = None, *, version: str | None = VERSION, **more: object) -> bytes:
    key = "uri" if method.startswith("resources/") else "name"
    meta = {} if version is None else {"_meta": {"io.modelcontextprotocol/protocolVersion": version}}
    params = {**({} if name is None else {key: name}), **more, **meta}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def at_envoy(body: bytes, *headers: tuple[str, str], proved: frozenset[str] = frozenset()) -> Decision:
    """Decide a request whose body Envoy has sent. Nothing is proved of the server: the body decides."""
    pairs = [(name.encode(), value.encode()) for name, value in (*WHOLE, ("x-agent-id", "bot"), *headers)]
    adapter = adapters(proved=proved).envoy
    return ENGINE.decide(dict(adapter.question("POST", b"/envoy/mcp", b"", pairs, body, verifies=False)))


# ── Headers alone ─────────────────────────────────────────────────────────────────────────────


def test_a_missing_version_is_that_of_an_older_client() -> None:
    """A gateway that forwards the header is not at fault: an older client sends none with `initialize`."""
    with pytest.raises(
        RequestError, match=r"^the header `mcp-protocol-version` is missing: requests of versions before"
    ):
        asked(*call("tools/list")[1:])
    with pytest.raises(RequestError, match=r"^the header `mcp-method` is missing \("):
        asked(call("tools/list")[0])


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        (call("tools/call", "read"), True),
        (call("tools/call", "erase"), False),
        (call("resources/read", "notes://open/a"), True),
        (call("resources/read", "NOTES://open/a"), True),  # in the spelling that policies compare
        (call("resources/read", "notes://secret/a"), False),
        (call("tools/list"), True),
        (call("resources/templates/list"), True),
        (call("server/discover"), True),
        (call("ping"), True),
        (call("notifications/cancelled"), True),
    ],
)
def test_headers_of_a_server_that_validates_them_are_decided_as_calls(headers: Pairs, allowed: bool) -> None:
    assert decided(*headers).allowed is allowed


def test_a_call_is_a_tool_of_the_server_with_the_facts_of_the_http_request() -> None:
    found = asked(*call("tools/call", "read"), ("x-role", "clerk"), uri="/mcp?x=1")
    assert found["tool"] == {"server": "notes", "name": "read"}
    request = found["request"]
    assert isinstance(request, dict)
    assert request.keys() == {"query", "headers"}
    assert (request["query"], request["headers"]["x-role"]) == ({"x": "1"}, "clerk")
    assert found["agent"] == {"id": "bot"}
    assert isinstance(found["pending"], list)
    assert {"args", "body"} & set(found["pending"]) == {"args"}


def test_a_rule_that_reads_arguments_is_not_opened_by_headers() -> None:
    decision = decided(*call("tools/call", "write"))
    assert not decision.allowed
    assert "pending" in decision.reasons[0].message
    assert not decided(*call("prompts/get", "greet")).allowed


def test_a_confirm_without_arguments_opens_no_approval() -> None:
    decision = decided(*call("tools/call", "ask"))
    assert (decision.allowed, decision.outcome.value) == (False, "deny")


def test_the_server_of_an_action_is_known_and_other_context_is_unknown() -> None:
    found = asked(*call("resources/read", "notes://open/a"))
    assert found["context"] == {"server": "notes"}
    assert isinstance(found["pending"], list)
    assert {"context", "context.*"} & set(found["pending"]) == {"context.*"}


@pytest.mark.parametrize(
    "method",
    [
        "logging/setLevel", "tasks/get", "subscriptions/listen", "completion/complete", "resources/subscribe",
        "notifications/other", "Tools/Call", "tools/call/", "x",
    ],
)  # fmt: skip
def test_a_method_that_headers_do_not_decide_is_refused(method: str) -> None:
    assert "do not decide the MCP method" in str(refused(*call(method, "read")))


# ── Attacks on headers ────────────────────────────────────────────────────────────────────────


def refused(*headers: tuple[str, str], **options: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        asked(*headers, **options)
    return caught.value


@pytest.mark.parametrize("missing", ["mcp-protocol-version", "mcp-method", "mcp-name"])
def test_a_missing_header_is_refused(missing: str) -> None:
    headers = [pair for pair in call("tools/call", "read") if pair[0] != missing]
    assert refused(*headers).member == f"headers.{missing}"


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name"])
def test_a_repeated_header_is_refused(name: str) -> None:
    headers = call("tools/call", "read")
    again = dict(headers)[name]
    assert "is repeated" in str(refused(*headers, (name, again)))
    assert "is repeated" in str(refused((name, "other"), *headers))


@pytest.mark.parametrize("name", ["mcp_name", "mcp.name", "mcp_method", "mcp_protocol_version", "mcp_session_id"])
def test_another_spelling_of_a_header_is_refused(name: str) -> None:
    assert "another spelling" in str(refused(*call("tools/call", "read"), (name, "erase")))


@pytest.mark.parametrize(
    "version", ["2025-11-25", "2025-06-18", "2026-07-28, 2025-11-25", "2027-01-01", "2026-07-28 x"]
)
def test_an_older_or_unknown_version_is_refused_because_its_servers_ignore_the_headers(version: str) -> None:
    assert refused(*call("tools/call", "read", version)).member == "headers.mcp-protocol-version"


def test_a_session_is_refused_because_its_server_ignores_the_headers() -> None:
    assert refused(*call("tools/call", "read"), ("mcp-session-id", "x")).member == "headers.mcp-session-id"


def test_a_gateway_that_does_not_show_whether_there_is_a_session_is_refused() -> None:
    nginx = adapters(names=GatewayHeaders(hands_on_nginx=ALL_NGINX[:3])).nginx
    with pytest.raises(RequestError, match="`mcp-session-id` is not known to be absent") as refusal:
        nginx.question(forwarded(*call("tools/call", "read")), verifies=False)
    assert "hands_on_" in str(refusal.value.hint)
    assert adapters().nginx.question(forwarded(*call("tools/call", "read")), verifies=False)["tool"]


def test_a_name_with_a_comma_is_refused_where_the_gateway_joins_headers() -> None:
    headers = call("tools/call", "read, erase")
    with pytest.raises(RequestError, match="comma"):
        adapters().nginx.question(forwarded(*headers), verifies=False)
    assert asked(*headers)["tool"] == {"server": "notes", "name": "read, erase"}  # this gateway does not join


ENCODED = base64.b64encode(b"read").decode()  # cmVhZA==


@pytest.mark.parametrize(
    "value",
    [
        f"=?BASE64?{ENCODED}?=", f"=?Base64?{ENCODED}?=", f"=?base64?{ENCODED[:-1]}?=", f"=?base64?{ENCODED}=?=",
        "=?base64?cmVhZB==?=", f"=?base64? {ENCODED}?=", f"=?base64?{ENCODED}?= x", "=?base64?_-_-?=",
        "=?base64?/w==?=", "=?utf-8?Q?read?=", "réad", "read\x7f", "=?base64?", "?=", "\udcff",
    ],
)  # fmt: skip
def test_an_encoded_name_that_servers_may_read_differently_is_refused_or_taken_as_it_is(value: str) -> None:
    found = decode_name(value)
    assert found in (None, value)
    assert found is None or not (value.startswith("=?") and value.endswith("?="))


@pytest.mark.parametrize(
    "name",
    ["read\u200b", "re\u00adad", " read", "read ", "read\n", "\uff52ead", "read\0", "\u202eread", "__0123456789_read"],
)
def test_a_name_with_a_disguise_is_refused(name: str) -> None:
    value = f"=?base64?{base64.b64encode(name.encode()).decode()}?="
    assert refused(*call("tools/call", value)).member == "name"


def test_an_encoded_name_is_the_name() -> None:
    assert asked(*call("tools/call", f"=?base64?{ENCODED}?="))["tool"] == {"server": "notes", "name": "read"}


@pytest.mark.parametrize("name", ["other/read", "a%2fb", "../read", "read/../erase"])
def test_a_name_with_a_slash_stays_a_name_of_the_server(name: str) -> None:
    assert asked(*call("tools/call", name))["tool"] == {"server": "notes", "name": name}


@pytest.mark.parametrize(
    "uri", ["notes://open/../secret", "notes://open/%2e%2e/secret", "notes://open/a#b", "x", "notes:// a"]
)
def test_a_uri_that_escapes_is_refused(uri: str) -> None:
    with pytest.raises(RequestError):
        decided(*call("resources/read", uri))


def test_white_space_at_the_edge_of_a_header_is_refused() -> None:
    assert refused(*call("tools/call", "read ")).member == "headers.mcp-name"
    assert refused(*call("tools/call ", "read")).member == "headers.mcp-method"


@pytest.mark.parametrize("header", ["x-http-method-override", "x-method-override"])
def test_a_method_override_is_refused(header: str) -> None:
    assert "another method" in str(refused(*call("tools/call", "read"), (header, "GET")))
    assert "another method" in str(refused(*call("tools/call", "read"), uri="/mcp?_method=GET"))


# ── Servers ───────────────────────────────────────────────────────────────────────────────────


def test_headers_count_for_nothing_before_the_server_is_proved_to_validate_them() -> None:
    error = refused(*call("tools/call", "read"), proved=frozenset())
    assert "not proved" in str(error)


def test_a_name_counts_only_for_methods_whose_names_the_server_compares() -> None:
    tools = frozenset({"tools/call"})
    assert decided(*call("tools/call", "read"), proved=tools).allowed
    assert "is not compared" in str(refused(*call("resources/read", "notes://open/a"), proved=tools))
    assert decided(*call("tools/list"), proved=tools).allowed


def test_the_headers_of_other_servers_are_ignored() -> None:
    found = asked(*call("tools/call", "read"), uri="/other/mcp")
    assert "tool" not in found
    assert decided(*call("tools/call", "erase"), uri="/other/mcp").allowed  # by method and path, as without headers


@pytest.mark.parametrize("uri", ["/mcp", "/mcp/", "/MCP", "/m%63p", "/mcp/x", "/mcp?a=b", "/Mcp/X/"])
def test_every_spelling_of_a_path_belongs_to_the_server(uri: str) -> None:
    assert asked(*call("tools/call", "read"), uri=uri)["tool"]


@pytest.mark.parametrize("uri", ["//mcp", "/mcp/../mcp", "/mcp;x", "/mcp%2f", "/x/..%2fmcp", "mcp"])
def test_a_path_without_a_canonical_spelling_is_denied(uri: str) -> None:
    assert not decided(*call("tools/call", "read"), uri=uri).allowed


@pytest.mark.parametrize("uri", ["/mcpx", "/", "/other"])
def test_other_paths_do_not_belong_to_the_server(uri: str) -> None:
    assert "tool" not in asked(*call("tools/call", "read"), uri=uri)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_other_http_methods_are_decided_by_method_and_path(method: str) -> None:
    assert decided(*call("tools/call", "read"), method=method).allowed is (method == "GET")


def test_hosts_tell_servers_with_the_same_path_apart() -> None:
    servers = (
        McpServer("notes", ("/mcp",), ("notes.example",), validates_headers=True),
        McpServer("bank", ("/mcp",), ("*.bank.example",), validates_headers=True),
    )
    table = McpServerTable(servers)

    def found(host: str | None) -> str | None:
        mcp = McpQuestions(table, lambda name: CALLS)
        built = GatewayAdapters.of(GatewayHeaders(), 10, own=True, mcp=mcp).forward_auth
        named = [] if host is None else [("x-forwarded-host", host)]
        question = built.question(forwarded(*call("tools/call", "read"), *named), verifies=False)
        tool = question.get("tool")
        return tool["server"] if isinstance(tool, dict) else None

    assert found("notes.example") == found("NOTES.example.:8000") == "notes"
    assert found("eu.bank.example:443") == "bank"
    assert found("evil.example") is None
    with pytest.raises(RequestError, match="does not say"):
        found(None)


def test_a_server_at_certain_hosts_comes_before_one_at_every_host() -> None:
    servers = McpServer("notes", ("/mcp",)), McpServer("bank", ("/mcp",), ("bank.example",))
    for table in (McpServerTable(servers), McpServerTable(servers[::-1])):
        found = [table.find(RequestTarget("POST", "/mcp", host)) for host in ("bank.example", "notes.example")]
        assert [server and server.name for server in found] == ["bank", "notes"]


def test_the_longest_path_decides_which_server_is_meant() -> None:
    servers = (
        McpServer("all", ("/",), validates_headers=True),
        McpServer("notes", ("/a/mcp",), validates_headers=True),
    )
    mcp = McpQuestions(McpServerTable(servers), lambda name: CALLS)
    built = GatewayAdapters.of(GatewayHeaders(), 10, own=True, mcp=mcp).forward_auth
    names = [
        built.question(forwarded(*call("tools/call", "read"), uri=uri), verifies=False)["tool"]
        for uri in ("/a/mcp/x", "/a/mcpx", "/")
    ]
    assert [name["server"] for name in names] == ["notes", "all", "all"]  # type: ignore[index]


def test_two_servers_at_one_place_are_a_mistake() -> None:
    here, there = McpServer("a", ("/mcp",), ("x.example",)), McpServer("b", ("/MCP/",), ("x.example", "y.example"))
    assert find_shared_path([here, there]) == (here, there, "/MCP/")
    assert find_shared_path([here, McpServer("b", ("/mcp",), ("y.example",)), McpServer("c", ("/mcp",))]) is None


# ── Bodies ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "allowed"),
    [
        (message("tools/call", "write", arguments={"path": "drafts/a"}), True),
        (message("tools/call", "write", arguments={"path": "/etc"}), False),
        (message("tools/call", "write", arguments=None), False),
        (message("tools/call", "read", version=None), True),
        (message("prompts/get", "greet", arguments={"topic": "x"}), True),
        (message("prompts/get", "greet", arguments={"topic": "secret"}), False),
        (message("resources/subscribe", "notes://open/a", version=None), True),
        (message("initialize", version=None), True),
        (message("notifications/initialized", version=None), True),
    ],
)
def test_a_body_is_decided_with_its_arguments_without_proof_and_in_every_version(body: bytes, allowed: bool) -> None:
    assert at_envoy(body).allowed is allowed
    if b"_meta" not in body:
        older = ("mcp-session-id", "s"), ("mcp-protocol-version", "2025-11-25")
        assert at_envoy(body, *older).allowed is allowed


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (message("tools/call", "erase"), call("tools/call", "read")),
        (message("tools/call", "erase"), call("tools/list")),
        (message("tools/call", "read"), call("tools/call", "erase")),
        (message("tools/call", "read", version="2025-11-25"), call("tools/call", "read")),
        (message("tools/call", "read"), call("tools/call", "read", "2025-11-25")),
        (message("tools/call", "read"), call("tools/call")),
        (message("tools/call", "read"), call("tools/call", "READ")),
        (message("resources/read", "notes://open/a"), call("resources/read", "notes://open/b")),
        (message("tools/call", "erase", version=None), call("tools/call", "read", "2025-11-25")),
        (message("tools/call", "read", version=None), call("tools/list", None, "2025-11-25")),
    ],
)  # fmt: skip
def test_headers_that_differ_from_the_body_are_refused(body: bytes, headers: Pairs) -> None:
    with pytest.raises(RequestError, match=r"the body says something else|is missing"):
        at_envoy(body, *headers)


def test_headers_that_agree_with_the_body_are_accepted() -> None:
    assert at_envoy(message("tools/call", "read"), *call("tools/call", f"=?base64?{ENCODED}?=")).allowed
    assert at_envoy(message("tools/call", "read"), *call("tools/call", "read")).allowed


@pytest.mark.parametrize(
    "body",
    [
        b'{"method": "tools/call", "method": "tools/list", "params": {"name": "read"}}',
        b'{"method": "tools/list", "Method": "tools/call", "params": {"name": "read"}}',
        b'{"method": "tools/call", "params": {"name": "read", "name": "erase"}}',
        b'{"method": "tools/call", "params": {"name": "read", "Name": "erase"}}',
        b'{"method": "tools/call", "params": {"name": "write"}, "params": {"name": "read"}}',
        b'[{"method": "tools/call", "params": {"name": "read"}}]',
        b'{"method": "tools/call", "params": ["read"]}',
        b'{"method": ["tools/call"]}',
        b'{"jsonrpc": "2.0", "id": 1, "result": {}}',
        b'{"method": "tools/call", "params": {"name": "read", "Arguments": {}}}',
        b"\xff\xfe{\x00}\x00",
        b"{" * 5_000,
        b"null",
    ],
)
def test_an_ambiguous_or_malformed_body_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        at_envoy(body)


def test_repeated_arguments_are_unknown() -> None:
    body = b'{"method": "tools/call", "params": {"name": "write", "arguments": {"path": "drafts/a", "path": "/etc"}}}'
    assert not at_envoy(body).allowed


@pytest.mark.parametrize(
    "headers",
    [
        [("content-type", "text/plain")], [("content-type", "application/json; charset=utf-16")],
        [("content-type", "application/json"), ("content-encoding", "gzip")], [],
        [("content-type", "application/json"), ("content-type", "application/json")],
    ],
)  # fmt: skip
def test_a_body_that_is_not_json_in_utf_8_is_refused(headers: Pairs) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in (WHOLE[0], *headers)]
    with pytest.raises(RequestError, match="must be JSON"):
        adapters().envoy.question("POST", b"/envoy/mcp", b"", pairs, message("tools/call", "read"), verifies=False)


@pytest.mark.parametrize("partial", [[("x-envoy-auth-partial-body", "true")], []])
def test_a_body_that_may_be_cut_off_is_decided_by_headers(partial: Pairs) -> None:
    body = message("tools/call", "erase")
    pairs = [(name.encode(), value.encode()) for name, value in (*partial, WHOLE[1], *call("tools/call", "read"))]
    found = adapters(names=GatewayHeaders(hands_on_envoy=("all",))).envoy.question(
        "POST", b"/envoy/mcp", b"", pairs, body, verifies=False
    )
    assert found["tool"] == {"server": "notes", "name": "read"}
    assert "args" not in found


# ── The SDK ───────────────────────────────────────────────────────────────────────────────────


@given(st.text())
def test_names_that_the_sdk_encodes_are_decoded(name: str) -> None:
    from mcp.shared.inbound import encode_header_value

    try:
        value = encode_header_value(name)
    except UnicodeEncodeError:  # a surrogate
        return
    assert decode_name(value) == name or name == ""


@given(st.one_of(st.text(), st.text("=?base64?cmVhZA").map(lambda text: f"=?base64?{text}?="), st.binary().map(
    lambda content: f"=?base64?{base64.b64encode(content).decode()}?=")))  # fmt: skip
def test_a_value_is_decoded_as_by_the_sdk_or_refused(value: str) -> None:
    from mcp.shared.inbound import decode_header_value

    assert decode_name(value) in (None, decode_header_value(value))
