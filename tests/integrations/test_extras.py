"""What is not installed is told in one line, with what installs it."""

from __future__ import annotations

import sys

import pytest

from policyengine.cli import main

MODULES = [
    ("policyengine.integrations.mcp.sdk", "mcp", "mcp"),
    ("policyengine.integrations.mcp.relay.relay", "mcp", "mcp"),
    ("policyengine.integrations.mcp.gateway", "mcp", "mcp"),
    ("policyengine.integrations.mcp.fastmcp", "fastmcp", "fastmcp"),
    ("policyengine.client.http", "httpx", "httpx"),
]


def forget(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if it were not installed, and nothing of ours that needs it were loaded."""
    ours = ("policyengine.integrations", "policyengine.client.http", "policyengine.client.http_exchange")
    for name in list(sys.modules):
        if name == package or name.startswith((f"{package}.", *ours)):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(("module", "package", "extra"), MODULES)
def test_importing_a_module_without_its_extra_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str, extra: str
) -> None:
    forget(monkeypatch, package)
    with pytest.raises(ImportError, match=rf"in a checkout .* '\.\[{extra}\]'"):
        __import__(module)


def test_the_mcp_gateway_command_names_the_missing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(monkeypatch, "mcp")
    words = ["mcp-gateway", "policies/examples/mcp-tools", "--upstream", "true", "--server", "x", "--as", "agent=a"]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "error: the `mcp` SDK is not installed" in told
    assert "in a checkout of policyengine: `pip install -c constraints.txt '.[mcp]'`" in told
