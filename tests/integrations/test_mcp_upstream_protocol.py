"""A gateway that uses its server in one era of MCP only, though the server speaks both, or only the other one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from policyengine.cli import main
from policyengine.integrations.mcp.gateway import McpGateway, http_app
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.integrations.mcp.upstream_protocols import UpstreamProtocol
from tests.integrations.conftest import BOT, POLICY, Watched
from tests.integrations.era_servers import MODERN, EraServer, gateway_of, in_process
from tests.integrations.serving import serving
from tests.integrations.test_mcp_eras import accept, work_with_sdk

PINNED = (UpstreamProtocol.MODERN, UpstreamProtocol.LEGACY)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def place(stack: ExitStack, watched: Watched, behind: EraServer, protocol: UpstreamProtocol, transport: str) -> Any:
    """Return what a client connects to: a gateway in front of a real server over HTTP, or of one over streams."""
    if transport == "streams":
        return in_process(gateway_of(watched, behind, protocol=protocol))
    upstream = McpUpstream(f"{stack.enter_context(serving(behind))}/mcp", {}, {}, 20.0, protocol)
    return f"{stack.enter_context(serving(http_app(McpGateway(watched, 'billing', always(BOT), upstream))))}/mcp"


def run(work: Any) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


@pytest.mark.parametrize("protocol", PINNED)
@pytest.mark.parametrize("mode", [MODERN, "legacy"])
@pytest.mark.parametrize("transport", ["http", "streams"])
def test_a_server_of_both_eras_is_used_in_the_pinned_one_by_all_clients(
    stack: ExitStack, watched: Watched, protocol: UpstreamProtocol, mode: Any, transport: str
) -> None:
    behind = EraServer("both")
    target = place(stack, watched, behind, protocol, transport)

    async def work() -> None:
        async with Client(target, mode=mode, elicitation_callback=accept) as client:
            await work_with_sdk(client)

    run(work())
    assert behind.versions == ({MODERN} if protocol is UpstreamProtocol.MODERN else {"2025-11-25"})
    assert "server/discover" not in behind.methods or protocol is UpstreamProtocol.MODERN
    assert "initialize" not in behind.methods or protocol is UpstreamProtocol.LEGACY


@pytest.mark.parametrize("protocol", PINNED)
@pytest.mark.parametrize("mode", [MODERN, "legacy"])
def test_a_server_that_speaks_only_the_other_era_is_not_used(
    watched: Watched, protocol: UpstreamProtocol, mode: Any
) -> None:
    behind = EraServer("legacy" if protocol is UpstreamProtocol.MODERN else "modern")
    target = in_process(gateway_of(watched, behind, protocol=protocol))

    async def work() -> None:
        async with Client(target, mode=mode) as client:
            await client.call_tool("add", {"a": 1, "b": 2})

    with pytest.raises((MCPError, ExceptionGroup)) as caught:
        run(work())
    assert behind.versions == set()
    if protocol is UpstreamProtocol.MODERN:
        error = first_error(caught.value)
        assert "the upstream server does not speak 2026-07-28" in str(error)
        assert error.error.data["kind"] == "no_common_version"


def first_error(error: BaseException) -> MCPError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MCPError)
    return error


def test_the_pinned_era_is_an_option_or_a_setting_and_a_mistake_gets_a_suggestion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "billing.policy"
    policy.write_text(POLICY)
    words = ["mcp-gateway", str(policy), "--server", "billing", "--as", "agent=bot", "--upstream", "no-such-command"]
    assert main([*words, "--upstream-protocol", "legcy"]) == 2
    assert "legacy" in capsys.readouterr().err
    assert main([*words, "--upstream-protocol", "legacy"]) == 1
    assert "there is no command" in capsys.readouterr().err
    settings = tmp_path / "policyengine.toml"
    settings.write_text('[mcp-gateway]\nupstream_protocol = "legcy"\n')
    assert main(["config", "check", str(tmp_path)]) == 1
    refused = capsys.readouterr().err
    assert "`upstream_protocol` must be one of `auto`, `modern`, `legacy`" in refused
    assert "did you mean `legacy`?" in refused
    settings.write_text('[mcp-gateway]\nupstream_protocol = "legacy"\n')
    assert main(["config", "check", str(tmp_path)]) == 0
