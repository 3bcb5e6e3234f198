"""`mcp-gateway --identity` at startup: what keeps clients from getting a token is an error or a warning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from policyengine.cli import main
from policyengine.cli.resource_checks import ResourceOptions, resource_warnings
from tests.integrations.resource_world import POLICY, PUBLIC, RESOURCE, load


def options(
    public_url: str | None = PUBLIC, host: str = "127.0.0.1", allowed_hosts: Sequence[str] = ()
) -> ResourceOptions:
    return ResourceOptions("notes", host, public_url, allowed_hosts, ())


def warned(folder: Path, policy: str = POLICY, given: ResourceOptions | None = None) -> list[str]:
    return list(resource_warnings(given or options(), load(folder, policy).kernel))


def test_policies_and_options_that_fit_need_no_warning(tmp_path: Path) -> None:
    assert warned(tmp_path) == []
    assert warned(tmp_path, given=options(None, allowed_hosts=["localhost", "127.0.0.1"])) == []


@pytest.mark.parametrize(
    ("audience", "has"),
    [
        ('   audience "notes"', "has the audience `notes`"),
        (f'   audience "{PUBLIC}"', f"has the audience `{PUBLIC}`"),
        ("", "has no `audience`"),
    ],
)
def test_an_audience_for_which_no_client_requests_tokens_is_a_warning(tmp_path: Path, audience: str, has: str) -> None:
    (found,) = warned(tmp_path, POLICY.replace(f'   audience "{RESOURCE}"', audience, 1))
    assert found == (
        f'issuer `acme` {has}, but clients request tokens for `{RESOURCE}`: write `audience "{RESOURCE}"`, unless the '
        "issuer maps one to the other"
    )


def test_issuers_without_a_url_are_a_warning(tmp_path: Path) -> None:
    text = POLICY.replace('issuer acme { url "https://login.acme.example"', "issuer acme {")
    (found,) = list(resource_warnings(options(), load(tmp_path, text, "").kernel))
    assert found.startswith(
        "clients cannot find out where to get a token for `notes`: the issuers of its grants have no"
    )


@pytest.mark.parametrize("given", [options(None, "0.0.0.0"), options(None, allowed_hosts=["mcp.example.com"])])
def test_a_remote_gateway_without_a_public_url_is_a_warning(tmp_path: Path, given: ResourceOptions) -> None:
    (found,) = warned(tmp_path, given=given)
    assert found.endswith("behind a proxy that terminates TLS, pass `--public-url https://…`")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--initial-scope", "read:note"],
            "`--initial-scope read:note`: no grant for server `notes` requires this scope\n"
            "hint: did you mean `read:notes`?",
        ),
        (
            ["--initial-scope", "web"],
            "`--initial-scope web`: no grant for server `notes` requires this scope\n"
            "hint: known: `read:notes`, `write:notes`",
        ),
        (["--allowed-host", "*"], "with `--allowed-host *`, the request chooses the URL for which clients get tokens"),
        (["--allowed-host", "*.example.com"], "hint: name the URL with `--public-url https://…`"),
    ],
)
def test_options_that_cannot_work_stop_the_gateway(
    tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path)
    command = ["mcp-gateway", str(tmp_path / "notes.policy"), "--upstream", "true", "--server", "notes", "--port", "0"]
    assert main([*command, "--identity", str(tmp_path / "identity.toml"), *more]) == 2
    assert words in capsys.readouterr().err


def test_initial_scopes_need_an_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(tmp_path)
    command = ["mcp-gateway", str(tmp_path / "notes.policy"), "--upstream", "true", "--server", "notes"]
    assert main([*command, "--as", "agent=assistant", "--initial-scope", "read:notes"]) == 2
    assert "`--initial-scope` needs `--identity`" in capsys.readouterr().err
