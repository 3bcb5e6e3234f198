"""The probe that asks an MCP server whether it validates headers, against the SDK's server and against liars."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policyengine.server.mcp.header_probe import HEADER_MISMATCH, VERSION, HeaderProbe, error_code
from policyengine.server.mcp.header_trust import (
    MIN_RETRY_SECONDS,
    PROBE_INTERVAL_SECONDS,
    McpHeaderTrust,
    ProbeError,
    ServerWatch,
    probe_server,
)
from policyengine.server.mcp.servers import McpServer, McpServerTable
from tests.integrations.serving import serving
from tests.server.mcp_answers import NAMES, Answer, Reply, answering, mismatch, result, validated


def why(answer: Answer, **headers: str) -> str:
    with answering(answer, headers) as (server, _), pytest.raises(ProbeError) as caught:
        probe_server(server)
    return str(caught.value)


# ── One probe ─────────────────────────────────────────────────────────────────────────────────


def test_the_server_of_the_sdk_is_proved() -> None:
    mcp = pytest.importorskip("mcp.server")
    server = mcp.MCPServer("notes")
    called: list[str] = []

    @server.tool()  # type: ignore[untyped-decorator]
    def read(path: str) -> str:
        called.append(path)
        return path

    with serving(server.streamable_http_app()) as url:
        assert probe_server(McpServer("notes", ("/mcp",), url=f"{url}/mcp")) == NAMES
    assert called == []


def test_a_probe_names_nothing_that_a_server_can_have() -> None:
    with answering(validated) as (server, bodies):
        assert probe_server(server) == NAMES
    lists, messages = [one for one in bodies if isinstance(one, list)], [one for one in bodies if isinstance(one, dict)]
    methods = [body["method"] for body in messages]
    assert methods[:2] == [body["method"] for [body] in lists] * 2 == ["server/discover", "server/discover"]
    assert set(methods[2:]) == NAMES
    names = [body["params"].get("name") or body["params"]["uri"] for body in messages[2:]]
    assert all("policyengine-probe-" in name for name in names)
    assert all(body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == VERSION for body in messages)


def test_a_server_that_ignores_headers_is_not_proved() -> None:
    assert "`Mcp-Method` differs" in why(lambda headers, body: result(body))


def test_a_server_that_compares_only_methods_is_not_proved() -> None:
    def answer(headers: dict[str, str], body: dict[str, Any]) -> Reply:
        return result(body) if headers["mcp-method"] == body["method"] else mismatch(body)

    assert "`Mcp-Name` differs" in why(answer)


def test_a_server_that_accepts_a_missing_name_is_not_proved() -> None:
    def answer(headers: dict[str, str], body: dict[str, Any]) -> Reply:
        missing = headers["mcp-method"] == body["method"] and "mcp-name" not in headers
        return result(body) if missing else validated(headers, body)

    assert "`Mcp-Name` differs" in why(answer)


@pytest.mark.parametrize(("status", "code"), [(400, -32602), (200, HEADER_MISMATCH), (404, HEADER_MISMATCH)])
def test_another_refusal_than_the_one_of_the_specification_proves_nothing(status: int, code: int) -> None:
    def answer(headers: dict[str, str], body: dict[str, Any]) -> Reply:
        refusal = {"jsonrpc": "2.0", "id": body["id"], "error": {"code": code, "message": "no"}}
        return result(body) if validated(headers, body)[0] == 200 else (status, refusal)

    assert "`Mcp-Method` differs" in why(answer)


def test_only_methods_whose_names_are_compared_are_proved() -> None:
    def answer(headers: dict[str, str], body: dict[str, Any]) -> Reply:
        if body["method"] == "prompts/get":
            return 404, {"jsonrpc": "2.0", "id": body["id"], "error": {"code": -32601, "message": "no prompts"}}
        return validated(headers, body)

    with answering(answer) as (server, _):
        assert probe_server(server) == NAMES - {"prompts/get"}


def test_a_server_that_accepts_several_messages_in_one_body_is_not_proved() -> None:
    """Headers can describe only one of them."""
    with (
        answering(validated, answer_list=lambda messages: (200, b"[]")) as (server, _),
        pytest.raises(ProbeError) as why,
    ):
        probe_server(server)
    assert "several messages" in str(why.value)
    with answering(validated, answer_list=lambda messages: (422, {})) as (server, _):
        assert probe_server(server) == NAMES


def test_a_server_that_refuses_everything_is_not_proved() -> None:
    assert "whose headers and body agree" in why(lambda headers, body: mismatch(body))


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        ((302, b""), "redirects are not followed"),
        ((307, b""), "redirects are not followed"),
        ((401, b""), "set `token_file`"),
        ((500, b""), "answers 500"),
        ((200, b"x" * 70_000), "longer than 65,536 bytes"),
        ((400, b"[" * 60_000), "whose headers and body agree"),
    ],
)
def test_a_strange_answer_proves_nothing(reply: Reply, cause: str) -> None:
    assert cause in why(lambda headers, body: reply, location="/elsewhere")


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"null", b'{"error": []}', b'{"error": {"code": -32020, "code": 1}}', b"[" * 60_000]
)
def test_a_malformed_answer_is_no_mismatch_error(body: bytes) -> None:
    assert error_code(body) != HEADER_MISMATCH


def test_a_server_that_cannot_be_reached_is_not_proved() -> None:
    with answering(validated) as (server, _):
        pass
    with pytest.raises(ProbeError, match="cannot be reached"):
        probe_server(server)


def test_a_server_that_never_answers_is_not_proved() -> None:
    over = threading.Event()

    def answer(headers: dict[str, str], body: dict[str, Any]) -> Reply:
        over.wait(10)
        return result(body)

    with answering(answer) as (server, _):
        with pytest.raises(ProbeError, match="in time"):
            HeaderProbe.of(server, 0.05).proved_methods()
        over.set()


def test_a_probe_sends_the_token_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"

    def answer(headers: dict[str, str], body: dict[str, Any]) -> Reply:
        return validated(headers, body) if headers.get("authorization") == "Bearer secret" else (401, b"")

    with answering(answer) as (server, _):
        asking = replace(server, token_file=file)
        with pytest.raises(ProbeError, match="cannot be read"):
            probe_server(asking)
        file.write_text("secret\nX-Other: 1\n")
        with pytest.raises(ProbeError, match="one token"):
            probe_server(asking)
        file.write_text("secret\n")
        assert probe_server(asking) == NAMES


# ── Again and again ───────────────────────────────────────────────────────────────────────────


def test_what_is_proved_ends_with_the_first_probe_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A server that answers correctly once, and then does not, is trusted until the next probe only."""
    honest = [True]

    def answer(headers: dict[str, str], body: dict[str, Any]) -> Reply:
        return validated(headers, body) if honest[0] else result(body)

    caplog.set_level(logging.INFO, "policyengine")
    with answering(answer) as (server, _):
        watch = ServerWatch(server, probe_server)
        assert (watch.step(), watch.methods) == (PROBE_INTERVAL_SECONDS, NAMES)
        honest[0] = False
        assert (watch.step(), watch.methods) == (MIN_RETRY_SECONDS, frozenset())
        assert (watch.step(), watch.methods) == (2 * MIN_RETRY_SECONDS, frozenset())
        honest[0] = True
        assert (watch.step(), watch.methods) == (PROBE_INTERVAL_SECONDS, NAMES)
    events = [(record.levelname, getattr(record, "event", "")) for record in caplog.records]
    proved, unproved = ("INFO", "mcp_headers_proved"), ("ERROR", "mcp_headers_unproved")
    assert events == [proved, unproved, proved]
    assert "are ignored" in caplog.records[1].message
    assert "`Mcp-Method` differs" in caplog.records[1].message


def test_retries_become_slower_up_to_the_interval() -> None:
    def fail(server: McpServer) -> frozenset[str]:
        raise ProbeError("no")

    watch = ServerWatch(McpServer("notes", ("/mcp",)), fail)
    assert [watch.step() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_unexpected_failure_of_a_probe_proves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(server: McpServer) -> frozenset[str]:
        raise ZeroDivisionError

    watch = ServerWatch(McpServer("notes", ("/mcp",)), fail)
    watch.methods = NAMES
    watch.step()
    assert watch.methods == frozenset()
    assert "ZeroDivisionError" in caplog.text


def test_the_first_probes_are_over_when_the_server_starts() -> None:
    with answering(validated) as (server, _):
        trust = McpHeaderTrust(McpServerTable((server, McpServer("other", ("/other",)))))
        assert trust.proved("notes") == frozenset()
        trust.start()
        try:
            assert trust.proved("notes") == NAMES
            assert trust.proved("other") == trust.proved("nobody") == frozenset()
        finally:
            trust.stop()


def test_without_servers_there_are_no_threads() -> None:
    before = threading.active_count()
    trust = McpHeaderTrust(McpServerTable((McpServer("other", ("/other",)),)))
    trust.start()
    assert threading.active_count() == before
    trust.stop()
