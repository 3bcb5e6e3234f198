"""Hostile names at servers that run: nothing raw reaches their terminal, their own log or the log of decisions."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from policyengine.server.telemetry.server_log import LogFormat, server_logging
from tests import forking
from tests.cli import hostile
from tests.cli.test_hostile_names import assert_harmless
from tests.identity.issuing import ec, signed

_LOG = logging.getLogger("policyengine.hostile")
TOOLS = """anyone { may TOOL srv/add, TOOL srv/bad }
facts on TOOL srv/bad { args.name: string }
guard %s on TOOL srv/bad { deny when args.name != "x" message %s }
"""
# A server of tools without a library: it answers what is asked of it, and lists a tool of a hostile name.
UPSTREAM = """
import json, sys
ALL = json.loads(sys.argv[1])
schema = {"type": "object", "properties": {ALL: {"type": "string"}}}
ANSWERS = {
    "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": ALL, "version": ALL}},
    "tools/list": {"tools": [{"name": name, "description": ALL, "inputSchema": schema} for name in ("add", "bad", ALL)]},
    "tools/call": {"content": [{"type": "text", "text": ALL}], "isError": True},
}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        answer = {"result": ANSWERS[asked["method"]]} if asked["method"] in ANSWERS else {"error": {"code": -1, "message": ALL}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
"""  # noqa: E501


@pytest.fixture
def world(tmp_path: Path) -> Path:
    hostile.write_world(tmp_path)
    folder = tmp_path / hostile.FOLDER
    (folder / "log.jsonl").unlink()
    (folder / "policyengine.toml").unlink()
    return folder


def tokens() -> Iterator[str]:
    """Whose parts are hostile: of a stranger, by a key that nobody has, and one that is signed as it should be."""
    now = int(time.time())
    claims = {
        "sub": hostile.ALL,
        "client_id": hostile.ALL,
        "exp": now + 600,
        "iat": now,
        "jti": hostile.ALL,
        "scope": "act",
    }
    for iss, kid in ((hostile.ALL, hostile.ALL), ("https://id.example", hostile.ALL), ("https://id.example", "ec")):
        header = {"alg": "ES256", "typ": "at+jwt", "kid": kid}
        yield signed(header, {**claims, "iss": iss, "aud": [hostile.ALL, "api"]}, ec())


def questions() -> Iterator[bytes]:
    for path in ("/p/d", "/a", "/nothing"):
        yield json.dumps(hostile.question(path)).encode()
    yield json.dumps({**hostile.question(), hostile.ALL: 1}).encode()
    yield json.dumps({**hostile.question(), "agent": {"id": hostile.ALL, "issuer": hostile.ALL}}).encode()
    yield hostile.ALL.encode()
    for token in tokens():
        where = {"request": {"method": "GET", "path": "/a"}, "credentials": {"authorization": f"Bearer {token}"}}
        yield json.dumps(where).encode()


def ask(port: int, path: str, body: bytes) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", path, body, {"content-type": "application/json", "x-request-id": "a\x9b31m\xa0b"})
        return connection.getresponse().read()


@contextmanager
def running(*words: str, folder: Path, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*forking.command(), *words], cwd=folder, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_log(file: Path) -> list[Any]:
    lines = file.read_text("utf-8")
    assert_harmless(lines, file.name)
    return [json.loads(line) for line in lines.split("\n") if line]


@pytest.mark.parametrize("form", LogFormat)
def test_server_log_lines_escape_hostile_text(form):
    written = StringIO()
    with server_logging(form, lambda: hostile.ALL, written):
        _LOG.warning("of `%s`", hostile.ALL, extra={"client": hostile.ALL, "event": hostile.ALL})
        try:
            raise ValueError(hostile.ALL)
        except ValueError:
            _LOG.exception("it failed")
    assert_harmless(written.getvalue(), form)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_server_escapes_hostile_names_in_its_logs_and_responses(world, form):
    (world / "login.json").write_text(json.dumps({"keys": [ec().as_dict(private=False)]}))
    (world / "identity.toml").write_text('[issuers.idp]\nkeys = "login.json"\n')
    words = ("serve", "good", "--port", "0", "--format", "json", "-e", "entities.json", "--log", "log.jsonl")
    with running(*words, "--identity", "identity.toml", "--log-format", form, folder=world) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(json.loads(process.stdout.readline())["listening"].rpartition(":")[2])
        answers = [
            ask(port, path, body) for path in ("/decide", "/explain", f"/{'%1b%0A' * 3}") for body in questions()
        ]
        (world / "good" / f"{hostile.IN_A_PATH}.policy").write_text(hostile.BROKEN, encoding="utf-8")
        os.kill(process.pid, signal.SIGHUP)
        told = process.stderr.readline()
        while b"reload" not in told:
            more = process.stderr.readline()
            assert more, told
            told += more
        process.send_signal(signal.SIGTERM)
        out, rest = process.communicate(timeout=60)
    assert all(json.loads(one) for one in answers)
    assert_harmless(out.decode(), "stdout")
    assert_harmless((told + rest).decode(), "stderr")
    if form == "json":
        assert all(isinstance(json.loads(line), dict) for line in (told + rest).splitlines())
    assert len(read_log(world / "log.jsonl")) >= 6


def test_the_mcp_gateway_escapes_hostile_tool_names_in_its_logs(world):
    (world / "tools.policy").write_text(TOOLS % (hostile.text("g " + hostile.ALL), hostile.text("m " + hostile.ALL)))
    (world / "upstream.py").write_text(UPSTREAM)
    upstream = json.dumps([hostile.ALL])[1:-1].replace("'", "\\u0027")
    words = (
        "mcp-gateway",
        "tools.policy",
        "--upstream",
        f"{sys.executable} -IS upstream.py '{upstream}'",
        "--server",
        "srv",
    )
    said = ("--as", f"agent={hostile.ALL.replace(chr(0), '')}", "--as", "issuer=idp", "--log", "log.jsonl")
    (world / "tools.policy").write_text(
        (world / "tools.policy").read_text() + 'issuer idp { url "https://id.example" }\n'
    )
    calls = [
        ("add", {hostile.ALL: hostile.ALL}),
        ("bad", {"name": hostile.ALL}),
        (hostile.ALL, {}),
        ("add", {"a": "\ud800"}),
    ]
    asked: list[dict[str, Any]] = [
        {"method": "initialize", "id": 0, "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": hostile.ALL, "version": hostile.ALL},
        }},
        {"method": "notifications/initialized"},
        {"method": "tools/list", "id": 1},
        *({"method": "tools/call", "id": n, "params": {"name": name, "arguments": arguments}}
          for n, (name, arguments) in enumerate(calls, 2)),
        {"method": hostile.ALL, "id": 9},
    ]  # fmt: skip
    with running(*words, *said, folder=world, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answered = []
        for one in asked:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **one}).encode() + b"\n")
            process.stdin.flush()
            if "\\ud800" not in json.dumps(one) and "id" in one:  # the library takes that for no message
                answered.append(json.loads(process.stdout.readline()))
        _, errors = process.communicate(timeout=60)
    assert len(answered) == len(calls) + 2
    assert "result" in answered[0]
    assert_harmless(errors.decode(), "stderr")
    assert len(read_log(world / "log.jsonl")) >= len(calls) - 2
