"""`policyengine mcp-gateway` while it runs: other policies, other entities, and watching before it enforces."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from policyengine.audit import OutcomeRecord, SystemRecord, read_log, read_records
from policyengine.cli import main
from policyengine.cli.output.gateway_summary import GatewaySummaryPrinter, shown_upstream
from policyengine.engine import Engine
from tests import forking
from tests.integrations.conftest import POLICY
from tests.ports import free_port
from tests.processes import is_running, wait_until

SERVER = """
from mcp.server import MCPServer

server = MCPServer("behind")

@server.tool()
def add(a: int, b: int) -> int:
    return a + b

@server.tool()
def secret() -> str:
    return "secret"

@server.tool()
def payout() -> str:
    return "paid"

server.run()
"""
HANGING = """
import json, os, sys, threading
open(os.environ["HANGING_PID"], "w").write(str(os.getpid()))
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    if message["method"] == "initialize":
        server = {"name": "hanging", "version": "1"}
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": server}
    elif message["params"]["name"] == "payout":
        continue
    else:
        result = {"content": [{"type": "text", "text": "done"}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
threading.Event().wait()
"""
INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}},
    }
)
INITIALIZED = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
OPENED = POLICY.replace("  may TOOL billing/masked, TOOL billing/ask\n", "  may TOOL billing/secret\n")
BY_ROLE = POLICY + 'user where user.roles has "treasurer" { may TOOL billing/payout }\n'
FAILING = OPENED + 'test "nobody adds" { given agent "bot" from acme  TOOL billing/add { } => allow }\n'
SAID = ["--server", "billing", "--as", "agent=bot", "--as", "issuer=acme", "--as", "user=alice"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "billing.policy").write_text(POLICY)
    (tmp_path / "server.py").write_text(SERVER)
    return tmp_path


def words_for(files: Path, *options: str) -> list[str]:
    upstream = shlex.join(forking.script(files / "server.py"))
    return [*forking.command(), "mcp-gateway", str(files / "billing.policy"), "--upstream", upstream, *SAID, *options]


def run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Inside of the deadline of `run`."""
    while not await true():
        await asyncio.sleep(0.1)


async def tools(client: Client) -> list[str]:
    return [one.name for one in (await client.list_tools()).tools]


async def told(errors: Path, *words: str) -> None:
    async def there() -> bool:
        found = errors.read_text()
        return all(one in found for one in words)

    await until(there)


def entities(*roles: str) -> str:
    return json.dumps({"entities": [{"type": "user", "id": "alice", "attributes": {"roles": roles}}]})


@contextmanager
def over_http(files: Path, *options: str) -> Iterator[tuple[str, int]]:
    """The URL and the process; what it says on stderr is in `errors`, and after the URL in `shown`."""
    command = words_for(files, "--port", "0", *options)
    with (
        (files / "errors").open("w") as errors,
        subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            count = 5 + ("--metrics-port" in options) + ("--log" in options)
            shown = [process.stdout.readline() for _ in range(count)]
            (files / "shown").write_text("".join(shown))
            yield url, process.pid
        finally:
            process.kill()


def test_open_sessions_see_reloaded_policies_and_entities_but_no_failing_policies(
    files: Path,
) -> None:
    (files / "billing.policy").write_text(BY_ROLE)
    who = files / "who.json"
    who.write_text(entities())

    async def session(url: str, process: int) -> None:
        async with Client(url) as client:
            assert await tools(client) == ["add"]
            who.write_text(entities("treasurer"))
            await until(lambda: has(client, "payout"))
            assert (await client.call_tool("payout", {})).content[0].text == "paid"
            (files / "billing.policy").write_text(FAILING)
            os.kill(process, signal.SIGHUP)
            await told(files / "errors", "the policies were not reloaded", "test request failed", "nobody adds")
            assert await tools(client) == ["add", "payout"]
            (files / "billing.policy").write_text(OPENED)
            os.kill(process, signal.SIGHUP)
            await until(lambda: has(client, "secret"))
            assert (await client.call_tool("secret", {})).content[0].text == "secret"

    with over_http(files, "--entities", str(who)) as (url, process):
        run(session(url, process))


async def has(client: Client, tool: str) -> bool:
    return tool in await tools(client)


def test_over_stdio_the_gateway_observes_logs_and_watches_files(files: Path) -> None:
    log, errors = files / "log.jsonl", files / "errors"
    words = words_for(files, "--log", str(log), "--observe", "--observe-until", "7d", "--watch")

    async def session(stderr: Any) -> None:
        behind = stdio_client(StdioServerParameters(command=words[0], args=words[1:], cwd="."), errlog=stderr)
        async with Client(behind) as client:
            assert await tools(client) == ["add", "secret", "payout"]
            assert (await client.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"
            assert (await client.call_tool("secret", {})).content[0].text == "secret"
            (files / "billing.policy").write_text(OPENED)
            await told(errors, "the policies were reloaded")
            assert (await client.call_tool("secret", {})).content[0].text == "secret"

    with errors.open("w") as stderr:
        run(session(stderr))
    assert "OBSERVING, NOT ENFORCING, until" in errors.read_text()
    observed = [one for one in errors.read_text().splitlines() if one.startswith("observing: ")]
    assert observed == [
        'observing: "TOOL billing/secret" passed; the outcome would be deny: no block grants this to the caller'
    ]
    decided = [one for one in read_records(log) if one.call == "decide"]
    assert [(one.outcome, one.observed) for one in decided] == [("allow", False), ("deny", True), ("allow", False)]
    reported = [one for one in read_log(log) if isinstance(one, OutcomeRecord)]
    assert [(one.decision, one.status) for one in reported] == [(one.id, 200) for one in decided]
    assert [one.subject["endpoint"] for one in reported][:2] == ["TOOL billing/add", "TOOL billing/secret"]
    events = [one for one in read_log(log) if isinstance(one, SystemRecord)]
    assert [one.event for one in events][:3] == ["observe", "started", "reload"]
    assert events[1].details["gateway"] == "mcp"
    assert events[2].details["changes"] == ['block `agent "bot"` of billing changed, at billing.policy:16']


@pytest.mark.parametrize(
    ("upstream", "shown"),
    [
        ("python server.py", "python server.py"),
        ("npx -y @acme/server --api-key secret", "npx …"),
        ("env TOKEN=secret python 'my server.py'", "env …"),
        ("python 'my server.py' https://me:secret@acme.example", "python 'my server.py' …"),
        ("https://me:secret@acme.example:8000/mcp?key=secret#part", "https://acme.example:8000/mcp"),
        ("http://127.0.0.1:8000/mcp", "http://127.0.0.1:8000/mcp"),
    ],
)
def test_the_upstream_is_shown_without_what_may_be_secret(upstream: str, shown: str) -> None:
    assert shown_upstream(upstream) == shown


@pytest.mark.parametrize("writes_stdout", [False, True])
def test_the_summary_goes_to_stderr_if_a_sink_of_the_log_has_stdout(
    writes_stdout: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine.from_text(POLICY)
    GatewaySummaryPrinter(engine, "billing", "python server.py", 3, "sqlite:///s.db", writes_stdout)("http://h:1", [])
    out, err = capsys.readouterr()
    shown, other = (err, out) if writes_stdout else (out, err)
    assert other == ""
    assert shown.splitlines() == [
        "listening on http://h:1/mcp", "server:   billing", "upstream: python server.py", "packages: billing",
        f"revision: {engine.revision}", shown.splitlines()[5], "tests:    3 passed", "store:    sqlite:///s.db",
    ]  # fmt: skip
    assert re.fullmatch(r"rules:    [1-9]\d*", shown.splitlines()[5])


def test_the_metrics_port_counts_calls_and_outcomes_and_shows_readiness(files: Path) -> None:
    port = free_port()

    async def session(url: str) -> None:
        async with Client(url) as client:
            assert await tools(client) == ["add"]
            assert (await client.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"
            with pytest.raises(MCPError):
                await client.call_tool("secret", {})

    with over_http(files, "--metrics-port", str(port), "--log", str(files / "log.jsonl")) as (url, _):
        run(session(url))
        shown = (files / "shown").read_text().splitlines()
        assert shown[:3] == [
            f"metrics:  http://127.0.0.1:{port}/metrics",
            "server:   billing",
            f"upstream: {shown_upstream(shlex.join(forking.script(files / 'server.py')))}",
        ]
        assert [line.split(":")[0] for line in shown[3:]] == ["packages", "revision", "rules", "log"]
        log = files / "log.jsonl"
        assert shown[-1] == f"log:      {log}, sealed in {log}.tlog with the key {log}.key"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as status:
            assert status.get("/healthz").json() == {"status": "ok"}
            assert status.get("/readyz").json()["status"] == "ready"
            counted = status.get("/metrics").text
            assert status.get("/mcp").status_code == 404
        assert httpx.get(url.removesuffix("/mcp") + "/metrics").status_code == 404
    assert 'policyengine_decisions_total{door="mcp",gate="",outcome="allow"} 1.0' in counted
    assert 'policyengine_decisions_total{door="mcp",gate="default",outcome="deny"} 1.0' in counted
    assert 'policyengine_outcomes_total{status="2xx"} 1.0' in counted


def test_metrics_over_stdio_are_a_usage_error(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(files / "billing.policy"), "--upstream", "cat", *SAID, "--metrics-port", "9090"]
    assert main(["mcp-gateway", *words]) == 2
    assert "over stdio the gateway serves no metrics" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the upstream notices only that its input is closed")
def test_a_killed_gateway_ends_an_upstream_that_hangs_and_has_logged_every_answered_call(files: Path) -> None:
    (files / "server.py").write_text(HANGING)
    log, pid = files / "log.jsonl", files / "pid"
    command = words_for(files, "--log", str(log), "--env", "HANGING_PID")
    environment = {**os.environ, "HANGING_PID": str(pid)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as gateway:
        assert gateway.stdin is not None
        assert gateway.stdout is not None
        asked = [INITIALIZE, INITIALIZED, *(call(turn, "add", {"a": turn, "b": 1}) for turn in range(2, 12))]
        gateway.stdin.write("".join(f"{each}\n" for each in asked))
        gateway.stdin.flush()
        answers = [json.loads(gateway.stdout.readline()) for _ in range(11)]
        upstream = int(pid.read_text())
        gateway.stdin.write(call(99, "payout", {}) + "\n")  # it ignores that its input ends, and never answers
        gateway.stdin.flush()
        wait_until(lambda: "payout" in log.read_text())
        gateway.kill()
    wait_until(lambda: not is_running(upstream))
    assert sorted(one["id"] for one in answers) == list(range(1, 12))
    decided = [one for one in read_records(log) if one.call == "decide"]
    reported = [one.decision for one in read_log(log) if isinstance(one, OutcomeRecord)]
    assert len(decided) == 11
    assert sorted(reported) == sorted(one.id for one in decided[:10])


def call(id: int, tool: str, arguments: dict[str, int]) -> str:
    params = {"name": tool, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})


# ── What is told at the start ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("upstream", "told", "hint"),
    [
        ("no-such-command --flag", "there is no command `no-such-command`", "its folder to `PATH`"),
        ("localhost:8000/mcp", "there is no file `localhost:8000/mcp`", "relative paths start at"),
        ("{files}/server.py", "/server.py` is not executable", "`chmod +x "),
        ("{files}/none.sh", "/none.sh`", "relative paths start at"),
    ],
)
def test_a_missing_upstream_command_is_reported_at_startup(
    files: Path, upstream: str, told: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = upstream.replace("{files}", str(files))
    assert main(["mcp-gateway", str(files / "billing.policy"), "--upstream", given, *SAID]) == 1
    found = capsys.readouterr().err
    assert told in found
    assert hint in found


def test_inconsistent_observe_and_log_options_are_a_usage_error(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, told in (
        (["--observe-until", "7d"], "nothing is observed"),
        (["--observe"], "observe mode needs an end"),
        (["--redact", "args.amount"], "options of the decision log are set, but there is no decision log"),
    ):
        words = ["mcp-gateway", str(files / "billing.policy"), "--upstream", sys.executable, *SAID, *options]
        assert main(words) == 2
        assert told in capsys.readouterr().err
